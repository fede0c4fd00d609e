"""Lets pytest run on a bare machine and note what became of every test (``-p``)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdcourse.course.bench.gpu import absent
from kdcourse.course.bench.gpu.outcome import (
    FAILED,
    LEFT_OUT,
    LINES,
    PASSED,
    SKIPPED,
    Journal,
    Outcome,
    own_journal,
)
from kdcourse.places import COURSE

PART = "test"
USES = re.compile(r"def test_\w+\([^)]*\bdevice\b|\bmark\.gpu\b")


def files(folder: Path = COURSE / "tests") -> list[Path]:
    """Return the files of tests that take the fixture ``device`` or are marked ``gpu``."""
    found = sorted(folder.glob("test_*.py"))
    return [path for path in found if USES.search(path.read_text(encoding="utf-8"))]


def pytest_configure() -> None:
    """Begin before any test is imported."""
    absent.allow()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip a test that needs what is absent."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if missing := absent.package(error):
            pytest.skip(f"needs {missing}")
        raise


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note all tests that were found."""
    own_journal().plan(PART, [item.nodeid for item in session.items])


def pytest_runtest_logreport(report: Any) -> None:
    """Note what became of a test, where it has ended or gone wrong."""
    if report.when == "call" or report.outcome != PASSED:
        note(own_journal(), report)


def pytest_collectreport(report: Any) -> None:
    """Note a file that cannot be read."""
    if report.outcome == FAILED:
        note(own_journal(), report)


def note(journal: Journal, report: Any) -> None:
    """Note what a report of pytest says."""
    detail = ""
    if report.outcome == SKIPPED:
        detail = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    elif report.outcome == FAILED:
        detail = "\n".join(str(report.longrepr).splitlines()[-LINES:])
    seconds = getattr(report, "duration", 0.0)
    status = {PASSED: PASSED, FAILED: FAILED, SKIPPED: SKIPPED}.get(report.outcome, LEFT_OUT)
    journal.outcome(Outcome(PART, report.nodeid, status, seconds, detail))
