"""Runs of many processes that are taken up from a checkpoint, for many_processes.py.

The nets are those of the command line, in float32 and with batch norm, where rounding grows.
"""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, nn
from toys import CLASSES, images, weights

from kdcourse import models, processes
from kdcourse.augmentation import pad_crop_flip
from kdcourse.teachers import MomentumTeacher, mutual_learning
from kdcourse.training import CrossEntropy, FeatureHint, LogitKD, fit

Runs = Callable[..., list[nn.Module]]  # all that has learned, by the options of fit


def net(name: str, seed: int = 1) -> nn.Module:
    return models.by_name(name, channels=1, classes=CLASSES, seed=seed)


def by_labels(**options) -> list[nn.Module]:
    student = net("res16")
    fit(student, images(108), augment=pad_crop_flip(1), **options)
    return [student]


def in_parts(**options) -> list[nn.Module]:
    return by_labels(accumulate=2, **options)


def by_hints(**options) -> list[nn.Module]:
    """The projection learns, too, and is followed by batch norm."""
    student = net("plain8")
    objective = CrossEntropy() + FeatureHint("stage2", nonlinearity="norm-relu")
    fit(student, images(108), objective, teacher=net("res16", 2), **options)
    return [student, objective]


def by_momentum(**options) -> list[nn.Module]:
    student = net("plain8")
    teacher = MomentumTeacher(student, 0.9)
    fit(student, images(108), CrossEntropy() + LogitKD(4), teacher=teacher, **options)
    return [student, teacher]


def by_peers(**options) -> list[nn.Module]:
    students = [net("plain8"), net("res16", 2)]
    mutual_learning(students, images(108), **options)
    return students


RUNS = [by_labels, in_parts, by_hints, by_momentum, by_peers]


def differences(run: Runs, folder: Path) -> list[str]:
    """Return what is other where the run is resumed after an epoch, or in the main process."""
    whole, stopped = (folder / f"{run.__name__} {name}.pt" for name in ("whole", "stopped"))

    def keep(row):
        if row["epoch"] == 1:
            shutil.copy(whole, stopped)

    options = {"epochs": 3, "batch_size": 32, "device": "cpu", "progress": False}
    one, other = (
        weights(nn.ModuleList(run(checkpoint=path, log=log, **options)))
        for path, log in ((whole, keep), (stopped, None))
    )
    mains = {name: value.clone() for name, value in one.items()}
    processes.copy_from_main(mains.values())
    return [f"{n}, resumed" for n in one if not torch.equal(one[n], other[n])] + [
        f"{n}, of another process" for n in one if not torch.equal(one[n], mains[n])
    ]


def every_run(folder: Path) -> dict[str, list[list[str]]]:
    """Return the differences in every process, by how they trained."""
    warnings.simplefilter("error", FutureWarning)
    found = {run.__name__: [[]] * processes.count() for run in RUNS}
    for run in RUNS:
        distributed.all_gather_object(found[run.__name__], differences(run, folder))
    return found
