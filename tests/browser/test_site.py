"""The site on a phone and on a desk, by day and by night."""

import itertools
import json
import shutil
import subprocess
import sys
from importlib.metadata import version

import nbformat
import pytest
from axe_playwright_python.sync_playwright import DEFAULT_OPTIONS, Axe

from kdcourse.course.notebooks import SCHEMATIC, course_notebooks, is_picture
from kdcourse.course.site import DOCS, list_versions

# Layout depends on the size, contrast on the scheme: two of the four see all of both.
# The small one first: when a page is opened, what can be scrolled is put in reach of the keyboard.
WINDOWS = {
    "phone-light": ({"width": 390, "height": 844}, "light"),
    "desk-dark": ({"width": 1280, "height": 900}, "dark"),
}
NOTEBOOKS = [f"notebooks/{path.stem}" for path in course_notebooks()]
# Notebooks first, as in their own test: pytest then runs all tests of a page one after the other.
PAGES = [
    *NOTEBOOKS,
    *sorted(path.stem for path in DOCS.glob("*.md")),
    "changes",
    "examples/index",
    "examples/attention",
    "api/logit",
    "api/training",
]
OWN = version("kdcourse")
SERIOUS = ("serious", "critical")
# What a scheme or a small window can change; on the desk every rule is tried.
OF_THE_WINDOW = {"runOnly": ["color-contrast", "scrollable-region-focusable"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a warning of Sphinx's would fail it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "kdcourse", "site", "--folder", folder]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert built.stdout == f"{folder / 'index.html'}\n"
    return folder / OWN


@pytest.fixture(scope="module")
def page(name, site, open_page):
    """A page of the site, for all its tests, and the requests that leave the site."""
    size, scheme = WINDOWS["phone-light"]
    page = open_page(**size, color_scheme=scheme)
    page.left = []
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or page.left.append(r.url))
    page.goto((site / f"{name}.html").as_uri())
    page.wait_for_function("!window.MathJax?.startup || MathJax.startup.promise.then(() => true)")
    yield page
    page.close()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", PAGES, scope="module")
def test_the_page_fits_its_window_and_is_accessible(name, window, page, pictures):
    size, scheme = WINDOWS[window]
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=scheme)
    page.wait_for_function("!document.getAnimations().length")  # colours change gradually
    assert not page.left  # nothing comes from the network
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    titles = page.locator("main :is(h1, h2, h3, h4, dt.sig)")
    cut = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    assert titles.evaluate_all(cut) == []
    page.screenshot(path=pictures / f"site-{name.replace('/', '-')}-{window}.png")
    rules = OF_THE_WINDOW if window.startswith("phone") else {}
    checked = Axe().run(page, options={**DEFAULT_OPTIONS, **rules}).response
    assert checked["passes"]
    found = [v for v in checked["violations"] if v["impact"] in SERIOUS]
    assert not found, json.dumps(
        [(v["id"], v["help"], [n["target"] for n in v["nodes"]][:5]) for v in found], indent=1
    )


@pytest.mark.parametrize("name", NOTEBOOKS, scope="module")
def test_figures_are_described_tables_drawn_and_headings_in_order(name, page):
    path = next(path for path in course_notebooks() if name.endswith(path.stem))
    cells = nbformat.read(path, as_version=4).cells
    outputs = [o for cell in cells for o in cell.get("outputs", ())]
    schematics = sum(len(SCHEMATIC.findall(cell.source)) for cell in cells)
    figures = page.locator("main img:not(.text_html img)")  # not those of widgets
    descriptions = figures.evaluate_all("images => images.map(i => i.alt)")
    assert len(descriptions) == sum(map(is_picture, outputs)) + schematics
    assert all(len(description) > 20 for description in descriptions)
    tables = sum("|---|" in o.get("data", {}).get("text/markdown", "") for o in outputs)
    assert page.locator("main .cell_output table:not(.text_html table)").count() == tables
    levels = page.locator("main :is(h1, h2, h3, h4, h5, h6)").evaluate_all(
        "headings => headings.map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.locator("main mjx-container").count() > 0
    assert page.locator("mjx-merror").count() == 0


def test_a_menu_leads_to_the_same_page_of_other_versions(site, open_page, tmp_path):
    newer, none = tmp_path / "1000.0", tmp_path / "notes"
    for place in (tmp_path / OWN, newer, none):
        shutil.copytree(site, place)
    for name in ("index", "leaderboard"):  # as a build of that version would write it
        page = newer / f"{name}.html"
        page.write_text(page.read_text().replace(f"<option>{OWN}", f"<option>{newer.name}"))
    (newer / "gpu.html").unlink()
    list_versions(tmp_path)
    page = open_page()
    menu = page.locator("header select.versions")
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_url("**/1000.0/index.html")  # the newest, although another sorts after it
    page.goto((tmp_path / OWN / "leaderboard.html").as_uri() + "#a-part")
    assert menu.locator("option").all_text_contents() == [newer.name, OWN]
    assert menu.input_value() == OWN
    menu.select_option(newer.name)
    page.wait_for_url("**/1000.0/leaderboard.html#a-part")
    assert menu.input_value() == newer.name
    page.go_back()
    page.wait_for_url(f"**/{OWN}/leaderboard.html#a-part")
    assert menu.input_value() == OWN
    page.goto((tmp_path / OWN / "gpu.html").as_uri())
    menu.select_option(newer.name)
    page.wait_for_url("**/1000.0/index.html")  # which has no such page
    page.close()


def test_a_version_moved_elsewhere_knows_itself(site, open_page, tmp_path):
    shutil.copytree(site, tmp_path / "alone")
    page = open_page()
    page.goto((tmp_path / "alone" / "index.html").as_uri())
    assert page.locator("header select.versions option").all_text_contents() == [OWN]
    page.close()
