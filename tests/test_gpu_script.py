"""The script for a GPU, without one: its parts, and a rehearsal on a bare machine."""

import io
import json
import os
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kdcourse.course.bench.chunks import ChunkCost
from kdcourse.course.bench.gpu import __main__ as script
from kdcourse.course.bench.gpu import by_hand, cells, losses, report, scripts, steps, tested
from kdcourse.course.bench.gpu.child import Child, wait
from kdcourse.course.bench.gpu.losses import LossCost, naive_angle_loss
from kdcourse.course.bench.gpu.outcome import Journal, Outcome
from kdcourse.course.notebooks import course_notebooks
from kdcourse.places import COURSE
from kdcourse.relational import rkd_angle_loss
from kdcourse.training.capture import why_not

STEP = steps.Step("plain8", "res16", 64, "fit", 2.0, 3, 10**6, 0.5, "FashionMNIST", "captured")


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl")


def statuses(outcomes):
    return {one.name: one.status for one in outcomes}


# --- notebooks as scripts


def notebook(path, **cells):
    made = [{"cell_type": "code", "id": name, "source": [text]} for name, text in cells.items()]
    made.insert(1, {"cell_type": "markdown", "id": "text", "source": ["# Text"]})
    path.write_text(json.dumps({"cells": made}))
    return path


def test_a_notebook_goes_on_after_a_cell_that_fails(tmp_path, journal, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = notebook(
        tmp_path / "1_toy.ipynb",
        first="a = 1",
        fails="b = 1 / 0",
        needs="c = a + b",
        needs_more="c + 1",
        again="b = 2",
        works="assert b + a == 3",
    )
    cells.run(path, journal)
    found = journal.outcomes()
    assert statuses(found) == {
        **{"first": "passed", "fails": "failed", "needs": "skipped", "needs_more": "skipped"},
        **{"again": "passed", "works": "passed"},
    }
    assert {one.part for one in found} == {"notebook 1_toy"}
    assert found[1].detail.endswith("ZeroDivisionError: division by zero")
    assert found[2].detail == "needs b of cell fails"


def test_a_few_cells_and_one_that_draws(tmp_path, journal, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = {"first": "plots = [].append", "left_out": "a = 1", "needs": "plots(a)"}
    path = notebook(tmp_path / "1_toy.ipynb", **text, draws="plots(2)", more="plots(3)")
    cells.run(path, journal, 1)
    assert statuses(journal.outcomes()) == {"first": "passed", "draws": "passed"}


def test_figures_are_drawn_where_there_is_no_ipython():
    """In a process of its own, in which what stands for it has been imported."""
    program = """
import sys
from importlib.util import module_from_spec, spec_from_loader
from kdcourse.course.bench.gpu import absent
absent.allow()
spec = spec_from_loader("IPython", sys.meta_path[-1], is_package=True)
sys.modules["IPython"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["IPython"])
from kdcourse import plots
plots.curves([0.0, 1.0], {"one": [1.0, 2.0]}, x_label="x", y_label="y")
import matplotlib.pyplot as plt
plt.plot([1, 2])
plt.show()
"""
    command, drawn = [sys.executable, "-c", program], {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(command, env=drawn, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_absent_can_be_imported_by_the_course_alone(tmp_path):
    """In a process of its own, which then knows no widgets."""
    own = "import absent_one.part\nfrom absent_one import Thing\nclass Own(Thing.__class__): ..."
    program = f"""
import sys
from kdcourse.course.bench.gpu import absent
absent.allow()
def course(text):
    exec(compile(text, {str(COURSE / "notebooks" / "x.ipynb")!r}, "exec"), globals())
course({own!r})
for use in (lambda: Thing(1), lambda: Thing.other, lambda: absent_one.part.deep()):
    try:
        use()
    except ModuleNotFoundError as error:
        print(absent.package(error), error)
library = {str(COURSE / ".venv" / "site-packages" / "x.py")!r}
for file in ("<string>", library):
    try:
        exec(compile("import absent_two", file, "exec"))
    except ModuleNotFoundError as error:
        print(absent.package(error), error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    one, two = ("{} No module named 'absent_" + n + "'" for n in ("one", "two"))
    assert done.stdout.splitlines() == [one.format("absent_one")] * 3 + [two.format(None)] * 2


# --- processes


def test_a_child_that_dies_hangs_or_is_late_is_named(tmp_path, monkeypatch):
    paths = str(tmp_path), os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    (tmp_path / "dies.py").write_text("raise SystemExit(3)")
    (tmp_path / "hangs.py").write_text(
        "import time\nfrom kdcourse.course.bench.gpu.outcome import own_journal\n"
        "own_journal().plan('part', ['thing'])\ntime.sleep(100)"
    )
    (tmp_path / "turn.py").write_text(
        "from kdcourse.course.bench.gpu.outcome import Turn, own_journal\n"
        "Turn(own_journal()).wait()\nown_journal().attempt('part', 'thing', lambda: 1)"
    )
    names = "dies", "hangs", "turn"
    dies, hangs, turn = children = [Child(name, [name], tmp_path) for name in names]
    told = []
    end = time.perf_counter() + 60
    try:
        wait([dies], lambda one: one.over, end, told.append)
        wait([turn], lambda one: one.ready, end, told.append)
        wait([hangs], lambda one: one.journal.outcomes(), end, told.append)
        assert not turn.over
        turn.go()
        wait([turn], lambda one: one.over, end, told.append)
        wait([hangs], lambda one: one.over, time.perf_counter(), told.append)
    finally:
        for child in children:
            child.kill()
    assert told == [dies, turn, hangs, turn]
    assert [one.status for one in dies.outcomes()] == ["failed"]
    assert "ended with status 3" in dies.outcomes()[0].detail
    assert hangs.outcomes() == [Outcome("part", "thing", "left out")]
    assert statuses(turn.outcomes()) == {"thing": "passed"}


# --- what is measured


def test_by_hand_is_the_step_of_fit():
    """The same loss at first, on the same images; then both learn."""
    task = steps.Task("plain8", "res16", 8, "cpu", steps=4, epochs=2)
    hand = by_hand.ByHand(*task.nets(), task.images(), 8)
    rates = by_hand.rates(task.steps, torch.device("cpu"))
    assert rates.argmax() == 1  # it rises, then falls
    losses = [hand.epoch(hand.step, rates) for _ in range(4)]
    assert losses[-1] < losses[0]
    seen = []
    steps.by_fit(task, task.images(), lambda row: seen.append(row["loss"]))
    assert losses[0] == pytest.approx(seen[0], rel=0.1)  # other crops, another order


@pytest.mark.gpu
def test_a_captured_step_learns_as_an_eager_one():
    """From the fourth step on, as three warm up."""
    task = steps.Task("plain8", "res16", 64, steps=5)
    eager, replayed = (by_hand.ByHand(*task.nets(), task.images().to("cuda"), 64) for _ in range(2))
    for _ in range(3):
        eager.step()
    step = by_hand.captured(replayed.step, replayed.generator)
    rates = by_hand.rates(task.steps, torch.device("cuda"))
    losses = eager.epoch(eager.step, rates), replayed.epoch(step, rates)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)  # other crops, another order


def test_pairs_of_three_channels_say_what_they_learned_from(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))  # where there is no CIFAR
    images = steps.Task("resnet20", "resnet56", 4, "cpu", steps=2).images()
    assert images.pixels.shape == (8, 3, 32, 32)
    assert images.name == "random 3×32×32"


def test_the_naive_angle_loss_is_ours():
    student, teacher = torch.randn(2, 7, 5, dtype=torch.float64)
    share = 7 * 6 * 5 / 7**3  # of all triples, those of three different samples
    ours = rkd_angle_loss(student, teacher)
    torch.testing.assert_close(naive_angle_loss(student, teacher), share * ours)


def test_eager_ways_take_fewer_steps_and_what_is_compared_comes_first(journal, monkeypatch):
    taken = []

    def timed(task, train, *_, **options):
        taken.append((task.steps, len(train)))
        return steps.Timing(None, [0.1 * task.steps])

    for way in ("by_fit", "by_hand", "by_tutorial_with_workers"):
        monkeypatch.setattr(steps, way, timed)
    monkeypatch.setattr(steps.Turn, "wait", lambda self: None)
    steps.measure(steps.Task("plain8", "res16", 8, "cpu", steps=5), journal)
    rows = [entry["step"] for entry in journal.read() if "step" in entry]
    assert [row["way"] for row in rows[:3]] == [steps.FIT, steps.CAPTURED, steps.UNCAPTURED]
    assert taken == [(5, 40)] * 2 + [(3, 24)] * 3
    assert [row["milliseconds"] for row in rows] == pytest.approx([100.0] * 5)


@pytest.mark.parametrize("way", [steps.FIT, steps.COMPILED])
def test_fit_that_was_to_be_captured_and_is_not_has_failed(way):
    steps.check_captured(way, "captured")
    steps.check_captured(steps.UNCAPTURED, "not captured: capture=False")
    with pytest.raises(RuntimeError, match="steps were not captured: there are fewer than 50"):
        steps.check_captured(way, "not captured: there are fewer than 50 steps")


def test_fit_has_as_many_steps_as_are_worth_capturing():
    device = torch.device("cuda")
    for task in script.WHOLE.steps:
        assert not why_not("auto", device, task.steps * task.epochs)
    assert not why_not("auto", device, script.WHOLE.images // 128)  # the batch size by default


def test_a_scheme_says_what_became_of_its_steps(tmp_path, journal):
    text = "from kdcourse import data, fit, models\ndef main(images=9, epochs={}):\n"
    text += "    for _ in range(2): fit(models.plain(1), data.fashion_mnist().train[:images])\n"
    text += "    print(images, epochs)"
    for number in (1, 2):
        (tmp_path / f"{number}.py").write_text(text.format(number))
    told = io.StringIO()
    with redirect_stdout(told):
        scripts.run(sorted(tmp_path.glob("*.py")), journal, 12)
    assert {"9 1", "12 1"} <= set(told.getvalue().splitlines())  # one epoch is as long as it is
    details = {one.name: one.detail for one in journal.outcomes()}
    assert details["1"].startswith("2 × ")
    assert "captured" in details["2"]


def test_a_long_turn_may_take_longer():
    costs = [15.0, 3.0, 2.0]
    assert [script.latest(cost, costs, 10, 50) for cost in costs] == [50, 22, 18]


def test_forms_of_kd_are_compared_with_the_compiled_one():
    def cost(form, seconds, memory):
        return ChunkCost(form, 8, 100, "float32", memory, seconds, 0.0)

    found = losses.of_chunks(
        [
            *(cost("at once", 16.0, 100), cost("at once, compiled", 4.0, 20)),
            *(cost("in chunks", 6.0, 25), cost("in chunks, compiled", 5.0, 26)),
            *(cost("from hidden states at once", 3.0, 100),),
            *(cost("from hidden states at once, compiled", 2.0, 50),),
            cost("from hidden states in chunks", 4.0, 10),
        ]
    )
    assert [(one.loss, one.form, one.ratio) for one in found] == [
        *(("KD", "at once", 4.0), ("KD", "at once, compiled", 1.0)),
        *(("KD", "in chunks", 1.5), ("KD", "in chunks, compiled", 1.25)),
        ("KD from hidden states", "at once", 1.5),
        ("KD from hidden states", "at once, compiled", 1.0),
        ("KD from hidden states", "in chunks", 2.0),
    ]
    rows = [row.split(" | ") for row in report.criteria_table([], found).splitlines()[2:]]
    assert [(*row[2:4], row[4].removesuffix(" |")) for row in rows] == [
        *(("≤ 1.5", "1.50", "holds"), ("≤ 0.25", "0.25", "holds")),
        *(("≤ 1.5", "1.25", "holds"), ("≤ 0.25", "0.26", "**does not hold**")),
        *(("≤ 1.5", "2.00", "**does not hold**"), ("≤ 0.25", "0.10", "holds")),
    ]
    assert rows[2][:2] == ["| KD, 8 × 100", "time in chunks, compiled ÷ at once, compiled"]


# --- the report


def test_criteria_say_whether_they_hold():
    pair = {"student": "resnet20", "teacher": "resnet56"}
    taken = [
        replace(STEP, **pair, way=way, milliseconds=milliseconds)
        for way, milliseconds in ((steps.FIT, 3.0), (steps.CAPTURED, 2.0), (steps.UNCAPTURED, 18.0))
    ]
    costs = [LossCost("angle", (32, 512), "ours", 1.0, 0.9, 10**6)]
    rows = report.criteria_table([*taken, STEP], costs).splitlines()[2:]
    assert rows == [
        "| resnet20 ← resnet56, batch 64 | fit ÷ by hand, captured | ≤ 1.3 | 1.50 | "
        "**does not hold** |",
        "| resnet20 ← resnet56, batch 64 | fit, capture=False ÷ fit | ≥ 6 | 6.00 | holds |",
        "| angle, 32 × 512 | time of ours ÷ naive | ≤ 1 | 0.90 | holds |",
    ]
    assert "*to be measured*" in report.criteria_table([], [])


def test_what_is_not_measured_yet_is_said_to_be(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "STORE", replace(report.STORE, path=tmp_path / report.FILE))
    assert report.about().startswith("To be measured (`benchmarks/gpu.sh`)")
    rows = report.steps_table().splitlines()[2:]
    assert len(rows) == len(steps.PAIRS) * len(steps.BATCH_SIZES) * len(steps.WAYS)
    assert all("*to be measured*" in row for row in rows)
    assert "*to be measured*" in report.losses_table()
    assert "*to be measured*" in report.tried_table()


def test_what_is_stored_is_shown_beside_what_is_missing(monkeypatch, tmp_path):
    captured = replace(STEP, way=steps.CAPTURED, milliseconds=1.0)
    cost = LossCost("angle", (32, 512), "naive", 1.5, 1.0, 10**6)
    tried = [Outcome("test", "one", "passed"), Outcome("test", "two", "failed", 1.0, "why")]
    report.save(tmp_path, [STEP, captured], [cost], tried)
    monkeypatch.setattr(report, "STORE", replace(report.STORE, path=tmp_path / report.FILE))
    assert "torch 2" in report.about()
    (row,) = [line for line in report.steps_table().splitlines() if "| 64 | fit | 2.00" in line]
    assert "| **2.00** | 32,000 | 1 | 0.5 | FashionMNIST; captured |" in row
    assert "*to be measured*" in report.steps_table()
    assert "| angle | 32 × 512 | naive | 1.50 | **1.00** | 1.0 |" in report.losses_table()
    assert "| test | 1 | 1 | 0 | 0 |" in report.tried_table()


# --- the whole


def test_tests_that_use_a_device_are_found(request, tmp_path):
    """Those of the course, as far as they are collected here, and whoever takes it indirectly."""
    found = tested.files()
    names = {path.name for path in found}
    assert {"test_fit.py", "test_every_loss.py", "test_doctor.py", "test_sources.py"} <= names
    assert "test_quiz.py" not in names
    own = [one for one in request.session.items if one.path.parent == COURSE / "tests"]
    assert {one.path for one in own if one.get_closest_marker("gpu")} <= set(found)
    texts = {
        "conftest": "@pytest.fixture\ndef placed(\n    a, device: str\n):",
        "test_shared": "def test_it(placed):",
        "test_own": "@pytest.fixture(scope='module')\ndef net(placed):\ndef test_it(\n  net, x\n):",
        "test_marked": "@pytest.mark.gpu\ndef test_it():",
        "test_other": "def test_it(net, other):\n    placed = device",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    stems = [one.stem for one in tested.files(tmp_path)]
    assert stems == ["test_marked", "test_own", "test_shared"]


def test_tests_are_shared_out():
    capturing, others = tested.apart()
    assert [path.name for path in capturing] == ["test_capture.py"]
    assert sorted([*capturing, *others]) == tested.files()
    shares = []
    for part in ("1/3", "2/3", "3/3"):
        items = list(range(8))
        tested.pytest_collection_modifyitems(SimpleNamespace(getoption={"--part": part}.get), items)
        shares += items
    assert sorted(shares) == list(range(8))
    assert shares[:3] == [0, 3, 6]


def test_without_a_gpu_it_says_how_to_rehearse(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(SystemExit):
        script.main([])
    assert "--rehearse" in capsys.readouterr().err


def test_a_run_without_time_names_what_it_left_out(tmp_path, capsys):
    assert script.main(["--small", "--seconds", "0.1", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "schemes-1 has run out of time" in shown
    assert "LEFT OUT: losses, the process" in shown
    assert (tmp_path / report.FILE).is_file()


@pytest.mark.skipif(os.name != "posix", reason="a script for a shell")
def test_a_rehearsal_with_the_packages_of_a_bare_machine(tmp_path):
    done = subprocess.run(
        [COURSE / "benchmarks" / "gpu.sh", "--rehearse", "--out", tmp_path, "--seconds", "400"],
        env={**os.environ, "PYTHON": sys.executable, "TORCHDYNAMO_DISABLE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / report.FILE).read_text())
    assert found["machine"].keys() >= {"gpu", "cuda", "date"}
    assert {row["way"] for row in found["rows"]} >= {steps.FIT, steps.CAPTURED, steps.TUTORIAL}
    assert {row["form"] for row in found["losses"]} >= {"naive", "ours", "at once", "in chunks"}
    parts = {one["part"] for one in found["tried"]}
    assert {"test", "scheme", "losses"} < parts
    whole = {f"notebook {path.stem}" for path in course_notebooks()}
    assert {part for part in parts if part.startswith("notebook")} == whole
    assert {one["status"] for one in found["tried"]} == {"passed"}
