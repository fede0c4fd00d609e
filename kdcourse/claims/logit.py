"""Claims about logit distillation."""

from collections.abc import Sequence
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from kdcourse import logit
from kdcourse.claims import experiment
from kdcourse.claims.claim import Bound, Effect, claim
from kdcourse.claims.experiment import IMAGES, TEMPERATURE, WEIGHT, accuracy, distil, train
from kdcourse.data import Images, replay
from kdcourse.metrics import predict, recall
from kdcourse.teachers import ClosedTeacher, Teacher
from kdcourse.training import CrossEntropy, LogitKD, Outputs

TOY = {"images": 256, "epochs": 1}


@claim(
    "temperature",
    notebook=2,
    statement="High temperature → uniform (low confidence); low temperature → zero/one.",
    bounds=(
        Bound("τ = 10⁶ against the uniform distribution", "hot", 1e-4),
        Bound("τ = 10⁻³ against zero/one on the largest logit", "cold", 1e-9),
        Bound("entropy never falls as τ rises", "fall of entropy", 1e-12),
    ),
    reason="Analytic: dividing logits by τ shrinks every margin by τ.",
)
def temperature(seed: int, *, samples: int = 64, classes: int = 10) -> dict[str, float]:
    """Deviation from the limits of the softened softmax, on logits with distinct entries."""
    order = torch.rand(samples, classes, generator=replay(seed)).argsort(dim=1).double()
    logits = order + torch.rand(samples, classes, generator=replay(seed, 1)) / 2
    one_hot = experiment.one_hot(logits.argmax(dim=1), classes)
    entropies = []
    for tau in torch.logspace(-1, 2, 31).tolist():
        p = logit.softmax(logits, tau)
        entropies.append(-torch.xlogy(p, p).sum(dim=1))
    falls = -(torch.stack(entropies).diff(dim=0)).min()
    return {
        "hot": float((logit.softmax(logits, 1e6) - 1 / classes).abs().max()),
        "cold": float((logit.softmax(logits, 1e-3) - one_hot).abs().max()),
        "fall of entropy": max(float(falls), 0.0),
    }


@claim(
    "same-gradient",
    notebook=2,
    statement="The KD term −Σ p_T log p_S, called KL, is a cross-entropy: it has KL's gradient.",
    bounds=(
        Bound("gradient of KL and of cross-entropy", "gradients", 1e-12),
        Bound("cross-entropy − KL against τ² × the teacher's entropy", "values", 1e-9),
    ),
    reason="Analytic: the teacher's entropy does not depend on the student.",
)
def same_gradient(
    seed: int, *, samples: int = 64, classes: int = 10, temperature: float = 4.0
) -> dict[str, float]:
    """Deviation between the two forms of the KD term, in float64."""
    draw = replay(seed)
    student = torch.randn(samples, classes, generator=draw, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(samples, classes, generator=draw, dtype=torch.float64) * 3
    kl = logit.kd_loss(student, teacher, temperature)
    cross = logit.kd_cross_entropy(student, teacher, temperature)
    (of_kl,), (of_cross,) = (torch.autograd.grad(loss, student) for loss in (kl, cross))
    p = logit.softmax(teacher, temperature)
    entropy = -(p * p.log()).sum(dim=1).mean() * temperature**2
    return {
        "gradients": float((of_kl - of_cross).abs().max()),
        "values": float((cross - kl - entropy).detach().abs()),
    }


MAP_TEMPERATURES = (1, 2, 4, 8, 16)
MAP_WEIGHTS = (0.1, 0.3, 1, 3, 10)


@claim(
    "temperature-weight",
    notebook=2,
    statement="Which τ and λ? Validation accuracy over both (seeds of their own).",
    reason="A broad plateau: with the factor τ², λ and τ can be chosen almost independently.",
    toy=TOY,
)
def temperature_weight(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "plain8",
    teacher: str = "res16",
) -> dict[str, float]:
    """Validation accuracy of ``CE + λ · KD`` by τ and λ, and of labels alone."""
    data = experiment.splits()
    few, seed = data.train[:images], 1000 + seed
    alone = train(student, few, seed, epochs=epochs)
    measured = {"alone": accuracy(alone, data.validation)}
    for tau in MAP_TEMPERATURES:
        for weight in MAP_WEIGHTS:
            distilled = train(
                student,
                few,
                seed,
                CrossEntropy() + weight * LogitKD(tau),
                teacher=experiment.teacher(teacher),
                epochs=epochs,
            )
            measured[f"tau={tau} lambda={weight}"] = accuracy(distilled, data.validation)
    return measured


@claim(
    "kd-gain",
    notebook=2,
    statement="A student trained by CE + λ · KD beats the same student trained on labels alone.",
    effects=(
        Effect("test accuracy, distilled − alone (plain4)", "plain4 distilled", "plain4 alone"),
        Effect("test accuracy, distilled − alone (plain8)", "plain8 distilled", "plain8 alone"),
        Effect("test accuracy, distilled − alone (res8)", "res8 distilled", "res8 alone"),
    ),
    reason="Same images, same epochs, same initial weights: only the teacher's voice is added.",
    toy=TOY,
)
def kd_gain(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    teacher: str = "res16",
    students: tuple[str, ...] = ("plain4", "plain8", "res8"),
) -> dict[str, float]:
    """Test accuracy of students trained alone and distilled."""
    data = experiment.splits()
    few = data.train[:images]
    measured = {}
    for name in students:
        measured[f"{name} alone"] = accuracy(train(name, few, seed, epochs=epochs), data.test)
        distilled = distil(name, few, seed, teacher, epochs=epochs)
        measured[f"{name} distilled"] = accuracy(distilled, data.test)
    return measured


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
    objective = CrossEntropy() + WEIGHT * LogitKD(TEMPERATURE)
    measured = {"alone": accuracy(train(student, few, seed, **options), test)}
    for how, taught in teachers.items():
        distilled = train(student, few, seed, objective, teacher=taught, **options)
        measured[how] = accuracy(distilled, test)
    return measured


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


CLOSED_SETTINGS = ((1, 1), (1, 3), (2, 1), (2, 3), (4, 1), (4, 3))


@claim(
    "closed-weight-search",
    notebook=2,
    statement="Which τ and λ for a service that shows the top 3, rounded to 2 decimals? Gain in "
    "validation accuracy (seeds of their own).",
    reason="What was rounded away comes back as noise at a high temperature: a lower one is better.",
    toy=TOY,
)
def closed_weight_search(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    teacher: str = "res16",
    student: str = "plain8",
) -> dict[str, float]:
    """Validation accuracy by τ and λ, taught by the crudest service, and of labels alone."""
    data, seed = experiment.splits(), 1000 + seed
    few = data.train[:images]
    service = ClosedTeacher(experiment.teacher(teacher), top_k=3, decimals=2)
    measured = {"alone": accuracy(train(student, few, seed, epochs=epochs), data.validation)}
    for tau, weight in CLOSED_SETTINGS:
        objective = CrossEntropy() + weight * LogitKD(tau)
        distilled = train(student, few, seed, objective, teacher=service, epochs=epochs)
        measured[f"tau={tau} lambda={weight}"] = accuracy(distilled, data.validation)
    return measured


CLOSED = (2, 1)  # τ and λ, the best of the search above


@claim(
    "closed-weight",
    notebook=2,
    statement="Logit distillation needs no internals: it works on closed-weight models.",
    effects=(
        Effect("test accuracy, probabilities − alone", "probabilities", "alone"),
        Effect("test accuracy, rounded to 4 decimals − alone", "4 decimals", "alone"),
        Effect("test accuracy, top 3 only − alone", "top 3", "alone"),
        Effect("test accuracy, top 3 rounded to 2 decimals − alone", "top 3, 2 decimals", "alone"),
    ),
    reason="Probabilities are logits up to a constant; even a few rounded ones teach, at a "
    "temperature chosen for them.",
    toy=TOY,
)
def closed_weight(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    teacher: str = "res16",
    student: str = "plain8",
) -> dict[str, float]:
    """Test accuracy of students of an open and of ever more closed teachers."""
    data = experiment.splits()
    few, model = data.train[:images], experiment.teacher(teacher)
    teachers = {
        "logits": model,
        "probabilities": ClosedTeacher(model),
        "4 decimals": ClosedTeacher(model, decimals=4),
        "top 3": ClosedTeacher(model, top_k=3),
        "top 3, 2 decimals": ClosedTeacher(model, top_k=3, decimals=2),
    }
    tau, weight = CLOSED
    objective = CrossEntropy() + weight * LogitKD(tau)
    measured = {"alone": accuracy(train(student, few, seed, epochs=epochs), data.test)}
    for shown, taught in teachers.items():
        distilled = train(student, few, seed, objective, teacher=taught, epochs=epochs)
        measured[shown] = accuracy(distilled, data.test)
    return measured
