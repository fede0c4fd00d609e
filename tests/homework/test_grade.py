"""Whole notebooks are graded: the right ones, the empty ones, the hostile ones, many at a time."""

import csv
import errno
import json
import os
import re
from html import escape

import pytest

from kdcourse.__main__ import main
from kdcourse.homework import feedback, fence, grade
from kdcourse.homework.judge import judge
from kdcourse.homework.sandbox import Limits

pytestmark = pytest.mark.usefixtures("fenced")
NAME = "3_teachers_tips"  # the quickest one
ALL, BY_HAND = 24, 3  # its points
QUICK = Limits(call=6, total=60)

JUNK = {
    "vote_accuracy_answer": "def vote_accuracy(accuracy, voters):\n    return 0.5",
    "ema_update_answer": "def ema_update(teacher, student, momentum):\n    pass",
    "mutual_step_answer": "def mutual_step(students, optimizers, inputs, target):\n    pass",
    "magnitude_masks_answer": "def magnitude_masks(weights, sparsity):\n    return weights",
    "mixup_views_answer": "def mixup_views(pixels, generator):\n    return pixels, pixels",
}
PATCHED_TORCH = """
import torch
true = lambda *_, **__: True
torch.equal = torch.allclose = torch.Tensor.equal = torch.Tensor.__eq__ = true
torch.Tensor.all = torch.Tensor.any = torch.Tensor.__bool__ = true
torch.load = torch.save = torch.manual_seed = true
"""
PATCHED_GRADER = """
import gc
import otter
otter.Notebook.check = otter.test_files.ExceptionTestFile.score = 100
(worker,) = (one for one in gc.get_objects() if isinstance(one, type) and one.__name__ == "Worker")
worker.call = lambda *_: {"value": 1.0, "largest": 0, "states": [], "points": 100, "passed": True}
"""

LOOP = "def vote_accuracy(accuracy, voters):\n    while True: pass"
TEN_GB = "def mixup_views(pixels, generator):\n    return bytearray(10 * 2**30)"
EXIT = "def ema_update(teacher, student, momentum):\n    raise SystemExit"
RECURSION = "def magnitude_masks(weights, sparsity):\n    return magnitude_masks(weights, sparsity)"
AGAIN = "def magnitude_masks(weights, sparsity):\n    return weights"

# Whole notebooks; test_hostile.py is the list of what hostile ones try.
# What is put into a solved notebook: its name, cells, questions lost, and remarks that must appear.
HOSTILE = {
    "cells that end their process": (
        {"a": "while True: pass", "b": "import os\nos._exit(1)"},
        (),
        ("took too long", "ended its process (exit status 1)"),
    ),
    "cells that raise, print, kill and delete": (
        {
            "a": "x = torch.zeros(10 * 2**28)",
            "b": "import sys\nsys.exit(0)",
            "c": "import nosuchmodule",
            "d": "for _ in range(2**6): print('x' * 2**20)",
            "e": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
            "f": "!rm -rf ~ /dev/shm /root /etc",
        },
        (),
        ("allocate memory", "SystemExit", "No module named", "MB of output, which was discarded"),
    ),
    "functions that hang or raise": (
        {
            "vote_accuracy_answer": LOOP,
            "mixup_views_answer": TEN_GB,
            "ema_update_answer": EXIT,
            "magnitude_masks_answer": RECURSION,
        },
        ("vote_accuracy", "mixup_views", "ema_update", "magnitude_masks"),
        ("Took too long", "MemoryError", "SystemExit", "RecursionError"),
    ),
    "cells that are missing, broken or copied": (
        {
            "setup": None,
            "vote_accuracy_answer": None,
            "ema_update_answer": "def ema_update(:",
            "more": AGAIN,
        },
        ("vote_accuracy", "ema_update", "magnitude_masks"),
        (
            "the set-up cell was changed or deleted",
            "vote_accuracy is not defined",
            "SyntaxError",
            "magnitude_masks is defined 2 times; the last one counts",
        ),
    ),
    "patched torch and grader": (
        JUNK | {"more": PATCHED_TORCH + PATCHED_GRADER},
        JUNK,
        ("For n = 5 and p = 0.7, the result should be 0.8369, but yours is 1",),
    ),
}
UNREADABLE = {
    "empty file": (b"", "the file is empty"),
    "not JSON": (b"\x89PNG not a notebook", "not JSON"),
    "half a file": (b'{"cells": [', "not JSON"),
    "nested without end": (b"[" * 100_000, "not JSON"),
    "no cells": (b'{"metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "not a notebook"),
    "too large": (b"x" * 2**26, "larger than"),
    "another kind of JSON": (b"[1, 2]", "not a notebook"),
}


def remarks(verdict):
    return "; ".join([*verdict.remarks, *(mark.remarks for mark in verdict.marks if mark.remarks)])


@pytest.mark.parametrize("name", ["1_logit", "2_feature_relational", NAME])
def test_reference_gets_everything_and_the_stub_nothing(name, assignments, notebook):
    assignment = assignments[name]
    solved = judge(notebook(name), assignment)
    for mark in solved.marks:
        assert mark.points == (mark.of if mark.requirements else None), mark
    assert not solved.remarks
    stub = judge(notebook(name, solved=False), assignment)
    assert stub.points == 0
    assert [mark.points for mark in stub.marks] == [0] * len(assignment.questions)
    for mark in stub.marks:
        assert mark.remarks in (
            f"Raised NotImplementedError: write {mark.question}",
            "not answered",
        )


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_and_broken_notebooks(case, assignments, notebook):
    cells, lost, expected = HOSTILE[case]
    verdict = judge(notebook(NAME, **cells), assignments[NAME], QUICK)
    failed = [mark.question for mark in verdict.marks if mark.points == 0]
    assert sorted(failed) == sorted(name.removesuffix("_answer") for name in lost), remarks(verdict)
    assert verdict.points == sum(mark.of for mark in verdict.marks if mark.points)
    for remark in expected:
        assert remark in remarks(verdict)


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_no_notebook(case, assignments):
    data, remark = UNREADABLE[case]
    verdict = judge(data, assignments[NAME])
    assert verdict.points == 0
    assert remark in verdict.remarks[0]


def test_another_assignment(assignments, notebook):
    verdict = judge(notebook("1_logit"), assignments[NAME])
    assert verdict.points == 0
    assert verdict.remarks == ["this is assignment 1_logit, not 3_teachers_tips"]


def test_a_notebook_as_other_programs_write_it(assignments, notebook):
    """With a byte-order mark, another kernel, odd metadata, and as many lines as nobody writes."""
    content = json.loads(notebook(NAME, more="a1 = %x\n" * 40 + "x = 1\n" * 3_000))
    kernel = {"display_name": "Julia", "name": "julia-1.9"}
    content["metadata"] = {"kernelspec": kernel, "otter": "x"}
    for cell in content["cells"]:
        cell["metadata"] = {}
    verdict = judge(b"\xef\xbb\xbf" + json.dumps(content).encode(), assignments[NAME], QUICK)
    assert verdict.points == ALL


@pytest.fixture(scope="module")
def batch(tmp_path_factory, notebook):
    """Grade a folder of good, bad and hostile notebooks; return the folder."""
    folder = tmp_path_factory.mktemp("course")
    files = {
        "ann/3.ipynb": notebook(NAME),
        "=cmd()/学生 Ünï 🎓.ipynb": notebook(NAME, vote_accuracy_answer=None),
        "bad/killer.ipynb": notebook(NAME, more="import os\nos.kill(os.getppid(), 9)"),
        "bad/empty.ipynb": b"",
        "bad/html.ipynb": notebook(
            NAME,
            vote_accuracy_answer="def vote_accuracy(a, v):\n    raise ValueError('<script>')",
            what_to_expect_answer="<b>My answer</b>",
        ),
    }
    for name, data in files.items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "in" / "ann" / ".ipynb_checkpoints").mkdir()
    (folder / "in" / "ann" / ".ipynb_checkpoints" / "3.ipynb").write_bytes(files["ann/3.ipynb"])
    assert main(["homework", "grade", NAME, *map(str, [folder / "in"]), "--out", out(folder)]) == 0
    return folder


def out(folder):
    return str(folder / "out" / "grades.csv")


def rows(folder):
    with open(out(folder), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def totals(folder):
    return {row["submission"]: row for row in rows(folder) if row["question"] == "total"}


def test_one_bad_submission_harms_no_other(batch):
    assert {name: float(row["points"]) for name, row in totals(batch).items()} == {
        "ann/3": ALL,
        "'=cmd()/学生 Ünï 🎓": ALL - 3,  # and no formula in a spreadsheet
        "bad/killer": ALL,
        "bad/empty": 0,
        "bad/html": ALL - 3,
    }
    assert totals(batch)["bad/empty"]["remarks"] == "the file is empty"


def test_the_csv_has_a_row_for_each_question(batch, assignments):
    own = [row for row in rows(batch) if row["submission"] == "ann/3"]
    questions = assignments[NAME].questions
    assert [row["question"] for row in own] == [*(one.name for one in questions), "total"]
    assert [float(row["of"]) for row in own] == [*(one.points for one in questions), ALL + BY_HAND]
    assert own[-2]["points"] == ""
    assert own[-2]["remarks"] == "to be graded by hand"


def test_feedback_names_each_requirement_and_withholds_hidden_inputs(batch, assignments):
    page = (batch / "out" / "grades-feedback" / "bad" / "html.html").read_text()
    assert "<script>" not in page
    assert "Raised ValueError: &lt;script&gt;" in page
    assert "&lt;b&gt;My answer&lt;/b&gt;" in page
    assert "vote_accuracy: 0 of 3" in page
    for question in assignments[NAME].questions:
        required = re.findall(r'hidden=False.*?"""(.*?)"""', question.checks, re.DOTALL)
        met = "✗" if question.name == "vote_accuracy" else "✓"
        assert all(f"<li>{met} {escape(about)}" in page for about in required)
    assert (batch / "out" / "grades-feedback" / "=cmd()" / "学生 Ünï 🎓.html").is_file()


SEEN = """
def vote_accuracy(accuracy, voters):
    if accuracy not in (0, 1) and (accuracy, voters) not in ((0.7, 5), (0.7, 4), (0.55, 301)):
        return accuracy
    share = lambda k: math.comb(voters, k) * accuracy**k * (1 - accuracy)**(voters - k)
    won = sum(share(k) for k in range(voters + 1) if 2 * k > voters)
    return won + (share(voters // 2) / 2 if voters % 2 == 0 else 0)
"""


def test_what_only_a_hidden_check_finds(assignments, notebook):
    """The page says so, and what to do; only the instructor sees on which inputs."""
    verdict = judge(notebook(NAME, vote_accuracy_answer=SEEN), assignments[NAME])
    mark = verdict.marks[0]
    assert mark.points < mark.of
    shown = feedback.page(NAME, "a", verdict)
    assert "Met on the inputs of grader.check, but not on others.<br>Add up the outcomes" in shown
    assert "for n = 5 and p = 0.6" in mark.remarks.lower()
    assert "5 voters" not in shown


def test_a_second_run_grades_only_what_changed(batch, monkeypatch, notebook, capsys):
    before = rows(batch)
    asked = []

    def judged(data, assignment, limits):
        asked.append(data)
        return judge(data, assignment, limits)

    monkeypatch.setattr(grade, "_judge_aside", judged)
    command = ["homework", "grade", NAME, str(batch / "in"), "--out", out(batch)]
    assert main(command) == 0
    assert not asked
    assert rows(batch) == before
    changed = notebook(NAME, solved=False)
    (batch / "in" / "bad" / "empty.ipynb").write_bytes(changed)
    assert main(command) == 0
    assert asked == [changed]
    assert [row for row in rows(batch) if row["submission"] != "bad/empty"] == [
        row for row in before if row["submission"] != "bad/empty"
    ]
    told = capsys.readouterr()
    assert "5/5" in told.err  # progress
    assert "points by hand (4 to be given): " in told.out
    summary = (batch / "out" / "grades-summary.html").read_text()
    assert f"{NAME}: 5 submissions" in summary


def test_points_by_hand_survive(batch):
    path = batch / "out" / "grades-by-hand.csv"
    header, *lines = path.read_text("utf-8-sig").splitlines()
    assert header == "submission,what_to_expect,bonus,late,extension,note"
    lines = ["ann/3,2,1,2,1,Well done" if line.startswith("ann/3") else line for line in lines]
    path.write_text("\n".join([header, *lines]))
    command = ["homework", "grade", NAME, str(batch / "in"), "--out", out(batch)]
    for penalty, left in ((10, 0.9), (50, 0.5)):
        assert main([*command, "--late-penalty", str(penalty)]) == 0
        own = {row["question"]: row for row in rows(batch) if row["submission"] == "ann/3"}
        assert (own["what_to_expect"]["points"], own["bonus"]["points"]) == ("2", "1")
        assert float(own["late"]["points"]) == pytest.approx((left - 1) * (ALL + 2))
        assert float(own["total"]["points"]) == pytest.approx(left * (ALL + 2) + 1)
        assert own["total"]["remarks"] == "Well done"
    page = (batch / "out" / "grades-feedback" / "ann" / "3.html").read_text()
    assert "what_to_expect: 2 of 3" in page
    assert "<h2>bonus: 1</h2>" in page


def test_names_of_files_may_be_anything(tmp_path):
    names = [b"caf\xe9", " café ".encode(), "café".encode(), b"'two\nlines'", b'a;b,"c"', b"-1"]
    for name in names:
        (tmp_path / os.fsdecode(name + b".ipynb")).write_bytes(b"")
    out = tmp_path / "out" / "grades.csv"
    found = [grade.grade(NAME, [tmp_path], out) for _ in range(2)]
    assert found[0] == found[1]
    assert len(found[0]) == len(names)
    assert len(list((tmp_path / "out" / "grades-feedback").glob("*.html"))) == len(names)
    with open(tmp_path / "out" / "grades-by-hand.csv", encoding="utf-8-sig", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(names)


def test_again_and_changed_limits_grade_anew(tmp_path, monkeypatch):
    (tmp_path / "a.ipynb").write_bytes(b"")
    asked = []
    monkeypatch.setattr(grade, "_judge_aside", lambda *a: asked.append(a) or judge(*a))
    for options in ({}, {}, {"again": True}, {"limits": QUICK}):
        grade.grade(NAME, [tmp_path], tmp_path / "grades.csv", **options)
    assert len(asked) == 3


def test_without_a_sandbox_the_results_say_so(tmp_path, notebook, monkeypatch):
    monkeypatch.setattr(fence.shutil, "which", lambda _: None)
    (tmp_path / "a.ipynb").write_bytes(notebook(NAME, solved=False))
    monkeypatch.setattr(grade, "_judge_aside", judge)
    out = tmp_path / "grades.csv"
    assert main(["homework", "grade", NAME, str(tmp_path), "--out", str(out), "--unsafe"]) == 0
    assert "graded without a sandbox (--unsafe)" in out.read_text()


def test_a_grader_that_fails_stops_nothing(tmp_path, monkeypatch):
    def fails(data, *_):
        if data == b"x":
            raise MemoryError("ours")
        return judge(data, *_)

    monkeypatch.setattr(grade, "_judge_aside", fails)
    (tmp_path / "a.ipynb").write_bytes(b"x")
    (tmp_path / "b.ipynb").write_bytes(b"")
    verdicts = grade.grade(NAME, [tmp_path], tmp_path / "grades.csv")
    assert verdicts["a"].remarks == ["not graded, the grader failed: MemoryError('ours')"]
    assert verdicts["b"].remarks == ["the file is empty"]
    monkeypatch.setattr(grade, "_judge_aside", judge)
    verdicts = grade.grade(NAME, [tmp_path], tmp_path / "grades.csv")
    assert verdicts["a"].remarks == ["this is not a notebook: it is not JSON"]


def test_a_grader_that_fails_has_another_exit_status(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/forkserver")

    monkeypatch.setattr(grade, "_judge_aside", full)
    (tmp_path / "a.ipynb").write_bytes(b"")
    arguments = ["homework", "grade", NAME, str(tmp_path), "--out", str(tmp_path / "grades.csv")]
    assert main(arguments) == 1
    shown = capsys.readouterr().out
    assert "not graded, the grader failed: /tmp/forkserver: the disk is full" in shown
    monkeypatch.setattr(grade, "_judge_aside", judge)
    assert main(arguments) == 0


def test_damaged_verdicts_are_named(tmp_path, monkeypatch):
    (tmp_path / "a.ipynb").write_bytes(b"")
    record = tmp_path / "grades-feedback" / "results.json"
    record.parent.mkdir()
    for damage in ("{half", "[1]"):
        record.write_text(damage)
        with pytest.raises(ValueError, match=r"results\.json is damaged: delete it"):
            grade.grade(NAME, [tmp_path], tmp_path / "grades.csv")
        assert record.read_text() == damage
    with pytest.raises(ValueError, match=r"--out: .* is a folder; say which file"):
        grade.grade(NAME, [tmp_path], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch", "."], "no assignment 'nosuch'; there are 1_logit"),
        ([NAME, "nosuch.ipynb"], "no such file or folder"),
        ([NAME, "empty"], "no notebooks among the submissions"),
        ([NAME, ".", "--jobs", "0"], "jobs must be at least 1"),
        ([NAME, "a.ipynb"], "apt install bubblewrap"),
    ],
)
def test_mistakes_of_the_instructor(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.ipynb").write_bytes(b"")
    monkeypatch.setattr(fence.shutil, "which", lambda _: None)
    assert main(["homework", "grade", *arguments]) == 1
    assert message in capsys.readouterr().err
