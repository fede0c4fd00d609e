"""What the tests in a browser share: the system's Chromium, a JupyterLab, a folder for pictures."""

import shutil
from pathlib import Path

import pytest
from lab import Lab
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
PICTURES = Path(__file__).parents[2] / "build" / "browser"


@pytest.fixture(scope="session")
def chromium():
    """The system's Chromium: playwright's own would have to be downloaded."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here (apt install chromium): nothing was tested in a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pictures():
    """The folder of screenshots and measurements."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    return PICTURES


@pytest.fixture(scope="session")
def lab(chromium, tmp_path_factory):
    """A running JupyterLab."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()
