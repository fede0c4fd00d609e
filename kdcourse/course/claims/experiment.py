"""What the experiments share: the data, the teachers and one way to train a student."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse import metrics, models
from kdcourse.data import Images, Splits, fashion_mnist
from kdcourse.teachers import pretrained
from kdcourse.training import CrossEntropy, LogitKD, Objective, fit

IMAGES = 4000  # training images, unless an experiment says otherwise: what the teacher saw
TOY = {"images": 256, "epochs": 1}  # enough to see that an experiment runs
# Chosen on validation data: within one standard error of the best of "temperature-weight".
TEMPERATURE = 4
WEIGHT = 3.0
# Of every training in an experiment.
OPTIONS: dict[str, Any] = {"device": "cpu", "progress": False, "on_interrupt": "raise"}


@cache
def splits() -> Splits:
    """Return Fashion-MNIST, split with seed 0."""
    return fashion_mnist()


@cache
def teacher(name: str) -> nn.Module:
    """Return a trained teacher of the course."""
    return pretrained(name)


def train(
    name: str, images: Images, seed: int, objective: Objective | None = None, **options: Any
) -> nn.Module:
    """Train a student from scratch: ``seed`` draws its initial weights and the order of images."""
    student = models.by_name(name, classes=len(images.classes), seed=seed)
    options = {"device": "cpu", "progress": False, "on_interrupt": "raise", **options}
    fit(student, images, objective, seed=seed, **options)
    return student


def distil(
    name: str,
    images: Images,
    seed: int,
    teacher_name: str,
    *,
    weight: float = WEIGHT,
    **options: Any,
) -> nn.Module:
    """Train a student by ``CE + λ · KD``, at the course's τ and λ unless ``weight`` is given."""
    objective = CrossEntropy() + weight * LogitKD(TEMPERATURE)
    return train(name, images, seed, objective, teacher=teacher(teacher_name), **options)


def taught_arms(
    seed: int,
    images: Images,
    teachers: Mapping[str, nn.Module],
    student: str,
    test: Images,
    **options: Any,
) -> dict[str, float]:
    """Test accuracy of a student alone and by each teacher, at the course's τ and λ."""
    objective = CrossEntropy() + WEIGHT * LogitKD(TEMPERATURE)
    measured = {"alone": accuracy(train(student, images, seed, **options), test)}
    for name, taught in teachers.items():
        distilled = train(student, images, seed, objective, teacher=taught, **options)
        measured[name] = accuracy(distilled, test)
    return measured


def accuracy(model: nn.Module, images: Images) -> float:
    """Accuracy in percent."""
    return 100 * metrics.accuracy(model, images)


def training_loss(model: nn.Module, images: Images) -> float:
    """Cross-entropy with the labels over a whole set, in eval mode, in nats."""
    logits = metrics.predict(model, images)
    return float(nn.functional.cross_entropy(logits, images.target))


def disagreement(logits: Tensor, others: Tensor) -> float:
    """Share of samples, in percent, on which two predictions differ."""
    return 100 * (1 - metrics.agreement(logits, others))


def one_hot(target: Tensor, classes: int) -> Tensor:
    """Return 0/1 rows ``(N, K)``."""
    return nn.functional.one_hot(target, classes).to(torch.float32)
