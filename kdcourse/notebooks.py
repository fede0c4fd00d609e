"""Run the notebooks and store their outputs in one normal form (``make notebooks``)."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
IGNORED = "nbval-ignore-output"
# Outputs that differ from run to run, or that are dead without a kernel.
LIVE = ("application/vnd.jupyter.widget-view+json",)


def course_notebooks() -> list[Path]:
    """Return the notebooks of the walkthrough, in the order of the lecture."""
    return sorted(NOTEBOOKS.glob("[0-9]_*.ipynb"))


def run(paths: Iterable[Path]) -> None:
    """Run notebooks from top to bottom in fresh kernels and store their normalised outputs."""
    import nbformat
    from nbclient import NotebookClient
    from tqdm.auto import tqdm

    for path in tqdm(list(paths), unit="notebook"):
        notebook = nbformat.read(path, as_version=4)
        folder = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=600, resources=folder).execute()
        normalize(notebook)
        nbformat.write(notebook, path)


def normalize(notebook: Any) -> None:
    """Keep what a reader needs: sources, results and figures; drop what only this run knows."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("tags",) if key in cell.metadata}
        if cell.cell_type != "code":
            continue
        pictured = any(_is_picture(output) for output in cell.outputs)
        cell.outputs = [output for output in cell.outputs if not _is_live(output)]
        tags = cell.metadata.get("tags", [])
        if pictured and IGNORED not in tags:
            cell.metadata = {"tags": [*tags, IGNORED]}


def _is_picture(output: Any) -> bool:
    data = output.get("data", {})
    return _is_live(output) or any(kind.startswith("image/") for kind in data)


def _is_live(output: Any) -> bool:
    """Whether an output is a widget or a progress bar."""
    if output.output_type == "stream":
        return output.name == "stderr" and bool(re.search(r"\d+%\|", output.text))
    return any(kind in output.get("data", {}) for kind in LIVE)
