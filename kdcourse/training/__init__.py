"""Training: objectives, the one loop, checkpoints."""

from kdcourse.training.device import choose_device
from kdcourse.training.fit import fit
from kdcourse.training.history import History
from kdcourse.training.objective import Lesson, Objective, Term
from kdcourse.training.run import Run, constant
from kdcourse.training.stages import fit_in_stages
from kdcourse.training.teacher import FoldedTeacher, FrozenTeacher, Outputs, Teacher, as_teacher
from kdcourse.training.terms import (
    AttentionTransfer,
    CrossEntropy,
    DecoupledKD,
    FeatureHint,
    LogitKD,
    RKDAngle,
    RKDDistance,
    Saliency,
    SimilarityPreserving,
    StandardizedKD,
)
from kdcourse.training.warm_up import WarmUp

__all__ = [
    "AttentionTransfer",
    "CrossEntropy",
    "DecoupledKD",
    "FeatureHint",
    "FoldedTeacher",
    "FrozenTeacher",
    "History",
    "Lesson",
    "LogitKD",
    "Objective",
    "Outputs",
    "RKDAngle",
    "RKDDistance",
    "Run",
    "Saliency",
    "SimilarityPreserving",
    "StandardizedKD",
    "Teacher",
    "Term",
    "WarmUp",
    "as_teacher",
    "choose_device",
    "constant",
    "fit",
    "fit_in_stages",
]
