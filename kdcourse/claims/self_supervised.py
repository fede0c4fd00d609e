"""Which teacher? Claims about the momentum teacher where there are no labels."""

from typing import Any

import torch
from torch import nn

from kdcourse import models
from kdcourse.augmentation import Compose, Flip, ResizedCrop
from kdcourse.claims import experiment
from kdcourse.claims.claim import Effect, claim
from kdcourse.claims.experiment import IMAGES, OPTIONS, TOY, train
from kdcourse.data import Images
from kdcourse.metrics import embed, knn_accuracy, predict
from kdcourse.teachers import (
    CrossedViews,
    MomentumTeacher,
    SelfDistillation,
    cosine_momentum,
    spread,
    with_head,
)
from kdcourse.training import fit

VIEWS = CrossedViews(Compose(ResizedCrop((0.3, 1.0)), Flip()))
BATCH = 64
NEIGHBOURS = 5


def self_distilled(
    model: nn.Module, images: Images, seed: int, epochs: int, dist: SelfDistillation
) -> nn.Module:
    """Train a model without labels and return the average of itself that taught it."""
    student = with_head(model, seed=seed)
    momentum = cosine_momentum(0.95, steps=epochs * -(-len(images) // BATCH))
    teacher = MomentumTeacher(student, momentum)
    fit(
        student,
        images.unlabelled(),
        dist,
        teacher=teacher,
        views=VIEWS,
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=0.001,
        optimizer=lambda weights: torch.optim.AdamW(weights, weight_decay=1e-4),
        seed=seed,
        **OPTIONS,
    )
    return teacher.model


def neighbours(model: nn.Module, images: Images, test: Images) -> float:
    """Accuracy in percent of naming images by their nearest training images."""
    train_set, test_set = embed(model, images), embed(model, test)
    return 100 * knn_accuracy(train_set, images.target, test_set, test.target, NEIGHBOURS)


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
        model = self_distilled(random, few, seed, epochs, dist)
        said = spread(dist.sharpened(predict(model, test)))
        measured[f"{name}self-supervised"] = neighbours(model, few, test)
        measured[f"{name}told"] = 100 * said.share
    return measured
