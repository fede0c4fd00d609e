"""The notebooks keep to the course's form; that they run is tested by nbval."""

import re

import nbformat
import pytest

from kdcourse.course import claims, notebooks
from kdcourse.course.claims import CLAIMS

PATHS = notebooks.course_notebooks()

# Numbers in the notebooks' prose, by cell, that were measured elsewhere.
QUOTED = {
    "caution: 13.31",  # the lecture's figure of ResNet-like models, k = 1
    "caution: 10.83",  # Li et al. 2018, the same net at learning rate 0.01
    "predict-pros: 12",  # Tian et al. 2020: pairs of nets in which KD beats hints, attention, RKD,
    "predict-pros: 13",  # all pairs,
    "predict-pros: 0.2",  # and by less than how many points it loses in the other
    "reading: 82.8",  # Beyer et al. 2022, ResNet-50 on ImageNet,
    "reading: 9,600",  # after so many epochs
    "newer: 70.66",  # KD of resnet56 → resnet20 on CIFAR-100, Tian et al. 2020
    "newer: 71.97",  # decoupled KD of the same, Zhao et al. 2022
    "newer: 71.43",  # standardised logits of the same, Sun et al. 2024
    "newer: 240",  # epochs of these
}
# What is no measurement: formulas, code, links, quotations from the slides, values of symbols,
# sizes of arrays, times, arXiv numbers, years, and what to try further.
# Exercises give the numbers that they ask about.
NO_MEASUREMENT = (
    r"```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)"
    r"|“[^”]*”|\w = \d[\d.]*\d|\d+(?: ?× ?\d+)+|\d+ minutes|95 % interval|arXiv \d{4}\.\d{4,5}"
    r"|\b(?:19|20)\d\d\b|## Go further.*"
)
NUMBER = r"(?<![\w.,-])\d+(?:,\d{3})*(?:\.\d+)?(?![\w-])"


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


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
    counts = [re.match(r" (\d+) claims: (.+) $", row.split("|")[4]).groups() for row in rows]
    for path, (count, parts) in zip(PATHS, counts, strict=True):
        listed = [
            claim
            for claim in CLAIMS.values()
            if claim.notebook == notebooks.number(path) and not claim.search
        ]
        assert int(count) == len(listed) == sum(map(int, re.findall(r"\d+", parts)))
        held = sum(claims.load(claim.id).verdict == "holds" for claim in listed)
        assert f"{held} hold" in parts


def start_page():
    page = nbformat.read(notebooks.NOTEBOOKS / notebooks.START, as_version=4)
    return {cell.id: cell for cell in page.cells}


def test_the_start_page_links_every_notebook_and_assignment():
    linked = set(
        re.findall(r"\]\(([^)#]+\.ipynb)\)", " ".join(c.source for c in start_page().values()))
    )
    assignments = {f"homework/{p.name}" for p in notebooks.NOTEBOOKS.glob("homework/*.ipynb")}
    assert assignments
    assert linked == assignments | {path.name for path in PATHS}


def test_the_start_page_says_of_assignments_what_they_say():
    table = start_page()["homework"].source
    for path in notebooks.NOTEBOOKS.glob("homework/*.ipynb"):
        top = nbformat.read(path, as_version=4).cells[0].source
        (row,) = (row for row in table.split("\n") if path.name in row)
        assert re.search(r"# Homework (.+)", top)[1] in row
        assert re.search(r"\*\*(.+ points, about .+ hours)\.\*\*", top)[1] in row


def test_how_to_read_a_claim_is_told_alike_on_the_start_page_and_in_notebook_1():
    told = [start_page()["how-to-read"].source]
    first = nbformat.read(notebooks.NOTEBOOKS / "1_motivation.ipynb", as_version=4)
    told += [cell.source for cell in first.cells if cell.id == "how-to-read"]
    on_the_page, in_the_notebook = ([*re.findall(r"^ *- .+", text, re.M)] for text in told)
    assert len(on_the_page) > 5
    assert on_the_page == in_the_notebook
    assert f"```text\n{claims.load('gap')}\n```" in told[0]


def test_the_start_page_is_stored_run_in_normal_form():
    start = nbformat.read(notebooks.NOTEBOOKS / notebooks.START, as_version=4)
    (cell,) = code(start)
    assert cell.outputs[0].text.endswith("Ready.\n")
    stored = nbformat.writes(start)
    notebooks.normalize(start)
    assert nbformat.writes(start) == stored


# Not what JupyterLab keeps beside them once somebody has opened them.
FOLDERS = notebooks.NOTEBOOKS, notebooks.NOTEBOOKS / "homework"
EVERY = [path for folder in FOLDERS for path in sorted(folder.glob("*.ipynb"))]


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_links_lead_to_files_that_exist(path):
    found = re.findall(r"\]\(([^)#\s]+)", text(nbformat.read(path, as_version=4)))
    links = [link for link in found if not link.startswith("http")]
    assert links
    assert [link for link in links if not (path.parent / link).is_file()] == []


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


def test_it_follows_the_arc(notebook):
    top, written = notebook.cells[0].source, text(notebook)
    for part in ("](figures/map-", "you can", "**Time**", "](homework/"):
        assert part in top, part
    for part in ("Predict first", "## What held", "## Quiz", "## Further reading", "arXiv"):
        assert part in written, part
    assert written.count("<details>") == written.count("</details>") >= 4
    assert 3 <= sum(bool(re.fullmatch(r"exercise-\d", cell.id)) for cell in notebook.cells) <= 5


def test_every_idea_has_a_schematic_and_every_section_a_conclusion(notebook):
    titles = re.findall(r"^## \d · .+", text(notebook), flags=re.MULTILINE)
    assert titles
    for cells, _ in sections(notebook):
        written = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        if written.split("\n")[0] in titles:
            (concluded,) = re.findall(r"\*\*What to conclude\.\*\* (.+)", written)
            plain = re.sub(r"\$[^$]*\$|`[^`]*`", "", concluded)
            assert len(re.findall(r"[.!?](?=\s+[A-Z“*(]|$)", plain)) == 2, concluded
    shown = re.findall(r"\]\(figures/(?!map-)([\w-]+)\.svg\)", text(notebook))
    assert shown
    assert len(set(shown)) == len(shown)


def test_how_to_read_a_claim_stands_before_the_first(notebook):
    cells = notebook.cells
    first = next(n for n, cell in enumerate(cells) if "claims.load" in cell.source)
    assert any("ow to read a claim" in cell.source for cell in cells[:first])


def test_claims_are_compared_by_nbval(notebook):
    cells = [cell for cell in code(notebook) if re.search(r"^print\(.*claims\.load", cell.source)]
    compared = [cell for cell in code(notebook) if notebooks.COMPARED in tags(cell)]
    assert compared
    for cell in [*cells, *compared]:
        assert tags(cell) == [notebooks.COMPARED]
    assert "NBVAL" not in "".join(cell.source for cell in code(notebook))


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


def sections(notebook):
    """The cells of the whole notebook that are before its first heading, and those under each."""
    starts = [n for n, cell in enumerate(notebook.cells) if cell.source.startswith("## ")]
    start = notebook.cells[: starts[0]]
    yield start, notebook.cells
    for first, end in zip(starts, [*starts[1:], None], strict=True):
        yield notebook.cells[first:end], start + notebook.cells[first:end]


def shown_numbers(cells):
    """Numbers in code, of the stored results that are loaded there, and in outputs.

    Not in those that differ from machine to machine: what is trained live is not cited in prose.
    """
    written = [cell.source for cell in cells if cell.cell_type == "code"]
    for cell in cells:
        if notebooks.IGNORED not in tags(cell):  # the same on every machine
            for output in cell.get("outputs", []):
                written.append(output.get("text", ""))
    results = list(map(claims.load, re.findall(r"claims\.load\(\"([\w-]+)\"\)", " ".join(written))))
    written += [str(result.settings) for result in results]
    numbers = re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", " ".join(written))
    found = [float(number.replace(",", "")) for number in numbers]
    for result in results:
        means = [result.mean(name) for name in next(iter(result.runs.values()))]
        alone = means[0] if not result.claim.effects else 0.0  # a map of gains shows differences
        found += [*means, *(abs(mean - alone) for mean in means)]
    return [*found, *(100 * share for share in found if share < 1)]


def is_shown(value, decimals, shown):
    """Whether a number is one that is shown, rounded to as many decimals."""
    return any(abs(value - other) <= 0.5 * 10.0**-decimals + 1e-9 for other in shown)


def numbers_in_prose(notebook):
    """Yield the numbers above ten or with decimals: where, value, decimals, what is shown there."""
    for cells, beside in sections(notebook):
        shown = shown_numbers(beside)
        for cell in cells:
            if cell.cell_type == "code" or cell.id.startswith("exercise-"):
                continue
            prose = re.sub(NO_MEASUREMENT, " ", cell.source, flags=re.DOTALL)
            for number in re.findall(NUMBER, prose):
                value, decimals = float(number.replace(",", "")), len(number.partition(".")[2])
                if (decimals or value > 10) and f"{cell.id}: {number}" not in QUOTED:
                    yield f"{cell.id}: {number}", value, decimals, shown


def test_numbers_in_prose_are_shown_or_stored(notebook):
    assert [where for where, *number in numbers_in_prose(notebook) if not is_shown(*number)] == []


def test_false_numbers_in_prose_would_be_found():
    """Few numbers that are off in their last place meet another one by chance."""
    found = [
        not is_shown(value + step * 10.0**-decimals, decimals, shown)
        for path in PATHS
        for _, value, decimals, shown in numbers_in_prose(nbformat.read(path, as_version=4))
        for step in (-3, -2, -1, 1, 2, 3)
    ]
    assert len(found) > 300
    assert sum(found) > 0.75 * len(found)
