import argparse
import errno
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from kdcourse import commands
from kdcourse.__main__ import _parser, main
from kdcourse.course import claims
from kdcourse.teachers import shipped

(COMMANDS,) = (
    action.choices
    for action in _parser()._actions
    if isinstance(action, argparse._SubParsersAction)
)


def run(*arguments):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kdcourse", *arguments], capture_output=True, text=True, timeout=120
    )


def refuse(*_, **__):
    raise AssertionError("measured or trained")


@pytest.fixture
def idle(monkeypatch):
    """Nothing may be measured or trained."""
    monkeypatch.setattr(claims, "reproduce", refuse)
    monkeypatch.setattr(shipped, "train_teacher", refuse)


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert {"reproduce", "teachers"} <= COMMANDS.keys()
    assert re.findall(r"^    (\w+)", shown, flags=re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"kdcourse {command}" in capsys.readouterr().out


NEW = '''"""Greet a teacher.

Says good morning, in a line.
"""

def add_options(parser):
    parser.add_argument("name")

def run(options):
    print(f"good morning, {options.name}")
    return 3
'''


def test_a_command_is_a_file(monkeypatch, capsys, tmp_path):
    (tmp_path / "greet.py").write_text(NEW)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert main(["greet", "res16"]) == 3
    assert capsys.readouterr().out == "good morning, res16\n"
    for arguments, told in ((["--help"], "greet a teacher"), (["greet", "--help"], "Says good")):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        assert told in capsys.readouterr().out
    sys.modules.pop("kdcourse.commands.greet")


@pytest.mark.parametrize(
    "arguments",
    [[], ["nosuch"], ["reproduce", "--nosuch"], ["reproduce", "--seeds", "x"]],
    ids=" ".join,
)
def test_misuse_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: python -m kdcourse" in capsys.readouterr().err


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("ids", [[], ["gap"], ["same-gradient", "temperature"]], ids=" ".join)
def test_stored_prints_the_table_and_measures_nothing(ids, capsys):
    assert main(["reproduce", *ids, "--stored"]) == 0
    assert capsys.readouterr().out == claims.table(ids) + "\n"


def test_reproduce_measures_and_prints_the_table(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(claims, "reproduce", lambda *a, **options: asked.append((*a, options)))
    assert main(["reproduce", "gap", "--seeds", "3", "--jobs", "2"]) == 0
    assert asked == [(["gap"], {"seeds": 3, "jobs": 2, "device": "cpu"})]
    assert capsys.readouterr().out == claims.table(["gap"]) + "\n"


def test_teachers_are_trained_into_a_folder(monkeypatch, capsys, tmp_path):
    asked = []

    def train(name, folder):
        asked.append((name, str(folder)))
        return {"test_accuracy": 12.5, "sha256": "abc"}

    monkeypatch.setattr(shipped, "train_teacher", train)
    assert main(["teachers", "--folder", str(tmp_path)]) == 0
    assert asked == [(name, str(tmp_path)) for name in shipped.RECIPES]
    assert "res16: test accuracy 12.5 %, sha256 abc\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["reproduce", "nosuch"],
        ["reproduce", "nosuch", "--stored"],
        ["reproduce", "gap", "--seeds", "0"],
        ["reproduce", "gap", "--jobs", "0"],
        ["teachers", "nosuch"],
        ["teachers", "res16", "nosuch"],
        ["bench", "--startup", "--rounds", "0"],
        ["notebooks", "nosuch.ipynb"],
        ["notebooks", "."],
        ["notebooks", __file__],
        ["notebooks", "--normalize", "nosuch.ipynb"],
        ["slides", __file__],
    ],
    ids=" ".join,
)
def test_mistake_exits_with_1_and_one_line(arguments, capsys):
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("kdcourse: ")
    assert shown.err.count("\n") == 1
    assert "Errno" not in shown.err
    assert arguments[-1] in shown.err or "nosuch" in shown.err


def test_a_notebook_that_fails_is_named_and_left_alone(tmp_path, capsys):
    path, made = tmp_path / "a.ipynb", nbformat.v4.new_notebook()
    made.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(made, path)
    before = path.read_text()
    assert main(["notebooks", str(path)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"kdcourse: {path}: ZeroDivisionError: division by zero"
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [(["site", "--folder"], "myst_nb"), (["slides"], "sphinx_revealjs"), (["slides"], "nbconvert")],
    ids=" ".join,
)
def test_what_is_missing_for_pages_is_told_in_one_line(
    arguments, missing, monkeypatch, capsys, tmp_path
):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main([*arguments, str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert shown.endswith("pip install 'kdcourse[docs]' brings it\n")
    assert shown.count("\n") == 1


STORED = [sys.executable, "-m", "kdcourse", "reproduce", "gap", "--stored"]


def test_output_that_is_no_longer_read_ends_in_silence():
    running = subprocess.Popen(STORED, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.stdout.close()  # as `head` does
    assert running.stderr.read() == b""
    assert running.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_told_in_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(STORED, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "kdcourse: the disk is full\n")


def test_what_the_system_refuses_is_told_without_its_number(monkeypatch, capsys):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "/some/where")

    monkeypatch.setattr(claims, "reproduce", refused)
    assert main(["reproduce"]) == 1
    assert capsys.readouterr().err == "kdcourse: /some/where: you have no right to do so\n"


def test_interrupted(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(claims, "reproduce", interrupted)
    monkeypatch.setattr(shipped, "train_teacher", interrupted)
    for command, goes_on in (("reproduce", True), ("teachers", False)):
        assert main([command]) == 130
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        assert ("goes on where it stopped" in shown) == goes_on


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 0), ([], 2), (["teachers", "nosuch"], 1)]
)
def test_exit_status_of_the_process(arguments, status):
    done = run(*arguments)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
