"""Which layers belong together: a map of likeness, and what is proposed by it."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdcourse import compare_layers, metrics, models
from kdcourse.errors import ArgumentError
from kdcourse.layers import best_in_order, ends_of_stages

X = torch.randn(12, 1, 28, 28, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    """A net that calls one of its layers twice, and has one that it does not call."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.second = nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 8)
        self.head, self.unused = nn.Linear(8, 3), nn.Linear(1, 1)

    def forward(self, images):
        x = self.relu(self.first(images.flatten(1)))
        return self.head(self.relu(self.second(x)))


def test_the_map_holds_linear_cka_of_all_layers():
    nets = models.by_name("plain4", seed=0), models.by_name("res8", seed=1)
    found = compare_layers(*nets, X)
    assert found.student == found.teacher == ("stem", "stage1", "stage2", "stage3", "embedding")
    assert found.shapes[1] == ((8, 14, 14), (8, 14, 14), (16, 7, 7), (32, 4, 4), (32,))
    for s, t in itertools.product(range(5), range(5)):
        own = metrics.embed(nets[0], X, found.student[s])
        theirs = metrics.embed(nets[1], X, found.teacher[t])
        expected = metrics.linear_cka(own, theirs)
        assert math.isclose(float(found.likeness[s, t]), expected, abs_tol=1e-6)


def test_a_net_is_like_itself_also_with_other_channels_first():
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(w, 6) for w in (784, 6, 6, 6, 6)), nn.Linear(6, 3))
    other = nn.Sequential(*(nn.Linear(w, 6) for w in (784, 6, 6, 6, 6)), nn.Linear(6, 3))
    other.load_state_dict(net.state_dict())
    order = torch.randperm(6)
    other[2].weight.data, other[2].bias.data = net[2].weight[order], net[2].bias[order]
    other[3].weight.data = net[3].weight[:, order]
    found = compare_layers(net, other, X.flatten(1))
    torch.testing.assert_close(found.likeness.diagonal(), torch.ones(5))


def test_layers_are_those_that_return_something_once():
    found = compare_layers(Twice(), nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), X)
    assert found.student == ("first", "second")
    assert found.teacher == ("0",)
    assert found.proposed(1) in ([("second", "0")], [("first", "0")])


@pytest.mark.parametrize("seed", range(20))
def test_the_best_in_order_is_found(seed):
    random = torch.Generator().manual_seed(seed)
    rows = seed % 4 + 1
    values = torch.rand(rows, 6, generator=random).round(decimals=seed % 3)
    best = max(
        itertools.combinations(range(6), rows),
        key=lambda columns: sum(float(values[r, c]) for r, c in enumerate(columns)),
    )
    found = best_in_order(values)
    assert sorted(set(found)) == found
    total = sum(float(values[r, c]) for r, c in enumerate(found))
    assert math.isclose(total, sum(float(values[r, c]) for r, c in enumerate(best)))


@pytest.mark.parametrize(
    ("shapes", "count", "ends"),
    [
        ([(8, 14, 14), (8, 14, 14), (16, 7, 7), (32, 4, 4), (32, 1, 1), (32,)], 3, [1, 2, 3]),
        ([(8, 14, 14), (16, 7, 7), (32, 4, 4), (32,)], 2, [1, 2]),
        ([(50, 32)] * 4 + [(32,)], 3, [1, 2, 3]),  # a transformer has one resolution
        ([(50, 32)] * 12, 3, [3, 7, 11]),
        ([(8,), (8,), (8,)], 2, [1, 2]),  # vectors only
        ([(4, 8, 8, 8), (4, 4, 4, 4)], 2, [0, 1]),  # volumes
    ],
)
def test_stages_end_where_positions_become_fewer(shapes, count, ends):
    assert ends_of_stages(shapes, count) == ends


@pytest.mark.parametrize("by", ["cka", "stage"])
def test_a_convolutional_net_and_a_transformer(by):
    student, teacher = models.by_name("plain4", seed=0), models.by_name("vit-small", seed=0)
    found = compare_layers(student, teacher, X)
    pairs = found.proposed(3, by)
    assert [own for own, _ in pairs] == ["stage1", "stage2", "stage3"]
    places = [found.teacher.index(theirs) for _, theirs in pairs]
    assert sorted(set(places)) == places


def test_both_nets_see_the_samples_in_the_same_order():
    """A loader that shuffles yields another order each time."""
    samples = TensorDataset(X, torch.zeros(len(X), dtype=torch.int64))
    loader = DataLoader(samples, 5, shuffle=True, generator=torch.Generator().manual_seed(0))
    net = models.by_name("plain4", seed=0)
    found = compare_layers(net, net, loader)
    torch.testing.assert_close(found.likeness.diagonal(), torch.ones(5))
    torch.testing.assert_close(found.likeness, compare_layers(net, net, X).likeness)


class PositionsFirst(nn.Module):
    """A net whose first layers return something in which samples do not come first."""

    def __init__(self):
        super().__init__()
        self.inner, self.last, self.head = nn.Linear(28, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, images):
        return self.head(self.last(self.inner(images[:, 0].transpose(0, 1)).mean(dim=0)))


def test_layers_in_which_samples_do_not_come_first_are_left_out():
    found = compare_layers(PositionsFirst(), PositionsFirst(), X)
    assert found.student == found.teacher == ("last",)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_samples_are_refused(count):
    net = models.by_name("plain4")
    with pytest.raises(ArgumentError, match=f"samples must be 3 or more, got {count}"):
        compare_layers(net, net, X[:count])


def test_layers_that_return_nan_are_refused():
    net, broken = models.by_name("plain4"), models.by_name("plain4")
    broken.stage2[0][0].weight.data.fill_(torch.nan)
    with pytest.raises(ArgumentError, match="layer stage2 of the teacher returns NaN"):
        compare_layers(net, broken, X)


def test_what_is_constant_is_like_nothing():
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        net[1].weight.zero_()
    assert compare_layers(net, net, X).likeness[1].eq(0).all()


def test_modes_are_kept():
    student, teacher = models.by_name("plain4", seed=0).train(), models.by_name("res8").eval()
    compare_layers(student, teacher, X)
    assert student.training
    assert not teacher.training


@pytest.mark.parametrize(
    ("count", "by", "named"), [(0, "cka", "count"), (6, "cka", "count"), (2, "size", "by")]
)
def test_bad_wishes_are_refused(count, by, named):
    found = compare_layers(models.by_name("plain4"), models.by_name("plain4"), X)
    with pytest.raises(ArgumentError, match=f"^{named} must be"):
        found.proposed(count, by)


def test_a_net_without_layers_is_refused():
    with pytest.raises(ArgumentError, match="Identity has no layers"):
        compare_layers(models.by_name("plain4"), nn.Identity(), X)
