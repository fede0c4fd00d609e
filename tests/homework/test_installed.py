"""The course as pip installs it: a wheel, in an environment of its own, in an empty folder.

There is no clone, and the folder's name has spaces and letters of other alphabets. Nothing may be
written into the installation.
"""

import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from installation import Installation, fresh, pip

from kdcourse.homework import release
from kdcourse.places import COURSE


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, COURSE)
    (made,) = folder.glob("kdcourse-*.whl")
    return made


@contextmanager
def environment(wheel: Path, *extras: str) -> Iterator[Installation]:
    """Install; at the end, the installation must be as it was."""
    with fresh(*extras) as made:
        made.install(wheel)
        before = made.listing()
        yield made
        assert made.listing() == before


@pytest.fixture(scope="module")
def installed(wheel):
    """What ``pip install kdcourse`` makes."""
    with environment(wheel) as made:
        yield made


@pytest.fixture(scope="module")
def classroom(wheel):
    """What ``pip install 'kdcourse[docs,homework]'`` makes."""
    with environment(wheel, "docs", "homework") as made:
        yield made


IMAGES = {"KDCOURSE_DATA": str(COURSE / "data")}


def test_the_wheel_is_small_and_gives_no_solution_away(wheel, installed):
    assert wheel.stat().st_size < 12e6  # of which 3e6 are the teacher that writes definitions
    names = [path.relative_to(installed.package).as_posix() for path in installed.listing()]
    assert {"share/notebooks/1_motivation.ipynb", "share/notebooks/homework/1_logit.ipynb"} < {
        *names
    }
    assert not [name for name in names if "instructors" in name or ".ipynb_checkpoints" in name]


def test_images_and_teachers(installed):
    """Images are looked for in the cache; a teacher comes along."""
    program = (
        "from kdcourse import data, pretrained; pretrained('res16'); "
        "print(len(data.fashion_mnist().train))"
    )
    missing = installed.start("-c", program)
    printed, _ = missing.communicate()
    assert missing.returncode == 1
    assert f"FileNotFoundError: {installed.home}" in printed.splitlines()[-1]
    assert "download=True" in printed
    cache = installed.home / ".cache" / "kdcourse"
    cache.parent.mkdir()
    cache.symlink_to(COURSE / "data")
    printed, _ = installed.start("-c", program).communicate()
    assert printed == "55000\n"
    cache.unlink()


def test_a_training(installed):
    options = ["--student", "plain4", "--teacher", "res16", "--loss", "LogitKD()"]
    options += ["--images", "300", "--epochs", "1", "--out", "runs/été"]
    status, printed = installed.run("train", *options)
    assert status == 1
    assert "--data" in printed
    assert "--download" in printed
    assert "Traceback" not in printed
    status, printed = installed.run("train", *options, env=IMAGES)
    assert status == 0, printed
    assert json.loads((installed.folder / "runs/été/result.json").read_text())["epochs"] == 1


def test_stored_results(installed):
    status, printed = installed.run("reproduce", "--stored")
    assert status == 0
    assert "not measured yet" not in printed
    assert not (installed.folder / "kdcourse-results").exists()


def test_new_results_stay_outside(installed):
    status, printed = installed.run("reproduce", "same-gradient", "--seeds", "11", env=IMAGES)
    assert status == 0, printed
    (row,) = re.findall(r"^\| `same-gradient` .*$", printed, re.MULTILINE)
    assert "| 11 |" in row
    stored = installed.folder / "kdcourse-results" / "same-gradient.json"
    assert f"results: {stored.parent}" in printed
    assert len(json.loads(stored.read_text())["runs"]) == 11  # ten of which came along
    assert "| 11 |" in installed.run("reproduce", "same-gradient", "--stored")[1]


def test_a_teacher_trained_again(installed):
    """By the command, with a recipe that takes no time."""
    program = (
        "from kdcourse.teachers import shipped; from kdcourse.__main__ import main\n"
        "shipped.RECIPES['res16'] = shipped.Recipe('res16', 100, 1, augmented=False)\n"
        "raise SystemExit(main(['teachers', 'res16']))"
    )
    process = installed.start("-c", program, env=IMAGES)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    folder = installed.folder / "kdcourse-teachers"
    assert f"stored in {folder}" in printed
    assert json.loads((folder / "res16.json").read_text())["images"] == 100


LAB = "-m", "kdcourse", "lab"


def test_notebooks_are_copied_served_and_kept(installed):
    folder = installed.folder / "kdcourse-notebooks"
    folder.mkdir()
    (folder / "1_motivation.ipynb").write_text("a student's")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api/contents?token=course"
    no_home = folder / "1_motivation.ipynb" / "home"  # nobody can make it, not even root
    options = "--no-browser", f"--port={port}", "--ServerApp.token=course"
    lab, served = installed.start(*LAB, *options, env={"HOME": str(no_home)}), set()
    while lab.poll() is None and not served:
        time.sleep(0.3)
        with suppress(OSError), urlopen(url) as answer:
            served = {entry["name"] for entry in json.load(answer)["content"]}
    lab.terminate()
    printed, _ = lab.communicate()
    assert served, printed
    assert f"{no_home} cannot be written to" in printed
    assert {"index.ipynb", "homework", "7_further.ipynb"} <= served
    assert (folder / "1_motivation.ipynb").read_text() == "a student's"


def test_the_start_page_runs(installed):
    path = installed.folder / "a copy.ipynb"
    shutil.copyfile(installed.package / "share" / "notebooks" / "index.ipynb", path)
    status, printed = installed.run("notebooks", path, env=IMAGES)
    assert status == 0, printed
    assert "Ready." in path.read_text()


MASTERS = f"--masters {release.MASTERS}"


MISSING = {
    "bench": r"torchdistill.*pip install 'kdcourse\[test\]'",
    "site": r"sphinx.*pip install 'kdcourse\[docs\]'",
    "docs": "clone",
    "homework release out": "instructors/ in a clone",
    "homework grade 1_logit .": "instructors/ in a clone",
    f"homework release out {MASTERS}": r"otter.*pip install 'kdcourse\[homework\]'",
    f"homework grade 1_logit . {MASTERS}": r"otter.*pip install 'kdcourse\[homework\]'",
}


def test_what_is_missing_is_told_in_one_line(installed):
    """By one process for all commands, each of which would import torch."""
    program = (
        "from kdcourse.__main__ import main\n"
        f"for command in {[*MISSING]!r}: print('status', main(command.split()))"
    )
    printed, _ = installed.start("-c", program, env=IMAGES).communicate()
    told = re.findall(r"(.*)\nstatus (.*)\n", printed)
    assert len(printed.splitlines()) == 2 * len(MISSING), printed
    for (line, status), expected in zip(told, MISSING.values(), strict=True):
        assert status == "1"
        assert re.fullmatch(f"kdcourse: .*{expected}.*", line), line
    assert not (installed.folder / "out").exists()


def test_homework_is_released_and_graded(classroom, notebook, fenced):
    """By the masters of a clone; submissions see the installed course without what solves them."""
    name = "3_teachers_tips"
    status, printed = classroom.run("homework", "release", "out", *MASTERS.split(), env=IMAGES)
    assert status == 0, printed
    handed_out = classroom.folder / "out" / "student" / f"{name}.ipynb"
    assert handed_out.read_bytes() == (COURSE / f"notebooks/homework/{name}.ipynb").read_bytes()
    spy = f"open({str(classroom.package / 'logit.py')!r})"
    (classroom.folder / "Ängström.ipynb").write_bytes(notebook(name, spy=spy))
    status, printed = classroom.run(
        "homework", "grade", name, "Ängström.ipynb", *MASTERS.split(), env=IMAGES
    )
    assert status == 0, printed
    assert re.search(r"^Ängström: 24 of 27; .* FileNotFoundError", printed, re.MULTILINE), printed


def test_the_site_is_built(classroom):
    status, printed = classroom.run("site", "--folder", "site")
    assert status == 0, printed
    assert any((classroom.folder / "site").glob("*/notebooks/1_motivation.html"))
