"""Tune and measure all methods on the boards, or find out whether the code still does the same."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch

from kdcourse.course.claims.claim import Claim
from kdcourse.course.claims.reproduce import compare, measure
from kdcourse.course.leaderboard.beyond import beyond, is_at_the_edge
from kdcourse.course.leaderboard.board import ALONE, BOARDS, FOLDER, SEEDS, TRIALS, final, search


def reproduce(
    boards: Iterable[str] = (),
    *,
    seeds: int = SEEDS,
    jobs: int | None = None,
    folder: Path = FOLDER,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> None:
    """Tune and measure every method on the boards, all of them by default.

    Every trial and every seed is stored as soon as it is measured; what is stored is not measured
    again, if the code still does what it did then. So a run that was stopped goes on where it was.
    """
    run = partial(measure, jobs=jobs, folder=folder, device=device, progress=progress)
    kind = torch.device(device).type
    for board in known(boards):
        names = BOARDS[board].methods
        run([search(board, name) for name in names], seeds=TRIALS)
        run(_finals(board, folder, kind), seeds=seeds)


def check(
    boards: Iterable[str] = (),
    *,
    jobs: int | None = None,
    folder: Path = FOLDER,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, float]:
    """Find out whether the code still does what it did, as :func:`kdcourse.course.claims.check`."""
    kind = torch.device(device).type
    claims = [
        claim
        for board in known(boards)
        for claim in (
            *(search(board, name) for name in BOARDS[board].methods),
            *_finals(board, folder, kind),
        )
    ]
    return compare(claims, jobs=jobs, folder=folder, device=device, progress=progress)


def _finals(board: str, folder: Path, device: str) -> list[Claim]:
    """Return what is measured after the trials, with the settings that were best in them."""
    names = ALONE, *BOARDS[board].methods
    finals = [final(board, name, folder, device) for name in names]
    if is_at_the_edge(board, folder, device):
        finals.append(beyond(board, folder, device))
    return finals


def known(boards: Iterable[str]) -> list[str]:
    """Return the names of boards, each once; all of them, if there are none.

    Raises:
        ValueError: There is no such board.
    """
    chosen = list(dict.fromkeys(boards)) or [*BOARDS]
    for name in chosen:
        if name not in BOARDS:
            raise ValueError(f"no board {name!r}; there are {', '.join(BOARDS)}")
    return chosen
