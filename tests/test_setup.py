"""Versions stand in one place, and the ways to install agree."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = [
    Requirement(line)
    for line in [
        *PROJECT["dependencies"],
        *EXTRAS["docs"],
        *EXTRAS["export"],
        *EXTRAS["homework"],
        *EXTRAS["train"],
        *EXTRAS["test"],
    ]
    if line != "kdcourse[docs,export,homework,train]"
]
CONSTRAINTS = {
    Requirement(line).name: Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}


@pytest.mark.parametrize("requirement", REQUIRED, ids=lambda r: r.name)
def test_the_tested_version_lies_in_the_range(requirement):
    if requirement.marker and not requirement.marker.evaluate({"python_version": "3.11"}):
        return  # not installed on the Python that is tested
    (pin,) = CONSTRAINTS[requirement.name].specifier
    assert pin.operator == "=="
    assert requirement.specifier.contains(pin.version)


def test_the_tests_need_the_other_extras():
    assert "kdcourse[docs,export,homework,train]" in EXTRAS["test"]


def test_constraints_pin_nothing_else():
    assert set(CONSTRAINTS) <= {requirement.name for requirement in REQUIRED}


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="constraints are for Python 3.11")
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_tested_version_is_installed(name):
    (pin,) = CONSTRAINTS[name].specifier
    assert version(name).split("+")[0] == pin.version


def test_conda_takes_its_versions_from_the_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-c constraints.txt", "-e .[test]"]}
    assert sorted(re.split("[=<>]", name)[0] for name in conda) == ["pip", "python"]
    (python,) = (name for name in conda if name.startswith("python"))
    assert Requirement(f"python>{PROJECT['requires-python'].strip('>=')}").specifier.contains(
        python.split("=")[1] + ".1"
    )


def test_make_installs_with_the_constraints_and_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    assert '-c constraints.txt -e ".[test]"' in makefile
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in targets:
        assert re.search(rf"^make {target}\s+\S", shown.stdout, re.MULTILINE), target


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    newest = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert PROJECT["version"] in newest


@pytest.fixture
def machine(tmp_path):
    """Programs of a machine: those that stand for others write down how they were called."""
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    for name in ("apt-get", "sudo", "make", "python3"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/called\n')
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("missing", [{"bwrap", "chromium"}, {"bwrap"}, set()], ids=len)
def test_a_dev_container_gets_what_it_lacks_and_the_course(machine, missing):
    container = json.loads(
        re.sub("^//.*", "", (ROOT / ".devcontainer/devcontainer.json").read_text())
    )
    for name in {"bwrap", "chromium"} - missing:
        (machine / name).symlink_to(machine / "make")
    script = ROOT / container["onCreateCommand"]
    subprocess.run([script], env={"PATH": str(machine)}, check=True)
    _, *called, last = (machine / "called").read_text().splitlines()
    assert last == "make install"
    packages = [name.replace("bwrap", "bubblewrap") for name in sorted(missing, reverse=True)]
    wanted = [f"apt-get install -qy {' '.join(packages)}"] if missing else []
    assert [line.removeprefix("sudo ") for line in called][1:] == wanted


def test_importing_a_loss_loads_nothing_but_torch():
    code = (
        "import sys, kdcourse.logit; "
        "print([m for m in sys.modules if m.startswith(('kdcourse', 'matplotlib', 'ipywidgets'))])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    names = ["errors", "precision", "signatures", "checks", "files", "batch", "objective"]
    names += [
        "predictions",
        "prediction_term",
        "cross_entropy",
        "many_classes",
        "linear_kd",
        "logit",
    ]
    loaded = ["kdcourse", *(f"kdcourse.{name}" for name in names)]
    assert run.stdout.strip() == str(loaded)
