"""Which teacher? Claims about the momentum teacher with noise, where labels are few."""

from kdcourse import models
from kdcourse.augmentation import Compose, Flip, Noise, PadCrop
from kdcourse.claims import experiment
from kdcourse.claims.claim import Effect, claim
from kdcourse.claims.experiment import IMAGES, OPTIONS, accuracy
from kdcourse.data import Images
from kdcourse.teachers import MomentumTeacher, mean_teacher_momentum
from kdcourse.tips import Independent
from kdcourse.training import CrossEntropy, LogitKD, fit

NOISE = Compose(PadCrop(2), Flip(), Noise(0.1))
LABELS = 100
SEARCHED_EPOCHS = (75, 150, 300, 600)  # of 100 labelled images
SEARCHED_WEIGHTS = (1, 3, 10, 30)
TOY = {"images": 128, "epochs": 1, "labelled_epochs": 1, "labels": 10}


def by_labels(few: Images, test: Images, seed: int, epochs: int, student: str) -> float:
    """Test accuracy of a student that sees the labelled images only."""
    net = models.by_name(student, seed=seed)
    fit(net, few, augment=NOISE, epochs=epochs, batch_size=32, seed=seed, **OPTIONS)
    return accuracy(net, test)


def consistent(
    few: Images, others: Images, test: Images, seed: int, epochs: int, weight: float, student: str
) -> tuple[float, float]:
    """Test accuracy of a student that also has to agree with its average on other images.

    Student and average see different noise; a fifth of every batch, on average, has labels. Returns
    the accuracy of the student and of its average.
    """
    mixed = others.unlabelled()
    for _ in range(len(others) // (4 * len(few))):
        mixed = mixed + few
    net = models.by_name(student, seed=seed)
    average = MomentumTeacher(net, mean_teacher_momentum(0.98))
    fit(
        net,
        mixed,
        CrossEntropy() + weight * LogitKD(1.0),
        teacher=average,
        views=Independent(NOISE),
        epochs=epochs,
        seed=seed,
        **OPTIONS,
    )
    return accuracy(net, test), accuracy(average, test)


@claim(
    "mean-teacher-search",
    notebook=5,
    statement="How long for labels alone, and which λ for Mean Teacher? Validation accuracy of "
    "res8 with 100 labels (seeds of their own).",
    reason="The search behind the next claim.",
    toy={"images": 128, "epochs": 1, "labelled_epochs": (1,), "weights": (1,), "labels": 10},
)
def mean_teacher_search(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 30,
    labelled_epochs: tuple[int, ...] = SEARCHED_EPOCHS,
    weights: tuple[float, ...] = SEARCHED_WEIGHTS,
    labels: int = LABELS,
    student: str = "res8",
) -> dict[str, float]:
    """Validation accuracy by epochs of labels alone, and by weight of the consistency."""
    data, seed = experiment.splits(), 1000 + seed
    few, others = data.train.subset(labels, seed=seed, balanced=True), data.train[:images]
    measured = {}
    for count in labelled_epochs:
        alone = by_labels(few, data.validation, seed, count, student)
        measured[f"labels epochs={count}"] = alone
    for weight in weights:
        both = consistent(few, others, data.validation, seed, epochs, weight, student)
        measured[f"student lambda={weight}"], measured[f"average lambda={weight}"] = both
    return measured


@claim(
    "mean-teacher",
    notebook=5,
    statement="… applied together with noise: where labels are few, agreeing with one's average "
    "under other noise makes use of images without labels (Mean Teacher).",
    effects=(Effect("test accuracy with 100 labels, average − labels alone", "average", "labels"),),
    reason="REASON",
    toy=TOY,
)
def mean_teacher(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 30,
    labelled_epochs: int = 150,
    weight: float = 10,
    labels: int = LABELS,
    student: str = "res8",
) -> dict[str, float]:
    """Test accuracy with few labels: these alone, and with 4,000 images without labels."""
    data = experiment.splits()
    few, others = data.train.subset(labels, seed=seed, balanced=True), data.train[:images]
    net, average = consistent(few, others, data.test, seed, epochs, weight, student)
    alone = by_labels(few, data.test, seed, labelled_epochs, student)
    return {"labels": alone, "student": net, "average": average}
