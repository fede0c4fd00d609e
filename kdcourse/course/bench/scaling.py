"""What two processes bring: images per second of an epoch under ``torchrun``, beside one's.

There is a pair of small nets, whose steps are hardly longer than the messages, and a pair of large
ones. Processes that each learn from their share of every batch by themselves, and send no messages,
show what the machine allows. This file is what ``torchrun`` runs.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from tqdm.auto import tqdm

from kdcourse import models, processes
from kdcourse.augmentation import pad_crop_flip
from kdcourse.course.bench.compare import Store
from kdcourse.course.bench.training import Throughput, throughputs
from kdcourse.course.bench.training import table as throughput_table
from kdcourse.course.claims.results import RESULTS
from kdcourse.data import fashion_mnist
from kdcourse.training import CrossEntropy, LogitKD, fit
from kdcourse.training.device import one_thread, processor

STORE = Store(RESULTS / "bench-scaling.json", "python -m kdcourse bench --scaling", Throughput)
load, table = STORE.load, throughput_table
ARMS = "1 process", "2 processes", "2 processes, each by itself"
PAIRS = ("plain8", "res16", 1.0), ("res16", "res48", 0.25)  # and their share of the images


def measure(
    *,
    images: int = 4000,
    rounds: int = 9,
    store: Store[Throughput] = STORE,
    progress: bool = True,
) -> list[Throughput]:
    """Time epochs of ``fit``, each process on one thread, in turn; store and return the results."""
    store.check()
    results = []
    for number, (student, teacher, share) in enumerate(tqdm(PAIRS, disable=not progress)):
        part = int(share * images)
        taken = _under_torchrun(student, teacher, part, rounds)
        seconds = {f"{student} from {teacher}, {arm}": one for arm, one in taken.items()}
        results += throughputs("ways", number, seconds, part)
    store.save(results, images=images, processor=processor())
    return results


def _under_torchrun(student: str, teacher: str, images: int, rounds: int) -> dict[str, list[float]]:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            *launcher,
            "-m",
            __name__,
            student,
            teacher,
            str(images),
            str(rounds),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise RuntimeError(f"torchrun failed: {run.stderr.strip()[-2000:]}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def _process(student: str, teacher: str, images: int, rounds: int, epochs: int = 3) -> None:
    """Print the seconds of an epoch in every round: the median of a few, after a first."""
    main, train = os.environ["RANK"] == "0", fashion_mnist().train
    taught_by = models.by_name(teacher, seed=0).eval()

    def epochs_of(shares: int) -> Callable[[], float]:
        learner, part = models.by_name(student, seed=0), train[: images // shares]
        knobs: dict[str, Any] = {"batch_size": 128 // shares, "augment": pad_crop_flip()}
        knobs |= {"epochs": 1 + epochs, "device": "cpu", "progress": False}

        def way() -> float:
            objective = CrossEntropy() + LogitKD(4)
            history = fit(learner, part, objective, teacher=taught_by, **knobs)
            return statistics.median(history["seconds"][1:])

        return way

    alone, together, apart = epochs_of(1), epochs_of(1), epochs_of(2)
    taken: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with processes.joined("cpu"):
        for _ in range(rounds):
            for arm, way in zip(ARMS, (alone, together, apart), strict=True):
                processes.wait()
                with nullcontext() if way is together else processes.apart():
                    if main or way is not alone:
                        taken[arm].append(way())
    if main:
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    with one_thread():
        _process(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
