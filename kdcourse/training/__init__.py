"""Training: objectives, the one loop, checkpoints."""

from kdcourse.training.device import choose_device
from kdcourse.training.fit import fit
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
from kdcourse.training.run import Run
from kdcourse.training.teacher import FrozenTeacher, Outputs, Teacher, as_teacher

__all__ = [
    "CrossEntropy",
    "DecoupledKD",
    "FrozenTeacher",
    "History",
    "Lesson",
    "LogitKD",
    "Objective",
    "Outputs",
    "Run",
    "StandardizedKD",
    "Teacher",
    "Term",
    "as_teacher",
    "choose_device",
    "fit",
]
