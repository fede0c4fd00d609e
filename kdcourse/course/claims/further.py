"""Further readings: students of self-supervised teachers, and of no data at all."""

import copy
from typing import Any

import torch
from torch import nn

from kdcourse import models
from kdcourse.augmentation import crop_flip
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import IMAGES, OPTIONS, TEMPERATURE, TOY, accuracy
from kdcourse.course.claims.self_supervised import neighbours
from kdcourse.data import Images, replay
from kdcourse.further import SEED, GeneratedImages, Generator
from kdcourse.teachers import self_distill
from kdcourse.tips import Consistent
from kdcourse.training import LogitKD, fit

CROPS = crop_flip()
STEPS = 50  # batches of generated images that count as an epoch
BATCH = 128


def taught_by_seed(
    student: nn.Module, teacher: nn.Module, images: Images, seed: int, epochs: int, rate: float
) -> nn.Module:
    """Teach a copy of a student by SEED which images a self-supervised teacher finds alike."""
    taught = copy.deepcopy(student)
    fit(
        taught,
        images.unlabelled(),
        SEED(32, 64, seed=seed),  # widths of res8's embedding and res16's
        teacher=teacher,
        views=Consistent(CROPS),
        epochs=epochs,
        batch_size=64,
        learning_rate=rate,
        optimizer=lambda weights: torch.optim.AdamW(weights, weight_decay=1e-4),
        seed=seed,
        **OPTIONS,
    )
    return taught


@claim(
    "seed",
    notebook=7,
    statement="Distilling self-supervised models: a small model gets better features from a large "
    "self-supervised one than from self-supervised learning of its own.",
    effects=(
        Effect("5-NN accuracy of res8, taught − self-supervised", "taught", "self-supervised"),
        Effect("5-NN accuracy of res8, taught − random weights", "taught", "random"),
    ),
    reason="SEED, 4,000 images for 20 epochs. The student comes out as good as its teacher, res16, "
    "which learned from 10,000 images for 60 epochs.",
    toy=TOY,
)
def seed(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 20,
    rate: float = 0.003,
    student: str = "res8",
    teacher: str = "res16-unlabelled",
) -> dict[str, float]:
    """Neighbours' accuracy of a small model: random, self-supervised, taught; and its teacher's."""
    data = experiment.splits()
    few, test = data.train[:images], data.test
    large, random = experiment.teacher(teacher), models.by_name(student, seed=seed)
    alone = self_distill(random, few, augment=CROPS, epochs=epochs, seed=seed, **OPTIONS)
    taught = taught_by_seed(random, large, few, seed, epochs, rate)
    nets = {"random": random, "self-supervised": alone, "taught": taught, "teacher": large}
    return {name: neighbours(net, few, test) for name, net in nets.items()}


def generated(
    teacher: nn.Module, seed: int, statistics: float, layer: str = "embedding"
) -> GeneratedImages:
    """Images that a generator makes while it learns what a teacher is sure of."""
    return GeneratedImages(
        Generator(seed=seed),
        teacher,
        "embedding",
        batch_size=BATCH,
        steps=STEPS,
        learning_rate=0.003,
        statistics=statistics,
        seed=seed,
    )


@claim(
    "data-free",
    notebook=7,
    statement="Data-free KD: the teacher is enough. A student learns from images that a generator "
    "makes to the teacher's taste.",
    effects=(
        Effect("test accuracy, from generated images − chance", "generated", "chance"),
        Effect("test accuracy, from generated images − from noise", "generated", "noise"),
        Effect("test accuracy, with the statistics of batch norm − without", "generated", "plain"),
        Effect("test accuracy, from real images − from generated images", "real", "generated"),
    ),
    reason="res8 from res16, without a label, as many steps in every arm. Without the statistics "
    "of batch norm generated images are worth half as much; against 4,000 real ones 15 points are "
    "missing.",
    toy={"images": 256, "epochs": 1},
)
def data_free(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 12,
    statistics: float = 30.0,
    student: str = "res8",
    teacher: str = "res16-augmented",
) -> dict[str, float]:
    """Test accuracy of a student taught on noise, on generated and on real images, as long."""
    data, large = experiment.splits(), experiment.teacher(teacher)
    few, draw = data.train[:images].unlabelled(), replay(seed)
    shape = (BATCH, *few.pixels.shape[1:])
    unknown = torch.full((BATCH,), -1)
    arms: dict[str, Any] = {
        "noise": [(torch.randn(shape, generator=draw), unknown) for _ in range(STEPS)],
        "plain": generated(large, seed, 0.0),
        "generated": generated(large, seed, statistics),
        "real": few,
    }
    measured = {"chance": 100 / len(few.classes)}
    for name, lessons in arms.items():
        net = models.by_name(student, seed=seed)
        # As many steps for each: an epoch of the images has fewer.
        passes = round(epochs * STEPS / -(-images // BATCH)) if name == "real" else epochs
        fit(net, lessons, LogitKD(TEMPERATURE), teacher=large, epochs=passes, seed=seed, **OPTIONS)
        measured[name] = accuracy(net, data.test)
    return measured
