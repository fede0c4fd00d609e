"""What the tests in a browser share: the system's Chromium, a JupyterLab, a folder for pictures."""

import shutil
from pathlib import Path

import pytest
from lab import Lab
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
PICTURES = Path(__file__).parents[2] / "build" / "browser"
HANGS = 120_000  # milliseconds: only what hangs fails, however busy the machine


@pytest.fixture(scope="session")
def open_page():
    """Open a page in the system's Chromium: playwright's own would have to be downloaded."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here (apt install chromium): nothing was tested in a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)

        def open_page(width=1280, height=900, **options):
            page = browser.new_page(viewport={"width": width, "height": height}, **options)
            page.set_default_timeout(HANGS)
            return page

        yield open_page
        browser.close()


@pytest.fixture(scope="session")
def pictures():
    """The folder of screenshots and measurements."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    return PICTURES


@pytest.fixture(scope="module")
def lab(open_page, tmp_path_factory):
    """A running JupyterLab."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab
