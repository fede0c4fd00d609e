"""Read a notebook that was handed in, from which anything may be missing."""

import re
from collections import Counter
from dataclasses import dataclass, field

import nbformat

from kdcourse.homework.release import Assignment

LARGEST = 50 * 2**20  # bytes of a notebook
UNANSWERED = "_Type your answer here, replacing this text._"  # as otter writes it
IGNORED = "otter_ignore"  # tag of scratch cells, which are not run for grading
SETUP = "the set-up cell"


class UnreadableError(Exception):
    """A file cannot be graded at all; the message says why."""


@dataclass
class Submission:
    """What a notebook holds for the grader.

    Attributes:
        cells: Sources to run, by the names that remarks use; the released set-up cell is first.
        answers: The texts of the answers to written questions.
        remarks: What is unusual about the notebook.
    """

    cells: dict[str, str]
    answers: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read(data: bytes, assignment: Assignment) -> Submission:
    """Read a notebook that was handed in for an assignment.

    Raises:
        UnreadableError: This is not a notebook, or it belongs to another assignment.
    """
    released = nbformat.reads(assignment.notebook, as_version=4)
    notebook = _parsed(data)
    otter = notebook.metadata.get("otter")
    named = otter.get("assignment_name") if isinstance(otter, dict) else None
    if named not in (None, assignment.name):
        raise UnreadableError(f"this is assignment {named!s:.60}, not {assignment.name}")
    (setup,) = (cell.source for cell in released.cells if cell.id == "setup")
    submission = Submission({SETUP: setup})
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "code" and IGNORED not in cell.metadata.get("tags", []):
            submission.cells[f"cell {number}"] = cell.source
    if setup not in list(submission.cells.values())[1:]:
        submission.remarks.append(f"{SETUP} was changed or deleted; the released one was run first")
    everything = "\n".join(submission.cells.values())
    defined = Counter(re.findall(r"^def (\w+)", everything, re.MULTILINE))
    for question in assignment.questions:
        if question.checks and defined[question.name] > 1:
            submission.remarks.append(
                f"{question.name} is defined {defined[question.name]} times; the last one counts"
            )
        elif not question.checks:
            submission.answers[question.name] = _answer(notebook, question.name)
    return submission


def _parsed(data: bytes) -> nbformat.NotebookNode:
    if not data.strip():
        raise UnreadableError("the file is empty")
    if len(data) > LARGEST:
        raise UnreadableError(f"the file is larger than {LARGEST // 2**20} MB")
    try:
        notebook = nbformat.convert(nbformat.reader.reads(data.decode("utf-8-sig")), 4)
        nbformat.validate(notebook)
    except (UnicodeDecodeError, RecursionError, nbformat.reader.NotJSONError):
        raise UnreadableError("this is not a notebook: not JSON") from None
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise UnreadableError(f"this is not a notebook: {reason:.150}") from None
    return notebook


def _answer(notebook: nbformat.NotebookNode, question: str) -> str:
    """Return the text that answers a written question; empty if there is none."""
    written = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    name = f"{question.replace('_', '-')}-answer"
    found = [cell.source for cell in written if cell.get("id") == name] or [
        cell.source for cell in written if "otter_answer_cell" in cell.metadata.get("tags", [])
    ]
    text = "\n\n".join(found).strip()
    return "" if text == UNANSWERED else text
