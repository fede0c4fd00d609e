"""Runs the notebooks, stores their outputs in one normal form (``make notebooks``), maps them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat
from tqdm.auto import tqdm

from kdcourse import files
from kdcourse.places import COURSE, keep_image_folder

NOTEBOOKS = COURSE / "notebooks"
START = "index.ipynb"
LINK = re.compile(r"\[([^]]+)\]\(([\w./-]+)\.ipynb(?:#[^)]*)?\)")  # to another notebook
SCHEMATIC = re.compile(r"!\[[^\]]*\]\(figures/([\w-]+)\.svg\)")
MAP = "map"  # id of the start page's cell that holds the map
IGNORED, COMPARED = "nbval-ignore-output", "nbval-check-output"  # tags
VIEW = "application/vnd.jupyter.widget-view+json"  # of an output that needs a live kernel
INTRODUCTION = 200  # characters of a text that shares a slide with the figure that it introduces
AT_HOME = "## Exercises", "## Go further"  # sections that are not shown in the lecture


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
    keep_image_folder()
    paths = list(paths)
    for path in paths:  # before any of them runs
        files.check_writable(path.parent)
    sources = [(path, read(path)) for path in paths]
    for path, notebook in tqdm(sources, unit="notebook"):
        execute(notebook, path)
        _store(notebook, path)


def execute(notebook: nbformat.NotebookNode, path: Path, **options: Any) -> None:
    """Run all cells in a fresh kernel, where the notebook's file lies.

    Args:
        notebook: It gets the outputs.
        path: Of its file.
        options: Those of the kernel, such as ``env``.

    Raises:
        RuntimeError: A cell has failed.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    folder = {"metadata": {"path": str(path.parent)}}
    try:
        NotebookClient(notebook, timeout=600, resources=folder, coalesce_streams=True).execute(
            **options
        )
    except CellExecutionError as error:
        raise RuntimeError(f"{path}: {error.ename}: {error.evalue}") from error


def store(paths: Iterable[Path]) -> None:
    """Store notebooks in their normal form, with the outputs that they have."""
    paths = list(paths)
    for path in paths:  # before any of them changes
        files.check_writable(path.parent)
    for path, notebook in [(path, read(path)) for path in paths]:
        _store(notebook, path)


def _store(notebook: nbformat.NotebookNode, path: Path) -> None:
    from kdcourse.course.saved_widgets import freeze

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


def relink(notebook: Any, pages: Mapping[str, str]) -> None:
    """Let links to notebooks lead to pages, by the notebook's stem; keep the words of others."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(
                lambda link: f"[{link[1]}]({pages[link[2]]})" if link[2] in pages else link[1],
                cell.source,
            )


def normalize(notebook: Any) -> None:
    """Keep what readers need: sources, results and figures; drop what belongs to this run only.

    Schematics get their alternative texts.

    Raises:
        ValueError: There is no such schematic.
    """
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
        else:
            cell.source = SCHEMATIC.sub(_described, cell.source)
    for cell, slide_type in zip(notebook.cells, slide_types(notebook.cells), strict=True):
        tags = cell.metadata.get("tags", [])
        if is_seen(cell):
            tags = [*tags, *({IGNORED} - {*tags})]
        cell.metadata = {"slideshow": {"slide_type": slide_type}}
        if tags:
            cell.metadata["tags"] = tags


def slide_types(cells: list[Any]) -> list[str]:
    """Return what each cell is in the slides of the lecture, as ``metadata.slideshow`` has it.

    A heading starts a slide. An idea, a figure, a widget and a claim start one below it
    (``"subslide"``). The code of an idea, the caption of a figure and what to conclude from a claim
    stay where they belong (``"-"``). Set-up, exercises and what goes further are not shown in the
    lecture (``"skip"``).
    """
    types: list[str] = []
    section, before = "", None
    for cell in cells:
        heading = cell.cell_type == "markdown" and cell.source.startswith(("# ", "## ", "### "))
        if heading and not cell.source.startswith("### "):
            section = cell.source.split("\n")[0]
        set_up = section.startswith("# ") and cell.cell_type == "code"
        if set_up or section in AT_HOME or cell.id.startswith("exercise-"):
            types.append("skip")
            continue
        starts = before is None or _turns(before, cell)
        types.append("slide" if heading else "subslide" if starts else "-")
        before = cell
    return types


def _turns(before: Any, cell: Any) -> bool:
    """Return whether a cell starts a slide of its own after the one before it."""
    if cell.cell_type == "markdown":
        concluded = _is_claim(before) and cell.source.startswith("**What to conclude.**")
        return not (concluded or (is_seen(before) and is_caption(cell)))
    if before.cell_type == "markdown" and not is_caption(before):  # which introduces the code
        return _is_shown(cell) and len(before.source) > INTRODUCTION
    return _is_shown(cell) or _is_shown(before) or is_caption(before)


def is_caption(cell: Any) -> bool:
    """Return whether a cell is the text below a figure."""
    return cell.cell_type == "markdown" and bool(re.match(r"\*[^*]", cell.source))


def _is_shown(cell: Any) -> bool:
    """Return whether a cell of code shows a figure, a widget or a claim."""
    return is_seen(cell) or _is_claim(cell)


def _is_claim(cell: Any) -> bool:
    """Return whether a cell of code prints a claim, which its ID says."""
    return cell.id.endswith("-claim")


def is_seen(cell: Any) -> bool:
    """Return whether a cell of code shows a figure or a widget."""
    return any(is_picture(output) or _is_widget(output) for output in cell.get("outputs", ()))


def _described(found: re.Match[str]) -> str:
    """Return the link to a schematic with its alternative text."""
    from kdcourse.course import schematics  # which draw: the server that saves notebooks does not

    known = schematics.every()
    if found[1] not in known:
        raise ValueError(f"there is no schematic {found[1]!r}; there are {', '.join(known)}")
    return f"![{schematics.about(known[found[1]])}](figures/{found[1]}.svg)"


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
