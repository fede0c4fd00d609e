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


def loaded_by(program: str) -> set[str]:
    """Return the modules that a program loads in a process of its own."""
    program += "\nimport sys; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", program], text=True).split())


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


def test_the_library_loads_no_apparatus():
    names = [".".join(file.relative_to(FOLDER.parent).with_suffix("").parts) for file in LIBRARY]
    loaded = loaded_by("\n".join(f"import {name.removesuffix('.__init__')}" for name in names))
    assert not [name for name in loaded if f"{name}.".startswith(APPARATUS)]
    assert not loaded & {*SCREEN}


def test_importing_the_package_loads_nothing():
    loaded = loaded_by("import kdcourse")
    assert not loaded & {"torch", "numpy", "matplotlib"}
    assert {name for name in loaded if name.startswith("kdcourse")} == {"kdcourse"}


def test_a_loss_loads_no_training():
    loaded = loaded_by("from kdcourse import LogitKD, logit")
    assert "kdcourse.logit" in loaded
    assert not [name for name in loaded if name.startswith(("kdcourse.training", "kdcourse.data"))]
    assert not loaded & {"matplotlib", "torchvision", "sklearn", "torch_pruning"}


def test_figures_load_neither_claims_nor_benchmarks():
    loaded = loaded_by("from kdcourse import plots")
    assert "kdcourse.course.plots" in loaded
    others = ("kdcourse.course.bench", "kdcourse.course.claims", "kdcourse.training")
    assert not [name for name in loaded if name.startswith(others)]
