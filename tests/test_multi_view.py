import pytest
import torch
from torch import nn

from kdcourse.teachers import PatchNet, TwoViews, learned_views
from kdcourse.teachers.multi_view import batches
from kdcourse.training import constant, fit

CLEAN = TwoViews(noise=0.0, leaks=0.0)


def shown(data, inputs):
    """How much of every feature is in a sample: ``(N, K, 2)``."""
    return torch.einsum("npd,kvd->nkv", inputs, data.features)


def test_features_are_orthonormal():
    rows = TwoViews().features.flatten(0, 1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(20), atol=1e-5, rtol=0)


def test_a_training_sample_shows_both_views_of_its_class_and_nothing_else():
    inputs, target = CLEAN.draw(50)
    size = shown(CLEAN, inputs)
    own = size[torch.arange(50), target]
    assert ((own > 0.99) & (own < 1.41)).all()
    size[torch.arange(50), target] = 0
    assert size.abs().max() < 1e-5


@pytest.mark.parametrize("view", [0, 1])
def test_a_test_sample_shows_one_view(view):
    inputs, target = CLEAN.draw(50, view=view)
    own = shown(CLEAN, inputs)[torch.arange(50), target]
    assert (own[:, view] > 0.99).all()
    assert own[:, 1 - view].abs().max() < 1e-5


def test_features_of_other_classes_leak():
    data = TwoViews(noise=0.0)
    inputs, target = data.draw(500)
    size = shown(data, inputs)
    others = torch.ones(500, 10, dtype=torch.bool)
    others[torch.arange(500), target] = False
    leaked = size[others]
    share = float((leaked > 0.2).float().mean())
    assert share == pytest.approx(0.2, abs=0.02)
    assert float(leaked.max()) < 0.81


def test_draws_are_replayed_by_their_seed():
    assert torch.equal(TwoViews().draw(9, 3)[0], TwoViews().draw(9, 3)[0])
    assert not torch.equal(TwoViews().draw(9, 3)[0], TwoViews().draw(9, 4)[0])
    assert not torch.equal(TwoViews(seed=1).features, TwoViews().features)


def test_the_net_is_the_formula_of_the_paper():
    model = PatchNet(classes=3, width=5, neurons=2, bend=0.5, deviation=1.0)
    inputs = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    logits = torch.zeros(4, 3)
    for n in range(4):
        for k in range(3):
            for r in range(2):
                for p in range(6):
                    z = float(inputs[n, p] @ model.weight[:, 2 * k + r].detach())
                    if z > 0:
                        logits[n, k] += z**3 / (3 * 0.25) if z < 0.5 else z - 2 * 0.5 / 3
    torch.testing.assert_close(model(inputs).detach(), logits, atol=1e-5, rtol=1e-5)


class Knows(nn.Module):
    """Looks at some features only."""

    def __init__(self, data, views):
        super().__init__()
        self.features = data.features * torch.tensor([float(v in views) for v in (0, 1)])[:, None]

    def forward(self, inputs):
        return torch.einsum("npd,kvd->nk", inputs, self.features)


@pytest.mark.parametrize(("views", "expected"), [((0,), (1, 0.1)), ((1,), (0.1, 1)), ((0, 1), 1)])
def test_learned_views_tells_which_view_a_net_knows(views, expected):
    learned = learned_views(Knows(CLEAN, views), CLEAN, samples=500)
    assert learned.shape == (10, 2)
    expected = torch.tensor(expected).expand(2).float()
    torch.testing.assert_close(learned.mean(dim=0), expected, atol=0.05, rtol=0)


def test_a_net_learns_the_set():
    inputs, target = TwoViews().draw(500)
    model = PatchNet()
    fit(
        model,
        batches(inputs, target),
        epochs=300,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.2),
        scheduler=constant,
        device="cpu",
        progress=False,
    )
    assert (model(inputs).argmax(dim=1) == target).float().mean() > 0.95


def test_a_loader_yields_every_sample_once():
    inputs, target = CLEAN.draw(23)
    seen = torch.cat([batch for batch, _ in batches(inputs, target, 10)])
    assert len(batches(inputs, target, 10)) == 3
    assert sorted(seen.flatten(1).sum(dim=1).tolist()) == sorted(
        inputs.flatten(1).sum(dim=1).tolist()
    )


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="width"):
        TwoViews(width=19)
    with pytest.raises(ValueError, match="view"):
        TwoViews().draw(3, view=2)
    with pytest.raises(ValueError, match="leaks"):
        TwoViews(leaks=1.5)
    with pytest.raises(ValueError, match="samples"):
        TwoViews().draw(0)
