"""The notebooks as slides, shown from the first to the last without a network."""

import subprocess
import sys

import nbformat
import pytest

from kdcourse.course.notebooks import course_notebooks, is_picture, slide_types

READY = """() => window.MathJax?.startup?.promise
    && MathJax.startup.promise.then(() => Reveal.isReady())"""
# How many slides came before, whether there is more below the window, and what can be seen in no
# way: what is beside the window, or where nothing scrolls.
SLIDE = """() => {
    const slide = Reveal.getCurrentSlide(), frame = slide.getBoundingClientRect();
    const inside = frame.top >= 0 && frame.left >= 0
        && frame.bottom <= innerHeight + 1 && frame.right <= innerWidth + 1;
    const hides = (way, size, room) => ['hidden', 'clip'].includes(way) && size > room + 2;
    const cut = [slide, ...slide.querySelectorAll('*:not(mjx-container, mjx-container *)')]
        .filter(element => {
            const style = getComputedStyle(element);
            return hides(style.overflowX, element.scrollWidth, element.clientWidth)
                || hides(style.overflowY, element.scrollHeight, element.clientHeight);
        });
    return {
        past: Reveal.getSlidePastCount(),
        scrolls: slide.scrollHeight > slide.clientHeight + 100,
        cut: [...(inside ? [] : ['the slide']), ...cut.map(e => e.outerHTML.slice(0, 80))]
    };
}"""


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    subprocess.run([sys.executable, "-m", "kdcourse", "slides", folder], check=True)
    return folder


@pytest.fixture
def page(path, decks, open_page):
    """The slides of a notebook, and what went wrong with them."""
    page = open_page(width=1280, height=720)
    page.wrong = []
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or page.wrong.append(r.url))
    page.on("requestfailed", lambda request: page.wrong.append(request.url[:100]))
    page.on("console", lambda m: m.type in ("error", "warning") and page.wrong.append(m.text))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.goto((decks / f"{path.stem}.slides.html").as_uri())
    page.wait_for_function(READY)
    yield page
    page.close()


@pytest.mark.parametrize("path", course_notebooks(), ids=lambda path: path.stem)
def test_a_lecturer_can_show_the_slides(path, page, pictures):
    cells = nbformat.read(path, as_version=4).cells
    types = slide_types(cells)
    count = types.count("slide") + types.count("subslide")
    assert page.evaluate("Reveal.getTotalSlides()") == count
    scrolled = False
    for past in range(count):
        slide = page.evaluate(SLIDE)
        assert (slide["past"], slide["cut"]) == (past, [])
        if slide["scrolls"] and not scrolled:
            page.screenshot(path=pictures / f"{path.stem}-slides.png")
            page.keyboard.press("ArrowDown")
            page.wait_for_function("Reveal.getCurrentSlide().scrollTop > 0")
            scrolled = True
        page.keyboard.press("ArrowRight")
    assert scrolled
    shown = [cell for cell, kind in zip(cells, types, strict=True) if kind != "skip"]
    everything_is_drawn(page, shown)
    assert page.wrong == []


def everything_is_drawn(page, cells):
    """Figures and schematics are loaded, formulas are set, answers are folded away."""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    text = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
    widgets = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    widths = page.locator("section img").evaluate_all("images => images.map(i => i.naturalWidth)")
    assert len(widths) == sum(map(is_picture, outputs)) + text.count("![") + widgets.count("<img")
    assert min(widths) > 0
    assert page.locator("mjx-container[display]").count() == text.count("$$") // 2
    assert page.locator("mjx-container:not([display])").count() > 0
    assert page.locator("mjx-merror").count() == 0
    answers = page.locator("details:not([open]):has(> p)")  # those of a quiz have no paragraphs
    assert answers.count() == text.count("<details>")
