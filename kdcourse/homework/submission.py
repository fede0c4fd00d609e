"""Read a notebook that was handed in: anything may be missing from it, nothing in it is lost."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import nbformat
from nbformat import NotebookNode

from kdcourse.homework.release import Assignment

LARGEST = 50 * 2**20  # bytes of a notebook
UNANSWERED = "_Type your answer here, replacing this text._"  # as otter writes it
IGNORED = "otter_ignore"  # tag of scratch cells, which are not run for grading
LONGEST = 50_000  # characters of a cell that is looked into
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
        lost: Written questions that are not to be found in the notebook: any text may answer them.
        minutes: How long a question took, as the student says.
        remarks: What is unusual about the notebook.
    """

    cells: dict[str, str]
    texts: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    minutes: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read(data: bytes, assignment: Assignment) -> Submission:
    """Read a notebook that was handed in for an assignment.

    Raises:
        UnreadableError: This is not a notebook, or it belongs to another assignment.
    """
    released = nbformat.reads(assignment.notebook, as_version=4).cells
    notebook = _parsed(data)
    otter = notebook.metadata.get("otter")
    named = otter.get("assignment_name") if isinstance(otter, dict) else None
    if named not in (None, assignment.name):
        raise UnreadableError(f"this is assignment {named!s:.60}, not {assignment.name}")
    (setup,) = (cell.source for cell in released if cell.id == "setup")
    submission = Submission({SETUP: setup})
    questions = [question.name for question in assignment.questions]
    asked = {question.name for question in assignment.questions if question.checks}
    texts: dict[str, list[str]] = {name: [] for name in questions}
    defined: Counter[str] = Counter()
    placed = list(_placed(notebook.cells, released, questions))
    for number, (cell, question) in enumerate(placed, start=1):
        name, tree = f"cell {number}", _tree(cell.source)
        is_code = cell.cell_type == "code"
        functions = {*re.findall(r"^def (\w+)", cell.source, re.MULTILINE)} & asked
        if not is_code and tree is None:
            functions = set()
        if functions or (is_code and IGNORED not in cell.metadata.get("tags", [])):
            submission.cells[name] = cell.source
            submission.minutes |= _minutes(tree, questions)
            defined.update(functions)
            if not is_code:
                submission.remarks.append(f"{name} is no code cell, but was run as one")
        if not functions and (not is_code or (question not in asked and _is_prose(tree))):
            texts[question].append(_without(cell.source, released))
    submission.texts = {name: "\n\n".join(filter(None, own)) for name, own in texts.items()}
    submission.lost = sorted({*questions} - asked - {question for _, question in placed})
    if setup not in list(submission.cells.values())[1:]:
        submission.remarks.append(f"{SETUP} was changed or deleted; the released one was run first")
    submission.remarks += [
        f"{name} is defined {times} times; the last one counts"
        for name, times in defined.items()
        if times > 1
    ]
    return submission


def _placed(
    cells: Iterable[NotebookNode], released: Iterable[NotebookNode], questions: Sequence[str]
) -> Iterator[tuple[NotebookNode, str]]:
    """Yield each cell with the question that it belongs to: the last one whose text came before.

    A question is recognised by its heading, or by its cell's id; an answer cell by its id wherever
    it is, as far as there are ids. What comes before all questions is yielded with the first.
    """
    ids = {name.replace("_", "-"): name for name in questions}
    headings = {_heading(cell): ids[cell.id] for cell in released if cell.id in ids}
    question = questions[0]
    for cell in cells:
        id = cell.get("id", "")
        if cell.cell_type == "markdown":
            question = headings.get(_heading(cell)) or ids.get(id) or question
        yield cell, ids.get(id.removesuffix("-answer"), question)


def _heading(cell: NotebookNode) -> str:
    """Return the first heading of the second level in a cell."""
    found = re.search(r"^## .*$", cell.source, re.MULTILINE)
    return " ".join(found[0].split()) if found else ""


def _tree(source: str) -> list[ast.stmt] | None:
    """Return the statements of a cell; None if it is not Python, or more than anybody writes."""
    try:
        return ast.parse(source).body if len(source) < LONGEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_prose(tree: list[ast.stmt] | None) -> bool:
    """Whether a code cell holds words: no Python, or nothing but comments and strings."""
    return all(
        isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) for one in tree or []
    )


def _without(text: str, released: Iterable[NotebookNode]) -> str:
    """Return what is left of a cell's text without what was released."""
    for given in (UNANSWERED, *(cell.source for cell in released)):
        text = text.replace(given, "")
    return text.strip()


def _minutes(tree: list[ast.stmt] | None, questions: Sequence[str]) -> dict[str, float]:
    """Return the plausible entries of a table of minutes, if a cell assigns one."""
    for one in tree or []:
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "minutes":
            try:
                table = dict(ast.literal_eval(one.value))
            except (TypeError, ValueError):
                continue
            told = {name: table.get(name) for name in questions}
            return {
                name: float(value)
                for name, value in told.items()
                if isinstance(value, int | float) and 0 < value < A_DAY
            }
    return {}


def _parsed(data: bytes) -> NotebookNode:
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
