"""Born-again networks: distil a net into a fresh one like itself, again and again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from kdcourse.checks import check_number
from kdcourse.logit import LogitKD
from kdcourse.objective import Objective
from kdcourse.teachers.assistant import distill_through
from kdcourse.training.epochs import Batches
from kdcourse.training.fit import fit
from kdcourse.training.knobs import takes_knobs


@takes_knobs
def born_again(
    make: Callable[[int], nn.Module],
    train: Batches,
    objective: Objective | None = None,
    *,
    generations: int = 3,
    first: nn.Module | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    **knobs: Any,
) -> list[nn.Module]:
    """Train f₁ on labels, then f₁ → f₂ → … → f_k, every one from a fresh start.

    The ensemble of all of them is ``teachers.Ensemble(born_again(...))``.

    Args:
        make: Makes a net with fresh weights from a seed, such as
            ``lambda seed: models.by_name("res8", seed=seed)``.
        train: As for :func:`kdcourse.training.fit`.
        objective: The objective of every generation but the first; the teacher's outputs only
            (``LogitKD(1)``, the paper's BAN) by default. ``CrossEntropy() + LogitKD(1)`` is BAN+L.
        generations: The number k of generations, with the first.
        first: f₁, if there is one already; it is not trained.
        seed: Seed of the first generation; generation k has seed + k − 1.
        checkpoint: The file of the last generation; earlier ones have theirs beside it
            (``.f1`` …).
        knobs: As for :func:`fit`.

    Returns:
        f₁, …, f_k, all different models; fewer if training was interrupted.

    Source: Furlanello et al. 2018 (arXiv 1805.04770).
    """
    check_number("generations", generations, 1)

    def file(number: int) -> str | Path | None:
        if checkpoint is None or number == generations:
            return checkpoint
        return f"{checkpoint}.f{number}"

    family = []
    if first is not None:
        family.append(first)
    else:
        family.append(make(seed))
        if fit(family[0], train, seed=seed, checkpoint=file(1), **knobs).interrupted:
            return family
    objective = LogitKD(1.0) if objective is None else objective
    for number in range(2, generations + 1):
        child = make(seed + number - 1)
        (history,) = distill_through(
            family[-1],
            [],
            child,
            train,
            objective,
            seed=seed + number - 1,
            checkpoint=file(number),
            **knobs,
        )
        family.append(child)
        if history.interrupted:
            break
    return family
