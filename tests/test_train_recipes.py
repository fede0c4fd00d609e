"""The literature's trainings as files: each method runs, as its source tells."""

import json
import os
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdcourse import data, models
from kdcourse.__main__ import main
from kdcourse.places import COURSE
from kdcourse.train import command, recipes
from kdcourse.train.language import Reader
from kdcourse.train.options import OptionError, Options, read_toml
from kdcourse.train.plan import prepare

# CIFAR-100, percent: the tables of RepDistiller's README; from DKD on those of the authors,
# where they have the pair, and of CTKD, for two pairs, those of the standardised logits.
PAIRS = ["resnet56-resnet20", "resnet110-resnet32", "wrn-40-2-wrn-16-2", "resnet32x4-resnet8x4"]
PAIRS += ["vgg13-vgg8", "resnet50-mobilenetv2"]
PUBLISHED = {
    "teacher": [72.34, 74.31, 75.61, 79.42, 74.64, 79.34],
    "alone": [69.06, 71.14, 73.26, 72.50, 70.36, 64.60],
    "kd": [70.66, 73.08, 74.92, 73.33, 72.98, 67.35],
    "hint": [69.21, 71.06, 73.58, 73.50, 71.02, 63.16],
    "attention": [70.55, 72.31, 74.08, 73.44, 71.43, 58.58],
    "similarity": [69.67, 72.69, 73.83, 72.94, 72.68, 68.08],
    "vid": [70.38, 72.61, 74.11, 73.09, 71.23, 67.57],
    "nst": [69.60, 71.96, 73.68, 73.30, 71.53, 64.96],
    "pkt": [70.34, 72.61, 74.54, 73.64, 72.88, 66.52],
    "rkd": [69.61, 71.82, 73.35, 71.90, 71.48, 64.43],
    "crd": [71.16, 73.48, 75.48, 75.51, 73.94, 69.11],
    "dkd": [71.97, 74.11, 76.23, 76.32, 74.68, 70.35],
    "dist": [71.75, None, None, 76.31, None, 68.66],
    "standardized": [71.43, 74.17, 76.11, 76.62, 74.36, 69.02],
    "ttm": [71.83, 73.97, 76.23, 76.17, 74.33, 69.24],
    "wttm": [71.92, 74.13, 76.37, 76.06, 74.44, 69.59],
    "ctkd": [71.19, 73.52, 75.45, 73.39, 73.52, 68.67],
    "sdd": [None, None, None, 76.63, None, 69.55],
    "review": [71.89, 73.89, 76.12, 75.63, None, None],
    "nd": [72.53, None, None, 75.54, None, None],
}
DEVIATIONS = {  # as Zheng and Yang tell them; of DIST its own, which are the same
    "kd": [0.24, 0.18, 0.28, 0.25, 0.19, 0.32],
    "hint": [0.36, 0.13, 0.32, 0.28, 0.31, 0.47],
    "attention": [0.27, 0.08, 0.25, 0.19, 0.09, 0.54],
    "vid": [0.14, 0.28, 0.24, 0.21, 0.06, 0.28],
    "pkt": [0.04, 0.17, 0.04, 0.18, 0.09, 0.33],
    "rkd": [0.06, 0.34, 0.09, 0.11, 0.05, 0.42],
    "crd": [0.17, 0.13, 0.09, 0.18, 0.22, 0.28],
    "dist": [0.30, None, None, 0.19, None, 0.23],
    "ttm": [0.16, 0.23, 0.15, 0.28, 0.07, 0.28],
    "wttm": [0.40, 0.37, 0.10, 0.27, 0.19, 0.58],
}
# Not every pair's weights are known.
OFFERED = {"review": PAIRS[:4], "nd": [PAIRS[0], PAIRS[3]]}
EACH = [
    (pair, method) for pair in PAIRS for method in PUBLISHED if pair in OFFERED.get(method, PAIRS)
]
# Every method, and every pair: with the method whose layers all have to fit.
SOME = [(PAIRS[0], method) for method in PUBLISHED] + [(name, "attention") for name in PAIRS[1:]]
# What else names layers that differ between pairs.
NAMING = [one for one in EACH if one[1] in ("vid", "sdd", "review") and one[0] != PAIRS[0]]
OWN_SCHEDULE = ("review", "nd")


def test_every_pair_has_its_methods_and_what_was_published():
    assert recipes.names() == sorted(PAIRS)
    for number, name in enumerate(PAIRS):
        found = recipes.methods(name)
        assert list(found) == [method for pair, method in EACH if pair == name]
        for method, recipe in found.items():
            deviations = DEVIATIONS.get(method, [None] * len(PAIRS))
            published = PUBLISHED[method][number], deviations[number]
            assert (recipe.published, recipe.deviation) == published


def test_a_pair_tells_accuracies_of_its_methods():
    for path in recipes.FOLDER.glob("*.toml"):
        for name, pair in read_toml(path)["pairs"].items():
            for key in recipes.ACCURACIES:
                assert pair.get(key, {}).keys() <= recipes.methods(name).keys()


def test_a_method_is_offered_where_all_its_names_stand_for_something():
    assert "nd" not in recipes.methods("vgg13-vgg8")
    with pytest.raises(OptionError, match="--method: unknown method 'nd'"):
        recipes.load("vgg13-vgg8", "nd")


def test_the_list(capsys):
    assert main(["train", "--recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(EACH)
    for (name, method), line in zip(sorted(EACH, key=lambda e: e[0]), lines[1:], strict=True):
        recipe = recipes.load(name, method)
        cells = [name, method, recipe.target, recipes.NOT_RUN, recipe.settings["loss"]]
        assert re.split(" {2,}", line) == [cell for cell in cells if cell]


def test_a_deviation_stands_beside_its_mean():
    recipe = recipes.load("resnet56-resnet20", "dist")
    assert (recipe.published, recipe.deviation, recipe.target) == (71.75, 0.3, "71.75 ± 0.30")
    assert recipes.load("resnet56-resnet20", "similarity").target == "69.67"
    assert recipes.load("vgg13-vgg8", "dist").target == ""


@pytest.fixture(scope="module")
def few():
    splits = data.fashion_mnist()
    return data.Splits(splits.train[:8], splits.validation[:0], splits.test[:8])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights for each teacher, untrained."""
    folder = tmp_path_factory.mktemp("weights")

    def file(name):
        path = folder / name
        if not path.exists():
            save_file(models.by_name(name, seed=1).state_dict(), path)
        return str(path)

    return file


@pytest.mark.parametrize(("name", "method"), SOME, ids=map("-".join, SOME))
def test_two_steps_on_real_images(name, method, few, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "from_torchvision", lambda *_, **__: few)
    recipe = recipes.load(name, method)
    arguments = ["--data", "fashion-mnist", "--batch-size", "4", "--epochs", "1"]
    if recipe.settings["teacher"] != "none":
        arguments += ["--teacher-weights", weights(recipe.settings["teacher"])]
    given = [name, "--method", method, *arguments, "--device", "cpu", "--out", str(tmp_path)]
    assert main(["train", *given]) == 0
    published = f" (published: {recipe.target} %)" if recipe.target else ""
    assert f" %{published}, in {tmp_path}" in capsys.readouterr().out
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert '"loss": ' in line
    student = prepare(Options(recipe.settings["student"], device="cpu")).student.state_dict()
    learned = load_file(tmp_path / "student.safetensors")
    trained = [name for name, weight in student.items() if weight.is_floating_point()]
    assert all(learned[name].isfinite().all() for name in trained)
    assert any(not torch.equal(learned[name], student[name]) for name in trained)
    assert student.keys() == learned.keys()


@pytest.mark.parametrize(("name", "method"), NAMING, ids=map("-".join, NAMING))
def test_layers_that_are_named_for_a_pair_fit(name, method):
    settings = recipes.load(name, method).settings
    prepare(Options(**settings, device="cpu"), need_weights=False)  # with a rehearsal


NETS = {  # teacher and student
    "resnet56-resnet20": (partial(models.resnet, 56), partial(models.resnet, 20)),
    "resnet110-resnet32": (partial(models.resnet, 110), partial(models.resnet, 32)),
    "wrn-40-2-wrn-16-2": (partial(models.wide_resnet, 40, 2), partial(models.wide_resnet, 16, 2)),
    "resnet32x4-resnet8x4": (
        partial(models.resnet, 32, widen=4),
        partial(models.resnet, 8, widen=4),
    ),
    "vgg13-vgg8": (partial(models.vgg, 13), partial(models.vgg, 8)),
    "resnet50-mobilenetv2": (models.resnet50, models.mobilenetv2),
}


@pytest.mark.parametrize("name", NETS)
def test_nets_are_the_benchmarks_and_convolutions_start_from_he(name):
    for method, net in zip(("teacher", "kd"), NETS[name], strict=True):
        text = recipes.load(name, method).settings["student"]
        given = {"channels": 3, "classes": 100, "seed": 4}
        found = Reader(text, given, "nets").made.state_dict()
        expected = net(seed=4, initialization="he").state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in found.items())
    # Whose weights are those of --method teacher.
    with torch.device("meta"):
        named = models.by_name(
            recipes.load(name, "kd").settings["teacher"], channels=3, classes=100
        )
        shapes = [
            {key: value.shape for key, value in net.state_dict().items()}
            for net in (named, NETS[name][0]())
        ]
    assert shapes[0] == shapes[1]


def test_the_schedule_is_that_of_the_benchmark():
    for name, method in EACH:
        settings = recipes.load(name, method).settings
        assert settings["epochs"] == 240
        assert settings["augment"] == "pad_crop_flip(4)"
        assert (settings["weight_decay"], settings["momentum"]) == (5e-4, 0.9)
        assert settings["validation"] == 0
        told = settings["batch_size"], settings["learning_rate"], settings["nesterov"]
        mobile = name == "resnet50-mobilenetv2" and method != "teacher"
        usual = 64, 0.01 if mobile else 0.05, False
        assert told == ((128, 0.1, True) if method in OWN_SCHEDULE else usual)
        assert settings["schedule"] == "at_epochs([150, 180, 210], factor=0.1)"
        assert (settings["teacher"] == "none") == (method in ("teacher", "alone"))
    made = prepare(Options("plain1", schedule=settings["schedule"], epochs=240, learning_rate=0.05))
    optimizer = made.knobs["optimizer"](made.student.parameters())
    schedule, found = made.knobs["scheduler"](optimizer, 240), []
    for _ in range(240):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx([0.05] * 150 + [0.005] * 30 + [0.0005] * 30 + [0.00005] * 30)


def test_recipes_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.load("resnet56-resnet20", "kd").published == 70.66
    with pytest.raises(OptionError, match="RECIPE: unknown recipe"):
        recipes.load("resnet56", "kd")


def test_the_script_trains_the_teacher_and_then_the_student(tmp_path):
    script = COURSE / "benchmarks" / "recipe.sh"
    small = ["--data", "fashion-mnist", "--image-size", "8", "--images", "64"]
    small += ["--epochs", "1", "--device", "cpu"]
    command = [script, "resnet56-resnet20", "kd", *small, "--batch-size", "32"]
    place = {"PYTHON": sys.executable, "RECIPE_RUNS": str(tmp_path)}

    done = subprocess.run(command, env=os.environ | place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = {
        name: json.loads((tmp_path / "resnet56-resnet20" / name / "result.json").read_text())
        for name in ("teacher", "kd")
    }
    assert results["teacher"]["parameters"] > results["kd"]["parameters"]
    assert {"device", "torch", "seconds", "test_accuracy"} <= results["kd"].keys()
    asked = subprocess.run([script], capture_output=True, text=True)
    assert (asked.returncode, "recipe.sh resnet56-resnet20 kd" in asked.stdout) == (2, True)
