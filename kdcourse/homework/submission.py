"""Read a notebook that was handed in: anything may be missing from it, nothing in it is lost."""

import ast
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import nbformat

from kdcourse.homework.cells import Cell, Handout
from kdcourse.homework.release import Assignment

LARGEST = 50 * 2**20  # bytes of a notebook
A_DAY = 24 * 60  # minutes
SETUP = "the set-up cell"


class UnreadableError(Exception):
    """A file cannot be graded at all; the message says why."""


@dataclass
class Submission:
    """What a notebook holds for the grader.

    Attributes:
        cells: Sources to run, by the names that remarks use; the released set-up cell is first.
        texts: What the student wrote in words, by the question below which it stands.
        asides: Words in code that nobody would read as an answer where there is another.
        lost: Written questions that are not to be found in the notebook: any text may answer them.
        minutes: How long a question took, as the student says.
        remarks: What is unusual about the notebook.
    """

    cells: dict[str, str]
    texts: dict[str, str] = field(default_factory=dict)
    asides: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    minutes: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read(data: bytes, assignment: Assignment) -> Submission:
    """Read a notebook that was handed in for an assignment.

    Raises:
        UnreadableError: This is not a notebook, or it belongs to another assignment.
    """
    released = nbformat.reads(assignment.notebook, as_version=4).cells
    questions = [question.name for question in assignment.questions]
    asked = {question.name for question in assignment.questions if question.checks}
    cells = list(Handout(released, questions).compare(_cells(data, assignment.name)))
    course = "\n".join(cell.source for cell in released)
    (setup,) = (cell.source for cell in released if cell.id == "setup")
    submission = Submission({SETUP: setup})
    texts: dict[str, list[str]] = {name: [] for name in questions}
    written = Counter(
        name for cell in cells if cell.code and not cell.stub for name in cell.functions & asked
    )
    for cell in cells:
        functions = cell.functions & asked
        # A stub, or code in a cell of text, is run for want of better.
        needed = functions - {*written}
        if needed or (cell.code and not cell.stub and (functions or not cell.scratch)):
            submission.cells[cell.name] = cell.source
        minutes = _minutes(cell, questions)
        submission.minutes |= minutes or {}
        if needed and not cell.code:
            submission.remarks.append(f"{cell.name} is not a code cell, but was run as one")
            written.update(needed)
            continue
        in_place = not functions and minutes is None and cell.question not in asked
        if cell.own and (not cell.code or cell.is_prose or in_place):
            texts[cell.question].append(cell.own)
        elif cell.own:
            submission.asides += [words for words in cell.said if words not in course]
    submission.texts = {name: "\n\n".join(own) for name, own in texts.items()}
    submission.lost = sorted({*questions} - asked - {cell.question for cell in cells})
    if setup not in list(submission.cells.values())[1:]:
        submission.remarks.append(f"{SETUP} was changed or deleted; the released one was run first")
    submission.remarks += [
        f"{name} is defined {times} times; the last one counts"
        for name, times in written.items()
        if times > 1
    ]
    return submission


def _minutes(cell: Cell, questions: Sequence[str]) -> dict[str, float] | None:
    """Return the plausible entries of the table of minutes; None if a cell assigns none."""
    for one in cell.statements or []:
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "minutes":
            try:
                table = dict(ast.literal_eval(one.value))
            except (TypeError, ValueError):
                return {}
            told = {name: table.get(name) for name in questions}
            return {
                name: float(value)
                for name, value in told.items()
                if isinstance(value, (int, float)) and 0 < value < A_DAY
            }
    return None


def _cells(data: bytes, assignment: str) -> list[Any]:
    """Return the cells of a notebook, which need not be valid."""
    if not data.strip():
        raise UnreadableError("the file is empty")
    if len(data) > LARGEST:
        raise UnreadableError(f"the file is larger than {LARGEST // 2**20} MB")
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise UnreadableError("this is not a notebook: it is not JSON") from None
    try:
        if notebook.get("nbformat", 4) < 4:
            notebook = nbformat.convert(nbformat.from_dict(notebook), 4)
        cells, otter = notebook["cells"], dict(notebook.get("metadata") or {}).get("otter")
    except Exception:
        raise UnreadableError("this is not a notebook: it has no cells") from None
    named = otter.get("assignment_name") if isinstance(otter, dict) else None
    if named not in (None, assignment):
        raise UnreadableError(f"this is assignment {named!s:.60}, not {assignment}")
    if not isinstance(cells, list):
        raise UnreadableError("this is not a notebook: it has no cells")
    return cells
