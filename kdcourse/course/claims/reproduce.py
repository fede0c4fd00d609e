"""Measure claims: seed by seed, resumable, one process or several side by side."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm.auto import tqdm

from kdcourse import files
from kdcourse.course.claims import results
from kdcourse.course.claims.claim import CLAIMS, Claim, known
from kdcourse.course.claims.experiment import Lab
from kdcourse.course.claims.fingerprint import TOLERANCE, Fingerprint
from kdcourse.course.claims.results import RESULTS, Result
from kdcourse.places import own_folder
from kdcourse.processes import at_once, each, workers
from kdcourse.training.device import choose_device, one_thread


def reproduce(
    ids: Iterable[str] = (),
    *,
    seeds: int = 10,
    jobs: int | None = None,
    folder: Path = RESULTS,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> list[Result]:
    """Measure claims over seeds and store every seed as soon as it is measured.

    Seeds that are stored already are not measured again, if the code still does what it did then
    (:func:`check`): a run that was stopped goes on where it was.

    Args:
        ids: Claims to measure; all of them by default.
        seeds: Measure the seeds 0 … seeds − 1.
        jobs: Processes side by side, each with one thread: by default one, and with a GPU as many
            as share it well (:func:`kdcourse.processes.at_once`).
        folder: Where results are stored; see :func:`kdcourse.places.own_folder`.
        device: Where nets are trained, the CPU or a GPU (``"cuda"``), whose results are stored
            beside those of the CPU. Whether the code still does what it did, the CPU tells.
        progress: Whether to show a progress bar.

    Returns:
        The results, in the order of ``ids``.
    """
    chosen = [CLAIMS[id] for id in known(ids)]
    return measure(chosen, seeds=seeds, jobs=jobs, folder=folder, device=device, progress=progress)


def measure(
    claims: Sequence[Claim],
    *,
    seeds: int = 10,
    jobs: int | None = None,
    folder: Path = RESULTS,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> list[Result]:
    """Measure claims, whether or not the lecture makes them, as :func:`reproduce` does.

    With several jobs, their experiments are functions of modules, or parts of such.
    """
    own, place = own_folder(folder), choose_device(device)
    if seeds < 1 or (jobs is not None and jobs < 1):
        raise ValueError(f"seeds and jobs must be at least 1, got {seeds} and {jobs}")
    if jobs is None:
        jobs = 1 if place.type == "cpu" else at_once(place, len(claims) * seeds)
    with workers(jobs) if jobs > 1 else nullcontext() as pool:
        wanted = {}
        for id, now, stored in _compared(claims, folder, place.type, pool, progress):
            changed = stored.deviation(now) > TOLERANCE
            wanted[id] = now if changed else stored
            if changed and stored.runs:
                print(f"{id}: the code has changed since it was stored; measuring it anew")
        missing = [
            (claim, seed, str(place))
            for seed in range(seeds)
            for claim in claims
            if seed not in wanted[claim.id].runs
        ]
        if missing:
            files.check_writable(own)
        for id, seed, measured, seconds in _each(_measure, missing, pool, progress, "run"):
            result = wanted[id]
            result.runs[seed], result.seconds[seed] = measured, seconds
            result.versions = results.current_versions(place.type)
            results.save(result, own)
        for id in {claim.id for claim, *_ in missing}:
            # The folder may have been removed meanwhile.
            if not results.path_of(id, own, place.type).is_file():
                results.save(wanted[id], own)
    return [wanted[claim.id] for claim in claims]


def check(
    ids: Iterable[str] = (),
    *,
    jobs: int | None = None,
    folder: Path = RESULTS,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, float]:
    """Find out whether the code still does what it did when claims were measured.

    Args:
        ids, folder, progress: As for :func:`reproduce`.
        jobs: Processes side by side, by default one: they run on the CPU.
        device: Where nets were trained when the claims were measured.

    Returns:
        By how much the worst number of each claim's fingerprint deviates, relative to its size; the
        claim has to be measured anew if that is above
        :data:`kdcourse.course.claims.fingerprint.TOLERANCE`.
    """
    chosen = [CLAIMS[id] for id in known(ids)]
    return compare(chosen, jobs=jobs, folder=folder, device=device, progress=progress)


def compare(
    claims: Sequence[Claim],
    *,
    jobs: int | None = None,
    folder: Path = RESULTS,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, float]:
    """Compare claims with what is stored of them, as :func:`check` does."""
    with workers(jobs) if jobs and jobs > 1 else nullcontext() as pool:
        compared = _compared(claims, folder, torch.device(device).type, pool, progress)
        return {id: stored.deviation(now) for id, now, stored in compared}


def _compared(
    claims: Sequence[Claim], folder: Path, device: str, pool: Executor | None, progress: bool
) -> Iterator[tuple[str, Result, Result]]:
    """Put what the code does now beside what is stored of each claim."""
    by_id, works = {claim.id: claim for claim in claims}, [(claim,) for claim in claims]
    for id, fingerprint in _each(_fingerprint, works, pool, progress, "claim"):
        try:
            stored = results.read(by_id[id], folder, device)
        except FileNotFoundError:
            stored = Result(by_id[id])  # without a fingerprint: of no code
        yield id, Result.of_now(by_id[id], fingerprint, device), stored


def _each(
    task: Callable, works: list[tuple], pool: Executor | None, progress: bool, unit: str
) -> Iterable:
    """Do the same with each, and show a bar."""
    done = each(task, works, pool)
    return tqdm(done, total=len(works), disable=not progress or not works, unit=unit)


def _fingerprint(claim: Claim) -> tuple[str, Fingerprint]:
    return claim.id, Fingerprint.of(claim)


def _measure(claim: Claim, seed: int, device: str) -> tuple[str, int, dict[str, float], float]:
    with one_thread():  # as fast as two for these nets, and the same bit by bit
        start = time.perf_counter()
        try:
            measured = Lab(claim, seed, device=device).measure()
        except (ValueError, RuntimeError, FloatingPointError) as error:
            raise RuntimeError(f"{claim.id}, seed {seed}: {error}") from error
        return claim.id, seed, measured, time.perf_counter() - start
