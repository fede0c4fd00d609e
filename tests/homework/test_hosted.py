"""What sets the course up on Colab and on Binder, done from a clone in a fresh environment."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from installation import fresh, requirements

from kdcourse.places import COURSE

PROGRAM = (
    "from kdcourse import claims, data, pretrained\n"
    "pretrained('res16'); claims.load('kd-gain')\n"
    "print(len(data.fashion_mnist().train))"
)


@pytest.fixture(scope="module")
def cell():
    """The cell for Colab that the page on teaching gives."""
    page = (COURSE / "docs/teaching.md").read_text(encoding="utf-8")
    return re.search(r"```ipython\n(.*?)```", page, flags=re.DOTALL)[1]


def test_colab(cell):
    """Line by line, with this clone's address, and packages that are there already."""
    settings = {}
    with fresh() as machine:
        for line in cell.splitlines():
            command, *words = shlex.split(line)
            if command == "ADDRESS":
                address = COURSE.as_uri()
            elif command == "!git":
                words = [word.replace("$ADDRESS", address) for word in words]
                subprocess.run(["git", *words], cwd=machine.folder, check=True)
            elif command == "%pip":
                assert words == ["install", "--quiet", "./course"]
                machine.install(machine.folder / "course")
            else:
                assert command == "%env", line
                name, value = words[0].split("=")
                settings[name] = value.replace("/content", str(machine.folder))
        printed, _ = machine.start("-c", PROGRAM, env=settings).communicate()
    assert printed == "55000\n"


def test_binder():
    """Its requirements hold in an environment with nothing else, and a server's program starts."""
    with fresh("homework") as machine:
        for name in requirements("hatchling") | {"hatchling"}:
            machine.add(name)
        clone = machine.folder / "clone"
        subprocess.run(["git", "clone", "-q", "--depth=1", COURSE.as_uri(), clone], check=True)
        options = "--no-index", "--no-build-isolation", "-r", ".binder/requirements.txt"
        pip = [sys.executable, "-m", "pip", "--python", machine.python, "install", "--quiet"]
        subprocess.run([*pip, *options], cwd=clone, check=True)
        there = {"PATH": f"{machine.python.parent}:/usr/bin:/bin", "HOME": str(machine.home)}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | there
        subprocess.run([clone / ".binder/postBuild"], env=environment, check=True)
        command = [clone / ".binder/start", "python", "-c", PROGRAM]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "55000\n"
