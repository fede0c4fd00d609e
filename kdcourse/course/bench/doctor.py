"""What a doctor costs that looks at a run: ``fit`` with ``diagnose=True`` ÷ without its seconds.

They are a fiftieth of a run, and two runs differ by more than that from each other. So both sides
are measured in the same run: all of it, and all but what was spent in looking and judging.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from kdcourse import CrossEntropy, LogitKD, fit, models
from kdcourse.course.bench.compare import Comparison, Store, comparison_table, median_ratio
from kdcourse.course.claims.results import RESULTS
from kdcourse.data import Images, fashion_mnist
from kdcourse.teachers import pretrained
from kdcourse.training.device import one_thread
from kdcourse.training.diagnosis import Diagnosis
from kdcourse.training.learner import Learner

STORE = Store(RESULTS / "bench-doctor.json", "python -m kdcourse bench --doctor", Comparison)
load, table = STORE.load, comparison_table
STUDENT, TEACHER = "plain8", "res16"


def measure(
    *,
    images: int = 4000,
    epochs: int = 15,
    rounds: int = 9,
    store: Store[Comparison] = STORE,
) -> list[Comparison]:
    """Measure whole runs on one thread, store what they take, and return it.

    Seconds are those of the processor.
    """
    store.check()
    train = fashion_mnist().train[:images]
    with one_thread():
        _run(train, 1)  # to warm up
        taken = [_run(train, epochs) for _ in range(rounds)]
    ours, other = ([*side] for side in zip(*taken, strict=True))
    about = f"{epochs} epochs of KD ({STUDENT} student, {TEACHER} teacher), diagnosed ÷ not"
    medians = statistics.median(ours), statistics.median(other)
    comparisons = [Comparison(about, *medians, median_ratio(ours, other), rounds)]
    store.save(comparisons, images=images)
    return comparisons


def _run(train: Images, epochs: int) -> tuple[float, float]:
    """Return the seconds of a run, and those that are left without the doctor's."""
    student, teacher = models.by_name(STUDENT, seed=0), pretrained(TEACHER)
    options: dict[str, Any] = {"epochs": epochs, "device": "cpu", "progress": False}
    objective = CrossEntropy() + 3 * LogitKD(4)
    spent: list[float] = []

    def timed(function: Callable) -> Callable:
        def timing(*arguments: Any, **more: Any) -> Any:
            begun = time.process_time()
            result = function(*arguments, **more)
            spent.append(time.process_time() - begun)
            return result

        return timing

    begun = time.process_time()
    with (
        mock.patch.object(Diagnosis, "look", timed(Diagnosis.look)),
        mock.patch.object(Learner, "reports", timed(Learner.reports)),
    ):
        fit(student, train, objective, teacher=teacher, diagnose=True, **options)
    whole = time.process_time() - begun
    return whole, whole - sum(spent)
