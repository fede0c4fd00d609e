"""Which teacher? Claims about uncompressed-to-compressed distillation and teacher correction."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdcourse import models
from kdcourse.augmentation import Noise
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import (
    IMAGES,
    OPTIONS,
    TEMPERATURE,
    TOY,
    WEIGHT,
    accuracy,
    train,
)
from kdcourse.data import Images, replay
from kdcourse.teachers import (
    correct,
    correct_online,
    count_nonzero,
    prune,
    prune_width,
    quantize,
    size_on_disk,
)
from kdcourse.training import CrossEntropy, LogitKD, fit


def retrained(
    compressed: Mapping[str, nn.Module],
    dense: nn.Module,
    images: Images,
    test: Images,
    seed: int,
    epochs: int,
) -> dict[str, float]:
    """Accuracy of compressed models as they are, retrained on labels, and taught by the dense one.

    With the non-zero parameters and the size of each, and of the dense model.
    """
    both = CrossEntropy() + WEIGHT * LogitKD(TEMPERATURE)
    options: dict[str, Any] = {"epochs": epochs, "learning_rate": 0.02, "seed": seed, **OPTIONS}
    measured = {"dense": accuracy(dense, test), **cost("dense", dense)}
    for name, model in compressed.items():
        labels, taught = copy.deepcopy(model), copy.deepcopy(model)
        fit(labels, images, **options)
        fit(taught, images, both, teacher=dense, **options)
        measured |= {
            f"{name} untrained": accuracy(model, test),
            f"{name} labels": accuracy(labels, test),
            f"{name} taught": accuracy(taught, test),
            **cost(name, taught),
        }
    return measured


def cost(name: str, model: nn.Module) -> dict[str, float]:
    """Non-zero parameters and kilobytes on disk."""
    kilobytes = size_on_disk(model) / 1000
    return {f"{name} parameters": count_nonzero(model), f"{name} kilobytes": kilobytes}


@claim(
    "pruned",
    notebook=5,
    statement="Use dense models as teachers to retrain pruned models.",
    effects=(
        Effect("test accuracy at 90 % sparsity, taught − labels", "90 % taught", "90 % labels"),
        Effect("test accuracy at 97 % sparsity, taught − labels", "97 % taught", "97 % labels"),
        Effect("test accuracy at half the width, taught − labels", "width taught", "width labels"),
    ),
    reason="res16, trained anew for every seed, pruned by magnitude and retrained for 5 epochs at "
    "a fifth of the learning rate.",
    toy={**TOY, "retraining": 1, "student": "res4"},
)
def pruned(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    retraining: int = 5,
    student: str = "res16",
) -> dict[str, float]:
    """Test accuracy of pruned models, untrained, retrained on labels, retrained with KD."""
    data = experiment.splits()
    few, test = data.train[:images], data.test
    dense = train(student, few, seed, epochs=epochs)
    small = {
        "90 %": prune(dense, 0.9),
        "97 %": prune(dense, 0.97),
        "width": prune_width(dense, few[:2].inputs(), 0.5),
    }
    return retrained(small, dense, few, test, seed, retraining)


@claim(
    "quantized",
    notebook=5,
    statement="… and quantised ones.",
    effects=(
        Effect("test accuracy at 2-bit weights, taught − labels", "2 bits taught", "2 bits labels"),
    ),
    reason="Weights of 2 bits take three values. At 8 and 4 bits hardly anything is lost, so "
    "there is hardly anything for a teacher to bring back.",
    toy={**TOY, "retraining": 1, "student": "res4"},
)
def quantized(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    retraining: int = 5,
    student: str = "res16",
) -> dict[str, float]:
    """Test accuracy of quantised models, untrained, retrained on labels, retrained with KD."""
    data = experiment.splits()
    few, test = data.train[:images], data.test
    dense = train(student, few, seed, epochs=epochs)
    small = {f"{bits} bits": quantize(dense, bits) for bits in (8, 4, 2)}
    small["90 % and 4 bits"] = quantize(prune(dense, 0.9), 4)
    return retrained(small, dense, few, test, seed, retraining)


def shifted(images: Images, contrast: float, noise: float, seed: int) -> Images:
    """Return images as another camera might see them: less contrast, more noise."""
    dull = (images.pixels.float() * contrast).round().to(torch.uint8)
    return replace(images, pixels=Noise(noise)(dull, replay(seed)))


@claim(
    "correction",
    notebook=5,
    statement="Teacher correction: if the original training data is unavailable, fine-tuning the "
    "teacher on the distillation data is desirable.",
    effects=(
        Effect("test accuracy, KD from corrected − from original teacher", "corrected", "original"),
        Effect("test accuracy, KD while the teacher is corrected − original", "online", "original"),
        Effect("test accuracy, KD from corrected teacher − labels alone", "corrected", "labels"),
    ),
    reason="The distillation data are other images, at half the contrast and with noise. No label "
    "but through the teacher, as in the report.",
    toy={"images": 256, "epochs": 1, "correction": 1},
)
def correction(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    correction: int = 5,
    contrast: float = 0.5,
    noise: float = 0.1,
    teacher: str = "res16",
    student: str = "res8",
) -> dict[str, float]:
    """Test accuracy on shifted data: teacher, corrected teacher, and their students."""
    data, original = experiment.splits(), experiment.teacher(teacher)
    others = shifted(data.train[IMAGES : IMAGES + images], contrast, noise, 2 * seed)
    test = shifted(data.test, contrast, noise, 2 * seed + 1)
    corrected = correct(original, others, epochs=correction, seed=seed, **OPTIONS)
    kd = LogitKD(TEMPERATURE)
    both = CrossEntropy() + WEIGHT * kd
    students = {
        "labels": train(student, others, seed, epochs=epochs),
        "original": train(student, others, seed, kd, teacher=original, epochs=epochs),
        "corrected": train(student, others, seed, kd, teacher=corrected, epochs=epochs),
        "original, labels": train(student, others, seed, both, teacher=original, epochs=epochs),
        "corrected, labels": train(student, others, seed, both, teacher=corrected, epochs=epochs),
        "online": models.by_name(student, seed=seed),
    }
    learning, _ = correct_online(
        original, students["online"], others, kd, epochs=epochs, seed=seed, **OPTIONS
    )
    teachers = {
        "teacher": original,
        "corrected teacher": corrected,
        "online teacher": learning,
    }
    return {name: accuracy(net, test) for name, net in (teachers | students).items()}
