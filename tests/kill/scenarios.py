"""What is killed: trainings in a program and on the command line, chains, caches, gradings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat

from kdcourse import files
from kdcourse.homework import fence, release

HERE = Path(__file__).parent.resolve()
OUT, TEMPORARY = "out", "tmp"  # folders in that of a run

ASSIGNMENT = "3_teachers_tips"
ANSWER = "def ema_update(teacher, student, momentum):\n    return None"
BROKEN = "import os\nos._exit(3)"


@dataclass(frozen=True)
class Scenario:
    """Something that may be killed.

    Attributes:
        name: Its name.
        command: What follows ``python``, in a folder whose subfolder ``out`` gets the results.
        sign: Pattern of files in that folder; once one of them is new, work has begun.
        prepare: Puts into a new folder what the command reads.
    """

    name: str
    command: tuple[str, ...]
    sign: str
    prepare: Callable[[Path], object] = lambda room: None


def script(name: str, run: str) -> Scenario:
    """Return a scenario of trainings.py."""
    return Scenario(name, (str(HERE / "trainings.py"), run), "begun")


def command(name: str, options: str) -> Scenario:
    """Return a training on the command line."""
    given = ("-m", "kdcourse", "train", *options.split(), "--device", "cpu", "--out", OUT)
    return Scenario(name, given, f"{OUT}/options.toml")  # which is written before every training


@cache
def notebooks() -> Mapping[str, bytes]:
    """Return what is handed in: an empty file, stubs, a function, and a cell that ends all."""
    released = release.build(ASSIGNMENT).notebook

    def answered(source: str) -> bytes:
        notebook = nbformat.reads(released, as_version=4)
        (cell,) = (cell for cell in notebook.cells if cell.id == "ema-update-answer")
        cell.source = source
        return nbformat.writes(notebook).encode()

    contents = {"answered": answered(ANSWER), "broken": answered(BROKEN)}
    return {"empty": b"", "stubs": released.encode(), **contents}


def hand_in(room: Path, *names: str) -> None:
    """Put submissions into a room; all without names."""
    for name in names or notebooks():
        files.write(room / "submissions" / f"{name}.ipynb", notebooks()[name])


def grading() -> Scenario:
    """Return a grading; in a sandbox where one can be had."""
    given = ["-m", "kdcourse", "homework", "grade", ASSIGNMENT, "submissions"]
    try:
        fence.check()
    except fence.NoFenceError:
        given.append("--unsafe")
    given += ["--out", f"{OUT}/grades.csv"]
    return Scenario("homework grade", tuple(given), f"{TEMPORARY}/kdcourse-homework-*", hand_in)


LOSS = "--teacher res16 --loss CrossEntropy()+LogitKD()"
NET = f"--student plain2 {LOSS} --images 200 --validation 100 --batch-size 50"


def scenarios() -> list[Scenario]:
    """Return everything that is killed."""
    return [
        script("fit", "plain"),
        script("fit, DataLoader", "loader"),
        script("mutual_learning", "mutual"),
        script("distill_through", "assistant"),
        script("born_again", "generations"),
        script("CachedLessons", "cached"),
        command("train", f"{NET} --epochs 25 --augment pad_crop_flip()"),
        command("train --cache", f"{NET} --epochs 30 --cache 10"),
        grading(),
    ]
