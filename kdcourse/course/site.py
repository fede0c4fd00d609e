"""The course as a static site: executed notebooks, claims and API reference (``make site``).

Each version has a folder of its own; ``versions.js`` beside them feeds the menu of all their pages,
also of those built before, and ``index.html`` leads to the newest.
"""

import importlib
import json
import pkgutil
import re
import shutil
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from packaging.version import InvalidVersion, Version

import kdcourse
from kdcourse import files
from kdcourse.course import gallery, notebooks, schematics
from kdcourse.places import COURSE

DOCS = COURSE / "docs"
NEEDED = "sphinx", "myst_nb", "pydata_sphinx_theme", "sphinx_design", "sphinx-mathjax-offline"


def build(folder: Path) -> Path:
    """Build the site of this version without running anything, and return the page to open.

    Raises:
        FileError: The folder cannot be written to.
        RuntimeError: Sphinx has something to say; the message is what it says.
    """
    for name in NEEDED:  # where one of them is missing, Sphinx tells much, but not what to do
        importlib.import_module(name)
    files.check_writable(folder)
    own = folder / version("kdcourse")
    with files.temporary_told(), tempfile.TemporaryDirectory() as name:
        pages = _pages(assemble(Path(name) / "docs"), Path(name) / "site" / "html")
        with files.told(own):
            shutil.rmtree(own, ignore_errors=True)
            shutil.copytree(pages, own)
    list_versions(folder)
    return folder / "index.html"


def _pages(sources: Path, folder: Path) -> Path:
    """Let Sphinx make the pages, with warnings as errors, and return their folder."""
    from sphinx.application import Sphinx
    from sphinx.errors import SphinxError
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    options: dict[str, Any] = {"status": None, "freshenv": True, "warningiserror": True}
    with patch_docutils(sources), docutils_namespace():
        try:
            made = Sphinx(sources, sources, folder, folder.with_name("trees"), "html", **options)
            made.build()
        except SphinxError as error:
            raise RuntimeError(f"the site cannot be built: {error}") from error
        if made.statuscode:
            raise RuntimeError("the site cannot be built: Sphinx says above why")
    return folder


def list_versions(folder: Path) -> None:
    """List the versions that lie in a folder with their pages, newest first, and lead to that."""
    found = []
    for index in folder.glob("*/index.html"):
        with suppress(InvalidVersion):
            found.append((Version(index.parent.name), index.parent))
    pages = {}
    for _, place in sorted(found, reverse=True):
        names = (page.relative_to(place).as_posix() for page in place.rglob("*.html"))
        pages[place.name] = sorted(name for name in names if not name.startswith("_"))
    newest = f"{next(iter(pages))}/index.html"
    files.write(folder / "versions.js", f"var versions = {json.dumps(pages)};\n")
    files.write(
        folder / "index.html",
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>kdcourse</title>'
        f'<meta http-equiv="refresh" content="0; url={newest}"><a href="{newest}">kdcourse</a>\n',
    )


def assemble(folder: Path) -> Path:
    """Gather the sources of the pages: ``docs/``, notebooks, examples, modules, what changed."""
    shutil.copytree(DOCS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(schematics.FOLDER, folder / "notebooks" / schematics.FOLDER.name)
    paths = notebooks.course_notebooks()
    pages = {path.stem: path.name for path in paths}  # homework and the start page are none
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        describe_figures(notebook)
        notebooks.relink(notebook, pages)
        nbformat.write(notebook, folder / "notebooks" / path.name)
    for source in folder.glob("*.md"):
        source.write_text(link_inside(source.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "map.txt").write_text(notebooks.course_map("notebooks/"), encoding="utf-8")
    gallery.write(folder / "examples")
    (folder / "changes.md").write_text(_changes(), encoding="utf-8")
    (folder / "api").mkdir()
    for module in pkgutil.iter_modules(kdcourse.__path__):
        if module.name not in (*kdcourse.APPARATUS, "__main__"):
            page = _reference(f"kdcourse.{module.name}", package=module.ispkg)
            (folder / "api" / f"{module.name}.md").write_text(page, encoding="utf-8")
    return folder


def _changes() -> str:
    """Return what has changed from version to version; an installation does not know."""
    if (log := COURSE / "CHANGELOG.md").is_file():
        return log.read_text(encoding="utf-8")
    told = f"This is version {version('kdcourse')}; CHANGELOG.md of the course says what is new."
    return f"# Changes\n\n{told}\n"


def link_inside(text: str) -> str:
    """Let a page in ``docs/`` lead to the site's notebooks and examples, and name other files."""
    text = re.sub(r"\]\(\.\./(notebooks/\w+\.ipynb)\)", r"](\1)", text)
    text = re.sub(r"\]\(\.\./(examples/\w+)\.py\)", r"](\1.md)", text)
    return re.sub(r"\[([^]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", text)


def describe_figures(notebook: Any) -> None:
    """Give every figure its caption, which stands below it, as its alternative text."""
    for cell, following in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type == "code" and any(map(notebooks.is_picture, cell.outputs)):
            caption = re.match(r"\*(.+)\*$", following.source.split("\n")[0])
            if caption:
                cell.metadata["mystnb"] = {"image": {"alt": re.sub(r"[$*`]", "", caption[1])}}


def _reference(module: str, *, package: bool) -> str:
    """Return a page with all that a module offers; for a package, what is defined inside it."""
    members = ""
    if package:
        offered, homes = vars(importlib.import_module(module)), kdcourse.public_names()
        own = [n for n, home in homes.items() if home.startswith(f"{module}.") and n in offered]
        members = f" {', '.join(own)}"
    return f"# {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:{members}\n```\n"
