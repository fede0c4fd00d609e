import random
import sys

import hypothesis
import numpy
import pytest
import torch

from kdcourse.places import COURSE

pytest_plugins = ["stand_in_graph"]

# One thread: as fast as two for these nets, and reproducible bit by bit.
torch.set_num_threads(1)
# The same on a GPU, and no less precise than on the CPU.
torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
torch.backends.cuda.matmul.allow_tf32 = False

hypothesis.settings.register_profile("course", deadline=None, derandomize=True)
hypothesis.settings.load_profile("course")


@pytest.fixture(scope="session", autouse=True)
def data_stay_as_they_are():
    """No test writes into the course's own data."""

    def listing():
        files = (path for path in (COURSE / "data").rglob("*") if path.is_file())
        return {(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files}

    before = listing()
    yield
    assert listing() == before


# "stand_in" only where pytest was started with the plugin stand_in_device.
@pytest.fixture(params=["cpu", "cuda", *(["stand_in"] if "stand_in_device" in sys.modules else [])])
def device(request):
    return torch.device(request.param)


def pytest_configure(config):
    config.addinivalue_line("markers", "device: runs on every device there is")
    config.addinivalue_line("markers", "gpu: needs CUDA, and is skipped without")


def pytest_collection_modifyitems(items):
    """Mark what takes the fixture ``device``, and skip what needs CUDA where there is none."""
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):  # the cells of notebooks have none
            item.add_marker("device")
            if item.callspec.params.get("device") == "cuda":
                item.add_marker("gpu")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Let no test draw what depends on the tests before it, and on the process that it runs in."""
    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)  # noqa: NPY002


@pytest.fixture
def named(capsys):
    """Expect that an exercise refuses an answer, in words that name the mistake."""

    def named(exercise, answer, words):
        exercise(answer)
        said = capsys.readouterr().out
        assert said.startswith("✗ Not yet. ")
        assert words.lower() in said.lower()

    return named


def pytest_terminal_summary(terminalreporter):
    """Show what tests recorded as ``shown``, also where they pass and run in other processes."""
    for report in (one for found in terminalreporter.stats.values() for one in found):
        if getattr(report, "when", None) == "call":
            for name, value in report.user_properties:
                if name == "shown":
                    terminalreporter.write_line(value)
