"""The teacher assistant: a chain of models of falling size, each taught by the one before."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from kdcourse.errors import ArgumentError
from kdcourse.logit import CrossEntropy, LogitKD
from kdcourse.objective import Objective
from kdcourse.signatures import checked
from kdcourse.training.epochs import Batches
from kdcourse.training.fit import fit, rehearse
from kdcourse.training.history import History
from kdcourse.training.knobs import takes_knobs
from kdcourse.training.rules import check_apart, check_student


@takes_knobs
@checked
def distill_through(
    teacher: nn.Module,
    assistants: Sequence[nn.Module],
    student: nn.Module,
    train: Batches,
    objective: Objective | None = None,
    *,
    checkpoint: str | Path | None = None,
    **knobs: Any,
) -> list[History]:
    """Distil teacher → assistant → … → student.

    Args:
        teacher: Teaches the first in the chain.
        assistants: Trained in place, one after the other, the largest first. Without any, this is
            plain distillation.
        student: Trained in place, last.
        train: As for :func:`kdcourse.training.fit`.
        objective: The objective of every link, of which each takes a copy; labels and KD at
            temperature 4 by default.
        checkpoint: The file of the last link; the first assistant has one beside it (``.1``), and
            so on.
        knobs: As for :func:`fit`.

    Returns:
        The histories of the links. If one is interrupted, the next is not begun.

    Source: Mirzadeh et al. 2020 (arXiv 1902.03393).
    """
    objective = CrossEntropy() + 3.0 * LogitKD(4) if objective is None else objective
    learners = [*assistants, student]
    if len({id(model) for model in [teacher, *learners]}) != 1 + len(learners):
        raise ArgumentError("assistants", "every link of the chain must be a model of its own")
    for number, learner in enumerate(learners):  # before the first of them has learned
        check_student(learner, "student" if learner is student else "assistants")
        for other in [teacher, *learners[:number]]:
            check_apart(learner, other, "assistants", "two links of the chain")
    for above, learner in pairwise(learners):  # the first link is found out by its training
        rehearse(learner, train, copy.deepcopy(objective), teacher=above, **knobs)
    histories = []
    for number, learner in enumerate(learners, start=1):
        suffix = "" if learner is student else f".{number}"
        history = fit(
            learner,
            train,
            copy.deepcopy(objective),  # each link has its own, and counts its own steps
            teacher=teacher,
            checkpoint=None if checkpoint is None else f"{checkpoint}{suffix}",
            **knobs,
        )
        histories.append(history)
        if history.interrupted:
            break
        teacher = learner
    return histories
