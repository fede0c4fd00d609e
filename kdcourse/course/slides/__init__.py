"""The notebooks as slides for a lecture, which need no network (``make slides``).

Which cells start a slide stands in the notebooks: :func:`kdcourse.course.notebooks.slide_types`.
"""

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from kdcourse import files
from kdcourse.course import notebooks, schematics
from kdcourse.places import own_folder

HERE = Path(__file__).parent
FIGURES = schematics.FOLDER.name  # of the notebooks' pictures, which slides find beside them, too
THEME = "reveal.js/dist/theme/lecture.css"
SCRIPTS = {  # by their folder: the package that brings them, where it does, and what slides need
    "reveal.js": ("sphinx_revealjs", "_static/revealjs", ("dist", "plugin/notes")),
    "mathjax": (
        "sphinx-mathjax-offline",
        "static/mathjax",
        ("tex-chtml.js", "input/tex/extensions", "output/chtml"),
    ),
}
UNUSED = shutil.ignore_patterns("*.map", "*.esm.js", "*.eot", "*.ttf", "league-gothic")


def build(folder: Path) -> list[Path]:
    """Write each notebook into a folder as slides, just as it is stored; return the slides' files.

    Raises:
        ModuleNotFoundError: A package whose scripts the slides need is missing.
        FileError: The folder cannot be written; the message says why.
    """
    homes = {name: resources.files(package) for name, (package, *_) in SCRIPTS.items()}
    exporter = _exporter()
    own = own_folder(notebooks.NOTEBOOKS)  # which is there if you have opened an installed course
    source = own if own.is_dir() else notebooks.NOTEBOOKS
    files.check_writable(folder)
    with files.told(folder):
        for name, (_, inside, parts) in SCRIPTS.items():
            for part in parts:
                _copy(Path(str(homes[name])) / inside / part, folder / name / part)
        _copy(HERE / "lecture.css", folder / THEME)
        if (source / FIGURES).is_dir():
            _copy(source / FIGURES, folder / FIGURES)
    paths = notebooks.course_notebooks(source)
    return [_deck(path, paths, exporter, folder) for path in paths]


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder, over what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=UNUSED, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _exporter() -> Any:
    """Return what makes a page of slides of a notebook."""
    from nbconvert import SlidesExporter

    return SlidesExporter(
        template_file=str(HERE / "deck.html.j2"),
        reveal_url_prefix="reveal.js",
        reveal_theme=Path(THEME).stem,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )


def _deck(path: Path, paths: list[Path], exporter: Any, folder: Path) -> Path:
    """Write the slides of one of the notebooks, and return their file."""
    notebook = notebooks.read(path)
    notebooks.relink(notebook, {other.stem: _deck_of(other) for other in paths})
    known = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    page, _ = exporter.from_notebook_node(notebook, known)
    deck = folder / _deck_of(path)
    files.write(deck, page)
    return deck


def _deck_of(path: Path) -> str:
    """Return the name of the file with a notebook's slides."""
    return f"{path.stem}.slides.html"
