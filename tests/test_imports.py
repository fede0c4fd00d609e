"""The library imports nothing of the course's apparatus, and nothing heavy before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kdcourse

FOLDER = Path(kdcourse.__file__).parent
LIBRARY = [
    file
    for file in sorted(FOLDER.rglob("*.py"))
    if file.relative_to(FOLDER).parts[0] not in (*kdcourse.APPARATUS, "__main__.py")
]
APPARATUS = tuple(f"kdcourse.{name}." for name in kdcourse.APPARATUS)
SCREEN = ("matplotlib", "ipywidgets", "IPython", "jupyterlab", "PIL")


def loaded_by(*programs: str) -> list[set[str]]:
    """Return the modules that are loaded after each of the parts of a program, in one process."""
    program = "\n".join(f"{part}\nimport sys; print(*sys.modules)" for part in programs)
    told = subprocess.check_output([sys.executable, "-c", program], text=True)
    return [set(line.split()) for line in told.splitlines()]


def loading(files: list[Path]) -> str:
    """Return a program that imports modules."""
    names = [".".join(file.relative_to(FOLDER.parent).with_suffix("").parts) for file in files]
    return "\n".join(f"import {name.removesuffix('.__init__')}" for name in names)


def imported(file: Path) -> list[str]:
    """Return what a file imports, at its top and inside its functions."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [f"{alias.name}." for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}." for alias in node.names]
    return names


@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: str(file.relative_to(FOLDER)))
def test_no_part_of_the_library_imports_the_apparatus(file):
    assert [name for name in imported(file) if name.startswith((*APPARATUS, *SCREEN))] == []


OFFLINE = """
import sys
def refuse(event, _):
    if event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
        raise AssertionError(f"asked the network: {event}")
sys.addaudithook(refuse)
"""


def test_the_library_loads_no_apparatus_and_nothing_is_downloaded():
    own = [file for file in sorted(FOLDER.rglob("*.py")) if file.name != "__main__.py"]
    library, everything = loaded_by(OFFLINE + loading(LIBRARY), loading(own))
    assert not [name for name in library if f"{name}.".startswith(APPARATUS)]
    assert not library & {*SCREEN}
    assert {"kdcourse.course.site", *SCREEN} - {"jupyterlab"} <= everything


def test_importing_would_be_told_if_it_asked_the_network():
    asking = "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')"
    with pytest.raises(subprocess.CalledProcessError):
        loaded_by(OFFLINE + asking)


def test_importing_the_package_loads_nothing():
    (loaded,) = loaded_by("import kdcourse")
    assert not loaded & {"torch", "numpy", "matplotlib"}
    assert {name for name in loaded if name.startswith("kdcourse")} == {"kdcourse"}


def test_a_loss_loads_no_training():
    (loaded,) = loaded_by("from kdcourse import LogitKD, logit")
    assert "kdcourse.logit" in loaded
    assert not [name for name in loaded if name.startswith(("kdcourse.training", "kdcourse.data"))]
    assert not loaded & {"matplotlib", "torchvision", "sklearn", "torch_pruning"}


def test_figures_load_neither_claims_nor_benchmarks():
    (loaded,) = loaded_by("from kdcourse import plots")
    assert "kdcourse.course.plots" in loaded
    others = ("kdcourse.course.bench", "kdcourse.course.claims", "kdcourse.training")
    assert not [name for name in loaded if name.startswith(others)]
