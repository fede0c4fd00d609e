"""The literature's trainings as files: each method runs, with the weights of its source."""

import json
import math
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from kdcourse import data, models
from kdcourse.__main__ import main
from kdcourse.places import COURSE
from kdcourse.train import command, recipes
from kdcourse.train.language import Reader
from kdcourse.train.options import OptionError, Options, read_toml
from kdcourse.train.plan import prepare
from kdcourse.training import Lesson, Outputs

# CIFAR-100, percent: the tables of RepDistiller's README; of DKD, DIST and the standardised logits
# those of their authors, where they have the pair.
PAIRS = ["resnet56-resnet20", "resnet110-resnet32", "wrn-40-2-wrn-16-2", "resnet32x4-resnet8x4"]
PAIRS += ["vgg13-vgg8", "resnet50-mobilenetv2"]
PUBLISHED = {
    "teacher": [72.34, 74.31, 75.61, 79.42, 74.64, 79.34],
    "alone": [69.06, 71.14, 73.26, 72.50, 70.36, 64.60],
    "kd": [70.66, 73.08, 74.92, 73.33, 72.98, 67.35],
    "hint": [69.21, 71.06, 73.58, 73.50, 71.02, 63.16],
    "attention": [70.55, 72.31, 74.08, 73.44, 71.43, 58.58],
    "similarity": [69.67, 72.69, 73.83, 72.94, 72.68, 68.08],
    "rkd": [69.61, 71.82, 73.35, 71.90, 71.48, 64.43],
    "crd": [71.16, 73.48, 75.48, 75.51, 73.94, 69.11],
    "dkd": [71.97, 74.11, 76.23, 76.32, 74.68, 70.35],
    "dist": [71.75, None, None, 76.31, None, 68.66],
    "standardized": [71.43, 74.17, 76.11, 76.62, 74.36, 69.02],
}
EACH = [(name, method) for name in PAIRS for method in PUBLISHED]
# Every method, and every pair: with the method whose layers all have to fit.
SOME = [(PAIRS[0], method) for method in PUBLISHED] + [(name, "attention") for name in PAIRS[1:]]


def test_every_pair_has_every_method_and_what_was_published():
    assert recipes.names() == sorted(PAIRS)
    for name, published in zip(PAIRS, zip(*PUBLISHED.values(), strict=True), strict=True):
        found = recipes.methods(name)
        assert list(found) == list(PUBLISHED)
        assert tuple(recipe.published for recipe in found.values()) == published


def test_a_pair_tells_accuracies_of_methods_that_there_are():
    for path in recipes.FOLDER.glob("*.toml"):
        table = read_toml(path)
        for pair in table["pairs"].values():
            for key in recipes.ACCURACIES:
                assert pair.get(key, {}).keys() <= table["methods"].keys()


def test_the_list(capsys):
    assert main(["train", "--recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(EACH)
    for (name, method), line in zip(sorted(EACH, key=lambda e: e[0]), lines[1:], strict=True):
        recipe = recipes.load(name, method)
        assert line.split()[:2] == [name, method]
        _, told = line.split(recipe.settings["loss"] + " ")
        assert told.split("  ")[-1].strip() == recipes.NOT_RUN
        assert told.removesuffix(recipes.NOT_RUN).strip() == recipe.target


def test_a_deviation_stands_beside_its_mean():
    recipe = recipes.load("resnet56-resnet20", "dist")
    assert (recipe.published, recipe.deviation, recipe.target) == (71.75, 0.3, "71.75 ± 0.30")
    assert recipes.load("resnet56-resnet20", "kd").target == "70.66"
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
    assert f"(published: {recipe.target} %)" in capsys.readouterr().out
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert '"loss": ' in line
    student = prepare(Options(recipe.settings["student"], device="cpu")).student.state_dict()
    learned = load_file(tmp_path / "student.safetensors")
    trained = [name for name, weight in student.items() if weight.is_floating_point()]
    assert all(learned[name].isfinite().all() for name in trained)
    assert any(not torch.equal(learned[name], student[name]) for name in trained)
    assert student.keys() == learned.keys()


# --- the weights: with the losses as RepDistiller and mdistiller write them, for 64 images


def judged(name, method, weights):
    """Return the recipe's loss of 64 random images, and all that the nets showed."""
    settings = recipes.load(name, method).settings
    settings |= {"device": "cpu"}
    path = weights_of(settings["teacher"], weights)
    made = prepare(Options(**settings, teacher_weights=(path,)))
    inputs = torch.randn(64, 3, 32, 32, generator=data.replay(0))
    target = torch.arange(64) % 10
    with torch.no_grad():
        student = shown(made.student, inputs, made.objective.student_layers)
        teacher = shown(made.teacher, inputs, made.objective.teacher_layers)
        loss, _ = made.objective.eval()(Lesson(student, target, teacher))
    return loss.item(), student, teacher, F.cross_entropy(student.logits, target).item(), made


def weights_of(name, weights):
    path = weights(name) + "-rgb"
    save_file(models.by_name(name, channels=3, classes=100, seed=1).state_dict(), path)
    return path


def shown(model, inputs, layers):
    with models.capture(model.eval(), layers) as features:
        return Outputs(logits=model(inputs), features=features)


@pytest.mark.parametrize("name", ["resnet56-resnet20", "wrn-40-2-wrn-16-2"])
def test_rkd_has_the_authors_means(name, weights):
    loss, student, teacher, labels, _ = judged(name, "rkd", weights)

    def relations(outputs):
        embedding = outputs.features["embedding"].double()
        apart = embedding[None] - embedding[:, None]  # (N, N, D)
        distance = apart.norm(dim=2)
        unit = F.normalize(apart, dim=2)
        return distance / distance[distance > 0].mean(), unit @ unit.transpose(1, 2)

    pairs = zip(relations(student), relations(teacher), strict=True)
    distance, angle = (F.smooth_l1_loss(own, theirs).item() for own, theirs in pairs)
    assert loss == pytest.approx(labels + 25 * distance + 50 * angle, rel=1e-5)


@pytest.mark.parametrize("name", ["resnet56-resnet20", "wrn-40-2-wrn-16-2"])
def test_attention_and_similarity_have_the_authors_means(name, weights):
    loss, student, teacher, labels, _ = judged(name, "attention", weights)
    expected = labels
    for own, theirs in zip(student.features.values(), teacher.features.values(), strict=True):
        maps = [F.normalize(f.pow(2).mean(1).flatten(1)) for f in (own, theirs)]
        expected += 1000 * (maps[0] - maps[1]).pow(2).mean().item()
    assert len(student.features) == 3
    assert loss == pytest.approx(expected, rel=1e-5)

    loss, student, teacher, labels, _ = judged(name, "similarity", weights)
    gram = []
    for outputs in (student, teacher):
        (rows,) = (f.flatten(1).double() for f in outputs.features.values())
        gram.append(F.normalize(rows @ rows.T))
    expected = labels + 3000 * (gram[0] - gram[1]).pow(2).sum().item() / 64**2
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_last_stage_of_a_wide_net_is_taken_before_its_batch_norm(weights, monkeypatch):
    *_, made = judged("wrn-40-2-wrn-16-2", "similarity", weights)
    for net, (layer,) in (
        (made.student, made.objective.student_layers),
        (made.teacher, made.objective.teacher_layers),
    ):
        following = net.stage3[int(layer.removeprefix("stage3.")) + 1 :]
        assert [type(module).__name__ for module in following] == ["BatchNorm2d", "ReLU"]


@pytest.mark.parametrize(("name", "beta"), [("resnet56-resnet20", 2), ("wrn-40-2-wrn-16-2", 6)])
def test_logit_methods_have_the_authors_weights(name, beta, weights):
    loss, student, teacher, labels, _ = judged(name, "kd", weights)
    own, theirs = (F.log_softmax(o.logits.double() / 4, dim=1) for o in (student, teacher))
    divergence = 16 * F.kl_div(own, theirs, reduction="batchmean", log_target=True).item()
    assert loss == pytest.approx(0.1 * labels + 0.9 * divergence, rel=1e-5)

    loss, *_, made = judged(name, "dkd", weights)
    (one, _), (other, rising) = made.objective.parts()
    term = rising.term
    assert (one, other, term.alpha, term.beta, term.temperature) == (1, 1, 1, beta, 4)
    assert rising.steps == 20 * math.ceil(50000 / 64)
    assert rising.taken == 0
    assert loss == pytest.approx(labels)  # at the very beginning


def test_standardised_logits_have_the_authors_weights(weights):
    loss, student, teacher, labels, _ = judged("resnet56-resnet20", "standardized", weights)

    def scores(outputs):
        logits = outputs.logits.double()
        return (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True)

    own, theirs = (F.log_softmax(scores(outputs) / 2, dim=1) for outputs in (student, teacher))
    divergence = 4 * F.kl_div(own, theirs, reduction="batchmean", log_target=True).item()
    assert loss == pytest.approx(0.1 * labels + 9 * divergence, rel=1e-5)


def test_dist_has_the_authors_weights(weights):
    loss, student, teacher, labels, _ = judged("resnet56-resnet20", "dist", weights)
    own, theirs = (F.softmax(outputs.logits.double() / 4, dim=1) for outputs in (student, teacher))

    def apart(rows, others):
        pairs = zip(rows, others, strict=True)
        return sum(1 - torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in pairs)

    expected = apart(own, theirs) / 64 + apart(own.T, theirs.T) / 100
    assert loss == pytest.approx(labels + 2 * 16 * expected, rel=1e-4)


def test_crd_has_the_authors_weights(weights):
    *_, made = judged("resnet56-resnet20", "crd", weights)
    (one, _), (other, term) = made.objective.parts()
    found = one, other, term.width, term.memory, term.temperature
    assert found == (1, 0.8, 128, 16384, 0.07)


def test_a_hint_is_projected_as_in_the_authors_code(weights, monkeypatch):
    loss, student, teacher, labels, made = judged("wrn-40-2-wrn-16-2", "hint", weights)
    hint = made.objective.terms[1].hint
    assert [type(part).__name__ for part in hint.nonlinearity] == ["BatchNorm2d", "ReLU"]
    assert hint.projection.kernel_size == (1, 1)
    projected = hint.nonlinearity(hint.projection(student.features["stage2"]))
    expected = labels + 100 * F.mse_loss(projected, teacher.features["stage2"]).item()
    assert loss == pytest.approx(expected, rel=1e-5)


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
        assert (settings["batch_size"], settings["validation"]) == (64, 0)
        mobile = name == "resnet50-mobilenetv2" and method != "teacher"
        assert settings["learning_rate"] == (0.01 if mobile else 0.05)
        assert settings["weight_decay"] == 5e-4
        assert (settings["momentum"], settings["nesterov"]) == (0.9, False)
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
