"""Runs the notebooks, stores their outputs in one normal form (``make notebooks``), maps them."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from tqdm.auto import tqdm

from kdcourse import files
from kdcourse.places import COURSE, keep_image_folder

NOTEBOOKS = COURSE / "notebooks"
START = "index.ipynb"
MAP = "map"  # id of the start page's cell that holds the map
IGNORED, COMPARED = "nbval-ignore-output", "nbval-check-output"  # tags
VIEW = "application/vnd.jupyter.widget-view+json"  # of an output that needs a live kernel


def course_notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the notebooks of the walkthrough, in the order of the lecture."""
    return sorted(folder.glob("[0-9]*_*.ipynb"))


def number(path: Path) -> str:
    """Return a notebook's number, such as ``"5a"``."""
    return path.name.partition("_")[0]


def course_map(folder: str = "") -> str:
    """Return a table from lecture to notebook, time and what became of the claims.

    Links lead to the folder as seen from the table, such as ``"notebooks/"``.

    Raises:
        ValueError: A notebook does not name its slides or its time.
    """
    from kdcourse.course.claims.table import counted, markdown

    rows = []
    for path in course_notebooks():
        top = nbformat.read(path, as_version=4).cells[0].source
        found = re.search(
            r"# (\w+) · (.+?)\n.*?\*Follows the slides\* (.+?)\.\n.*?"
            r"\*\*Time\*\*: about (\w+ \w+).*? run in about (\w+ \w+)",
            top,
            flags=re.DOTALL,
        )
        if found is None:
            raise ValueError(f"{path.name} does not start with its title, slides and time")
        _, title, slides, reading, running = found.groups()
        link = f"[{number(path)} · {title}]({folder}{path.name})"
        rows.append(
            (slides.replace("**", ""), link, f"{reading}; runs in {running}", counted(number(path)))
        )
    return markdown(("lecture", "notebook", "time", "claims measured"), rows)


def write_map(folder: Path = NOTEBOOKS) -> None:
    """Write the map into the start page."""
    start = nbformat.read(folder / START, as_version=4)
    (cell,) = (cell for cell in start.cells if cell.id == MAP)
    cell.source = course_map()
    _write(start, folder / START)


def run(paths: Iterable[Path]) -> None:
    """Run notebooks from top to bottom in fresh kernels and store their normalised outputs."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    from kdcourse.course.saved_widgets import freeze

    keep_image_folder()
    paths = list(paths)
    for path in paths:  # before any of them runs
        files.check_writable(path.parent)
    sources = [(path, read(path)) for path in paths]
    for path, notebook in tqdm(sources, unit="notebook"):
        folder = {"metadata": {"path": str(path.parent)}}
        try:
            NotebookClient(notebook, timeout=600, resources=folder).execute()
        except CellExecutionError as error:
            raise RuntimeError(f"{path}: {error.ename}: {error.evalue}") from error
        freeze({"type": "notebook", "content": notebook})
        normalize(notebook)
        _write(notebook, path)


def _write(notebook: nbformat.NotebookNode, path: Path) -> None:
    files.write(path, nbformat.writes(notebook) + "\n")


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook.

    Raises:
        ValueError: There is no such file, or it is not a notebook.
    """
    if not path.is_file():
        raise ValueError(f"there is no notebook {path}")
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, nbformat.ValidationError) as error:
        raise ValueError(f"{path} is not a notebook") from error


def normalize(notebook: Any) -> None:
    """Keep what readers need: sources, results and figures; drop what belongs to this run only."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
            if any(is_picture(output) or _is_widget(output) for output in cell.outputs):
                tags = [*tags, *({IGNORED} - {*tags})]
        cell.metadata = {"tags": tags} if tags else {}


def is_picture(output: Any) -> bool:
    """Return whether an output is a figure."""
    return any(kind.startswith("image/") for kind in output.get("data", {}))


def _is_widget(output: Any) -> bool:
    """Return whether an output is a widget, live or as it was saved."""
    return bool({VIEW, "text/html"} & output.get("data", {}).keys())


def _is_progress(output: Any) -> bool:
    """Return whether an output is a progress bar."""
    if output.output_type == "stream":
        return output.name == "stderr" and bool(re.search(r"\d+%\|", output.text))
    return "<progress " in output.get("data", {}).get("text/html", "")
