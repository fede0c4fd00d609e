"""Which teacher? Claims about the momentum teacher where there are no labels."""

from typing import Any

from torch import nn

from kdcourse import models
from kdcourse.augmentation import crop_flip
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import IMAGES, OPTIONS, TOY, train
from kdcourse.data import Images
from kdcourse.metrics import neighbour_accuracy, predict
from kdcourse.teachers import SelfDistillation, self_distill, spread

CROPS = crop_flip()
NEIGHBOURS = 5


def neighbours(model: nn.Module, images: Images, test: Images) -> float:
    """Accuracy in percent of naming images by their nearest training images."""
    return 100 * neighbour_accuracy(model, images, test, NEIGHBOURS)


@claim(
    "self-supervised",
    notebook=5,
    statement="The momentum teacher is applied together with noise for self-supervised learning.",
    effects=(
        Effect("5-NN accuracy, self-supervised − random weights", "self-supervised", "random"),
        Effect("what a prediction tells, % of log K, both − no centring", "told", "uncentred told"),
        Effect(
            "what a prediction tells, % of log K, both − no sharpening", "told", "unsharpened told"
        ),
    ),
    reason="res8, 4,000 images without labels, in the style of DINO. Without centring it collapses "
    "to one output, without sharpening to all outputs alike. Features learned from labels remain "
    "far ahead.",
    toy=TOY,
)
def self_supervised(
    seed: int, *, images: int = IMAGES, epochs: int = 20, student: str = "res8"
) -> dict[str, float]:
    """Neighbours' accuracy of features by DINO, also without its safeguards, random, supervised."""
    data = experiment.splits()
    few, test = data.train[:images], data.test
    random = models.by_name(student, seed=seed)
    supervised = train(student, few, seed, epochs=epochs)
    measured = {
        "random": neighbours(random, few, test),
        "supervised": neighbours(supervised, few, test),
    }
    options: dict[str, dict[str, Any]] = {
        "": {"centre_momentum": 0.5},
        "uncentred ": {"centre_momentum": 1.0},
        "unsharpened ": {"centre_momentum": 0.5, "teacher_temperature": 0.1},
    }
    for name, settings in options.items():
        dist = SelfDistillation(**settings)
        model = self_distill(
            random, few, augment=CROPS, dist=dist, epochs=epochs, seed=seed, **OPTIONS
        )
        said = spread(dist.sharpened(predict(model, test)))
        measured[f"{name}self-supervised"] = neighbours(model, few, test)
        measured[f"{name}told"] = 100 * said.share
    return measured
