"""What a training will take is counted and measured, and nothing is touched."""

import re

import pytest
import torch
from torch import nn

from kdcourse import models
from kdcourse.__main__ import main
from kdcourse.train import command
from kdcourse.train.dry_run import kept_for_backward


@pytest.fixture(autouse=True)
def untouched(tmp_path, monkeypatch):
    """Nothing may be read, downloaded or written."""

    def refuse(*_, **__):
        raise AssertionError("data were read")

    monkeypatch.setattr(command, "from_torchvision", refuse)
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


def report(capsys, *arguments):
    assert main(["train", *arguments, "--dry-run", "--device", "cpu"]) == 0
    return capsys.readouterr().out


def test_kept_for_backward_by_hand():
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    inputs = torch.randn(8, 10)
    kept = kept_for_backward(lambda: net(inputs).sum().backward(), net.parameters())
    assert kept == 4 * (8 * 10 + 8 * 20)  # the inputs, and what the ReLU put out, once


def test_the_report(capsys):
    shown = report(
        capsys, "--student", "plain2", "--teacher", "res16", "--loss", "CrossEntropy()+LogitKD()"
    )
    student, teacher = (models.by_name(name) for name in ("plain2", "res16"))
    for name, net in (("student", student), ("teacher", teacher)):
        count = sum(p.numel() for p in net.parameters())
        adds = models.multiply_adds(net, torch.zeros(1, 1, 28, 28))
        assert re.search(rf"^{name} +{count:,} +{adds:,}$", shown, re.MULTILINE)
    assert "55,000 images of 1 x 28 x 28" in shown
    assert "430 steps of 128 images an epoch, on cpu" in shown
    milliseconds = float(re.search(r"\(([\d.,]+) ms a step\)", shown)[1])
    amount, unit = re.search(r"about ([\d.]+) (s|min) an epoch", shown).groups()
    seconds = float(amount) * {"s": 1, "min": 60}[unit]
    assert seconds == pytest.approx(0.43 * milliseconds, rel=0.05, abs=0.1)


def sizes(shown):
    units = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    found = re.findall(r"^(\w[\w ]+?) {2,}([\d.]+) (\w+)$", shown, re.MULTILINE)
    return {name: float(amount) * units[unit] for name, amount, unit in found}


def test_memory(capsys):
    net = models.by_name("res8")
    weights = 4 * sum(p.numel() for p in net.parameters())
    given = ["--student", "res8", "--teacher", "res16", "--loss", "LogitKD()", "--batch-size", "64"]
    found = sizes(report(capsys, *given, "--cache", "2"))
    assert found["gradients"] == pytest.approx(weights, rel=0.01)
    assert found["optimiser state"] == pytest.approx(weights, rel=0.01)
    assert found["training images"] == pytest.approx(55000 * (784 + 8), rel=0.01)
    assert found["kept answers of the teacher"] == pytest.approx(2 * 55000 * 40, rel=0.01)
    whole = found["activations of one batch"]
    assert whole > 64 * 4 * 8 * 14 * 14  # the first convolution's output alone

    found = sizes(report(capsys, *given, "--accumulate", "4", "--momentum", "0", "--no-nesterov"))
    assert found["activations of one part"] == pytest.approx(whole / 4, rel=0.05)
    assert "optimiser state" not in found
    assert "kept answers of the teacher" not in found


def test_kept_answers_make_later_epochs_faster(capsys):
    given = [
        "--student",
        "plain2",
        "--teacher",
        "res16",
        "--loss",
        "LogitKD()",
        "--batch-size",
        "64",
    ]
    assert "once the teacher's answers are kept" not in report(capsys, *given)
    shown = report(
        capsys, *given, "--cache", "3", "--views", "FunctionMatching(Flip())", "--steps", "3000"
    )
    assert "for 3,000 steps, validation" in shown
    assert "once the teacher's answers are kept" in shown


@pytest.mark.parametrize("name", ["cifar100", "GTSRB"])
def test_data_that_are_not_there(name, capsys):
    shown = report(capsys, "--student", "plain2", "--data", name, "--augment", "pad_crop_flip()")
    assert ("guessed" in shown) == (name == "GTSRB")
    assert ("45,000 images of 3 x 32 x 32" in shown) == (name == "cifar100")


def test_a_recipe(capsys):
    shown = report(capsys, "resnet56-resnet20", "--method", "alone", "--batch-size", "8")
    assert re.search(r"^student +278,324 +[\d,]+$", shown, re.MULTILINE)
    assert "50,000 images of 3 x 32 x 32" in shown
    assert "for 240 epochs" in shown


def test_not_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert main(["train", "--student", "plain2", "--dry-run"]) == 1
    assert "--dry-run: call it without torchrun" in capsys.readouterr().err


def test_a_recipe_can_be_looked_at_before_its_teacher_is_trained(capsys):
    text = report(capsys, "resnet56-resnet20", "--method", "kd", "--batch-size", "2")
    assert re.search(r"teacher +861,620", text)
