"""What a doctor costs that looks at a run: ``fit`` with ``diagnose=True`` ÷ without."""

import time
from functools import partial
from typing import Any

from kdcourse import CrossEntropy, LogitKD, fit, models
from kdcourse.course.bench.compare import Comparison, Store, compare, comparison_table
from kdcourse.course.claims.results import RESULTS
from kdcourse.data import Images, fashion_mnist
from kdcourse.teachers import pretrained
from kdcourse.training.device import one_thread

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
    """Compare whole runs on one thread, store the comparison with the versions, and return it.

    What counts are seconds of the processor: the cost is less than what others make of the clock.
    """
    store.check()
    train = fashion_mnist().train[:images]
    about = f"{epochs} epochs of KD ({STUDENT} student, {TEACHER} teacher), diagnosed ÷ not"
    run = partial(_run, train, epochs)
    with one_thread():
        sides = partial(run, True), partial(run, False)
        comparisons = [compare(about, *sides, rounds, time.process_time)]
    store.save(comparisons, images=images)
    return comparisons


def _run(train: Images, epochs: int, diagnose: bool) -> None:
    student, teacher = models.by_name(STUDENT, seed=0), pretrained(TEACHER)
    options: dict[str, Any] = {"epochs": epochs, "device": "cpu", "progress": False}
    objective = CrossEntropy() + 3 * LogitKD(4)
    fit(student, train, objective, teacher=teacher, diagnose=diagnose, **options)
