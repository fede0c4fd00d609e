"""Born-again networks: distil a net into a fresh one like itself, again and again."""

import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from kdcourse.checks import check_callable, check_positive
from kdcourse.errors import ArgumentError
from kdcourse.logit import CrossEntropy, LogitKD
from kdcourse.objective import Objective
from kdcourse.signatures import checked
from kdcourse.training.epochs import Batches
from kdcourse.training.fit import fit, rehearse
from kdcourse.training.knobs import takes_knobs
from kdcourse.training.rules import check_student


@takes_knobs
@checked
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
        objective: The objective of every generation but the first, of which each takes a copy; the
            teacher's outputs only (``LogitKD(1)``, the paper's BAN) by default.
            ``CrossEntropy() + LogitKD(1)`` is BAN+L. The first learns from labels at its places.
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
    check_positive(generations=generations)
    check_callable("make", make, seed)
    objective = LogitKD(1.0) if objective is None else objective
    family = [] if first is None else [first]
    children = [make(seed + number) for number in range(len(family), generations)]
    if len({*family, *children}) < generations:
        raise ArgumentError("make", "make must make a model of its own for every generation")
    for child in children:
        check_student(child, "what make returns")
    for parent, child in pairwise(children):  # the first is found out by its training
        rehearse(child, train, copy.deepcopy(objective), teacher=parent, **knobs)
    for number, child in enumerate(children, len(family)):
        suffix = "" if number == generations - 1 else f".f{number + 1}"
        history = fit(
            child,
            train,
            copy.deepcopy(objective) if family else CrossEntropy.at_places_of(objective),
            teacher=family[-1] if family else None,
            seed=seed + number,
            checkpoint=None if checkpoint is None else f"{checkpoint}{suffix}",
            **knobs,
        )
        family.append(child)
        if history.interrupted:
            break
    return family
