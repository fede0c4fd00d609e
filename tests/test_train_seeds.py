"""``python -m kdcourse train --seeds``: each as if trained alone, resumed, and put together."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time

import psutil
import pytest
import torch
from scipy import stats

from kdcourse import data, metrics
from kdcourse.__main__ import main
from kdcourse.data import Splits
from kdcourse.train import command, seeds
from kdcourse.train.options import Options, listed_seeds
from kdcourse.training.device import one_thread

SMALL = "--student plain2 --epochs 2 --batch-size 50 --images 100 --validation 100 --device cpu"


@pytest.fixture(scope="module")
def splits():
    found = data.fashion_mnist()
    return Splits(found.train[:200], found.validation[:100], found.test[:100])


@pytest.fixture
def few(splits, monkeypatch):
    """Only a few images are there; returns how often they were read."""
    reads = []
    monkeypatch.setattr(command, "from_torchvision", lambda *_, **__: reads.append(1) or splits)
    return reads


def train(folder, *arguments):
    return main(["train", *SMALL.split(), "--out", str(folder), *arguments])


def content(folder):
    """What a training has left behind, except the time that it took."""
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    state = torch.load(folder / "checkpoint.pt", weights_only=False)
    rows = [json.loads(line) for line in left.pop("metrics.jsonl").splitlines()]
    result = json.loads(left.pop("result.json"))
    del left["checkpoint.pt"], result["seconds"]
    for row in rows + state["rows"]:
        del row["seconds"]
    return left, rows, result, repr(state)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-3", [0, 1, 2, 3]), ("0,3,7", [0, 3, 7]), ("0-2,8", [0, 1, 2, 8]), ("5", [5])],
)
def test_seeds_are_listed(text, expected):
    assert listed_seeds(text) == expected
    assert Options("plain2", seeds=text).seeds == text


WRONG = ["", "a", "3-1", "-1", "1-", "1,", "0-3,2", "1,1", "1.5", "0--1"]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_seeds_are_refused_by_name(text, tmp_path, capsys):
    assert train(tmp_path / "run", f"--seeds={text}") == 1
    error = capsys.readouterr().err
    assert error.startswith("kdcourse: --seeds: ")
    assert repr(text) in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0-2", "--seed", "1"], "--seeds: say --seed or --seeds, not both"),
        (["--jobs", "2"], "--jobs: is for --seeds"),
        (["--seeds", "0-2", "--jobs", "0"], "--jobs: "),
        (["--seeds", "0-2", "--out", ""], "--out: say which folder"),
        (["--seeds", "0-2", "--student", "nosuch"], "--student: "),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message, tmp_path, capsys):
    assert train(tmp_path / "run", *arguments) == 1
    assert capsys.readouterr().err.startswith(f"kdcourse: {message}")
    assert not (tmp_path / "run").exists()


def test_no_seeds_under_torchrun(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert train(tmp_path / "run", "--seeds", "0-2") == 1
    assert "--seeds: call it without torchrun" in capsys.readouterr().err


def test_a_file_knows_seeds_and_the_command_line_stands_above_it(tmp_path, monkeypatch, capsys):
    path, seen = tmp_path / "mine.toml", []
    path.write_text('student = "plain2"\nseeds = "0-4"\njobs = 3\n')
    monkeypatch.setattr(seeds, "run", lambda options, published: seen.append(options) or 0)
    monkeypatch.setattr(command, "run", lambda options: seen.append(options))
    for said in ([], ["--seeds", "7"], ["--seed", "7"]):
        assert main(["train", str(path), *said]) == 0
    asked = [(given.seeds, given.seed, given.jobs) for given in seen]
    assert asked == [("0-4", 0, 3), ("7", 0, 3), (None, 7, None)]
    path.write_text('student = "plain2"\nseed = 1\n')  # as options.toml of every training has it
    assert main(["train", str(path), "--seeds", "0-4"]) == 0
    path.write_text('student = "plain2"\nseed = 1\nseeds = "0-4"\n')
    assert main(["train", str(path)]) == 1
    assert "say --seed or --seeds" in capsys.readouterr().err


def test_each_seed_is_trained_as_if_alone(few, tmp_path, capsys):
    with one_thread():
        for seed in (0, 3):
            train(tmp_path / "alone" / f"seed-{seed}", "--seed", str(seed))
    few.clear()
    assert train(tmp_path / "many", "--seeds", "0,3", "--jobs", "1") == 0
    assert len(few) == 1
    for seed in ("seed-0", "seed-3"):
        assert content(tmp_path / "many" / seed) == content(tmp_path / "alone" / seed)
    assert {path.name for path in (tmp_path / "many").iterdir()} == {
        "seed-0",
        "seed-3",
        "result.json",
    }
    assert "seed 3: test accuracy" in capsys.readouterr().err


def test_two_at_a_time_end_as_one_after_the_other(tmp_path, capsys):
    for jobs in "12":
        assert train(tmp_path / jobs, "--seeds", "0,1", "--jobs", jobs) == 0
    for seed in range(2):
        one, two = (content(tmp_path / jobs / f"seed-{seed}") for jobs in "12")
        assert one == two
    assert "Warning" not in capsys.readouterr().err


def test_the_table_and_the_result(few, tmp_path, capsys):
    assert train(tmp_path, "--seeds", "0-2", "--jobs", "1") == 0
    found = json.loads((tmp_path / "result.json").read_text())
    alone = [json.loads((tmp_path / f"seed-{s}" / "result.json").read_text()) for s in range(3)]
    values = [one["test_accuracy"] for one in alone]
    over = found["test_accuracy"]
    assert over["mean"] == pytest.approx(statistics.mean(values), abs=1e-4)
    assert over["deviation"] == pytest.approx(statistics.stdev(values), abs=1e-4)
    margin = stats.t.ppf(0.975, 2) * statistics.stdev(values) / math.sqrt(3)
    assert over["low"] == pytest.approx(over["mean"] - margin, abs=1e-3)
    assert over["high"] == pytest.approx(over["mean"] + margin, abs=1e-3)
    assert found["failed"] == {}
    assert [found["seeds"][str(s)].items() >= alone[s].items() for s in range(3)] == [True] * 3
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("  ")[0].split()[0] for row in rows[:-1]] == [
        *("seed", "0", "1", "2", "mean", "deviation", "95")
    ]
    assert rows[2].split()[1] == f"{values[1]:.2f}"
    assert rows[-1] == f"mean test accuracy {over['mean']:.2f} %, in {tmp_path}"


@pytest.mark.usefixtures("few")
def test_one_seed_has_no_interval(tmp_path, capsys):
    assert train(tmp_path, "--seeds", "4", "--validation", "0") == 0
    over = json.loads((tmp_path / "result.json").read_text())["test_accuracy"]
    assert (over["deviation"], over["low"], over["high"]) == (None, None, None)
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()] == [
        *("seed", "4", "mean", "mean")
    ]


@pytest.mark.usefixtures("few")
def test_a_seed_that_fails_is_named_and_tried_again(tmp_path, monkeypatch, capsys):
    trained, fit = [], command.fit

    def failing(student, *arguments, **options):
        trained.append(options["seed"])
        if options["seed"] == 1 and broken:
            raise FloatingPointError("the loss is NaN")
        return fit(student, *arguments, **options)

    monkeypatch.setattr(command, "fit", failing)
    broken = True
    assert train(tmp_path, "--seeds", "0-2", "--jobs", "1") == 1
    printed = capsys.readouterr()
    assert "seed 1: the loss is NaN" in printed.err
    assert "failed: 1; the same command tries again" in printed.err
    found = json.loads((tmp_path / "result.json").read_text())
    assert list(found["seeds"]) == ["0", "2"]
    assert found["failed"] == {"1": "the loss is NaN"}
    broken = False
    assert train(tmp_path, "--seeds", "0-3", "--jobs", "1") == 0
    assert trained == [0, 1, 2, 1, 3]
    assert list(json.loads((tmp_path / "result.json").read_text())["seeds"]) == list("0123")


@pytest.mark.usefixtures("few")
def test_nothing_is_trained_again_and_the_test_images_are_left_alone(tmp_path, monkeypatch):
    assert train(tmp_path, "--seeds", "0,1", "--jobs", "1") == 0
    before = (tmp_path / "result.json").read_bytes()
    monkeypatch.setattr(command, "fit", None)
    monkeypatch.setattr(metrics, "accuracy", None)
    monkeypatch.setattr(command, "from_torchvision", None)
    assert train(tmp_path, "--seeds", "0,1") == 0
    assert (tmp_path / "result.json").read_bytes() == before


@pytest.mark.usefixtures("few")
def test_one_training_and_many_do_not_share_a_folder(tmp_path, capsys):
    assert train(tmp_path / "one") == 0
    assert train(tmp_path / "many", "--seeds", "0") == 0
    before = (tmp_path / "many" / "result.json").read_bytes()
    capsys.readouterr()
    assert train(tmp_path / "one", "--seeds", "0") == 1
    assert train(tmp_path / "many") == 1
    assert train(tmp_path / "many", "--seeds", "0-1", "--epochs", "3") == 1
    errors = capsys.readouterr().err.splitlines()
    assert "--out" in errors[0]
    assert "--out" in errors[1]
    assert errors[2].startswith("kdcourse: --epochs: the run in ")
    assert (tmp_path / "many" / "result.json").read_bytes() == before
    assert not (tmp_path / "many" / "seed-1").exists()


def test_a_dry_run_tells_the_time_of_all_seeds(tmp_path, capsys):
    assert train(tmp_path / "run", "--seeds", "0-4", "--jobs", "2", "--dry-run") == 0
    assert "for 5 seeds, 2 at a time" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name == "nt", reason="there is no Ctrl-C to be sent")
def test_ctrl_c_ends_all_without_a_word_too_much(tmp_path):
    arguments = [*SMALL.split(), "--epochs", "500", "--seeds", "0,1", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kdcourse", "train", *arguments, "--out", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    written = [tmp_path / f"seed-{seed}" / "metrics.jsonl" for seed in (0, 1)]
    while not all(path.is_file() for path in written):
        assert process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1] == (
        "kdcourse: interrupted; the same command goes on where it stopped"
    )
    assert "Traceback" not in said
    assert psutil.wait_procs(children, timeout=10)[1] == []
