"""Every method of the literature's trainings learns at a hundredth of its budget, on real images.

A hundredth of its epochs, that is, over two batches of Fashion-MNIST's images, made small.
"""

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdcourse import data, models
from kdcourse.__main__ import main
from kdcourse.train import command, recipes
from kdcourse.train.options import Options
from kdcourse.train.plan import prepare

SMALL = "resnet56-resnet20"
EACH = {method: name for name in recipes.names() for method in recipes.methods(name)}
EACH |= dict.fromkeys(recipes.methods(SMALL), SMALL)  # of every method, a pair that takes no time


@pytest.fixture(scope="module")
def few():
    splits = data.fashion_mnist()
    return data.Splits(splits.train[:128], splits.validation[:0], splits.test[:8])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights for each net, untrained."""
    folder = tmp_path_factory.mktemp("weights")

    def file(name):
        path = folder / name
        if not path.exists():
            save_file(models.by_name(name, seed=1).state_dict(), path)
        return str(path)

    return file


@pytest.mark.parametrize("method", EACH)
def test_a_hundredth_of_the_budget(method, few, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "from_torchvision", lambda *_, **__: few)
    name = EACH[method]
    recipe, teacher = recipes.load(name, method), recipes.load(name, "kd").settings["teacher"]
    epochs = max(1, recipe.settings["epochs"] // 100)
    small = {"data": "fashion-mnist", "image_size": 8, "epochs": epochs, "device": "cpu"}
    if recipe.settings["teacher"] != "none":
        small["teacher_weights"] = (weights(teacher),)
    if recipe.after:
        small["student_weights"] = weights(name.removeprefix(f"{teacher}-"))
    begun = prepare(Options(**{**recipe.settings, **small})).student.state_dict()
    given = [f"--{key.replace('_', '-')}" for key in small]
    said = [value[0] if isinstance(value, tuple) else str(value) for value in small.values()]
    arguments = [word for pair in zip(given, said, strict=True) for word in pair]
    assert main(["train", name, "--method", method, *arguments, "--out", str(tmp_path)]) == 0
    published = f" (published: {recipe.target} %)" if recipe.target else ""
    assert f" %{published}, in {tmp_path}" in capsys.readouterr().out
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == epochs
    assert all('"loss": ' in line for line in lines)
    learned = load_file(tmp_path / "student.safetensors")
    trained = [key for key, weight in begun.items() if weight.is_floating_point()]
    assert all(learned[key].isfinite().all() for key in trained)
    assert any(not torch.equal(learned[key], begun[key]) for key in trained)
    assert begun.keys() == learned.keys()
