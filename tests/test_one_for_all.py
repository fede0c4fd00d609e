"""Exits from hidden layers, and the target class enhanced."""

import math

import pytest
import torch
from test_predictions import SHAPES, K, drawn, example_of, value_and_gradient
from torch.nn import functional as F

from kdcourse.errors import ArgumentError
from kdcourse.methods.one_for_all import OneForAll, ofa_loss
from kdcourse.objective import Lesson, Outputs

STUDENT, TEACHER = drawn(6, K), drawn(6, K, seed=1)
TARGET = torch.tensor([0, 4, 2, 1, 3, 0])


def with_target(**options):
    return lambda s, t: ofa_loss(s, t, torch.arange(6, device=s.device) % K, **options)


LOSSES = {"one for all": with_target(), "one for all, plain": with_target(gamma=1.0)}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


def log_softmax(z):
    total = math.log(math.fsum(math.exp(v) for v in z))
    return [v - total for v in z]


def naive(s, t, y, gamma):
    log_s, p_t = log_softmax(s), [math.exp(v) for v in log_softmax(t)]
    weights = [(1 + p) ** gamma if k == y else p for k, p in enumerate(p_t)]
    return -math.fsum(w * v for w, v in zip(weights, log_s, strict=True))


def rows_of(logits, class_dim):
    return logits.movedim(class_dim, -1).reshape(-1, K).tolist()


@pytest.mark.parametrize("gamma", [1.0, 1.5, 3.0])
@pytest.mark.parametrize(("shape", "class_dim"), SHAPES.values(), ids=SHAPES)
def test_equals_the_definition(shape, class_dim, gamma):
    s, t, target, mask, weight = example_of(shape, class_dim)
    rows = zip(*(rows_of(z, class_dim) for z in (s, t)), target.flatten().tolist(), strict=True)
    each = [naive(*row, gamma) for row in rows]
    for counting, counted in (
        ({}, torch.ones_like(weight)),
        ({"mask": mask}, mask.double()),
        ({"weight": weight}, weight),
        ({"mask": mask, "weight": weight}, weight * mask),
    ):
        weights = counted.flatten().tolist()
        expected = math.fsum(w * e for w, e in zip(weights, each, strict=True)) / math.fsum(weights)
        value = ofa_loss(s, t, target, gamma, class_dim=class_dim, **counting)
        assert value.item() == pytest.approx(expected, rel=1e-9), list(counting)
    ignored = target.masked_fill(~mask, -100)
    found = ofa_loss(s, t, ignored, gamma, class_dim=class_dim, ignore_index=-100)
    torch.testing.assert_close(found, ofa_loss(s, t, target, gamma, class_dim=class_dim, mask=mask))


@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf, 1e300])
def test_what_does_not_count_may_hold_anything(padding):
    weight = torch.tensor([1.0, 0.3, 0.0, 2.0, 0.7, 0.0]).double()
    out = weight == 0
    expected = value_and_gradient(ofa_loss, STUDENT, TEACHER, TARGET, weight=weight)
    s, t = (z.masked_fill(out[:, None], padding) for z in (STUDENT, TEACHER))
    found = value_and_gradient(ofa_loss, s, t, TARGET.masked_fill(out, 99), weight=weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    assert found[1][out].abs().max() == 0


def test_without_enhancement_it_is_the_cross_entropy_of_the_label_and_that_of_the_teacher():
    by_teacher = F.cross_entropy(STUDENT, TEACHER.softmax(dim=1))
    expected = F.cross_entropy(STUDENT, TARGET) + by_teacher
    torch.testing.assert_close(ofa_loss(STUDENT, TEACHER, TARGET, 1.0), expected)


@pytest.mark.parametrize(("sure", "more"), [(0.0, 0.0), (1.0, 2**2.5 - 2)])
def test_the_label_counts_more_where_the_teacher_is_sure_of_it(sure, more):
    teacher = torch.full_like(STUDENT, -math.inf)
    teacher[torch.arange(6), TARGET if sure else (TARGET + 1) % K] = 0
    enhanced, plain = (ofa_loss(STUDENT, teacher, TARGET, gamma) for gamma in (2.5, 1.0))
    torch.testing.assert_close(enhanced - plain, more * F.cross_entropy(STUDENT, TARGET))


def test_a_class_that_is_impossible_for_both_does_not_count():
    s, t = STUDENT.clone(), TEACHER.clone()
    s[:, -1] = t[:, -1] = -math.inf
    y = TARGET % (K - 1)
    value, gradient = value_and_gradient(ofa_loss, s, t, y)
    rest = value_and_gradient(ofa_loss, s[:, :-1], t[:, :-1], y)
    torch.testing.assert_close((value, gradient[:, :-1]), rest)


@pytest.mark.parametrize("gamma", [1.0, 1.3])
def test_against_the_authors_convention(gamma):
    """Without the label's own part; and all probabilities are raised, not only the target's."""
    one_hot, p = F.one_hot(TARGET, K), TEACHER.softmax(dim=1)
    log_s = STUDENT.log_softmax(dim=1)
    theirs = -(((p + one_hot) ** gamma - one_hot) * log_s).sum(dim=1).mean()
    raised = -((1 - one_hot) * (p - p**gamma) * log_s).sum(dim=1).mean()
    ours = ofa_loss(STUDENT, TEACHER, TARGET, gamma)
    torch.testing.assert_close(ours - theirs, F.cross_entropy(STUDENT, TARGET) + raised)
    assert (raised == 0) == (gamma == 1)


# The term.


def lesson(features, logits, target):
    teacher = Outputs(logits=drawn(*logits.shape, seed=9))
    return Lesson(Outputs(logits=logits, features=features), target, teacher)


def test_exits_are_linear_maps_of_the_mean_over_positions():
    features = {"a": drawn(6, 3, 4, 4, seed=2), "b": drawn(6, 7, seed=3)}
    shown, term = lesson(features, STUDENT, TARGET), OneForAll(["a", "b"], 1.2)
    value = term.loss(shown)
    assert [tuple(leave.weight.shape) for leave in term.exits] == [(K, 3), (K, 7)]
    expected = ofa_loss(STUDENT, shown.teacher_logits, TARGET, 1.2)
    for leave, z in zip(term.exits, (features["a"].mean(dim=(2, 3)), features["b"]), strict=True):
        logits = z @ leave.weight.T + leave.bias
        expected = expected + ofa_loss(logits, shown.teacher_logits, TARGET, 1.2)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert all(p.grad.abs().sum() > 0 for p in term.parameters())
    assert term.needs_labels
    assert term.teacher_layers == ()


def test_every_token_predicts_for_itself():
    hidden, logits = drawn(2, 4, 3, seed=2), drawn(2, 4, K)
    target = torch.tensor([[0, 1, -100, 3], [4, -100, 2, 1]])
    shown = lesson({"h": hidden}, logits, target)
    term = OneForAll(["h"], class_dim=-1, channel_dim=-1, ignore_index=-100)
    value = term.loss(shown)
    exits = hidden @ term.exits[0].weight.T + term.exits[0].bias
    expected = sum(
        ofa_loss(z, shown.teacher_logits, target, class_dim=-1, ignore_index=-100)
        for z in (logits, exits)
    )
    torch.testing.assert_close(value, expected)
    assert not term.needs_labels


def test_the_predictions_of_another_number_of_pixels_are_interpolated():
    features, logits = drawn(2, 3, 2, 2, seed=2), drawn(2, K, 4, 6)
    target = torch.randint(K, (2, 4, 6), generator=torch.Generator().manual_seed(0))
    shown, term = lesson({"a": features}, logits, target), OneForAll(["a"])
    value = term.loss(shown)
    exits = torch.einsum("nchw,kc->nkhw", features, term.exits[0].weight)
    exits = F.interpolate(exits + term.exits[0].bias[:, None, None], (4, 6), mode="bilinear")
    expected = sum(ofa_loss(z, shown.teacher_logits, target) for z in (logits, exits))
    torch.testing.assert_close(value, expected)


def test_its_weights_follow_from_a_seed():
    shown, terms = lesson({"a": drawn(6, 3)}, STUDENT, TARGET), [OneForAll(["a"]) for _ in "abc"]
    terms.append(OneForAll(["a"], seed=1))
    for seed, term in zip((1, 1, 2, 3), terms, strict=True):
        term.prepare(shown, seed=seed)
    values = [term.loss(shown).item() for term in terms]
    assert values[0] == values[1] == values[3] != values[2]


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match=r"gamma must be finite and lie in \[1"):
        ofa_loss(STUDENT, TEACHER, TARGET, 0.9)
    with pytest.raises(ArgumentError, match=r"gamma must be finite and lie in \[1"):
        OneForAll(["a"], 0.9)
    with pytest.raises(ArgumentError, match="layers must be a list of at least one name"):
        OneForAll([])
    target = torch.zeros(2, 4, 6, dtype=torch.int64)
    shown = lesson({"a": drawn(2, 3)}, drawn(2, K, 4, 6), target)
    with pytest.raises(ArgumentError, match="layers must have positions in as many dimensions"):
        OneForAll(["a"]).loss(shown)
