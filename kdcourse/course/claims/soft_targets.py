"""Claims about soft targets: what they say beside the right answer."""

from collections.abc import Sequence
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import (
    IMAGES,
    TEMPERATURE,
    TOY,
    accuracy,
    distil,
    taught_arms,
    train,
)
from kdcourse.data import Images, replay
from kdcourse.metrics import predict, recall
from kdcourse.teachers import Teacher
from kdcourse.training import LogitKD, Outputs


class ScrambledTeacher(Teacher):
    """A teacher as sure as the real one, that has forgotten which classes are close.

    Its largest logit stays; the others are shuffled anew for every image (``"shuffled"``) or
    share their softened probability equally (``"uniform"``).
    """

    def __init__(self, model: nn.Module, how: str, temperature: float, seed: int):
        super().__init__()
        self.model = model
        self.how = how
        self.temperature = temperature
        self.draw = replay(seed)

    @torch.no_grad()
    def show(self, inputs: Tensor, layers: Sequence[str] = ()) -> Outputs:
        """Show scrambled logits."""
        logits = self.model(inputs)
        order = logits.argsort(dim=1, descending=True)
        others = logits.gather(1, order[:, 1:])  # (N, K-1)
        if self.how == "shuffled":
            shuffle = torch.rand(others.shape, generator=self.draw).argsort(dim=1)
            others = others.gather(1, shuffle)
        else:
            mean = (others / self.temperature).exp().mean(dim=1, keepdim=True).log()
            others = (mean * self.temperature).expand_as(others)
        return Outputs(logits=logits.scatter(1, order[:, 1:], others))


@claim(
    "dark-knowledge",
    notebook=2,
    statement="What is distilled is dark knowledge: which classes are close, beside confidence.",
    effects=(
        Effect("test accuracy, true soft targets − labels alone", "true", "alone"),
        Effect("test accuracy, true − non-target classes shuffled", "true", "shuffled"),
        Effect("test accuracy, true − non-target classes uniform", "true", "uniform"),
    ),
    reason="500 images. Most of the gain is confidence, which the scrambled teachers keep; the "
    "rest is which classes are close.",
    toy={"images": 100, "epochs": 1},
)
def dark_knowledge(
    seed: int,
    *,
    images: int = 500,
    epochs: int = 40,
    batch: int = 32,
    teacher: str = "res16-augmented",
    student: str = "plain8",
) -> dict[str, float]:
    """Test accuracy with true and with scrambled soft targets, when images are few."""
    few = experiment.splits().train[:IMAGES].subset(images, seed=seed, balanced=True)
    return scrambled_arms(seed, few, teacher, student, epochs=epochs, batch_size=batch)


@claim(
    "dark-knowledge-many",
    notebook=2,
    statement="… and it still counts when there are 4,000 labelled images.",
    effects=(
        Effect("test accuracy, true − non-target classes shuffled", "true", "shuffled"),
        Effect("test accuracy, true − non-target classes uniform", "true", "uniform"),
    ),
    reason="With many labels, and a teacher that is sure of each of them, hardly anything is left "
    "to be told about close classes: what helps is the softness.",
    toy=TOY,
)
def dark_knowledge_many(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    teacher: str = "res16",
    student: str = "plain8",
) -> dict[str, float]:
    """Test accuracy with true and with scrambled soft targets, on the images the teacher saw."""
    few = experiment.splits().train[:images]
    return scrambled_arms(seed, few, teacher, student, epochs=epochs)


def scrambled_arms(
    seed: int, few: Images, teacher: str, student: str, **options: Any
) -> dict[str, float]:
    """Test accuracy of a student alone, and of a true, a shuffled and a uniform teacher's."""
    test, model = experiment.splits().test, experiment.teacher(teacher)
    teachers = {"true": model} | {
        how: ScrambledTeacher(model, how, TEMPERATURE, seed) for how in ("shuffled", "uniform")
    }
    return taught_arms(seed, few, teachers, student, test, **options)


@claim(
    "missing-class",
    notebook=2,
    statement="A student that never saw a class still names it, from the teacher's doubts alone.",
    effects=(
        Effect("recall of Ankle boot, distilled − labels", "boot distilled", "boot labels"),
        Effect("recall of Bag, distilled − labels", "bag distilled", "bag labels"),
        Effect("recall of Shirt, distilled − labels", "shirt distilled", "shirt labels"),
    ),
    reason="Both arms never see the class; in both, its bias is then raised until the mean "
    "predicted mass on their training images is 1/K.",
    toy=TOY,
)
def missing_class(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    teacher: str = "res16-augmented",
    student: str = "plain8",
) -> dict[str, float]:
    """Recall of a class that was missing from training: from labels, and from soft targets only."""
    data = experiment.splits()
    measured = {}
    for label, name in ((9, "boot"), (8, "bag"), (6, "shirt")):
        few = data.train[:images]
        few = few[few.target != label]
        arms = {
            "labels": train(student, few, seed, epochs=epochs),
            "distilled": train(
                student,
                few,
                seed,
                LogitKD(TEMPERATURE),
                teacher=experiment.teacher(teacher),
                epochs=epochs,
            ),
        }
        for arm, model in arms.items():
            logits, bias = predict(model, data.test), missing_bias(predict(model, few), label)
            measured[f"{name} {arm}, no bias"] = 100 * recall(logits, data.test.target, label)
            logits[:, label] += bias
            measured[f"{name} {arm}"] = 100 * recall(logits, data.test.target, label)
    return measured


def missing_bias(logits: Tensor, label: int) -> float:
    """Find what to add to a class's logit to make its mean predicted mass 1/K."""

    def excess(bias: float) -> float:
        shifted = logits.double()
        shifted[:, label] += bias
        return float(shifted.softmax(dim=1)[:, label].mean()) - 1 / logits.shape[1]

    return float(brentq(excess, -50.0, 50.0))


@claim(
    "few-labels",
    notebook=2,
    statement="Soft targets carry more per image than labels: the gain grows as images get few.",
    effects=(
        Effect("test accuracy, distilled − alone, 100 images", "100 distilled", "100 alone"),
        Effect("test accuracy, distilled − alone, 500 images", "500 distilled", "500 alone"),
        Effect("gain with 100 images − gain with 4,000", "100 gain", "4000 gain"),
        Effect("gain with 500 images − gain with 4,000", "500 gain", "4000 gain"),
    ),
    reason="Both arms see the same few images; the teacher saw 4,000 labels.",
    toy={"sizes": ((100, 1, 32), (500, 1, 64), (4000, 1, 128))},
)
def few_labels(
    seed: int,
    *,
    sizes: tuple[tuple[int, int, int], ...] = ((100, 100, 32), (500, 40, 32), (4000, 15, 128)),
    teacher: str = "res16",
    student: str = "plain8",
) -> dict[str, float]:
    """Test accuracy by number of images, from sizes of (images, epochs, batch)."""
    data = experiment.splits()
    measured: dict[str, float] = {}
    for size, epochs, batch in sizes:
        few = data.train[:IMAGES].subset(size, seed=seed, balanced=size < IMAGES)
        options: dict[str, Any] = {"epochs": epochs, "batch_size": batch}
        alone = accuracy(train(student, few, seed, **options), data.test)
        distilled = accuracy(distil(student, few, seed, teacher, **options), data.test)
        measured |= {f"{size} alone": alone, f"{size} distilled": distilled}
        measured[f"{size} gain"] = distilled - alone
    return measured
