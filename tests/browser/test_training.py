"""Long work in a notebook: how long it still takes, and that it can be stopped at any time."""

import re

import nbformat
import pytest
from lab import Notebook
from nbformat.v4 import new_code_cell, new_notebook

from kdcourse.course.notebooks import course_notebooks, normalize

CELLS = [
    "from kdcourse import data, metrics, models\n"
    "from kdcourse.training import fit\n"
    "splits = data.fashion_mnist()\n"
    "student = models.by_name('plain4', seed=0)\n"
    "before = metrics.accuracy(student, splits.validation)",
    "history = fit(student, splits.train[:4000], epochs=10_000)",
    "after = metrics.accuracy(student, splits.validation)",
]


@pytest.fixture
def page(open_page):
    page = open_page()
    yield page
    page.close()


def test_training_shows_the_time_left_and_what_was_learned_survives_a_stop(page, lab, pictures):
    name = "long.ipynb"
    written = new_notebook(cells=[new_code_cell(source) for source in CELLS])
    normalize(written)
    nbformat.write(written, lab.notebooks / name)
    page.goto(f"{lab.url}/lab/tree/{name}?token={lab.token}")
    notebook = Notebook(page)
    notebook.wait_for_kernel(name)
    notebook.run(0)
    notebook.start(1)
    bar = notebook.node(1).wait_for_selector(
        ".jupyter-widgets.widget-hbox",
    )
    # "200/320000 [00:03<1:20:00": enough steps to have learned something, and the time left.
    page.wait_for_function(
        r"bar => /\d{3,}\/\d+\s\[\d\d:\d\d<\d+:\d\d/.test(bar.innerText)", arg=bar
    )
    page.screenshot(path=pictures / "long-work.png")
    page.locator("[data-jp-item-name=interrupt] jp-button").click()
    notebook.wait_until_run(1)
    outputs = notebook.cells()[1]["outputs"]
    assert not [output for output in outputs if output["output_type"] == "error"]
    said = "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream")
    assert re.search(r"interrupted after \d+ of 10000 epochs; the student keeps", said)
    notebook.run(2)
    epochs, before, after = notebook.evaluate("", "[len(history), before, after]")
    assert 0 < epochs < 10_000
    assert after > before + 0.2
    notebook.close()


def test_widgets_appear_in_notebook_7(page, lab):
    path = next(path for path in course_notebooks() if "widgets.vote()" in path.read_text())
    page.goto(f"{lab.url}/notebooks/{path.name}?token={lab.token}")
    notebook = Notebook(page)
    notebook.wait_for_kernel(path.name)
    sources = [cell["source"] for cell in notebook.cells()]
    notebook.run(notebook.code_cells()[0])
    cell = sources.index("widgets.vote()")
    notebook.run(cell)
    node = notebook.node(cell)
    node.wait_for_selector("text=3 voters, each right with probability 0.70")
    assert "probability 0.784" in node.inner_text()  # the lecture's brain teaser
    node.query_selector("[role=slider]").focus()
    page.keyboard.press("ArrowRight")
    node.wait_for_selector("text=4 voters, each right with probability 0.70")
    notebook.close()
