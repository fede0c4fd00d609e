"""The checks of an assignment, for a student to run in its notebook."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from kdcourse.homework.feedback import entries, listed
from kdcourse.homework.requirement import Requirement, checked

GIVEN = (  # modules and packages of the course that homework may use, with what they need
    *("checks", "data", "metrics", "models"),
    *("batch", "errors", "files", "modes", "places", "precision", "signatures"),
    *("torchvision_classes", "torchvision_sets"),
)


class Grader:
    """Runs the public checks of an assignment on what its notebook defines.

    The checks are stored in the notebook, which may have any name.

    Args:
        assignment: Name of the assignment, such as ``1_logit``.
        folder: Where the notebook is.

    Raises:
        FileNotFoundError: There is no notebook of that assignment in the folder.
    """

    def __init__(self, assignment: str, folder: Path | None = None):
        folder = folder or Path.cwd()
        newest = sorted(folder.glob("*.ipynb"), key=lambda path: path.stat().st_mtime, reverse=True)
        found = (_checks(path, assignment) for path in newest)
        self.checks: dict[str, str] = next(filter(None, found), {})
        if not self.checks:
            raise FileNotFoundError(
                f"no notebook with the checks of {assignment} in {folder}: save this notebook, or "
                "download it again if a program has removed its metadata, which holds the checks"
            )

    def check(self, question: str) -> "Report":
        """Check an answer.

        Args:
            question: Name of the question.

        Returns:
            Which requirements are met, as a list to be displayed.

        Raises:
            ValueError: There are no checks for such a question.
            NameError: The notebook does not define the function.
            ImportError: It uses modules that do not exist where homework is graded.
        """
        if question not in self.checks:
            raise ValueError(
                f"no checks for {question!r}; there are checks for {', '.join(self.checks)}"
            )
        names = sys._getframe(1).f_globals
        if not callable(names.get(question)):
            raise NameError(f"{question} is not defined: run the cell that defines it")
        used = _of_the_course(names[question])
        if taken := sorted(one for one in used if one.split(".")[1] not in GIVEN):
            raise ImportError(
                f"{question} uses {taken[0]}: the losses and teachers of kdcourse are what you "
                "write here, and cannot be imported while your homework is graded"
            )
        return Report(checked(question, self.checks[question], {question: names[question]}))


class Report(list[Requirement]):
    """The requirements of a question, shown with what to do about those that are not met."""

    def __repr__(self) -> str:
        return "\n".join([self._met(), *("\n  ".join(entry) for entry in entries(self))])

    def _repr_html_(self) -> str:
        return "\n".join([f"<strong>{self._met()}</strong>", *listed(self)])

    def _met(self) -> str:
        return f"{sum(one.met for one in self)} of {len(self)} requirements met"


def _of_the_course(function: Callable[..., Any]) -> set[str]:
    """Return the modules of the course that a function of a notebook uses, also through others."""
    found: set[str] = set()
    left, seen = [function], set()
    while left:
        one = left.pop()
        if one in seen or not isinstance(getattr(one, "__code__", None), CodeType):
            continue
        seen.add(one)
        names = {*_names(one.__code__)}
        found |= {name for name in names if name.startswith("kdcourse.")}
        if "kdcourse" in names:
            found |= {f"kdcourse.{name}" for name in names} & {*sys.modules}
        for value in (one.__globals__[name] for name in names if name in one.__globals__):
            module = (
                value.__name__
                if isinstance(value, ModuleType)
                else str(getattr(value, "__module__", ""))
            )
            if module.startswith("kdcourse."):
                found.add(module)
            elif module == function.__module__:
                left.append(value)
    return found


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that a function refers to, and those inside it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _checks(path: Path, assignment: str) -> dict[str, Any]:
    """Return the checks in a notebook by question; empty if it is not of this assignment."""
    try:
        otter = json.loads(path.read_text(encoding="utf-8-sig"))["metadata"]["otter"]
        return otter["tests"] if otter["assignment_name"] == assignment else {}
    except (ValueError, KeyError, TypeError):
        return {}
