"""The cells of a notebook that was handed in, and what in each of them is the student's own."""

import ast
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

IGNORED = "otter_ignore"  # tag of cells to try things in, which are not run for grading
MARKER = re.compile(r"^<!-- (?:BEGIN|END) QUESTION -->$", re.MULTILINE)  # as otter writes them
HEADING = re.compile(r"^## .*$", re.MULTILINE)
SEAL = "released"  # name of the seal in a cell's metadata
LOOKED_INTO = 500_000  # characters of a notebook that are parsed; nobody writes as many


@dataclass
class Cell:
    """A cell, or the part of one that stands below one question.

    Attributes:
        name: What remarks call it.
        question: The question below which it stands.
        code: Whether it is a code cell.
        scratch: Whether it is one to try things in.
        stub: Whether it is a function as released, still to be written.
        source: What is run of it, if anything is.
        own: What was not released of it.
        statements: The source as Python; None if it is not Python.
    """

    name: str
    question: str
    code: bool
    scratch: bool
    stub: bool
    source: str
    own: str
    statements: list[ast.stmt] | None

    @property
    def functions(self) -> set[str]:
        """Names of the functions it defines; a code cell may hold errors beside them."""
        if self.statements is None and not self.code:
            return set()
        return {*re.findall(r"^def (\w+)", self.source, re.MULTILINE)}

    @property
    def is_prose(self) -> bool:
        """Whether it holds words: no Python, or nothing but comments and strings, named or not."""
        return all(
            isinstance(one, (ast.Expr, ast.Assign)) and isinstance(one.value, ast.Constant)
            for one in self.statements or []
        )

    @property
    def said(self) -> list[str]:
        """Comments and strings beside the functions: perhaps an answer in an unusual place."""
        own = {*self.own.splitlines()}
        lines = dict(enumerate(self.source.splitlines(), start=1))
        outside = [one for one in self.statements or [] if not isinstance(one, ast.FunctionDef)]
        strings = [
            node.value
            for one in outside
            for node in ast.walk(one)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if " " in node.value and lines.get(node.lineno) in own
        ]
        return [*re.findall(r"^#.*", self.own, re.MULTILINE), *strings]


class Handout:
    """The released notebook, which tells what in another one is new.

    Args:
        released: Its cells.
        questions: Names of its questions: the ids of their cells, with _ for -.
    """

    def __init__(self, released: Sequence[NotebookNode], questions: Sequence[str]):
        self.questions = {name.replace("_", "-"): name for name in questions}
        self.sources = {cell.id: cell.source for cell in released}
        self.headings = {_heading(self.sources[id]): id for id in self.questions}
        self.stubs = {self.sources[f"{id}-answer"] for id in self.questions}

    def compare(self, cells: Iterable[Any]) -> Iterator[Cell]:
        """Place the cells of a notebook below the questions, and find what is new in them.

        A question is recognised by its heading, or by its cell's id; an answer's cell by its id
        wherever it is. What comes before all questions counts as below the first.
        """
        question, left = "", LOOKED_INTO
        for number, cell in enumerate(cells, start=1):
            kind, id, source, metadata = _fields(cell)
            code, scratch = kind == "code", IGNORED in metadata.get("tags", ())
            sealed = metadata.get(SEAL) == seal(source)
            parts = [source] if code or sealed else self._parts(source)
            for part in parts:
                match = self.headings.get(_heading(part), id if len(parts) == 1 else "")
                question = match if match in self.questions else question
                below = match.removesuffix("-answer")
                below = self.questions.get(below if below in self.questions else question, "")
                own = "" if sealed else self._own(part, self.sources.get(match, ""))
                runs = own if scratch or not code else part
                left -= len(runs)
                yield Cell(
                    name=f"cell {number}" + (f" ({below})" if below else ""),
                    question=below or next(iter(self.questions.values())),
                    code=code,
                    scratch=scratch,
                    stub=part in self.stubs,
                    source=runs,
                    own=own,
                    statements=statements(runs, code) if left > 0 else [ast.Pass()] * code or None,
                )

    def _parts(self, text: str) -> list[str]:
        """Split a text before each heading of a question."""
        headings = (one for one in HEADING.finditer(text) if _heading(one[0]) in self.headings)
        edges = [0, *(one.start() for one in headings), len(text)]
        return [text[start:end] for start, end in pairwise(edges) if text[start:end].strip()]

    def _own(self, text: str, released: str) -> str:
        """Return a text without any that was released, and without lines of its released cell."""
        for source in self.sources.values():
            text = text.replace(source, "") if source else text
        known = {*released.splitlines()} - {""}
        lines = MARKER.sub("", text).splitlines()
        return "\n".join(line for line in lines if line not in known).strip()


def seal(source: str) -> str:
    """Return what a released cell keeps in its metadata, to be told from one that was changed."""
    return hashlib.sha256(source.encode(errors="replace")).hexdigest()[:16]


def statements(source: str, magics: bool) -> list[ast.stmt] | None:
    """Return the statements of a text; None if it is not Python, or what IPython makes of it."""
    try:
        if magics:
            source = TransformerManager().transform_cell(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a student's escape sequences
            return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _heading(text: str) -> str:
    """Return the first heading of the second level in a text."""
    found = HEADING.search(text)
    return " ".join(found[0].split()) if found else ""


def _fields(cell: Any) -> tuple[str, str, str, dict[str, Any]]:
    """Return the kind, id, text and metadata of a cell, whatever became of them."""
    if not isinstance(cell, dict):
        cell = {"source": cell}
    source = cell.get("source", "")
    text = "".join(map(str, source)) if isinstance(source, list) else str(source)
    metadata = cell.get("metadata")
    return (
        str(cell.get("cell_type")),
        str(cell.get("id", "")),
        text.replace("\r\n", "\n").replace("\r", "\n"),
        metadata if isinstance(metadata, dict) else {},
    )
