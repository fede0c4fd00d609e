"""Measure claims: seed by seed, resumable, one process or several side by side."""

import multiprocessing
import multiprocessing.connection
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm.auto import tqdm

from kdcourse.course.claims import results
from kdcourse.course.claims.claim import CLAIMS, known
from kdcourse.course.claims.results import RESULTS, Result
from kdcourse.training.device import one_thread

Measured = tuple[str, int, dict[str, float], float]


def reproduce(
    ids: Iterable[str] = (),
    *,
    seeds: int = 10,
    jobs: int = 1,
    folder: Path = RESULTS,
    progress: bool = True,
) -> list[Result]:
    """Measure claims over seeds and store every seed as soon as it is measured.

    Seeds that are stored already, by the same experiment, are not measured again: a run that was
    stopped goes on where it was.

    Args:
        ids: claims to measure; all of them by default.
        seeds: measure the seeds 0 … seeds − 1.
        jobs: processes side by side, each with one thread.
        folder: where results are stored.
        progress: show a progress bar.

    Returns:
        The results, in the order of ``ids``.
    """
    ids = known(ids)
    if seeds < 1 or jobs < 1:
        raise ValueError(f"seeds and jobs must be at least 1, got {seeds} and {jobs}")
    wanted = {id: _stored(id, folder) for id in ids}
    missing = [(id, s) for s in range(seeds) for id in ids if s not in wanted[id].runs]
    bar = tqdm(total=len(missing), disable=not progress or not missing, unit="run")
    with bar:
        for id, seed, measurements, seconds in _measure_all(missing, jobs):
            result = wanted[id]
            result.runs[seed], result.seconds[seed] = measurements, seconds
            result.versions = results.current_versions()
            results.save(result, folder)
            bar.set_postfix_str(f"{id}, seed {seed}")
            bar.update()
    return list(wanted.values())


def _stored(id: str, folder: Path) -> Result:
    """Return what is stored of a claim, or nothing if another experiment made it."""
    now = results.digest(CLAIMS[id])
    try:
        result = results.load(id, folder)
    except FileNotFoundError:
        return Result(CLAIMS[id], digest=now)
    if result.digest != now:
        print(f"{id}: the experiment has changed since it was stored; measuring it anew")
        return Result(CLAIMS[id], digest=now)
    return result


def _measure_all(missing: list[tuple[str, int]], jobs: int) -> Iterator[Measured]:
    if jobs == 1:
        yield from (_measure(id, seed) for id, seed in missing)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_end_with_parent) as pool:
        futures: list[Future[Measured]] = [pool.submit(_measure, *work) for work in missing]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _measure(id: str, seed: int) -> Measured:
    import kdcourse.course.claims  # registers the claims in a fresh process  # noqa: F401

    with one_thread():  # as fast as two for these nets, and the same bit by bit
        start = time.perf_counter()
        measurements = CLAIMS[id].measure(seed)
        return id, seed, measurements, time.perf_counter() - start
