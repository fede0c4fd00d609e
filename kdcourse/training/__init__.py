"""Training: the one loop, its knobs and checkpoints; and the terms, from their losses' files."""

from kdcourse.feature import AttentionTransfer, FeatureHint, Saliency
from kdcourse.logit import CrossEntropy, DecoupledKD, LogitKD, StandardizedKD
from kdcourse.objective import Lesson, Objective, Outputs, Term, WarmUp
from kdcourse.relational import RKDAngle, RKDDistance, SimilarityPreserving
from kdcourse.training.device import choose_device
from kdcourse.training.fit import fit, rehearse
from kdcourse.training.history import History
from kdcourse.training.knobs import Knobs, StopTraining
from kdcourse.training.run import Run
from kdcourse.training.schedules import constant
from kdcourse.training.stages import fit_in_stages
from kdcourse.training.teacher import FoldedTeacher, FrozenTeacher, Teacher, as_teacher
