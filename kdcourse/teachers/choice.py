"""Which of several teachers? A probe of a few steps, instead of a whole training with each."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from kdcourse.checks import check_callable, check_positive
from kdcourse.errors import ArgumentError
from kdcourse.objective import Objective
from kdcourse.signatures import checked, describe
from kdcourse.training.epochs import Batches
from kdcourse.training.fit import fit
from kdcourse.training.knobs import takes_knobs
from kdcourse.training.rules import check_student


@takes_knobs
@checked
def rank_teachers(
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    train: Batches,
    objective: Objective,
    judge: Callable[[nn.Module], float],
    *,
    steps: int = 50,
    **knobs: Any,
) -> dict[str, float]:
    """Let every teacher teach a copy of the student for a few steps, and rank the teachers by it.

    >>> rank_teachers(student, {"large": large, "small": small}, train, labels + kd,
    ...               lambda net: metrics.accuracy(net, validation))

    A short training sees who is easy to follow, more than who is worth following for long: of
    teachers that the probe finds equally good, take the one that is itself the better.

    Args:
        student: The student with the weights it would begin with; stays as it is.
        teachers: Teachers by name, as for :func:`kdcourse.training.fit`.
        train: As for :func:`fit`.
        objective: As for :func:`fit`; each teacher is asked by a copy of it.
        judge: How good a student is, the higher the better: on data for validation, not for test.
        steps: Number of optimizer steps with each teacher.
        knobs: As for :func:`fit`.

    Returns:
        What the judge said of each teacher's student, the best teacher first, and last those of
        which it said NaN.

    Raises:
        ArgumentError: There is no teacher, or the judge returns no number.
    """
    check_student(student, "student")
    check_positive(steps=steps)
    check_callable("judge", judge, student)
    if not teachers:
        raise ArgumentError("teachers", "teachers must hold at least one teacher")
    found = {}
    for name, teacher in teachers.items():
        taught = copy.deepcopy(student)
        fit(taught, train, copy.deepcopy(objective), teacher=teacher, steps=steps, **knobs)
        said = judge(taught)
        try:
            found[name] = float(said)
        except (TypeError, ValueError, RuntimeError):
            raise ArgumentError(
                "judge", f"judge must return a number, got {describe(said)}"
            ) from None
    return dict(sorted(found.items(), key=lambda one: (math.isnan(one[1]), -one[1])))
