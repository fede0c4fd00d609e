"""``python -m kdcourse doctor``: runs of the command ``train`` are read and examined."""

import json
import re
import shutil

import pytest

from kdcourse import data
from kdcourse.__main__ import main
from kdcourse.data import Splits
from kdcourse.train import command

LOSS = "CrossEntropy() + 3 * LogitKD(temperature=4) + FeatureHint('stage2')"


@pytest.fixture(scope="module")
def splits():
    found = data.fashion_mnist()
    return Splits(found.train[:320], found.validation[:200], found.test[:50])


@pytest.fixture(autouse=True)
def few(splits, monkeypatch):
    """Only a few images are there."""
    monkeypatch.setattr(command, "from_torchvision", lambda *_, **__: splits)


def train(folder, *arguments, teacher="res16", loss=LOSS, epochs=2):
    taught = ["--teacher", teacher, "--loss", loss] if teacher else []
    fixed = [
        "--student",
        "plain4",
        "--epochs",
        str(epochs),
        "--batch-size",
        "64",
        "--device",
        "cpu",
    ]
    fixed += ["--learning-rate", "0.05", "--out", str(folder)]
    assert main(["train", *taught, *fixed, *arguments]) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory, splits):
    """A run with a cache, whose options the doctor has to read."""
    folder = tmp_path_factory.mktemp("runs") / "kd"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "from_torchvision", lambda *_, **__: splits)
        train(folder)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_sound_run(run, capsys):
    before = content(run)
    assert main(["doctor", str(run), "--batches", "2"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("no remarks on 2 batches; looked at: the teacher's mode, its stillness")
    assert told.count("\n") == 1
    assert content(run) == before


def test_a_run_that_is_still_training(run, tmp_path, capsys):
    going = tmp_path / "going"
    shutil.copytree(run, going)
    (going / "student.safetensors").unlink()
    (going / "result.json").unlink()
    assert main(["doctor", str(going)]) == 0
    (going / "checkpoint.pt").unlink()
    assert main(["doctor", str(going)]) == 2
    assert "holds no weights" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:The teacher sees another view")
def test_a_fault_is_found_afterwards_and_while_it_trained(tmp_path, capsys):
    views = ["--views", "Independent(pad_crop_flip(4))"]
    train(tmp_path, *views, "--diagnose", loss="CrossEntropy() + 3 * LogitKD(temperature=4)")
    stored = json.loads((tmp_path / "diagnosis.json").read_text())
    assert [one["about"] for one in stored["findings"]] == ["the view"]
    assert main(["doctor", str(tmp_path), "--batches", "1"]) == 1
    told = capsys.readouterr().out
    assert "• The teacher sees another view of the samples than the student" in told
    assert "1 remark on 6 batches" in told  # three at first, the last of two epochs, and one now
    assert "gradient noise" in told  # which only the first batches tell


def rows(folder, *values):
    lines = (json.dumps({"epoch": n + 1, "validation_accuracy": v}) for n, v in enumerate(values))
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_labels_alone(run, tmp_path, capsys):
    ours = tmp_path / "ours"
    shutil.copytree(run, ours)
    rows(ours, 0.3, 0.4, 0.4)
    rows(tmp_path / "alone", 0.3, 0.6, 0.7)
    assert main(["doctor", str(ours), "--alone", str(tmp_path / "alone"), "--batches", "1"]) == 1
    told = capsys.readouterr().out
    assert "Since epoch 2, the student is worse than by labels alone" in told
    assert "looked at" in told
    assert "labels alone" in told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "has a teacher: res16"),
        ({"teacher": "none", "data": "mnist"}, "has --data mnist, and not fashion-mnist"),
        ({"teacher": "none", "student": "plain8"}, "has --student plain8, and not plain4"),
    ],
)
def test_what_is_no_run_by_labels_alone_is_not_compared_with(run, changed, told, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    text = (other / "options.toml").read_text()
    for name, value in changed.items():
        text = re.sub(f"^{name} = .*$", f'{name} = "{value}"', text, flags=re.MULTILINE)
    (other / "options.toml").write_text(text)
    assert main(["doctor", str(run), "--alone", str(other)]) == 2
    assert f"--alone: the run in {other} {told}" in capsys.readouterr().err


def test_one_of_many_seeds_has_to_be_named_to_compare_with(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "seed-3")
    assert main(["doctor", str(run), "--alone", str(tmp_path)]) == 2
    assert "holds a training of many seeds; name one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nosuch"], "nosuch holds no run of train, or not all of it: there is no options.toml"),
        (
            ["RUN", "--alone", "nosuch"],
            "nosuch holds no run of train, or not all of it: there is no metrics.jsonl",
        ),
        (["RUN", "--batches", "0"], "batches must be a positive integer, got 0"),
        (["RUN", "--device", "nosuch"], "--device: "),
    ],
)
def test_what_cannot_be_examined_exits_with_2_and_one_line(arguments, told, run, capsys):
    assert main(["doctor", *(str(run) if one == "RUN" else one for one in arguments)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"kdcourse: {told}")
    assert shown.err.count("\n") == 1


def test_what_is_damaged_is_named(run, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "diagnosis.json").write_text('{"findings": 3}')
    assert main(["doctor", str(broken), "--batches", "1"]) == 2
    assert "diagnosis.json is damaged" in capsys.readouterr().err
    for text in ("{", "5", '["epoch"]'):
        (broken / "metrics.jsonl").write_text(text)
        assert main(["doctor", str(broken)]) == 2
        assert "metrics.jsonl is damaged" in capsys.readouterr().err


def test_help_tells_the_exit_status(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    assert "2 if there is no run" in " ".join(capsys.readouterr().out.split())
