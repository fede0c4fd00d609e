"""What importing the package costs, against what has to be started or loaded anyway."""

import os
import subprocess
import sys
from functools import partial

from kdcourse.course.bench.compare import Comparison, Store, compare, comparison_table
from kdcourse.course.claims.results import RESULTS

STORE = Store(RESULTS / "bench-startup.json", "python -m kdcourse bench --startup", Comparison)
load, table = STORE.load, comparison_table
PROGRAMS = {"import kdcourse": "pass", "from kdcourse import LogitKD": "import torch"}


def measure(*, rounds: int = 9, store: Store[Comparison] = STORE) -> list[Comparison]:
    """Run each program and its other side in fresh processes, store the comparison, return it."""
    store.check()
    comparisons = [
        compare(f"`{ours}` ÷ `{other}`", partial(_run, ours), partial(_run, other), rounds)
        for ours, other in PROGRAMS.items()
    ]
    store.save(comparisons)
    return comparisons


def _run(program: str) -> None:
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled in the warm-up, and not again
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
