"""Training: objectives, the one loop, checkpoints."""

from kdcourse.training.device import choose_device
from kdcourse.training.fit import Run, fit
from kdcourse.training.history import History
from kdcourse.training.objective import (
    CrossEntropy,
    DecoupledKD,
    Lesson,
    LogitKD,
    Objective,
    StandardizedKD,
    Term,
)

__all__ = [
    "CrossEntropy",
    "DecoupledKD",
    "History",
    "Lesson",
    "LogitKD",
    "Objective",
    "Run",
    "StandardizedKD",
    "Term",
    "choose_device",
    "fit",
]
