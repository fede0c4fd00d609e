"""The same training with many seeds, some of them side by side, and what they say together."""

import json
import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from kdcourse import files, processes
from kdcourse.estimate import estimate
from kdcourse.heartbeat import meanwhile
from kdcourse.train import command
from kdcourse.train.options import OptionError, Options, listed_seeds
from kdcourse.train.record import METRICS, told
from kdcourse.training.device import one_thread

EVERY = 0.5  # seconds between two looks at what was written
COLUMNS = {  # of the table, by the names of what was measured
    "test_accuracy": "test accuracy, %",
    "validation_accuracy": "validation accuracy, %",
    "test_nats": "test, nats",
    "validation_nats": "validation, nats",
    "seconds": "seconds",
}

_data = lru_cache(maxsize=1)(command.load)  # read once a process, for all of its seeds


def run(options: Options, published: str = "") -> int:
    """Train with each of ``options.seeds`` into ``OUT/seed-K``, as with this seed alone.

    What is finished is not trained again. A seed that fails is named, and the others go on.

    Args:
        options: All that is to be known.
        published: What to say beside the mean.

    Returns:
        The exit status: 1 if a seed has failed.
    """
    alone = {seed: _alone(options, seed) for seed in listed_seeds(options.seeds or "")}
    device = command.checked(next(iter(alone.values()))).knobs["device"]
    folder = Path(options.out)
    if (folder / command.OPTIONS).is_file():
        raise OptionError(f"--out: {folder} holds a training of one seed; choose another")
    with command.held(folder):
        before = {seed: command.opened(Path(one.out), one) for seed, one in alone.items()}
        missing = [seed for seed, result in before.items() if result is None]
        failed = _train_all(options, missing, side_by_side(options, device, len(missing)))
        finished = {s: _measured(Path(one.out)) for s, one in alone.items() if s not in failed}
        if finished:
            together = _together(finished)
            content = {"seeds": finished, **together, "failed": failed}
            files.write(folder / command.RESULT, json.dumps(content, indent=1) + "\n")
            print(table(finished))
            means = {name: over["mean"] for name, over in together.items()}
            print(f"mean {told(means)}{published}, in {folder}")
    if failed:
        named = ", ".join(map(str, failed))
        print(f"kdcourse: failed: {named}; the same command tries again", file=sys.stderr)
    return int(bool(failed))


def side_by_side(options: Options, device: torch.device, seeds: int) -> int:
    """Return how many of so many seeds are trained at the same time."""
    return min(options.jobs or processes.at_once(device, seeds), seeds)


def table(finished: Mapping[int, Mapping[str, Any]]) -> str:
    """Return a row a seed, and below mean, sample deviation and 95 % interval over the seeds."""
    together = _together(finished)
    rows = [["seed", *(COLUMNS[name] for name in together)]]
    rows += [
        [str(seed), *(_cell(name, result[name]) for name in together)]
        for seed, result in finished.items()
    ]
    whole = [("mean", "{mean}"), ("deviation", "{deviation}"), ("95 % interval", "[{low}, {high}]")]
    for first, form in whole if len(finished) > 1 else whole[:1]:
        cells = (
            form.format(**{key: _cell(name, value) for key, value in over.items()})
            for name, over in together.items()
        )
        rows.append([first, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for first, *cells in rows
    )


def _cell(name: str, value: float | None) -> str:
    return "" if value is None else f"{value:.{4 if name.endswith('nats') else 2}f}"


def _alone(options: Options, seed: int) -> Options:
    """Return the options of the training with one of the seeds."""
    out = options.out and str(Path(options.out) / f"seed-{seed}")
    return replace(options, seed=seed, seeds=None, jobs=None, out=out)


def _train_all(options: Options, seeds: list[int], jobs: int) -> dict[int, str]:
    """Train with each of the seeds; return why some have failed."""
    if not seeds:
        return {}
    _data(options)  # what is missing is fetched, or told, before any process starts
    if jobs > 1:
        _data.cache_clear()
    failed = {}
    folders = [Path(_alone(options, seed).out) for seed in seeds]
    with (
        processes.workers(jobs) if jobs > 1 else nullcontext() as pool,
        _shown(folders, options.epochs),
    ):
        works = [(options, seed) for seed in seeds]
        for seed, said, error in processes.each(_train, works, pool):
            tqdm.write(f"seed {seed}: {said}", sys.stderr)
            if error:
                failed[seed] = said
    _data.cache_clear()
    return failed


def _train(options: Options, seed: int) -> tuple[int, str, bool]:
    """Train with one of the seeds; return it, what to say of it, and whether it has failed."""
    try:
        with one_thread():  # so that the weights do not depend on how many are trained at once
            result = command.run(_alone(options, seed), _data(options), progress=False)
    except Exception as error:
        reason = files.sentence(error) if isinstance(error, OSError) else str(error)
        return seed, reason or type(error).__name__, True
    assert result is not None
    return seed, told(result), False


@contextmanager
def _shown(folders: Iterable[Path], epochs: int | None) -> Iterator[None]:
    """Show one bar over the epochs of all, as they stand in the files; how many, if known."""
    paths = [folder / METRICS for folder in folders]

    def written() -> int:
        return sum(len(path.read_text().splitlines()) for path in paths if path.is_file())

    def look() -> None:
        bar.update(written() - bar.n)

    total = None if epochs is None else len(paths) * epochs
    with tqdm(total=total, initial=written(), unit="epoch") as bar:
        try:
            with meanwhile(look, EVERY):
                yield
        finally:
            look()


def _measured(folder: Path) -> dict[str, Any]:
    """Return what a finished training has measured; accuracies in percent."""
    result = json.loads((folder / command.RESULT).read_text())
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    kept = rows[result.get("kept", len(rows)) - 1]  # older results do not tell
    for measure, scale in (("validation_accuracy", 100), ("validation_nats", 1)):
        if measure in kept:
            result[measure] = round(scale * kept[measure], 4)
    return result


def _together(finished: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Return mean, sample deviation and 95 % interval (Student's t) of what seeds have measured."""
    together = {}
    for name in COLUMNS:
        values = [result[name] for result in finished.values() if name in result]
        if values:
            over = estimate(name, values)
            deviation = statistics.stdev(values) if len(values) > 1 else math.inf
            numbers = {"deviation": deviation, "low": over.low, "high": over.high}
            known = {key: round(n, 4) if math.isfinite(n) else None for key, n in numbers.items()}
            together[name] = {"mean": round(over.mean, 4), **known}
    return together
