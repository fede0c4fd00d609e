"""Teacher correction: the data at hand is not what the teacher was trained on.

Source: Sreenivas et al. 2024 (arXiv 2408.11796), section 3.1.
"""

import copy
from typing import Any

from torch import nn

from kdcourse.logit import CrossEntropy, LogitKD
from kdcourse.objective import Objective
from kdcourse.signatures import checked
from kdcourse.teachers.mutual import mutual_learning
from kdcourse.training.epochs import Batches
from kdcourse.training.fit import fit
from kdcourse.training.history import History
from kdcourse.training.knobs import takes_knobs
from kdcourse.training.rules import check_student

RATE = 0.02  # a fifth of the original one
EPOCHS = 5


@takes_knobs
@checked
def correct(
    teacher: nn.Module,
    train: Batches,
    objective: Objective | None = None,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    **knobs: Any,
) -> nn.Module:
    """Return a copy of the teacher, fine-tuned on the labels of the distillation data.

    Args:
        teacher: Any module; stays as it is.
        train: The distillation data, as for :func:`kdcourse.training.fit`.
        objective: How it learns; from labels alone by default. Tokens, pixels and other places need
            to be told: ``CrossEntropy(class_dim=-1)``.
        epochs: The number of passes through the data; by default 5, unless there are ``steps``.
        learning_rate: The peak of the schedule; by default 0.02, a fifth of the original one as in
            the report, unless there is an ``optimizer``, which has its own.
        knobs: As for :func:`fit`.
    """
    check_student(teacher, "teacher")
    if learning_rate is None and knobs.get("optimizer") is None:
        learning_rate = RATE
    if epochs is None and knobs.get("steps") is None:
        epochs = EPOCHS
    corrected = copy.deepcopy(teacher)
    fit(corrected, train, objective, epochs=epochs, learning_rate=learning_rate, **knobs)
    return corrected


@takes_knobs
@checked
def correct_online(
    teacher: nn.Module,
    student: nn.Module,
    train: Batches,
    objective: Objective | None = None,
    *,
    learning_rate: tuple[float, float] | None = None,
    **knobs: Any,
) -> tuple[nn.Module, list[History]]:
    """Correct the teacher while it teaches: both learn from every batch.

    The teacher learns from the labels and never from the student; the student learns from what the
    teacher predicts at that moment.

    Args:
        teacher: Any module; stays as it is, a copy of it learns.
        student: Trained in place.
        train: The distillation data, as for :func:`kdcourse.training.fit`.
        objective: The student's objective; ``LogitKD(4)``, without labels as in the report, by
            default. The teacher learns from labels at the places of its predictions.
        learning_rate: The peak rates of the teacher and of the student; by default 0.02 and 0.1,
            unless there is an ``optimizer``, which has its own.
        knobs: As for :func:`fit`.

    Returns:
        The corrected teacher, and the histories of the teacher and of the student.
    """
    check_student(teacher, "teacher")
    if learning_rate is None and knobs.get("optimizer") is None:
        learning_rate = RATE, 5 * RATE
    corrected = copy.deepcopy(teacher)
    objective = LogitKD(4.0) if objective is None else objective
    objectives = [CrossEntropy.at_places_of(objective), objective]
    histories = mutual_learning(
        [corrected, student], train, objectives, learning_rate=learning_rate, **knobs
    )
    return corrected, histories
