"""Where channels are active: maximum mean discrepancies of their maps."""

import math

import pytest
import torch
from torch.nn import functional as F

from kdcourse.errors import ArgumentError
from kdcourse.methods.neuron_selectivity import NeuronSelectivity, neuron_selectivity_loss
from kdcourse.objective import Lesson, Outputs


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(3, 4, 2, 3, seed=1), draw(3, 2, 2, 3, seed=2)  # N, C, H, W
FEW = slice(0, 2), slice(0, 1)  # channels, so few that their products are taken


def few(s, t):
    return s[:, FEW[0]], t[:, FEW[1]]


LOSSES = {
    "polynomial": neuron_selectivity_loss,
    "polynomial, few channels": lambda s, t: neuron_selectivity_loss(*few(s, t)),
    "linear": lambda s, t: neuron_selectivity_loss(s, t, "linear"),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def example(name):
    """Student and teacher of a loss, here and for the tests of every loss."""
    return (
        (STUDENT.repeat(1, 2, 1, 1).cos(), TEACHER) if name == "polynomial" else (STUDENT, TEACHER)
    )


def unit(values):
    norm = math.sqrt(math.fsum(v * v for v in values))
    return [v / norm if norm else 0.0 for v in values]


def naive_loss(name, s, t):
    s, t = few(s, t) if "few" in name else (s, t)
    power, values = 1 if name == "linear" else 2, []

    def mean(one, other):
        pairs = [
            math.fsum(a * b for a, b in zip(u, v, strict=True)) ** power for u in one for v in other
        ]
        return math.fsum(pairs) / len(pairs)

    for own, theirs in zip(s, t, strict=True):
        x, y = ([unit(channel.flatten().tolist()) for channel in one] for one in (own, theirs))
        values.append(mean(x, x) + mean(y, y) - 2 * mean(x, y))
    return math.fsum(values) / len(values)


@every_loss
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("case", [lambda z: z, torch.relu, lambda z: 1e-20 * z])
def test_equals_the_naive_definition(name, dtype, rel, case):
    s, t = (case(z.to(dtype)) for z in example(name))
    value = LOSSES[name](s, t)
    assert value.shape == ()
    assert value.dtype == dtype
    assert value.item() == pytest.approx(naive_loss(name, s.double(), t.double()), rel=rel)


@pytest.mark.parametrize("sizes", [((4, 4), (2, 2)), ((2, 2), (4, 4)), ((4, 2), (2, 3))])
@pytest.mark.parametrize("channels", [3, 9])
def test_against_the_benchmarks_convention(sizes, channels):
    """Means of the kernel over pairs of channels, on the smaller grid."""
    s, t = draw(2, 3, *sizes[0], seed=1), draw(2, channels, *sizes[1], seed=2)
    small = [min(pair) for pair in zip(*sizes, strict=True)]
    maps = [F.adaptive_avg_pool2d(z, small).flatten(2) for z in (s, t)]
    x, y = (z / z.norm(dim=2, keepdim=True) for z in maps)
    kernel = lambda a, b: torch.einsum("nip,njp->nij", a, b).square().mean()  # noqa: E731
    expected = kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
    torch.testing.assert_close(neuron_selectivity_loss(s, t), expected)


@pytest.mark.parametrize("kernel", ["polynomial", "linear"])
@pytest.mark.parametrize("times", [1, 2, 3])  # at the last, the products of positions are taken
def test_which_channel_is_where_how_strong_and_how_often_does_not_matter(kernel, times):
    scales = torch.arange(1, 2 * times + 1, dtype=torch.float64)[:, None, None]
    like = (scales * TEACHER.repeat(1, times, 1, 1)).flip(1)
    value = neuron_selectivity_loss(like, TEACHER, kernel)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert neuron_selectivity_loss(like.roll(1, dims=3), TEACHER, kernel) > 1e-3


def test_only_the_linear_kernel_sees_signs():
    positive, signed = STUDENT.abs(), STUDENT.abs() * torch.tensor([1, -1, 1, -1])[:, None, None]
    assert neuron_selectivity_loss(signed, positive).item() == pytest.approx(0, abs=1e-12)
    assert neuron_selectivity_loss(signed, positive, "linear") > 0.1


def test_the_range():
    s, t = torch.eye(2, dtype=torch.float64)[:, None, None].unbind()
    s, t = s[None], t[None]  # one channel each, at different positions
    assert neuron_selectivity_loss(s, t).item() == pytest.approx(2)
    assert neuron_selectivity_loss(s, -s, "linear").item() == pytest.approx(4)


@every_loss
def test_channels_that_are_zero_count_as_zeros_and_get_no_gradient(name):
    s, t = (z.float().clone() for z in example(name))
    s[:, 0], t[0] = 0, 0
    s.requires_grad_()
    value = LOSSES[name](s, t)
    value.backward()
    assert value.item() == pytest.approx(naive_loss(name, s.double(), t.double()), rel=1e-4)
    assert s.grad.isfinite().all()
    assert not s.grad[:, 0].any()


@every_loss
def test_gradients_of_tiny_maps_are_those_of_float64(name):
    def slopes(dtype):
        s, t = (z.to(dtype) for z in example(name))
        s = (1e-20 * s).requires_grad_()
        return torch.autograd.grad(LOSSES[name](s, t), s)[0].double()

    exact = slopes(torch.float64)
    torch.testing.assert_close(
        slopes(torch.float32), exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max())
    )


def test_it_is_not_below_zero_by_rounding():
    draws = [draw(2, 3, 16, seed=seed).float() for seed in range(20)]
    assert min(neuron_selectivity_loss(z, z * 3) for z in draws) >= 0


def test_the_term_sums_over_layers_and_takes_tokens():
    def tokens(z):
        return z.flatten(2).mT

    shown = [
        Outputs(features={"a": tokens(z), "b": tokens(2 * z.cos())}) for z in (STUDENT, TEACHER)
    ]
    lesson = Lesson(shown[0], torch.zeros(3, dtype=torch.int64), shown[1])
    term = NeuronSelectivity(["a", "b"], "linear", channel_dim=-1)
    expected = LOSSES["linear"](STUDENT, TEACHER) + LOSSES["linear"](STUDENT.cos(), TEACHER.cos())
    torch.testing.assert_close(term.loss(lesson), expected)
    assert repr(term).endswith("channel_dim=-1, kernel='linear')")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: neuron_selectivity_loss(STUDENT, TEACHER, "gaussian"), "kernel must be one of"),
        (lambda: NeuronSelectivity(["a"], "cubic"), "kernel must be one of"),
        (
            lambda: neuron_selectivity_loss(STUDENT[..., :1, :1], TEACHER),
            "student_features must have more than one position",
        ),
        (lambda: neuron_selectivity_loss(STUDENT, TEACHER[:2]), "same samples, got 3 and 2"),
    ],
)
def test_bad_input_is_named(call, told):
    with pytest.raises(ArgumentError, match=told):
        call()
