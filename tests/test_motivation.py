import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import images, net, same, weights

from kdcourse import motivation
from kdcourse.course import one_weight
from kdcourse.motivation import (
    Curvature,
    NarrowNet,
    curvature,
    filter_normalized_direction,
    landscape,
    main_directions,
    moved,
)

DATA = images(24)
INPUTS, TARGET = DATA.inputs(), DATA.target
QUIET = {"points": 3, "progress": False}


def test_every_filter_of_a_direction_is_as_long_as_the_models():
    model = net(3)
    direction = filter_normalized_direction(model, seed=1)
    for name, weight in model.named_parameters():
        if weight.dim() < 2:  # biases and normalisation
            assert (direction[name] == 0).all()
        else:
            lengths = [t.flatten(1).norm(dim=1) for t in (direction[name], weight.detach())]
            torch.testing.assert_close(*lengths)
    again, other = (filter_normalized_direction(model, seed) for seed in (1, 2))
    assert same(direction, again)
    assert not same(direction, other)


@pytest.mark.parametrize("together", [1, 2, 9])
def test_the_grid_holds_the_loss_of_the_moved_model(together):
    model = net().train()
    before = weights(model)
    directions = [filter_normalized_direction(model, seed) for seed in (0, 1)]
    found = landscape(model, INPUTS, TARGET, extent=0.5, together=together, **QUIET)
    assert found.x.tolist() == found.y.tolist() == [-0.5, 0.0, 0.5]
    for i, x in enumerate(found.x.tolist()):
        for j, y in enumerate(found.y.tolist()):
            other = moved(model, directions, (x, y)).eval()
            expected = F.cross_entropy(other(INPUTS), TARGET).detach()
            torch.testing.assert_close(found.loss[i, j], expected)
    assert model.training
    assert same(weights(model), before)


def test_a_loss_that_fails_leaves_the_model_as_it_was():
    model = net().train()
    before = weights(model)

    def failing(logits, target):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        landscape(model, INPUTS, TARGET, loss=failing, **QUIET)
    assert model.training
    assert same(weights(model), before)


def test_another_loss():
    found = landscape(net(), INPUTS, TARGET, loss=lambda z, t: z.square().mean(), **QUIET)
    middle = net().eval()(INPUTS).square().mean().detach()
    torch.testing.assert_close(found.loss[1, 1], middle)


def test_main_directions_find_the_plane_of_a_training():
    torch.manual_seed(0)
    plane = torch.linalg.qr(torch.randn(6, 2)).Q
    places = torch.tensor([[4.0, 0.0], [3.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    states = [{"a": row[:4].view(2, 2), "b": row[4:]} for row in (places @ plane.T + 7.0).unbind()]
    directions, found = main_directions(states)
    assert directions[0]["a"].shape == (2, 2)
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(places, places))
    assert found[-1].tolist() == [0, 0]
    axis = torch.cat([directions[0]["a"].flatten(), directions[0]["b"]])
    torch.testing.assert_close(axis @ plane @ plane.T, axis)  # it lies in the plane


def test_curvature_of_a_bowl_and_of_a_saddle():
    model = nn.Linear(3, 1, bias=False).double()
    scales = torch.tensor([[1.0, 4.0, 9.0]], dtype=torch.float64)

    def bowl(prediction, target):
        return (model.weight.square() * scales).sum() + 0 * prediction.sum()

    def saddle(prediction, target):
        signs = torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64)
        return (model.weight.square() * scales * signs).sum() + 0 * prediction.sum()

    rows = torch.zeros(1, 3, dtype=torch.float64)
    found = curvature(model, rows, rows, loss=bowl)
    assert (found.smallest, found.largest) == pytest.approx((2, 18))
    assert found.negative == 0
    found = curvature(model, rows, rows, loss=saddle)
    assert (found.smallest, found.largest) == pytest.approx((-8, 18))
    assert found.negative == pytest.approx(8 / 18)


def test_curvature_of_a_net_is_that_of_its_hessian_in_eval_mode():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Dropout(0.5), nn.Linear(3, 2)).double()
    model[0].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(0)
    inputs, target = torch.randn(20, 2, dtype=torch.float64), torch.randint(2, (20,))
    state = {name: p.detach() for name, p in model.named_parameters()}

    def loss(flat):
        parts = flat.split([p.numel() for p in state.values()])
        shaped = {n: part.view_as(p) for (n, p), part in zip(state.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, shaped, (inputs,)), target)

    flat = torch.cat([p.flatten() for p in state.values()])
    found = curvature(model, inputs, target, tolerance=1e-8)
    assert [module.training for module in model.modules()] == modes
    model.eval()
    values = torch.linalg.eigvalsh(torch.func.hessian(loss)(flat))
    assert (found.smallest, found.largest) == pytest.approx((float(values[0]), float(values[-1])))


def test_negative_curvature_is_relative():
    assert Curvature(-1.0, 4.0).negative == 0.25
    assert Curvature(1.0, 4.0).negative == 0.0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"points": 1}, "points"),
        ({"extent": 0.0}, "extent"),
        ({"together": 0}, "together"),
        ({"directions": [{}]}, "directions"),
        ({"directions": [{}, {}]}, "directions"),
    ],
    ids=str,
)
def test_bad_input_is_named(options, name):
    with pytest.raises(ValueError, match=name):
        landscape(net(), INPUTS, TARGET, **options)


def test_a_training_on_a_gpu_is_drawn_where_the_net_is_at_home(device):
    """What was noted while ``fit`` had the net on the GPU stays there; the net comes home."""
    model, states = net(), []
    for step in (0.3, 0.1, 0.0):
        state = {name: (w + step).to(device) for name, w in weights(model).items()}
        states.append({name: state[name] for name, _ in model.named_parameters()})
    directions, way = main_directions(states)
    extent = 1.2 * float(way.abs().max())
    found = landscape(model, INPUTS, TARGET, directions=directions, extent=extent, **QUIET)
    assert found.loss.device == INPUTS.device
    away = moved(model, directions, (found.x[0].item(), found.y[2].item())).eval()
    torch.testing.assert_close(found.loss[0, 2], F.cross_entropy(away(INPUTS), TARGET).detach())


def test_a_trajectory_of_two_has_no_plane():
    with pytest.raises(ValueError, match="three"):
        motivation.main_directions([{"a": torch.zeros(2)}] * 2)


def test_a_moved_model_is_a_copy_that_went_along():
    model = net()
    before = weights(model)
    directions = [filter_normalized_direction(model, seed) for seed in (0, 1)]
    there = moved(model, directions, (0.5, -2.0))
    assert same(weights(model), before)
    for name, weight in there.named_parameters():
        expected = before[name] + 0.5 * directions[0][name] - 2 * directions[1][name]
        torch.testing.assert_close(weight.detach(), expected)
    back = moved(there, directions, (-0.5, 2.0))
    for name, weight in back.named_parameters():
        torch.testing.assert_close(weight.detach(), before[name], atol=1e-5, rtol=1e-5)


# --- the narrow net


@pytest.mark.parametrize(("inputs", "outputs", "width"), [(2, 1, 3), (1, 5, 5), (3, 4, 4)])
def test_the_least_width_is_the_theorems(inputs, outputs, width):
    narrow = NarrowNet(inputs, outputs, depth=4)
    assert [layer.out_features for layer in narrow.hidden] == [width] * 4
    assert narrow(torch.rand(7, inputs)).shape == (7, outputs)


def test_a_carrying_net_hands_its_inputs_on():
    narrow = NarrowNet(2, 1, depth=20, seed=3)
    x = places = torch.rand(50, 2)
    bends = set()
    for layer in narrow.hidden:
        x = layer(x).relu()
        torch.testing.assert_close(x[:, :2], places)
        bends.add(int((x[:, 2] > 0).sum()))
    assert len(bends) > 5  # the third channel is bent somewhere else in every layer


def test_a_narrow_net_is_drawn_from_its_seed():
    first, again, other = (NarrowNet(2, 1, 3, seed=seed) for seed in (1, 1, 2))
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))
    random = NarrowNet(2, 1, 3, start="random", seed=1)
    assert not torch.equal(random.hidden[1].weight[:2, :2], torch.eye(2))


@pytest.mark.parametrize(
    ("arguments", "options", "name"),
    [
        ((0, 1, 1), {}, "inputs"),
        ((1, 0, 1), {}, "outputs"),
        ((1, 1, 0), {}, "depth"),
        ((3, 1, 1), {"width": 2}, "width"),
        ((3, 1, 1), {"start": "zero"}, "start"),
    ],
)
def test_a_narrow_net_names_bad_input(arguments, options, name):
    with pytest.raises(ValueError, match=name):
        NarrowNet(*arguments, **options)


def test_the_student_with_one_weight_by_hand():
    weights = np.linspace(-1.5, 4.5, 601)
    said = one_weight.functions(weights)
    at = int(np.abs(weights - 1).argmin())
    np.testing.assert_allclose(said[at], (1, 0.5 * math.cos(2.2)))
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-math.cos(2.2)))
    assert one_weight.labels_loss(said)[at] == pytest.approx(expected)
    assert one_weight.dist(np.array([1.0, 2.0]), (4.0, 6.0)) == 25


@pytest.mark.parametrize(("start", "end"), [(-1.0, 0.0), (0.9, 0.0), (1.1, 2.0), (3.0, 2.0)])
def test_descending_ends_in_the_valley_where_it_began(start, end):
    weights = np.linspace(-1.5, 3.5, 501)
    loss = np.square(weights * (weights - 2))  # minima at 0 and 2, a ridge at 1
    assert one_weight.descend(weights, loss, start) == pytest.approx(end)


def test_descending_stops_at_the_edge():
    weights = np.linspace(0, 1, 11)
    assert one_weight.descend(weights, weights, 0.5) == 0
