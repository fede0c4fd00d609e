"""Other tips: same views of the data, and patience."""

from collections.abc import Callable

from kdcourse import models
from kdcourse.augmentation import crop_flip, pad_crop_flip
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import OPTIONS, TEMPERATURE, accuracy
from kdcourse.data import Augmentation, Images, Views
from kdcourse.teachers import CachedLessons
from kdcourse.tips import Consistent, FixedTeacher, FunctionMatching, Independent
from kdcourse.training import LogitKD, fit

CROPS = crop_flip()
AUGMENTATIONS: dict[str, Augmentation] = {"crops": CROPS, "shifts": pad_crop_flip()}
DESIGNS: dict[str, Callable[[Augmentation], Views]] = {
    "fixed": FixedTeacher,
    "independent": Independent,
    "consistent": Consistent,
    "matching": FunctionMatching,
}
WEIGHT_DECAY = 1e-4
PATIENCE = (30, 120, 480)  # epochs


def labelled(
    student: str, images: Images, seed: int, augment: Augmentation, epochs: int, test: Images
) -> float:
    """Test accuracy of a student on labels alone."""
    net = experiment.train(
        student, images, seed, epochs=epochs, augment=augment, weight_decay=WEIGHT_DECAY
    )
    return accuracy(net, test)


def patient(
    student: str,
    images: Images,
    seed: int,
    teacher: str,
    views: Views,
    epochs: tuple[int, ...],
    test: Images,
) -> list[float]:
    """Test accuracy of a student by its epochs, taught on these views and without labels."""
    lessons = CachedLessons(
        experiment.teacher(teacher), images, views=views, epochs=max(epochs), seed=seed
    )
    scores = []
    for budget in epochs:
        net = models.by_name(student, seed=seed)
        fit(
            net,
            lessons,
            LogitKD(TEMPERATURE),
            teacher=lessons.teacher,
            epochs=budget,
            weight_decay=WEIGHT_DECAY,
            seed=seed,
            **OPTIONS,
        )
        scores.append(accuracy(net, test))
    return scores


@claim(
    "views",
    notebook=6,
    statement="It is essential that teacher and student look at the same views of the data, i.e., "
    "the same augmented version.",
    effects=(
        Effect(
            "test accuracy with crops, consistent − independent",
            "consistent crops",
            "independent crops",
        ),
        Effect("test accuracy with crops, consistent − fixed", "consistent crops", "fixed crops"),
    ),
    reason="500 images without labels, 120 epochs of plain8. A crop that shows a third of an "
    "image is another image to a teacher; a shift by two pixels is not, and there the designs "
    "differ little.",
    toy={"images": 64, "epochs": 1},
)
def views(
    seed: int,
    *,
    images: int = 500,
    epochs: int = 120,
    teacher: str = "res16-augmented",
    student: str = "plain8",
) -> dict[str, float]:
    """Test accuracy by design, for a strong and for a mild augmentation."""
    data = experiment.splits()
    few, test = data.train[:images], data.test
    measured = {}
    for strength, augment in AUGMENTATIONS.items():
        measured[f"labels {strength}"] = labelled(student, few, seed, augment, epochs, test)
        for name, design in DESIGNS.items():
            seen = design(augment)
            (score,) = patient(student, few, seed, teacher, seen, (epochs,), test)
            measured[f"{name} {strength}"] = score
    return measured


@claim(
    "patience",
    notebook=6,
    statement="It often takes very long to attain the full benefit of distillation.",
    effects=(
        Effect("growth from 30 to 480 epochs, consistent − labels", "consistent", "labels"),
        Effect("growth from 30 to 480 epochs, function matching − labels", "matching", "labels"),
        Effect(
            "growth from 30 to 480 epochs, function matching − consistent",
            "matching",
            "consistent",
        ),
        Effect(
            "test accuracy after 480 epochs, consistent − labels", "consistent 480", "labels 480"
        ),
        Effect("test accuracy after 480 epochs, consistent − fixed", "consistent 480", "fixed 480"),
    ),
    reason="500 images in crops, plain8, taught without labels. After 30 epochs labels are ahead, "
    "after 480 they lag by six points. Function matching starts last and gains most; it is still "
    "behind consistent crops.",
    toy={"images": 64, "epochs": (1, 2, 3)},
)
def patience(
    seed: int,
    *,
    images: int = 500,
    epochs: tuple[int, ...] = PATIENCE,
    teacher: str = "res16-augmented",
    student: str = "plain8",
) -> dict[str, float]:
    """Test accuracy by design and epochs, with one-cycle schedules of these lengths."""
    data = experiment.splits()
    few, test = data.train[:images], data.test
    arms = {
        name: patient(student, few, seed, teacher, design(CROPS), epochs, test)
        for name, design in DESIGNS.items()
    }
    arms["labels"] = [labelled(student, few, seed, CROPS, n, test) for n in epochs]
    measured: dict[str, float] = {}
    for name, scores in arms.items():
        measured |= {f"{name} {n}": score for n, score in zip(PATIENCE, scores, strict=True)}
        measured[name] = scores[-1] - scores[0]  # growth
    return measured
