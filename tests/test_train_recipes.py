"""The literature's trainings as files: each method runs, as its source tells."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch

from kdcourse import models
from kdcourse.__main__ import main
from kdcourse.course import published
from kdcourse.places import COURSE
from kdcourse.train import measured, recipes
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
    "review": [71.89, 73.89, 76.12, 75.63, 74.84, 69.89],
    "nd": [72.53, None, None, 75.54, None, 70.10],
    "fsp-first": [None] * 6,
    "fsp": [69.95, 71.89, 72.91, 72.62, 70.23, None],
    "simkd": [None, None, None, 78.08, None, None],  # its README; r = 2
    "mlld": [72.19, 74.11, 76.63, 77.08, 75.18, 71.04],  # as Sun et al. quote it
    **dict.fromkeys(("hard", "teacher-free", "ofa", "channel-wise", "vkd", "cc"), [None] * 6),
    "cc-benchmark": [69.63, 71.48, 73.56, 72.97, 70.71, 65.43],
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
# Not every pair's weights are known, or channels the same; one method cannot be said.
OFFERED = {"review": PAIRS[:4], "nd": [PAIRS[0], PAIRS[3]], "cc-benchmark": []}
OFFERED |= dict.fromkeys(("fsp", "fsp-first"), PAIRS[:5])
EACH = [
    (pair, method) for pair in PAIRS for method in PUBLISHED if pair in OFFERED.get(method, PAIRS)
]
OWN_SCHEDULE = ("review", "nd")
EPOCHS = {"fsp-first": 30, "mlld": 480}


def test_every_pair_has_its_methods_and_what_was_published():
    assert recipes.names() == sorted(PAIRS)
    for number, name in enumerate(PAIRS):
        assert list(recipes.methods(name)) == [method for pair, method in EACH if pair == name]
        found = {m: one for group in recipes.comparable(name).values() for m, one in group.items()}
        for method, row in PUBLISHED.items():
            if method not in found:
                assert row[number] is None
                continue
            deviations = DEVIATIONS.get(method, [None] * len(PAIRS))
            recipe, published = found[method], (row[number], deviations[number])
            assert (recipe.published, recipe.deviation) == published
            assert recipe.source
            assert bool(recipe.why) == ((name, method) not in EACH)


def test_a_pair_tells_accuracies_of_methods_alone():
    for path in recipes.FOLDER.glob("*.toml"):
        table = read_toml(path)
        for pair in table["pairs"].values():
            assert pair["published"].keys() <= table["methods"].keys()


def test_a_method_is_offered_where_all_its_names_stand_for_something():
    assert "nd" not in recipes.methods("vgg13-vgg8")
    with pytest.raises(OptionError, match="--method: unknown method 'nd'"):
        recipes.load("vgg13-vgg8", "nd")
    with pytest.raises(OptionError, match=r"review cannot be run .*: not known for this pair: rev"):
        recipes.load("vgg13-vgg8", "review")
    with pytest.raises(OptionError, match=r"cc-benchmark cannot be run for .*: the benchmark's"):
        recipes.load("vgg13-vgg8", "cc-benchmark")


def test_the_list(capsys):
    """Every recipe is there once, below its pair and its conditions."""
    assert main(["train", "--recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [["", "published, %", "measured here, %", "loss"]]
    for name in sorted(PAIRS):
        expected.append([name])
        for conditions, group in recipes.comparable(name).items():
            expected.append(["", conditions or "from labels alone"])
            for method, recipe in group.items():
                last = [measured.NOT_YET, recipe.settings.get("loss")]
                last = ["no recipe", recipe.why] if recipe.why else last
                cells = [method, *filter(None, [recipe.target]), *last]
                expected.append(["", *cells])
    assert [re.split(" {2,}", line) for line in lines] == expected


def test_only_like_is_compared_with_like():
    groups = recipes.comparable("resnet56-resnet20")
    usual = "240 epochs, pad_crop_flip(4)"
    strong = "Compose(pad_crop_flip(4), RandAugment(2))"
    longer = f"480 epochs, WeakAndStrong(pad_crop_flip(4), {strong})"
    staged, own = f"30 epochs + {usual}", f"{usual}, another student"
    assert list(groups) == ["", usual, staged, longer, own]
    assert list(groups[""]) == ["teacher", "alone"]
    assert list(groups[staged]) == ["fsp", "fsp-first"]
    assert (list(groups[longer]), list(groups[own])) == (["mlld"], ["simkd"])
    for group in groups.values():
        known = [recipe.published for recipe in group.values() if recipe.published]
        assert known == sorted(known, reverse=True)


OWN_FILE = """
student = "plain1"
epochs = 4
[methods.longer]
steps = 2000
published = [71.5, 0.25]
source = "somebody"
[methods.second]
after = "longer"
augment = "Flip()"
"""


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(OWN_FILE)
    one, other = recipes.methods(str(path)).values()
    assert (one.conditions(), one.target) == ("2,000 steps, no augmentation", "71.50 ± 0.25")
    assert (one.source, other.after, other.rate) == ("somebody", "longer", "128, 0.1")
    assert other.conditions() == "2,000 steps + 4 epochs, Flip()"
    path.write_text(OWN_FILE.replace('"longer"', '"last"'))
    with pytest.raises(OptionError, match="second comes after unknown method 'last'"):
        recipes.methods(str(path))


def test_a_second_stage_needs_the_first(tmp_path, capsys):
    assert (
        main(["train", "resnet56-resnet20", "--method", "fsp", "--out", str(tmp_path / "x")]) == 1
    )
    told = "--student-weights: fsp begins with the student.safetensors of fsp-first"
    assert told in capsys.readouterr().err


# --- what was measured


def one_run(seed, accuracy, **changed):
    run = {"test_accuracy": accuracy, "seconds": 100.0 + seed, "seed": seed, "epochs": 240}
    return {**run, "device": "some GPU", "torch": "2.9", "python": "3.12", **changed}


def stored(folder, content):
    path = folder / "vgg13-vgg8" / "kd.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return measured.load("vgg13-vgg8", "kd", folder)


def test_what_was_measured_is_shown_with_how(tmp_path):
    assert measured.load("vgg13-vgg8", "kd", tmp_path) is None
    found = stored(tmp_path, one_run(3, 72.5))
    assert (str(found), found.about) == (
        "72.50",
        "seed 3; some GPU, torch 2.9, Python 3.12; 103 s each",
    )
    found = stored(tmp_path, {"seeds": {"0": one_run(0, 72.0), "2": one_run(2, 73.0)}})
    assert (str(found), found.about) == (
        "72.50 ± 0.71",
        "seeds 0, 2; some GPU, torch 2.9, Python 3.12; 101 s each",
    )


def test_another_training_is_not_taken_for_a_recipes(tmp_path):
    with pytest.raises(RuntimeError, match=r"comes from \[2\] epochs, and the recipe has 240"):
        stored(tmp_path, one_run(0, 72.0, epochs=2))
    with pytest.raises(RuntimeError, match="is damaged"):
        stored(tmp_path, {"test_accuracy": 72.0})


def test_the_page_shows_what_was_measured(tmp_path, monkeypatch):
    found = {"kd": stored(tmp_path, one_run(3, 72.5))}
    row = (
        "| kd | 72.98 ± 0.19 | [Tian et al. 2020](https://arxiv.org/abs/1910.10699), ± [Zheng, Yang"
    )
    assert row in published.tables().replace("\N{NO-BREAK SPACE}", " ")
    assert published.tables().count("*not yet*") == len(EACH) - 5  # a first stage has no row
    monkeypatch.setattr(measured, "load", lambda name, method: found.get(method))
    assert published.tables().count("| 72.50 (seed 3; some GPU, torch 2.9, Python") == len(PAIRS)
    row = (
        "| cc-benchmark | 69.63 | [Tian et al. 2020](https://arxiv.org/abs/1910.10699) |  | no rec"
    )
    assert row in published.tables()
    assert "### 480 epochs, `WeakAndStrong(pad_crop_flip(4), Compose(" in published.tables()


def test_a_deviation_stands_beside_its_mean():
    recipe = recipes.load("resnet56-resnet20", "dist")
    assert (recipe.published, recipe.deviation, recipe.target) == (71.75, 0.3, "71.75 ± 0.30")
    assert recipes.load("resnet56-resnet20", "similarity").target == "69.67"
    assert recipes.load("vgg13-vgg8", "dist").target == ""


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
        first, seen_twice = method == "fsp-first", method == "mlld"
        assert settings["epochs"] == EPOCHS.get(method, 240)
        assert settings["augment"] == ("none" if seen_twice else "pad_crop_flip(4)")
        assert (settings["weight_decay"], settings["momentum"]) == (5e-4, 0.9)
        assert settings["validation"] == 0
        told = settings["batch_size"], settings["learning_rate"], settings["nesterov"]
        mobile = name == "resnet50-mobilenetv2" and method != "teacher"
        usual = 64, 0.01 if mobile else 0.025 if seen_twice else 0.05, False
        assert told == ((128, 0.1, True) if method in OWN_SCHEDULE else usual)
        falling = "at_epochs([150, 180, 210], factor=0.1)"
        assert settings["schedule"] == ("constant" if first else falling)
        assert (settings["teacher"] == "none") == (
            method in ("teacher", "alone", "fsp", "teacher-free")
        )
    made = prepare(Options("plain1", schedule=falling, epochs=240, learning_rate=0.05))
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


SCRIPT = COURSE / "benchmarks" / "recipe.py"


def test_the_script_trains_the_teacher_and_then_the_student(tmp_path):
    small = ["--data", "fashion-mnist", "--image-size", "4", "--images", "64"]
    small += ["--epochs", "1", "--device", "cpu", "--batch-size", "32"]
    command = [sys.executable, SCRIPT, "resnet56-resnet20", "kd", *small]
    place = os.environ | {"RECIPE_RUNS": str(tmp_path)}

    done = subprocess.run(command, env=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = {
        name: json.loads((tmp_path / "resnet56-resnet20" / name / "result.json").read_text())
        for name in ("teacher", "kd")
    }
    assert results["teacher"]["parameters"] > results["kd"]["parameters"]
    told = {"device", "torch", "python", "seed", "seconds", "test_accuracy"}
    assert told <= results["kd"].keys()


@pytest.fixture
def script():
    spec = spec_from_file_location("recipe", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_trains_whatever_comes_before(script, tmp_path, monkeypatch):
    monkeypatch.setenv("RECIPE_RUNS", str(tmp_path))
    calls = []
    monkeypatch.setattr(
        script, "train", lambda pair, method, _, *given: calls.append((method, *given))
    )

    def file(name):
        return str(tmp_path / "vgg13-vgg8" / name / "student.safetensors")

    teacher, seeds = ["--teacher-weights", file("teacher")], ["--seeds", "0-1"]
    for method, expected in {
        "teacher": [("teacher", *seeds)],
        "alone": [("alone", *seeds)],
        "fsp": [
            ("teacher", *seeds),
            ("fsp-first", *seeds, *teacher),
            ("fsp", *seeds, "--student-weights", file("fsp-first")),
        ],
    }.items():
        calls.clear()
        script.main("vgg13-vgg8", method, *seeds)
        assert calls == expected
    with pytest.raises(
        SystemExit, match=r"recipe\.py: --method: unknown method 'kdd'; did you mean"
    ):
        script.main("vgg13-vgg8", "kdd")


def test_the_script_stops_where_a_training_fails(script, tmp_path, monkeypatch):
    monkeypatch.setattr(
        script.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 3)
    )
    with pytest.raises(SystemExit, match="3"):
        script.main("vgg13-vgg8", "kd")


def test_the_script_finds_the_weights_of_the_first_seed(script, tmp_path):
    assert script.weights(tmp_path) == str(tmp_path / "student.safetensors")
    for seed in (10, 9):
        (tmp_path / f"seed-{seed}").mkdir()
    assert script.weights(tmp_path) == str(tmp_path / "seed-9" / "student.safetensors")
