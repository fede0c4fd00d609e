"""What of the teacher's features can be told from the student's."""

import math

import pytest
import torch
from torch import nn

from kdcourse.errors import ArgumentError
from kdcourse.methods.variational import (
    VariationalHint,
    VariationalInformation,
    variational_loss,
)
from kdcourse.objective import Lesson, Outputs


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MEANS, TEACHER = draw(3, 2, 3, 4, seed=1), draw(3, 2, 3, 4, seed=2)
VARIANCES = torch.tensor([0.25, 3.0], dtype=torch.float64)


def told(means, teacher):
    return variational_loss(means, teacher, VARIANCES.to(means))


LOSSES = {
    "images": lambda s, t: variational_loss(s, t, torch.tensor([0.25, 3.0], device=s.device)),
    "vectors": lambda s, t: variational_loss(s[..., 0, 0], t[..., 0, 0], t.new_ones(2)),
}


def example(name):
    """Means and teacher, for the tests of every loss."""
    return MEANS, TEACHER


def naive_loss(means, teacher, variances):
    values = [
        math.log(math.sqrt(variances[c])) + (float(t) - float(m)) ** 2 / (2 * variances[c])
        for own, theirs in zip(means, teacher, strict=True)
        for c, (mu, channel) in enumerate(zip(own, theirs, strict=True))
        for m, t in zip(mu.flatten(), channel.flatten(), strict=True)
    ]
    return math.fsum(values) / len(values)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("dimensions", [0, 1, 2])
def test_equals_the_naive_definition(dtype, rel, dimensions):
    s, t = (z.to(dtype)[(..., *[0] * (2 - dimensions))] for z in (MEANS, TEACHER))
    value = told(s, t)
    assert value.shape == ()
    assert value.dtype == dtype
    assert value.item() == pytest.approx(naive_loss(s, t, VARIANCES.tolist()), rel=rel)


def test_it_is_torchs_log_likelihood_and_with_variances_of_one_half_the_squared_error():
    spread = VARIANCES.sqrt()[:, None, None]
    log_p = torch.distributions.Normal(MEANS, spread).log_prob(TEACHER).mean()
    torch.testing.assert_close(told(MEANS, TEACHER), -log_p - math.log(2 * math.pi) / 2)
    value = variational_loss(MEANS, TEACHER, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(value, (MEANS - TEACHER).square().mean() / 2)


def test_the_best_variance_of_a_channel_is_its_squared_error():
    best = (MEANS - TEACHER).square().mean(dim=(0, 2, 3)).requires_grad_()
    value = variational_loss(MEANS, TEACHER, best)
    (slope,) = torch.autograd.grad(value, best)
    torch.testing.assert_close(slope, torch.zeros_like(slope))
    assert torch.autograd.gradcheck(lambda v: variational_loss(MEANS, TEACHER, v), 2 * best)


# The one who guesses.


@pytest.mark.parametrize("variance", [2e-5, 0.1, 5.0, 300.0])
def test_variances_begin_where_they_are_told_and_stay_above_epsilon(variance):
    hint = VariationalHint(4, 3, variance=variance).double()
    torch.testing.assert_close(
        hint.variances(), torch.full((3,), variance).double(), rtol=1e-4, atol=0
    )
    nn.init.constant_(hint.alpha, -1e3)
    assert hint.variances().tolist() == pytest.approx([1e-5] * 3)


def test_against_the_benchmarks_convention():
    """A net of three convolutions, and half of the sum of error over variance and its logarithm."""
    hint = VariationalHint(4, 2, variance=0.7).double()
    s = draw(3, 4, 3, 4, seed=3)
    first, behind = hint.projection, hint.nonlinearity
    h = s
    for layer in (first, behind[1], behind[3]):
        h = (h.relu() if layer is not first else h).movedim(1, -1)
        h = (h @ layer.weight.flatten(1).T + layer.bias).movedim(-1, 1)
    variance = (1 + hint.alpha.exp()).log() + 1e-5
    variance = variance[:, None, None]
    expected = (0.5 * ((h - TEACHER) ** 2 / variance + variance.log())).mean()
    torch.testing.assert_close(hint(s, TEACHER), expected)


def test_channels_that_cannot_be_told_come_to_count_less():
    torch.manual_seed(0)
    s = draw(64, 2, 3, 3, seed=3)
    t = torch.stack([s[:, 0], 2 * draw(64, 3, 3, seed=4)], dim=1)
    hint = VariationalHint(2, 2).double()
    optimizer = torch.optim.Adam(hint.parameters(), 0.03)
    for _ in range(300):
        optimizer.zero_grad()
        hint(s, t).backward()
        optimizer.step()
    known, unknown = hint.variances().tolist()
    assert known < 0.3
    assert 3 < unknown < 5  # it is 4


@pytest.mark.parametrize(
    ("student", "teacher", "options"),
    [
        ((5, 4, 4), (3, 4, 4), {}),
        ((5, 8, 6), (3, 4, 3), {}),
        ((5, 2, 2), (3, 4, 4), {}),
        ((5,), (3,), {}),
        ((9, 5), (9, 3), {"channel_dim": -1}),
        ((10, 5), (3, 3, 3), {"channel_dim": (-1, 1), "class_token": (True, False)}),
    ],
    ids=str,
)
def test_the_term_sizes_itself(student, teacher, options):
    own, theirs = draw(4, *student, seed=1).float(), draw(4, *teacher, seed=2).float()
    shown = [Outputs(features={"x": features}) for features in (own, theirs)]
    lesson = Lesson(shown[0], torch.zeros(4, dtype=torch.int64), shown[1])
    term = VariationalInformation("x", variance=2.0, **options)
    assert not term.prepared
    term.prepare(lesson, seed=5)
    assert term.prepared
    value = term.loss(lesson)
    value.backward()
    assert all(p.grad is not None and p.grad.any() for p in term.parameters())
    assert {name.partition(".")[2] for name, _ in term.named_parameters()} >= {"alpha"}
    again = VariationalInformation("x", seed=5, **options)
    again.prepare(lesson, seed=6)
    assert torch.equal(again.hint.projection.weight, term.hint.projection.weight)
    assert again.hint.variances().tolist() == pytest.approx([5.0] * 3)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: told(MEANS[:, :1], TEACHER), "student_means and teacher_features must have the"),
        (lambda: told(MEANS[0, 0, 0], TEACHER), r"student_means must have shape \(N, C, …\)"),
        (
            lambda: variational_loss(MEANS, TEACHER, VARIANCES[:1]),
            r"variances must have shape \(2,",
        ),
        (lambda: variational_loss(MEANS, TEACHER, -VARIANCES), "variances must be above zero"),
        (lambda: VariationalHint(2, 3, variance=1e-5), "variance must be finite and lie in"),
        (lambda: VariationalInformation("x", variance=0.0), "variance must be finite and lie in"),
        (lambda: VariationalHint(4, 2)(MEANS, TEACHER), "student_features must have 4 channels"),
    ],
)
def test_bad_input_is_named(call, error):
    with pytest.raises(ArgumentError, match=error):
        call()
