"""What a student needs: memory and processor of each notebook, run from top to bottom."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nbformat.v4 import new_code_cell
from tqdm.auto import tqdm

from kdcourse.course.bench.compare import Store
from kdcourse.course.claims.results import RESULTS
from kdcourse.course.claims.table import markdown
from kdcourse.course.notebooks import course_notebooks, execute, read
from kdcourse.places import keep_image_folder


@dataclass
class ProcessCost:
    """Cost of a notebook's kernel, or of the server, on one thread.

    ``memory`` is the most that was resident at once, in bytes; ``seconds`` are those on a core.
    """

    process: str
    memory: int
    seconds: float


STORE = Store(RESULTS / "bench-kernels.json", "python -m kdcourse bench --kernels", ProcessCost)
load = STORE.load
SERVER = "import jupyterlab.labapp, kdcourse.course.saved_widgets"
PROBE = """
import time
with open("/proc/self/status") as status:
    print(*(line.split()[1] for line in status if "VmHWM" in line), time.process_time())
"""


def measure(
    paths: Iterable[Path] | None = None, *, store: Store[ProcessCost] = STORE
) -> list[ProcessCost]:
    """Load what the server loads, run each notebook, store what they cost, and return it.

    Raises:
        RuntimeError: The system is not Linux, which alone tells the most that was resident.
    """
    if sys.platform != "linux":
        raise RuntimeError("what notebooks need can be measured on Linux only")
    store.check()
    keep_image_folder()
    costs = [_cost("the server, loaded", _server)]
    for path in tqdm(list(paths or course_notebooks()), unit="notebook"):
        costs.append(_cost(path.stem.replace("_", " "), partial(_kernel, path)))
    store.save(costs)
    return costs


def _cost(process: str, run: Callable[[dict[str, str]], str]) -> ProcessCost:
    kilobytes, seconds = run({**os.environ, "OMP_NUM_THREADS": "1"}).split()
    return ProcessCost(process, 1024 * int(kilobytes), float(seconds))


def _server(environment: dict[str, str]) -> str:
    program = [sys.executable, "-c", SERVER + PROBE]
    return subprocess.check_output(program, env=environment, text=True)


def _kernel(path: Path, environment: dict[str, str]) -> str:
    notebook = read(path)
    notebook.cells.append(new_code_cell(PROBE))
    execute(notebook, path, env=environment)
    return notebook.cells[-1].outputs[0].text


def table(costs: Iterable[ProcessCost]) -> str:
    """Return the costs as a table in Markdown."""
    rows = ((c.process, f"{c.memory / 1e9:.2f}", f"{c.seconds:.0f}") for c in costs)
    return markdown(("process", "memory, GB", "seconds on a core"), rows)
