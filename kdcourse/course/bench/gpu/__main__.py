"""Proves the course on a GPU, in one run: ``benchmarks/gpu.sh``.

First, side by side: all tests that use a device, every scheme, every notebook, while the benchmarks
compile what they need. Then the benchmarks take turns, each with the machine to itself. What does
not fit in the time is named, and so is everything that has failed; the run goes on.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import torch

from kdcourse.course.bench.gpu import cells, losses, report, scripts, steps, tested
from kdcourse.course.bench.gpu.child import Child, wait
from kdcourse.course.bench.gpu.outcome import FAILED, LEFT_OUT, PASSED, Outcome
from kdcourse.places import keep_image_folder

TOGETHER = 0.55  # the part of the time in which all that runs side by side has to be done


@dataclass(frozen=True)
class Size:
    """How much of everything is run."""

    tests: str  # the marker of pytest
    testers: int  # processes among which tests are shared out, twice: those that capture are apart
    groups: int  # the same of the schemes
    schemes: int | None  # as many of them; all without a number
    images: int  # that a scheme learns from
    apart: bool  # whether every notebook has a process of its own
    cells: int | None  # as many of a notebook, and one that draws
    steps: Sequence[steps.Task]
    losses: losses.Task


WHOLE = Size(
    "gpu",
    2,
    *(4, None, 6400),  # 50 steps of 128 images: enough for fit to capture one
    *(True, None),
    [
        steps.Task(*pair, size, compiled=compiled)
        for compiled in (False, True)
        for size in steps.BATCH_SIZES
        for pair in steps.PAIRS
    ],
    losses.Task(),
)
REHEARSAL = Size(
    "device and not gpu",
    1,
    *(1, 1, 400),
    *(False, 2),
    [
        steps.Task("plain8", "res16", 8, "cpu", steps=2, epochs=2, compiled=compiled)
        for compiled in (False, True)
    ],
    losses.Task("cpu", (8,), 16, (16, 100), rounds=1),
)


def beside(size: Size, folder: Path) -> list[Child]:
    """Start all that runs side by side."""
    notes = ["-q", "-p", "no:cacheprovider", "-p", tested.__name__, "-m", size.tests]
    started = []
    for paths in tested.apart():
        for part in range(size.testers):
            command = ["pytest", *notes, "--part", f"{part + 1}/{size.testers}", *map(str, paths)]
            started.append(Child(f"tests-{paths[0].stem}-{part + 1}", command, folder))
    examples = sorted(scripts.EXAMPLES.glob("*.py"))[: size.schemes]
    for group in range(size.groups):
        names = [str(path) for path in examples[group :: size.groups]]
        command = [scripts.__name__, str(size.images), *names]
        started.append(Child(f"schemes-{group + 1}", command, folder))
    notebooks = sorted(cells.NOTEBOOKS.glob("[0-9]*_*.ipynb"))
    for paths in [[path] for path in notebooks] if size.apart else [notebooks]:
        command = [cells.__name__, str(size.cells or 0), *map(str, paths)]
        started.append(Child(f"notebook-{paths[0].stem}", command, folder))
    return started


def in_turn(size: Size, folder: Path) -> dict[Child, float]:
    """Start the benchmarks, which set themselves up and wait; return what their turns cost."""
    work: dict[str, tuple[ModuleType, steps.Task | losses.Task]] = {
        f"steps-{task.student}-{task.batch_size}" + "-compiled" * task.compiled: (steps, task)
        for task in size.steps
    }
    work["losses"] = losses, size.losses
    return {
        Child(name, [module.__name__, json.dumps(asdict(task))], folder): task.seconds
        for name, (module, task) in work.items()
    }


def latest(cost: float, costs: Iterable[float], now: float, end: float) -> float:
    """Return when a turn has to be over: it may take twice its share of the time that is left.

    Args:
        cost: About how many seconds the turn takes, in comparison with others.
        costs: The same of all that are left, this one included.
        now, end: In seconds.
    """
    return min(end, now + 2 * (end - now) * cost / sum(costs))


def run(size: Size, seconds: float, folder: Path) -> list[Child]:
    """Run everything within so many seconds; return the processes, all of which have ended."""
    start = time.perf_counter()
    end = start + seconds

    def tell(child: Child, what: str = "has ended") -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {child.name} {what}", flush=True)

    together, turns = beside(size, folder), in_turn(size, folder)
    try:
        wait(together, lambda one: one.over, start + TOGETHER * seconds, tell)
        wait(turns, lambda one: one.ready, start + TOGETHER * seconds, lambda one: None)
        for child in together:
            if not child.over:
                child.kill()
                tell(child, "has run out of time")
        left = dict(turns)
        while left:
            child = next((one for one in left if one.ready), next(iter(left)))
            late = latest(left[child], left.values(), time.perf_counter(), end)
            del left[child]
            child.go()
            wait([child], lambda one: one.over, late, tell)
            if not child.over:
                child.kill()
                tell(child, "has run out of time")
    finally:
        for child in [*together, *turns]:
            child.kill()
    return [*together, *turns]


def collect(children: Sequence[Child], out: Path) -> list[Outcome]:
    """Store what the processes have written, print it, and return what became of everything."""
    entries = [entry for child in children for entry in child.journal.read()]
    tried = [one for child in children for one in child.outcomes()]
    taken = [steps.Step(**entry["step"]) for entry in entries if "step" in entry]
    costs = [losses.LossCost(**entry["loss"]) for entry in entries if "loss" in entry]
    report.save(out, taken, costs, tried)
    for table in (
        *(report.steps_table(taken), report.losses_table(costs)),
        *(report.criteria_table(taken, costs), report.tried_table(tried)),
    ):
        print(f"\n{table}")
    for one in tried:
        if one.status == PASSED and one.detail:
            print(f"\n{one.part} {one.name}: {one.detail}")
        elif one.status in (FAILED, LEFT_OUT):
            print(f"\n{one.status.upper()}: {one.part}, {one.name}\n{one.detail}".rstrip())
    print(f"\nresults: {out / report.FILE}")
    return tried


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything, store and print it, and return 1 if anything failed or was left out."""
    parser = argparse.ArgumentParser(prog=report.COMMAND, description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="(gpu-results)")
    parser.add_argument("--seconds", type=float, default=220.0, help="at most (220)")
    parser.add_argument("--small", action="store_true", help="a little of it, on the CPU")
    options = parser.parse_args(arguments)
    if not options.small and not torch.cuda.is_available():
        parser.error("no CUDA device here; --rehearse, or --small, runs a little without one")
    keep_image_folder()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        size = REHEARSAL if options.small else WHOLE
        tried = collect(run(size, options.seconds, Path(folder)), options.out)
    return int(any(one.status in (FAILED, LEFT_OUT) for one in tried))


if __name__ == "__main__":
    sys.exit(main())
