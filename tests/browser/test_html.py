"""The notebooks as single HTML files, as `jupyter nbconvert --to html` writes them."""

import shutil
import subprocess
import sys
from pathlib import Path

import jupyter_server_mathjax
import nbformat
import pytest

from kdcourse.course.notebooks import SCHEMATIC, course_notebooks, is_picture
from kdcourse.course.schematics import FOLDER

MATHJAX = Path(jupyter_server_mathjax.__file__).parent / "static"
# The fonts that this MathJax has; the one that nbconvert links to on the network has others.
FONTS = """window.MathJax = {
    'HTML-CSS': {availableFonts: [], preferredFont: null, imageFont: null, webFont: 'STIX-Web'}
}"""
RENDERED = "MathJax.Hub.Queue(() => { window.typeset = true })"


@pytest.fixture(scope="module")
def converted(open_page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", folder]
    mathjax = f"{(MATHJAX / 'MathJax.js').as_uri()}?config=TeX-AMS-MML_HTMLorMML-full,Safe"
    command += [f"--HTMLExporter.mathjax_url={mathjax}", *course_notebooks()]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copytree(FOLDER, folder / FOLDER.name)  # of schematics, which stay beside the notebooks
    return folder


@pytest.mark.parametrize("path", course_notebooks(), ids=lambda path: path.stem)
def test_figures_and_formulas_are_rendered(path, converted, open_page, pictures):
    page = open_page()
    page.add_init_script(FONTS)
    page.goto((converted / f"{path.stem}.html").as_uri())
    page.wait_for_function("window.MathJax?.isReady")
    page.evaluate(RENDERED)
    page.wait_for_function("window.typeset")
    page.screenshot(path=pictures / f"{path.stem}-html.png")
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    schematics = sum(len(SCHEMATIC.findall(cell.source)) for cell in cells)
    figures = page.locator("img:not([data-mime-type='text/html'] img)")  # not those of widgets
    widths = figures.evaluate_all("images => images.map(i => i.naturalWidth)")
    assert len(widths) == sum(map(is_picture, outputs)) + schematics
    assert min(widths) > 200
    formulas = page.locator(".MathJax_Display")
    assert formulas.count() == sum(cell.source.count("$$") for cell in cells) // 2
    assert page.locator(".MathJax_Error, .merror, .noError").count() == 0
    page.close()
