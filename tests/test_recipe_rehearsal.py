"""Every recipe of the literature can be run: all are rehearsed."""

import pytest

from kdcourse.train import nets, recipes
from kdcourse.train.options import Options
from kdcourse.train.plan import prepare


@pytest.fixture
def made_once(monkeypatch):
    """Nets of a pair are made for its first method, and stay as they are."""
    made, known = nets.made, {}

    def once(options, given, images, **kind):
        key = options.student, options.teacher
        if key not in known:
            known[key] = made(options, given, images, **kind)
        return known[key]

    monkeypatch.setattr(nets, "made", once)
    monkeypatch.setattr(nets, "folded", lambda teacher: teacher)


@pytest.mark.usefixtures("made_once")
@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_rehearsed(name):
    for method, recipe in recipes.methods(name).items():
        plan = prepare(Options(**recipe.settings, device="cpu"), need_weights=False)
        taught = plan.objective.needs_teacher
        assert taught == (recipe.settings["teacher"] != "none"), method


def test_what_is_rehearsed_can_fail():
    settings = recipes.load("resnet56-resnet20", "attention").settings
    wrong = {**settings, "loss": settings["loss"].replace("stage3", "stage4")}
    with pytest.raises(ValueError, match="--loss: ConvNet has no layer 'stage4'"):
        prepare(Options(**wrong, device="cpu"), need_weights=False)
