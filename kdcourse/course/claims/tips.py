"""Claims about other tips: same views of the data, and patience."""

from collections.abc import Callable

from kdcourse import LogitKD
from kdcourse.augmentation import crop_flip, pad_crop_flip
from kdcourse.course.claims.claim import Effect, Measured, claims_of
from kdcourse.course.claims.experiment import TEMPERATURE, Lab
from kdcourse.data import Augmentation, Views
from kdcourse.teachers import CachedLessons
from kdcourse.tips import Consistent, FixedTeacher, FunctionMatching, Independent

claim = claims_of(notebook="6")

CROPS = crop_flip()
AUGMENTATIONS: dict[str, Augmentation] = {"crops": CROPS, "shifts": pad_crop_flip()}
DESIGNS: dict[str, Callable[[Augmentation], Views]] = {
    "fixed": FixedTeacher,
    "independent": Independent,
    "consistent": Consistent,
    "matching": FunctionMatching,
}
PATIENCE = (30, 120, 480)  # epochs


def patient(lab: Lab, views: Views, epochs: tuple[int, ...]) -> list[float]:
    """Test accuracy of a student by its epochs, taught on these views and without labels."""
    lessons = CachedLessons(lab.teacher, lab.images, views=views, epochs=max(epochs), seed=lab.seed)
    return [
        lab.accuracy(lab.distil(LogitKD(TEMPERATURE), lessons.teacher, images=lessons, epochs=n))
        for n in epochs
    ]


@claim(
    Effect(
        "test accuracy with crops, consistent − independent",
        "consistent crops",
        "independent crops",
    ),
    Effect("test accuracy with crops, consistent − fixed", "consistent crops", "fixed crops"),
    reason="500 images without labels, 120 epochs of plain8. A crop that shows a third of an "
    "image is another image to a teacher; a shift by two pixels is not, and there the designs "
    "differ little.",
    settings=dict(
        images=500, epochs=120, weight_decay=1e-4, teacher="res16-augmented", student="plain8"
    ),
    toy=dict(images=64),
)
def views(lab: Lab) -> Measured:
    """It is essential that teacher and student look at the same views of the data, i.e., the same
    augmented version.
    """
    for strength, augment in AUGMENTATIONS.items():
        yield f"labels {strength}", lab.train(augment=augment)
        for name, design in DESIGNS.items():
            (score,) = patient(lab, design(augment), (lab["epochs"],))
            yield f"{name} {strength}", score


@claim(
    Effect("growth from 30 to 480 epochs, consistent − labels", "consistent", "labels"),
    Effect("growth from 30 to 480 epochs, function matching − labels", "matching", "labels"),
    Effect(
        "growth from 30 to 480 epochs, function matching − consistent", "matching", "consistent"
    ),
    Effect("test accuracy after 480 epochs, consistent − labels", "consistent 480", "labels 480"),
    Effect("test accuracy after 480 epochs, consistent − fixed", "consistent 480", "fixed 480"),
    reason="500 images in crops, plain8, taught without labels. After 30 epochs labels are ahead, "
    "after 480 they lag by six points. Function matching starts last and gains most; it is still "
    "behind consistent crops.",
    settings=dict(
        images=500, epochs=PATIENCE, weight_decay=1e-4, teacher="res16-augmented", student="plain8"
    ),
    toy=dict(images=64, epochs=(1, 2, 3)),
)
def patience(lab: Lab) -> Measured:
    """It often takes very long to attain the full benefit of distillation."""
    epochs = lab["epochs"]
    arms = {name: patient(lab, design(CROPS), epochs) for name, design in DESIGNS.items()}
    arms["labels"] = [lab.accuracy(lab.train(augment=CROPS, epochs=n)) for n in epochs]
    for name, scores in arms.items():
        for budget, score in zip(PATIENCE, scores, strict=True):
            yield f"{name} {budget}", score
        yield name, scores[-1] - scores[0]  # growth
