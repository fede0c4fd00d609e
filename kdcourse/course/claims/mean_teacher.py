"""Which teacher? Claims about the momentum teacher with noise, where labels are few."""

import copy

from torch import nn

from kdcourse import models
from kdcourse.augmentation import Compose, Flip, Noise, PadCrop
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import IMAGES, OPTIONS, accuracy
from kdcourse.data import Images
from kdcourse.teachers import MomentumTeacher
from kdcourse.tips import Independent
from kdcourse.training import CrossEntropy, LogitKD, fit

NOISE = Compose(PadCrop(2), Flip(), Noise(0.1))
LABELS = 100
SEARCHED_WEIGHTS = (1, 3, 10)
SEARCHED_EPOCHS = (150, 300, 450, 600)  # on the labelled images alone


def by_labels(few: Images, seed: int, epochs: int, student: str) -> nn.Module:
    """Train a student on the labelled images alone."""
    net = models.by_name(student, seed=seed)
    fit(net, few, augment=NOISE, epochs=epochs, batch_size=32, seed=seed, **OPTIONS)
    return net


def consistent(
    start: nn.Module, few: Images, others: Images, seed: int, epochs: int, weight: float
) -> nn.Module:
    """Go on from a student: agree with one's average on other images, under other noise.

    A fifth of every batch, on average, has labels. Returns the average.
    """
    mixed = others.unlabelled()
    for _ in range(len(others) // (4 * len(few))):
        mixed = mixed + few
    net = copy.deepcopy(start)
    average = MomentumTeacher(net, 0.99)
    fit(
        net,
        mixed,
        CrossEntropy() + weight * LogitKD(1.0),
        teacher=average,
        views=Independent(NOISE),
        epochs=epochs,
        learning_rate=0.03,
        seed=seed,
        **OPTIONS,
    )
    return average.model


@claim(
    "mean-teacher-search",
    notebook=5,
    statement="How long on labels alone, and which λ for Mean Teacher? Validation accuracy of res8 "
    "with 100 labels (seeds of their own).",
    reason="The search behind the next claim.",
    toy={"images": 128, "epochs": 1, "labels": 10, "longest": 1},
)
def mean_teacher_search(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    longest: int = 600,
    labels: int = LABELS,
    student: str = "res8",
) -> dict[str, float]:
    """Validation accuracy by epochs of labels alone, and by weight of the consistency after 300."""
    data, seed = experiment.splits(), 1000 + seed
    few, others = data.train.subset(labels, seed=seed, balanced=True), data.train[:images]
    alone = {n: by_labels(few, seed, min(n, longest), student) for n in SEARCHED_EPOCHS}
    measured = {f"labels epochs={n}": accuracy(net, data.validation) for n, net in alone.items()}
    for weight in SEARCHED_WEIGHTS:
        average = consistent(alone[300], few, others, seed, epochs, weight)
        measured[f"average lambda={weight}"] = accuracy(average, data.validation)
    return measured


@claim(
    "mean-teacher",
    notebook=5,
    statement="… applied together with noise: where labels are few, agreeing with one's average "
    "under other noise makes use of images without labels (Mean Teacher).",
    effects=(
        Effect("test accuracy with 100 labels, average − labels alone", "average", "labels"),
        Effect("test accuracy with 100 labels, average − labels as long", "average", "longer"),
    ),
    reason="It beats the student that it starts from. Against one that went on learning from the "
    "labels for as many steps, these seeds do not tell.",
    toy={"images": 128, "epochs": 1, "labels": 10, "before": 1, "longer": 1},
)
def mean_teacher(
    seed: int,
    *,
    images: int = IMAGES,
    before: int = 300,
    epochs: int = 15,
    longer: int = 450,
    weight: float = 3,
    labels: int = LABELS,
    student: str = "res8",
) -> dict[str, float]:
    """Test accuracy with few labels: these alone, as many steps of them, and with consistency."""
    data = experiment.splits()
    few, others = data.train.subset(labels, seed=seed, balanced=True), data.train[:images]
    start = by_labels(few, seed, before, student)
    average = consistent(start, few, others, seed, epochs, weight)
    return {
        "labels": accuracy(start, data.test),
        "longer": accuracy(by_labels(few, seed, longer, student), data.test),
        "average": accuracy(average, data.test),
    }
