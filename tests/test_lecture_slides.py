"""Which cells start a slide, and how the slides of a notebook are written."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kdcourse.course import notebooks, slides

DRAWING = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'></svg>"
LONG = "words " * 50


def text(source, **id):
    return new_markdown_cell(source, **id)


def code(kind=None, **id):
    outputs = [new_output("display_data", {kind: ""})] if kind else []
    return new_code_cell("1", outputs=outputs, **id)


def figure():
    return code("image/png")


TYPES = {
    "set-up": ([text("# Title"), code(), text("## One")], ["slide", "skip", "slide"]),
    "headings": ([text("# A"), text("## B"), text("### C")], ["slide"] * 3),
    "ideas": ([text("## B"), text("idea"), code()], ["slide", "subslide", "-"]),
    "figure": ([text(LONG), code(), figure(), text("*caption*")], ["-", "subslide", "-"]),
    "introduced": ([text("See:"), figure(), text("*caption*")], ["-", "-"]),
    "explained": ([text(LONG), figure(), text("**Bold** words")], ["subslide", "subslide"]),
    "after a caption": ([figure(), text("*caption*"), code(), code()], ["-", "subslide", "-"]),
    "widget": ([text(LONG), code("text/html"), code()], ["subslide", "subslide"]),
    "claim": (
        [text(LONG), code(id="a-claim"), text("**What to conclude.** So."), text("next")],
        ["subslide", "-", "subslide"],
    ),
    "conclusion of a figure": ([figure(), text("**What to conclude.** So.")], ["subslide"]),
    "exercise": (
        [text("idea"), text("Try", id="exercise-1"), code(id="exercise-1-check"), code()],
        ["skip", "skip", "-"],
    ),
    "exercises": (
        [text("## Exercises"), text("### One"), figure(), text("## Quiz")],
        ["skip", "skip", "skip", "slide"],
    ),
    "further": ([text("## Go further\n\nMore"), text("idea")], ["skip", "skip"]),
}


@pytest.mark.parametrize("name", TYPES)
def test_what_a_cell_is_says_whether_it_starts_a_slide(name):
    cells, expected = TYPES[name]
    types = notebooks.slide_types(cells)
    assert types[-len(expected) :] == expected
    assert len(types) == len(cells)


def test_progress_that_is_dropped_is_no_figure():
    bar = new_output("display_data", {"text/html": "<progress value='1'></progress>"})
    notebook = new_notebook(
        cells=[text("# A"), text("## B"), text(LONG), new_code_cell("1", outputs=[bar])]
    )
    notebooks.normalize(notebook)
    assert notebook.cells[-1].metadata == {"slideshow": {"slide_type": "-"}}


def test_storing_runs_nothing_and_keeps_what_is_seen(tmp_path):
    path, cell = tmp_path / "1_a.ipynb", figure()
    cell.update(source="1 / 0", execution_count=7, metadata={"editable": True, "tags": ["mine"]})
    nbformat.write(new_notebook(cells=[text("# A"), text("## B"), cell]), path)
    notebooks.store([path])
    stored = nbformat.read(path, as_version=4).cells[-1]
    assert stored.metadata == {
        "slideshow": {"slide_type": "-"},
        "tags": ["mine", notebooks.IGNORED],
    }
    assert (stored.execution_count, stored.outputs) == (7, cell.outputs)


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder of notebooks that takes the place of the course's."""
    folder = tmp_path / "notebooks"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "idea.svg").write_text(DRAWING)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folder)
    return folder


def write(folder, name, *sources):
    cells = [text(source) for source in sources]
    for cell, slide_type in zip(cells, notebooks.slide_types(cells), strict=True):
        cell.metadata = {"slideshow": {"slide_type": slide_type}}
    nbformat.write(new_notebook(cells=cells), folder / name)


def test_pictures_are_beside_them_and_links_lead_to_slides(course, tmp_path):
    write(course, "1_a.ipynb", "# A\n\n![An idea](figures/idea.svg)", "## Exercises\n\nsecret")
    write(course, "2_b.ipynb", "# B\n\nAs in [A](1_a.ipynb#held), see [tasks](homework/1.ipynb).")
    first, second = slides.build(tmp_path / "out")
    assert [first.name, second.name] == ["1_a.slides.html", "2_b.slides.html"]
    assert 'src="figures/idea.svg"' in first.read_text()
    assert (tmp_path / "out" / "figures" / "idea.svg").read_text() == DRAWING
    assert "secret" not in first.read_text()
    assert '<a href="1_a.slides.html">A</a>, see tasks.' in second.read_text()


def test_a_folder_is_written_again(course, tmp_path):
    write(course, "1_a.ipynb", "# Old")
    slides.build(tmp_path)
    write(course, "1_a.ipynb", "# New")
    (page,) = slides.build(tmp_path)
    assert "New</h1>" in page.read_text()


def test_a_page_loads_what_is_in_the_folder(course, tmp_path):
    write(course, "1_a.ipynb", "# A")
    (page,) = slides.build(tmp_path)
    loaded = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.read_text())
    assert slides.THEME in loaded
    assert all((tmp_path / name).is_file() for name in loaded)
    assert not re.search(r"url\([\"']?http|@import", page.read_text())
