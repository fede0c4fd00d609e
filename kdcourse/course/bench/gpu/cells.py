"""Runs a notebook's cells of code one after the other, as a script would, without Jupyter."""

import ast
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from kdcourse.course.bench.gpu import absent
from kdcourse.course.bench.gpu.outcome import SKIPPED, Journal, Outcome, own_journal
from kdcourse.places import COURSE

NOTEBOOKS = COURSE / "notebooks"


def run(path: Path, journal: Journal, most: int | None = None) -> None:
    """Run every cell, or a few, and note what became of each; the run goes on.

    A cell that reads what a cell before it was to make, and did not, is skipped.
    """
    os.chdir(path.parent)
    part = f"notebook {path.stem}"
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if _is_code(cell)]
    cells = _few(cells, most) if most else cells
    journal.plan(part, [cell["id"] for cell in cells])
    names: dict[str, Any] = {"__name__": "__main__"}
    lost: dict[str, str] = {}  # names that cells which did not pass would have made, by the cell
    for cell in cells:
        tree = _parsed(cell)
        needed = _names(tree, ast.Load) & lost.keys() - names.keys()
        if needed:
            name = min(needed)
            why = f"needs {name} of cell {lost[name]}"
            journal.outcome(Outcome(part, cell["id"], SKIPPED, detail=why))
            passed = False
        else:
            code = compile(tree, f"{path}, cell {cell['id']}", "exec")
            passed = journal.attempt(part, cell["id"], partial(exec, code, names))
        if not passed:
            lost |= dict.fromkeys(_names(tree, ast.Store), cell["id"])


def _is_code(cell: dict[str, Any]) -> bool:
    return cell["cell_type"] == "code"


def _few(cells: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return the first cells, and the next that draws a figure and needs no other cell."""
    missing: set[str] = set()
    for cell in cells[most:]:
        tree = _parsed(cell)
        read = _names(tree, ast.Load)
        if "plots" in read and not read & missing:
            return [*cells[:most], cell]
        missing |= _names(tree, ast.Store)
    return cells[:most]


def _parsed(cell: dict[str, Any]) -> ast.Module:
    return ast.parse("".join(cell["source"]))


def _names(tree: ast.AST, use: type) -> set[str]:
    """Return the names that are read, or made, anywhere in a cell."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return {node.id for node in found if isinstance(node.ctx, use)}


if __name__ == "__main__":
    absent.allow()
    most, *paths = sys.argv[1:]
    for path in map(Path, paths):
        run(path, own_journal(), int(most) or None)
