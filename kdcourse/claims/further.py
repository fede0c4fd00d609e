"""Further readings: students of self-supervised teachers, and of no data at all."""

import copy

import torch
from torch import nn

from kdcourse.augmentation import crop_flip
from kdcourse.claims.experiment import OPTIONS
from kdcourse.data import Images
from kdcourse.further import SEED
from kdcourse.tips import Consistent
from kdcourse.training import fit

CROPS = crop_flip()


def taught_without_labels(
    student: nn.Module, teacher: nn.Module, images: Images, seed: int, epochs: int, rate: float
) -> nn.Module:
    """Teach a copy of a student by SEED what a self-supervised teacher finds alike."""
    taught = copy.deepcopy(student)
    widths = (net.get_submodule("classifier").in_features for net in (student, teacher))
    fit(
        taught,
        images.unlabelled(),
        SEED(*widths, seed=seed),
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
