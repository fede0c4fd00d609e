"""The teacher assistant: a chain of models of falling size, each taught by the one before."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from kdcourse.training.epochs import Batches
from kdcourse.training.fit import fit
from kdcourse.training.history import History
from kdcourse.training.objective import Objective
from kdcourse.training.terms import CrossEntropy, LogitKD


def distill_through(
    teacher: nn.Module,
    assistants: Sequence[nn.Module],
    student: nn.Module,
    train: Batches,
    objective: Objective | None = None,
    *,
    checkpoint: str | None = None,
    **options: Any,
) -> list[History]:
    """Distil teacher → assistant → … → student.

    Args:
        teacher: of the first in the chain.
        assistants: trained in place, one after the other, the largest first. Without any, this is
            plain distillation.
        student: trained in place, last.
        train: as for :func:`kdcourse.training.fit`.
        objective: of every link; labels and KD at temperature 4 by default.
        checkpoint: file of the last link; assistant number 1 has one beside it (``.1``), and so on.
        options: as for :func:`fit`.

    Returns:
        The histories of the links. If one is interrupted, the next is not begun.

    Source: Mirzadeh et al. 2020 (arXiv 1902.03393).
    """
    objective = CrossEntropy() + 3.0 * LogitKD(4) if objective is None else objective
    learners = [*assistants, student]
    if len({id(model) for model in [teacher, *learners]}) != 1 + len(learners):
        raise ValueError("every link of the chain must be a model of its own")
    histories = []
    for number, learner in enumerate(learners, start=1):
        suffix = "" if learner is student else f".{number}"
        history = fit(
            learner,
            train,
            objective,
            teacher=teacher,
            checkpoint=None if checkpoint is None else f"{checkpoint}{suffix}",
            **options,
        )
        histories.append(history)
        if history.interrupted:
            break
        teacher = learner
    return histories
