"""Which properties? The claims that compare logit, feature and relational distillation."""

import torch
from torch import nn

from kdcourse import feature, metrics
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import claim
from kdcourse.course.claims.experiment import IMAGES, TEMPERATURE, TOY, accuracy, train
from kdcourse.data import Images
from kdcourse.training import (
    AttentionTransfer,
    CrossEntropy,
    FeatureHint,
    LogitKD,
    Objective,
    RKDAngle,
    RKDDistance,
    Saliency,
)

STAGES = ("stage1", "stage2", "stage3")
GRID = (0.1, 0.3, 1, 3, 10)  # of every family's weight: the same budget
SEEN = 500  # test images on which maps, gradients and distances are compared
# The best of the search below, by mean validation accuracy.
WEIGHTS = {"logit": 1, "attention": 1, "hint": 10, "saliency": 1, "relational": 3}
FAMILIES = ("logit", "attention", "hint", "saliency", "relational")


def dist(family: str) -> Objective:
    """Return the lecture's ``dist(f, f_large)`` of a family, for res8 and res16."""
    if family == "logit":
        return LogitKD(TEMPERATURE)
    if family == "attention":
        return AttentionTransfer(STAGES)
    if family == "saliency":
        return Saliency()
    if family == "relational":  # 1 : 2 as the paper weighs them; the unit is ten times as large
        return 10 * RKDDistance() + 20 * RKDAngle()
    with torch.random.fork_rng(devices=[]):  # a hint: the same projection for every seed
        torch.manual_seed(0)
        return FeatureHint("stage2", feature.Hint(16, 32))


def by_family(
    family: str,
    weight: float,
    student: str,
    images: Images,
    seed: int,
    teacher: str,
    epochs: int,
) -> nn.Module:
    """Train a student by ``CE + λ · dist``, with one family's dist."""
    return train(
        student,
        images,
        seed,
        CrossEntropy() + weight * dist(family),
        teacher=experiment.teacher(teacher),
        epochs=epochs,
    )


def nearest_neighbour(model: nn.Module, images: Images, test: Images) -> float:
    """Accuracy, in percent, of the nearest training image in the embedding."""
    return 100 * metrics.knn_accuracy(
        metrics.embed(model, images), images.target, metrics.embed(model, test), test.target
    )


@claim(
    "pros-cons-search",
    notebook=4,
    statement="Which weight for each family? Validation accuracy and nearest-neighbour accuracy "
    "of res8 from res16, five weights each (seeds of their own).",
    reason="The same budget for every family.",
    toy=TOY,
)
def search(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "res8",
    teacher: str = "res16",
    grid: tuple[float, ...] = GRID,
    families: tuple[str, ...] = FAMILIES,
) -> dict[str, float]:
    """Validation accuracy by family and weight."""
    data = experiment.splits()
    few, seed = data.train[:images], 1000 + seed
    alone = train(student, few, seed, epochs=epochs)
    measured = {
        "alone": accuracy(alone, data.validation),
        "alone 1-NN": nearest_neighbour(alone, few, data.validation),
    }
    for family in families:
        for weight in grid:
            model = by_family(family, weight, student, few, seed, teacher, epochs)
            name = f"{family} {weight}"
            measured[name] = accuracy(model, data.validation)
            measured[f"{name} 1-NN"] = nearest_neighbour(model, few, data.validation)
    return measured
