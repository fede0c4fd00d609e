"""What instructors are told is so, and the ways to run the course for many fit together."""

import json
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import nbformat
import pytest
import yaml

from kdcourse import places
from kdcourse.course import claims, lab, notebooks, saved_widgets
from kdcourse.course.bench import kernels
from kdcourse.course.claims import CLAIMS
from kdcourse.course.site import link_inside

ROOT = Path(__file__).parents[1]
PAGE, DOCKERFILE, IGNORED, REQUIRED, RUNTIME, ENVIRONMENT = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "docs/teaching.md",
        "Dockerfile",
        ".dockerignore",
        ".binder/requirements.txt",
        ".binder/runtime.txt",
        "environment.yml",
    )
)
SCRIPTS = [path for path in (ROOT / ".binder").iterdir() if not path.suffix]
LINK = r"\[[^]]+\]\(\.\./(notebooks/[\w/]+\.ipynb)\)"


def chapter(title):
    """The rows of a chapter's tables, without their heads."""
    text = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [row for row in text.splitlines() if row.startswith("| ") and "../notebooks" in row]


CITING = [*chapter("What to ask"), *chapter("What students get wrong")]
PLAN = [row for row in chapter("Which notebook in which hour") if re.match(r"\| \d", row)]


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return found


# --- what is said


def test_every_notebook_has_its_hour_and_its_minutes():
    planned = [re.search(LINK, row)[1] for row in PLAN]
    assert planned == [f"notebooks/{path.name}" for path in notebooks.course_notebooks()]
    for path, row in zip(notebooks.course_notebooks(), PLAN, strict=True):
        stated = re.search(
            r"\*\*Time\*\*: about (\d+) minutes", notebooks.read(path).cells[0].source
        )
        assert row.split("|")[4].strip() == stated[1], path.name


def test_the_sessions_are_long_enough():
    cells = [[cell.strip() for cell in row.split("|")] for row in PLAN]
    assert [cell[1] for cell in cells] == [str(n) for n in range(1, 10)]
    for session, rows in groupby(cells, key=lambda cell: cell[2]):
        assert sum(int(cell[4]) for cell in rows) <= 90, session
    minutes = {re.search(LINK, cell[3])[1][10]: int(cell[4]) for cell in cells}
    second = notebooks.read(notebooks.course_notebooks()[1])
    stated = [re.match(r"\*\*Exercise .+?\*\* \((\d+) minutes", c.source) for c in second.cells]
    exercises = sum(int(found[1]) for found in stated if found)
    assert f"notebook 6: {minutes['2'] - exercises + minutes['6']} in all" in PAGE


def test_every_assignment_has_its_hour():
    handed_out = [name for row in PLAN for name in re.findall(LINK, row.split("|")[5])]
    assert handed_out == sorted(
        f"notebooks/homework/{path.name}" for path in (ROOT / "notebooks/homework").glob("*.ipynb")
    )


def test_every_notebook_is_asked_about():
    for title in ("What to ask", "What students get wrong"):
        cited = {re.search(LINK, row)[1] for row in chapter(title)}
        assert cited == {f"notebooks/{path.name}" for path in notebooks.course_notebooks()}


@pytest.mark.parametrize("row", CITING)
def test_what_is_cited_is_there(row):
    found = re.search(LINK + r": (\*[^|]+\*)", row)
    cells = nbformat.read(ROOT / found[1], as_version=4).cells
    headings = re.findall(r"^#+ (.+)$", "\n".join(cell.source for cell in cells), re.MULTILINE)
    for title in re.findall(r"\*([^*]+)\*", found[2]):
        assert any(title in heading for heading in headings), title
    for id in re.findall(r"`([a-z-]+)`", row):
        assert CLAIMS[id].notebook == notebooks.number(ROOT / found[1]), id


@pytest.mark.parametrize("row", CITING)
def test_numbers_and_verdicts_are_those_that_were_measured(row):
    measured = [claims.load(id) for id in re.findall(r"`([a-z-]+)`", row)]
    for number in re.findall(r"\d+\.\d+", row):
        assert any(number in str(claim) for claim in measured), number
    verdicts = [str(claim.verdict) for claim in measured]
    assert ("not seen" in row) <= any(verdict.startswith("not seen") for verdict in verdicts)
    assert ("Reversed" in row) == ("reversed" in verdicts)


def test_the_site_has_the_notebooks_and_names_all_else():
    text = "[2](../notebooks/2_logit.ipynb), [the guide](../instructors/README.md), [so](guide.md)"
    assert link_inside(text) == (
        "[2](notebooks/2_logit.ipynb), the guide (`instructors/README.md`), [so](guide.md)"
    )


# --- the image for JupyterHub


@pytest.mark.skipif(sys.platform == "win32", reason="there is no hadolint for Windows on PyPI")
def test_the_dockerfile_is_in_order():
    hadolint = Path(sys.executable).with_name("hadolint")
    run = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


def test_the_image_and_binder_take_the_tested_versions():
    installs = re.findall(r"pip install((?:[^\n]|\\\n)*)", DOCKERFILE)
    assert len(installs) == 2
    assert all(" -c constraints.txt " in install for install in installs)
    assert "-c ../constraints.txt" in REQUIRED.splitlines()
    assert "-e .[homework]" in REQUIRED.splitlines()


def test_the_python_is_the_same_everywhere():
    (python,) = re.findall(r"python=(\S+)", ENVIRONMENT)
    assert RUNTIME.strip() == f"python-{python}"
    assert re.findall("^FROM (.+)$", DOCKERFILE, re.MULTILINE) == [f"python:{python}-slim"]


def test_the_image_gets_what_it_needs_and_no_solutions():
    lines = [line for line in IGNORED.splitlines() if line and not line.startswith("#")]
    taken = {line[1:] for line in lines if line.startswith("!")}
    assert lines[0] == "*"
    assert [name for name in taken if not (ROOT / name).exists()] == []
    assert not any(name in taken for name in ("instructors", "tests", "data"))
    project = (ROOT / "pyproject.toml").read_text()
    (shipped,) = re.findall(r"^only-include = (\[.+\])$", project, re.MULTILINE)
    assert set(json.loads(shipped)) <= taken


def test_the_version_of_the_hub_is_said_once():
    (version,) = re.findall(r"^ARG JUPYTERHUB_VERSION=(.+)$", DOCKERFILE, re.MULTILINE)
    assert f"--build-arg JUPYTERHUB_VERSION={version} ." in PAGE


def test_the_memory_of_the_hub_is_that_which_was_measured():
    server, *each = (cost.memory / 1e9 for cost in kernels.load())
    assert len(each) == len(notebooks.course_notebooks())
    memory = {
        name: float(size.removesuffix("G"))
        for name, size in yaml.safe_load(block("yaml"))["singleuser"]["memory"].items()
    }
    assert memory["guarantee"] > server + max(each)
    assert memory["limit"] > server + sum(sorted(each)[-2:])


# --- its scripts, which Binder has, too


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Put a stand-in for Python into the path, which keeps its program and names a folder."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s" "$2" > {tmp_path}/program\necho {tmp_path}\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_can_be_run(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert script.stat().st_mode & 0o111 == 0o111


def test_a_server_starts_in_the_home_with_the_notebooks(python, monkeypatch):
    monkeypatch.setenv("HOME", str(python))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    command = [ROOT / ".binder/start", "sh", "-c", "pwd; echo $OMP_NUM_THREADS"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-2:] == [str(python), "1"]
    copied = []
    monkeypatch.setattr(places, "own_copy", copied.append)
    exec((python / "program").read_text())
    assert copied == [notebooks.NOTEBOOKS]


def test_a_server_has_what_the_lab_has(python):
    settings = python / "etc/jupyter"
    (settings / "jupyter_server_config.d").mkdir(parents=True)
    subprocess.run([ROOT / ".binder/postBuild"], check=True)
    own = Path(lab.__file__).with_name("labconfig")
    for path in own.iterdir():
        assert (settings / "labconfig" / path.name).read_bytes() == path.read_bytes()
    written = json.loads((settings / "jupyter_server_config.d/kdcourse.json").read_text())
    assert written["ServerApp"]["jpserver_extensions"] == {saved_widgets.__name__: True}


def test_colab_keeps_its_own_torch():
    cell = block("ipython")
    assert 'ADDRESS = "https://github.com/OWNER/REPOSITORY"' in cell
    assert "pip install" in cell
    assert "constraints" not in cell
    assert "KDCOURSE_DATA=/content/course/data" in cell
