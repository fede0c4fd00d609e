"""Universal logit distillation, by definition; what it loses; two vocabularies."""

import math

import pytest
import torch
from test_predictions import SHAPES, K, drawn, example_of, value_and_gradient
from torch.nn import functional as F

from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.logit import kd_loss
from kdcourse.methods.universal_logit import UniversalLogitKD, universal_logit_loss
from kdcourse.objective import Lesson, Outputs

STUDENT, TEACHER = drawn(7, K), drawn(7, K, seed=1)
LOSSES = {
    "plain": universal_logit_loss,
    "warm": lambda s, t: universal_logit_loss(s, t, 3.0),
    "more classes": lambda s, t: universal_logit_loss(s, t[:, :3]),
    "fewer classes": lambda s, t: universal_logit_loss(s[:, :3], t, 40.0),
    "weighted": lambda s, t: universal_logit_loss(
        s, t, weight=torch.arange(7, device=s.device) % 3
    ),
}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


def naive(s, t, weights, temperature=1.0):
    """The definition, in Python's own floats."""
    total = []
    for own, theirs, weight in zip(s, t, weights, strict=True):
        p, q = (
            sorted(
                (math.exp(z / temperature) / math.fsum(math.exp(a / temperature) for a in row))
                for z in row
            )[::-1]
            for row in (own, theirs)
        )
        size = max(len(p), len(q))
        p, q = (one + [0.0] * (size - len(one)) for one in (p, q))
        total.append(weight * math.fsum(abs(a - b) for a, b in zip(p, q, strict=True)))
    return math.fsum(total) / math.fsum(weights)


@pytest.mark.parametrize("classes", [2, K, 9])
@pytest.mark.parametrize(("shape", "class_dim"), SHAPES.values(), ids=SHAPES)
def test_equals_the_definition(shape, class_dim, classes):
    s, _, target, mask, weight = example_of(shape, class_dim)
    t = drawn(*weight.shape, classes, seed=5).movedim(-1, class_dim)
    rows = [z.movedim(class_dim, -1).flatten(0, -2).tolist() for z in (s, t)]
    for counting, counted in (
        ({}, torch.ones_like(weight)),
        ({"mask": mask}, mask.double()),
        ({"weight": weight}, weight),
        ({"mask": mask, "weight": weight}, weight * mask),
    ):
        expected = naive(*rows, counted.flatten().tolist(), 2.0)
        value = universal_logit_loss(s, t, 2.0, class_dim=class_dim, **counting)
        assert value.item() == pytest.approx(expected, rel=1e-12)
    term = UniversalLogitKD(temperature=2.0, class_dim=class_dim, ignore_index=-100, mask="mask")
    labels, inputs = target.masked_fill(~mask, -100), {"mask": mask.long()}
    lesson = Lesson(Outputs(logits=s), labels, Outputs(logits=t), inputs=inputs, weight=weight)
    assert term.loss(lesson).item() == pytest.approx(expected, rel=1e-12)


def as_the_authors(s, t, lengths):
    """Sorted, padded, cut to the shorter text; the mean over its tokens, and then over texts."""
    found = []
    for own, theirs, length in zip(s, t, lengths, strict=True):
        p, q = (z[:length].softmax(-1).sort(-1, descending=True)[0] for z in (own, theirs))
        size = max(p.shape[-1], q.shape[-1])
        p, q = (F.pad(z, (0, size - z.shape[-1])) for z in (p, q))
        found.append((p - q).abs().sum(-1).mean())
    return torch.stack(found).mean()


def test_is_the_authors_with_the_weights_of_the_docstring():
    s, t, lengths = drawn(3, 4, K), drawn(3, 4, 9, seed=1), [4, 1, 3]
    weight = torch.stack([(torch.arange(4) < n) / n for n in lengths])
    value = universal_logit_loss(s, t, class_dim=-1, weight=weight)
    torch.testing.assert_close(value, as_the_authors(s, t, lengths), rtol=1e-6, atol=0)


def test_it_loses_which_class_is_which():
    """A student that is sure of what its teacher rules out has nothing to learn."""
    mixed = TEACHER.roll(1, dims=1)
    value, gradient = value_and_gradient(universal_logit_loss, mixed, TEACHER)
    assert value == 0
    assert gradient.abs().max() == 0
    assert kd_loss(mixed, TEACHER, 1.0) > 1
    order = torch.randperm(K, generator=replay(0))
    torch.testing.assert_close(
        universal_logit_loss(STUDENT[:, order], TEACHER), universal_logit_loss(STUDENT, TEACHER)
    )


def test_its_limits():
    sure, flat = 1e3 * torch.eye(K), torch.zeros(K, K)
    assert universal_logit_loss(sure, sure.flip(0)) == 0
    assert universal_logit_loss(sure, flat).item() == pytest.approx(2 * (1 - 1 / K))
    assert universal_logit_loss(sure, torch.zeros(K, 10_000)).item() == pytest.approx(2, abs=1e-3)
    hot, hotter = (universal_logit_loss(STUDENT, TEACHER, tau) for tau in (1e4, 2e4))
    assert (hot / hotter).item() == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf, 1e300])
def test_what_does_not_count_may_hold_anything(padding):
    weight = torch.tensor([1.0, 0.3, 0.0, 2.0, 0.7, 0.0, 1.1])
    expected = value_and_gradient(universal_logit_loss, STUDENT, TEACHER, weight=weight)
    s, t = (z.masked_fill((weight == 0)[:, None], padding) for z in (STUDENT, TEACHER))
    found = value_and_gradient(universal_logit_loss, s, t, weight=weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    none = value_and_gradient(universal_logit_loss, s, t, mask=torch.zeros(7))
    assert none[0] == 0
    assert not none[1].any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match=r"the same places, got \(7,\) and \(6,\)"):
        universal_logit_loss(STUDENT, TEACHER[:6])
    with pytest.raises(ArgumentError, match="places must be one of 'text', 'order'"):
        UniversalLogitKD(places="words")
    assert repr(UniversalLogitKD()) == "UniversalLogitKD(temperature=1.0, places='text')"
