"""What became of each thing that was tried: one line of JSON, written as soon as it is known."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcourse.course.bench.gpu import absent

PASSED, FAILED, SKIPPED, LEFT_OUT = "passed", "failed", "skipped", "left out"
LINES = 25  # of a traceback that are kept


@dataclass
class Outcome:
    """What became of one test, script or cell.

    Attributes:
        part: What it belongs to, such as ``"notebook 5a"``.
        name: Of the test, script or cell.
        status: ``"passed"``, ``"failed"``, ``"skipped"`` or ``"left out"``.
        seconds: The time it took.
        detail: What it says of itself, why it was skipped, or the last lines of the traceback.
    """

    part: str
    name: str
    status: str
    seconds: float = 0.0
    detail: str = ""


class Journal:
    """The file of a child process: what it plans, what became of it, what it has measured."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, **entry: Any) -> None:
        """Add a line, which is on the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return all whole lines."""
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def plan(self, part: str, names: Iterable[str]) -> None:
        """Note what will be tried, so that what is missing in the end can be named."""
        self.write(plan=[asdict(Outcome(part, name, LEFT_OUT)) for name in names])

    def outcome(self, outcome: Outcome) -> None:
        """Note what became of one thing."""
        self.write(outcome=asdict(outcome))

    def outcomes(self) -> list[Outcome]:
        """Return what became of everything that was planned, or came without a plan."""
        known: dict[tuple[str, str], Outcome] = {}
        for entry in self.read():
            for one in [
                *entry.get("plan", []),
                *([entry["outcome"]] if "outcome" in entry else []),
            ]:
                known[one["part"], one["name"]] = Outcome(**one)
        return list(known.values())

    def attempt(self, part: str, name: str, work: Callable[[], object]) -> bool:
        """Try one thing, note what became of it, and return whether it passed."""
        start, status = time.perf_counter(), PASSED
        try:
            said = work()
            detail = said if isinstance(said, str) else ""
        except Exception as error:
            missing = absent.package(error)
            status = SKIPPED if missing else FAILED
            detail = f"needs {missing}" if missing else told(error)
        self.outcome(Outcome(part, name, status, time.perf_counter() - start, detail))
        return status == PASSED


class Turn:
    """Waits, once, until the process may have the machine to itself."""

    def __init__(self, journal: Journal):
        self.journal, self.waited = journal, False

    def wait(self, _: object = None) -> None:
        """Tell that everything is set up, and wait."""
        if not self.waited:
            self.waited = True
            self.journal.write(ready=True)
            sys.stdin.readline()


def told(error: BaseException) -> str:
    """Return the last lines of an error's traceback."""
    lines = "".join(traceback.format_exception(error)).strip().splitlines()
    return "\n".join(lines[-LINES:])


def own_journal() -> Journal:
    """Return the journal of this process, which its parent has named."""
    return Journal(Path(os.environ["KDCOURSE_JOURNAL"]))
