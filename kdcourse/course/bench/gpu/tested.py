"""Lets pytest run on a bare machine and note what became of every test (``-p``)."""

import re
from collections.abc import Iterable, Iterator
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
TAKES = r"def (\w+)\([^)]*\b(?:{})\b"  # what takes one of these fixtures
MAKES = r"\.fixture(?:\(.*\))?\ndef {}\("  # the fixture of this name


def files(folder: Path = COURSE / "tests") -> list[Path]:
    """Return the files of tests that run on a device.

    They are marked ``gpu``, or take the fixture ``device`` or one that is made with it.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    tests = {path: text for path, text in texts.items() if path.name.startswith("test_")}
    shared = _fixtures("\n".join(text for path, text in texts.items() if path not in tests))
    return [
        path
        for path, text in tests.items()
        if "mark.gpu" in text
        or any(name.startswith("test_") for name in _taking(text, _fixtures(text, shared)))
    ]


def apart() -> list[list[Path]]:
    """Return these files in two parts: a capture that fails would take other tests along."""
    found = files()
    capturing = [path for path in found if path.stem == "test_capture"]
    return [capturing, [path for path in found if path not in capturing]]


def _fixtures(text: str, known: frozenset[str] = frozenset({"device"})) -> frozenset[str]:
    """Return the fixtures that are known, and those of a text that are made with them."""
    made = {name for name in _taking(text, known) if re.search(MAKES.format(name), text)}
    return known if made <= known else _fixtures(text, known | made)


def _taking(text: str, fixtures: Iterable[str]) -> set[str]:
    return set(re.findall(TAKES.format("|".join(map(re.escape, fixtures))), text))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tests be shared out among processes."""
    parser.addoption(
        "--part", default="1/1", help="run so many of all tests (2/3: the second third)"
    )


def pytest_configure() -> None:
    """Begin before any test is imported."""
    absent.allow()


@pytest.hookimpl(trylast=True)  # after all that are not wanted
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep every second test, or third."""
    part, parts = map(int, config.getoption("--part").split("/"))
    items[:] = items[part - 1 :: parts]


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
