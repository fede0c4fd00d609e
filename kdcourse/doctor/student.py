"""The student over time: has it begun to be worse, than it was or than by labels alone?"""

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile

from kdcourse.doctor.answers import SIGMAS
from kdcourse.doctor.look import Found, remark_if

Rows = Sequence[Mapping[str, float]]
LAST = 3  # epochs, one after the other, for which a student has been worse than at its best,
TWICE = 2  # and than by labels alone: a single one may be an accident of its batch norm
LEAST = 0.01  # a point; less is not worth a remark
RELATIVE = 0.05  # of measures that are no shares, whose error is not known


def margin_of_chance(value: float, samples: int | None) -> float:
    """Return by how much two measures must differ for the difference to be more than chance.

    Args:
        value: One of them; a share of samples, if their number is known.
        samples: That number.
    """
    if samples is None or not 0 <= value <= 1:
        return RELATIVE * abs(value)
    return max(LEAST, SIGMAS * math.sqrt(2 * value * (1 - value) / samples))


def judge_decline(rows: Rows, by: str, lowest: bool, samples: int | None) -> Found:
    """Judge whether a student was better before its last epochs than in any of them."""
    values = [row[by] for row in rows if by in row]
    if len(values) <= LAST:
        return None
    sign = -1 if lowest else 1
    best = max(range(len(values)), key=lambda number: sign * values[number])
    fallen = min(sign * (values[best] - one) for one in values[-LAST:])
    return remark_if(
        fallen > margin_of_chance(values[best], samples),
        "the student's validation",
        f"The student was best in epoch {best + 1} ({by} {values[best]:.4g}) and is worse by "
        f"{fallen:.2g} or more in each of the last {LAST}",
        "so that what it has learned since does not carry over to other samples",
        "keep the best weights (keep='best'), train for fewer epochs, or augment",
    )


def judge_behind(rows: Rows, alone: Rows, by: str, lowest: bool, samples: int | None) -> Found:
    """Judge whether a student falls behind the same one that learns from labels alone."""
    other = {row["epoch"]: row[by] for row in alone if by in row}
    sign = -1 if lowest else 1
    both = [(row["epoch"], row[by], other[row["epoch"]]) for row in rows if row["epoch"] in other]
    if len(both) < TWICE:
        return None
    gaps = [sign * (theirs - own) > margin_of_chance(theirs, samples) for _, own, theirs in both]
    behind = sum(1 for _ in takewhile(bool, reversed(gaps)))  # epochs, up to the last
    _, own, theirs = both[-1]
    return remark_if(
        behind >= TWICE,
        "labels alone",
        f"Since epoch {both[-max(behind, 1)][0]:.0f}, the student is worse than by labels alone "
        f"({by} {own:.4g} against {theirs:.4g} in the last)",
        "so that the teacher costs more than it brings",
        "lower the weight of its terms, let it teach in the first epochs only, or take a teacher "
        "nearer to the student",
    )
