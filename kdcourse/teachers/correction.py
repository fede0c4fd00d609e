"""Teacher correction: the data at hand is not what the teacher was trained on.

Where the original training data is gone, the teacher is first fine-tuned on the data that will be
distilled on, and then teaches; or it goes on learning there while it teaches.

Source: Sreenivas et al. 2024 (arXiv 2408.11796), section 3.1.
"""

import copy
from typing import Any

from torch import nn

from kdcourse.teachers.mutual import mutual_learning
from kdcourse.training.epochs import Batches
from kdcourse.training.fit import fit
from kdcourse.training.history import History
from kdcourse.training.objective import Objective
from kdcourse.training.terms import CrossEntropy, LogitKD


def correct(
    teacher: nn.Module,
    train: Batches,
    *,
    epochs: int = 5,
    learning_rate: float = 0.02,
    **options: Any,
) -> nn.Module:
    """Return a copy of the teacher, fine-tuned on the labels of the distillation data.

    Args:
        teacher: any module; stays as it is.
        train: the distillation data, as for :func:`kdcourse.training.fit`.
        epochs: passes through it.
        learning_rate: peak of the schedule; a fifth of the original one, as in the report.
        options: as for :func:`fit`.
    """
    corrected = copy.deepcopy(teacher)
    fit(corrected, train, epochs=epochs, learning_rate=learning_rate, **options)
    return corrected.train(teacher.training)


def correct_online(
    teacher: nn.Module,
    student: nn.Module,
    train: Batches,
    objective: Objective | None = None,
    *,
    learning_rate: tuple[float, float] = (0.02, 0.1),
    **options: Any,
) -> tuple[nn.Module, list[History]]:
    """Correct the teacher while it teaches: both learn from every batch.

    The teacher learns from the labels and never from the student; the student learns from what the
    teacher predicts at that moment.

    Args:
        teacher: any module; stays as it is, a copy of it learns.
        student: trained in place.
        train: the distillation data, as for :func:`kdcourse.training.fit`.
        objective: of the student; ``LogitKD(4)``, without labels as in the report, by default.
        learning_rate: of the teacher and of the student.
        options: as for :func:`kdcourse.teachers.mutual_learning`.

    Returns:
        The corrected teacher, and the histories of the teacher and of the student.
    """
    corrected = copy.deepcopy(teacher)
    objectives = [CrossEntropy(), LogitKD(4.0) if objective is None else objective]
    histories = mutual_learning(
        [corrected, student], train, objectives, learning_rate=learning_rate, **options
    )
    return corrected.train(teacher.training), histories
