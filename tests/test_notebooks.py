"""The notebooks keep to the course's form; that they run is tested by nbval."""

import re

import nbformat
import pytest

from kdcourse.course import notebooks
from kdcourse.course.claims import CLAIMS

PATHS = notebooks.course_notebooks()


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_there_are_notebooks():
    assert PATHS


def test_the_start_page_maps_them_as_they_are():
    start = nbformat.read(notebooks.NOTEBOOKS / notebooks.START, as_version=4)
    (cell,) = (cell for cell in start.cells if cell.id == notebooks.MAP)
    assert cell.source == notebooks.course_map()
    rows = [row for row in cell.source.split("\n") if "](" in row]
    assert [re.search(r"\((.+?)\)", row.split("|")[2])[1] for row in rows] == [
        p.name for p in PATHS
    ]
    listed = set(re.findall(r"`([a-z-]+)`", cell.source))
    numbers = {int(path.name[0]) for path in PATHS}
    assert listed == {id for id, claim in CLAIMS.items() if claim.notebook in numbers}


def test_the_start_page_is_stored_run_in_normal_form():
    start = nbformat.read(notebooks.NOTEBOOKS / notebooks.START, as_version=4)
    (cell,) = code(start)
    assert cell.outputs[0].text.endswith("Ready.\n")
    stored = nbformat.writes(start)
    notebooks.normalize(start)
    assert nbformat.writes(start) == stored


def test_every_code_cell_was_run_in_order(notebook):
    assert [cell.execution_count for cell in code(notebook)] == [
        number for number, _ in enumerate(code(notebook), start=1)
    ]


def test_outputs_are_stored_without_errors_warnings_and_dead_widgets(notebook):
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert outputs
    for output in outputs:
        assert output.output_type != "error"
        assert not (output.output_type == "stream" and output.name == "stderr"), output.text
        assert not any("widget" in kind for kind in output.get("data", {}))


def test_it_is_stored_in_normal_form(notebook):
    stored = nbformat.writes(notebook)
    notebooks.normalize(notebook)
    assert nbformat.writes(notebook) == stored


def test_cells_are_short_and_ids_speak(notebook):
    lengths = sorted(len(cell.source.split("\n")) for cell in code(notebook))
    assert lengths[-1] <= 25
    assert lengths[len(lengths) // 2] <= 7
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]+", id) for id in ids)


def test_it_has_objectives_time_predictions_exercises_and_reading(notebook):
    written = text(notebook)
    for part in ("you can", "**Time**", "Predict first", "## Exercises", "## Further reading"):
        assert part in written, part
    assert written.count("<details>") == written.count("</details>") >= 4
    assert "arXiv" in written


def test_claims_are_compared_by_nbval(notebook):
    cells = [
        cell for cell in code(notebook) if "claims.load" in cell.source and "print" in cell.source
    ]
    compared = [cell for cell in code(notebook) if "# NBVAL_CHECK_OUTPUT" in cell.source]
    assert compared
    for cell in [*cells, *compared]:
        assert cell.source.startswith("# NBVAL_CHECK_OUTPUT")
        assert notebooks.IGNORED not in cell.metadata.get("tags", [])


def test_every_figure_has_a_caption(notebook):
    for cell, following in zip(notebook.cells, notebook.cells[1:], strict=False):
        pictured = cell.cell_type == "code" and any(
            "image/png" in output.get("data", {}) for output in cell.outputs
        )
        if pictured:
            assert following.cell_type == "markdown"
            assert re.match(r"\*[^*].*\*$", following.source.split("\n")[0]), following.source


def test_code_imports_from_the_package_and_names_no_paths(notebook):
    source = "\n".join(cell.source for cell in code(notebook))
    assert "import *" not in source
    assert not re.search(r"[\"'](/|~|[A-Z]:\\)", source)
    assert "download=True" not in source
    assert "warnings" not in source
