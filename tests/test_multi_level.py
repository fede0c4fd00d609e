"""Predictions at three levels, by definition; batches, weights and many processes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_predictions import SHAPES, K, drawn, example_of, value_and_gradient
from torch.nn import functional as F

from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.logit import kd_loss
from kdcourse.methods import multi_level
from kdcourse.methods.multi_level import TEMPERATURES, MultiLevelKD, multi_level_loss
from kdcourse.objective import Lesson, Outputs

N = 7
STUDENT, TEACHER = drawn(N, K), drawn(N, K, seed=1)
MANY = drawn(4 * K, K), drawn(4 * K, K, seed=1)  # places, so that no matrix of them is made
LOSSES = {
    "plain": multi_level_loss,
    "many places": multi_level_loss,
    "hot": lambda s, t: multi_level_loss(s, t, (0.5, 50.0), beta=20.0),
    "samples": lambda s, t: multi_level_loss(s, t, alpha=0.0, gamma=0.0),
    "classes": lambda s, t: multi_level_loss(s, t, [1.0], alpha=0.0, beta=0.0),
    "weighted": lambda s, t: multi_level_loss(s, t, weight=torch.arange(7, device=s.device) % 3),
}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return MANY if name == "many places" else (STUDENT, TEACHER)


# The definition, in Python's own floats.


def softmax(z, temperature):
    powers = [math.exp(v / temperature) for v in z]
    return [v / math.fsum(powers) for v in powers]


def inner(u, v, w=None):
    return math.fsum(a * b * c for a, b, c in zip(u, v, w or [1.0] * len(u), strict=True))


def naive_levels(s, t, weights, temperature):
    s, t = ([softmax(z, temperature) for z in rows] for rows in (s, t))
    total = math.fsum(weights)
    instance = samples = relations = 0.0
    for w, q, p in zip(weights, s, t, strict=True):
        kl = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        instance += w * temperature**2 * kl / total
    for i, v in enumerate(weights):
        for j, w in enumerate(weights):
            samples += v * w * (inner(t[i], t[j]) - inner(s[i], s[j])) ** 2 / total
    own, theirs = (list(zip(*rows, strict=True)) for rows in (s, t))
    for i in range(len(own)):
        for j in range(len(own)):
            difference = inner(theirs[i], theirs[j], weights) - inner(own[i], own[j], weights)
            relations += difference**2 / len(own)
    return instance, samples, relations


def naive(s, t, weights, temperatures=TEMPERATURES, alpha=1.0, beta=1.0, gamma=1.0):
    levels = [naive_levels(s, t, weights, tau) for tau in temperatures]
    return math.fsum(alpha * a + beta * b + gamma * c for a, b, c in levels)


def rows_of(logits, class_dim):
    return logits.movedim(class_dim, -1).reshape(-1, K).tolist()


@pytest.mark.parametrize(("shape", "class_dim"), SHAPES.values(), ids=SHAPES)
def test_equals_the_definition(shape, class_dim):
    s, t, target, mask, weight = example_of(shape, class_dim)
    rows = rows_of(s, class_dim), rows_of(t, class_dim)
    knobs = {"temperatures": [1.0, 40.0], "alpha": 0.5, "beta": 3.0, "gamma": 2.0}
    for counting, counted in (
        ({}, torch.ones_like(weight)),
        ({"mask": mask}, mask.double()),
        ({"mask": mask, "weight": weight}, weight * mask),
    ):
        expected = naive(*rows, counted.flatten().tolist(), **knobs)
        value = multi_level_loss(s, t, class_dim=class_dim, **counting, **knobs)
        assert value.item() == pytest.approx(expected, rel=1e-9), list(counting)

    term = MultiLevelKD([1.0, 40.0], 0.5, 3.0, 2.0, class_dim=class_dim, ignore_index=-100)
    labels = target.masked_fill(~mask, -100)
    lesson = Lesson(Outputs(logits=s), labels, Outputs(logits=t), weight=weight)
    assert term.loss(lesson).item() == pytest.approx(expected, rel=1e-9)


def test_the_levels_are_kd_and_what_two_sides_of_one_matrix_say():
    kd = sum(kd_loss(STUDENT, TEACHER, tau) for tau in TEMPERATURES)
    torch.testing.assert_close(multi_level_loss(STUDENT, TEACHER, beta=0.0, gamma=0.0), kd)
    p, q = (z.softmax(dim=1) for z in (TEACHER, STUDENT))
    for one, knobs in ((1, {"gamma": 0.0}), (0, {"beta": 0.0})):
        sides = [z if one else z.T for z in (p, q)]
        grams = [z @ z.T for z in sides]
        expected = (grams[0] - grams[1]).square().sum() / len(grams[0])
        found = multi_level_loss(STUDENT, TEACHER, (1.0,), alpha=0.0, **knobs)
        torch.testing.assert_close(found, expected)


def test_many_places_have_the_relations_of_few():
    """Of 4K places, of which the last count as nothing: the sum is made in the other way."""
    few = value_and_gradient(multi_level_loss, STUDENT, TEACHER, alpha=0.0, gamma=0.0)
    mask = torch.arange(4 * K) < N
    s, t = (F.pad(z, (0, 0, 0, 4 * K - N), value=math.nan) for z in (STUDENT, TEACHER))
    value, gradient = value_and_gradient(multi_level_loss, s, t, alpha=0.0, gamma=0.0, mask=mask)
    torch.testing.assert_close((value, gradient[:N]), few)
    assert gradient[N:].abs().max() == 0


@given(times=st.lists(st.integers(0, 3), min_size=N, max_size=N).filter(any))
def test_a_weight_of_k_is_the_place_k_times(times):
    times = torch.tensor(times)
    repeated = (z.repeat_interleave(times, dim=0) for z in (STUDENT, TEACHER))
    found = multi_level_loss(STUDENT, TEACHER, weight=times)
    torch.testing.assert_close(found, multi_level_loss(*repeated))


def test_a_batch_twice_as_large_has_relations_twice_and_four_times_as_large():
    twice = [torch.cat([z, z]) for z in (STUDENT, TEACHER)]
    for factor, off in ((1, ("beta", "gamma")), (2, ("alpha", "gamma")), (4, ("alpha", "beta"))):
        knobs = dict.fromkeys(off, 0.0)
        expected = factor * multi_level_loss(STUDENT, TEACHER, **knobs)
        torch.testing.assert_close(multi_level_loss(*twice, **knobs), expected)


@pytest.mark.parametrize(("off", "power"), [("gamma", 4), ("beta", 2)])
def test_relations_vanish_when_hot(off, power):
    knobs = {"alpha": 0.0, off: 0.0}
    warm, hot = (multi_level_loss(STUDENT, TEACHER, [tau], **knobs) for tau in (1e3, 1e4))
    assert (warm / hot).item() == pytest.approx(10**power, rel=0.02)


def test_order_does_not_matter_neither_of_places_nor_of_classes():
    places, classes = (torch.randperm(size, generator=replay(3)) for size in (N, K))
    value = multi_level_loss(STUDENT, TEACHER)
    for mixed in (lambda z: z[places], lambda z: z[:, classes]):
        torch.testing.assert_close(multi_level_loss(mixed(STUDENT), mixed(TEACHER)), value)


@pytest.mark.parametrize("teacher", [TEACHER, MANY[1]], ids=["few", "many"])
def test_a_student_that_has_arrived_has_neither_loss_nor_gradient(teacher):
    value, gradient = value_and_gradient(multi_level_loss, teacher, teacher)
    assert value == 0
    assert gradient.abs().max() < 1e-14


def test_processes_find_the_loss_of_all_places(monkeypatch):
    """Of which this one has the first three, with their gradients."""
    weight = torch.rand(N, generator=replay(4), dtype=STUDENT.dtype)
    expected = value_and_gradient(multi_level_loss, STUDENT, TEACHER, weight=weight)

    def gathered(*own):
        whole = {K: (STUDENT, TEACHER)}.get(own[0].shape[-1], (weight,))
        return [torch.cat([one, other[3:]]) for one, other in zip(own, whole, strict=True)]

    monkeypatch.setattr(multi_level, "all_pairs", gathered)
    monkeypatch.setattr(multi_level, "all_samples", lambda own: gathered(own)[0])
    own = (z[:3] for z in (STUDENT, TEACHER))
    value, gradient = value_and_gradient(multi_level_loss, *own, weight=weight[:3])
    torch.testing.assert_close((value, gradient), (expected[0], expected[1][:3]))


def test_where_nothing_counts_loss_and_gradient_are_zero():
    s = torch.full_like(STUDENT, math.nan)
    value, gradient = value_and_gradient(multi_level_loss, s, s, mask=torch.zeros(N))
    assert value == 0
    assert gradient.abs().max() == 0


def test_against_the_authors_convention():
    """Half the weak view, by masks that multiply means; of relations, no other view."""
    weak, strong = (STUDENT[:6], TEACHER[:6]), (drawn(6, K, seed=5), drawn(6, K, seed=6))
    p = weak[1].softmax(dim=1)

    def kd(view, tau):
        q, p = (view[0] / tau).log_softmax(1), (view[1] / tau).softmax(1)
        return F.kl_div(q, p, reduction="batchmean") * tau**2

    def relation(tau, turned):
        sides = [(z / tau).softmax(1) for z in weak]
        grams = [z.T @ z if turned else z @ z.T for z in sides]
        return (grams[0] - grams[1]).square().sum() / len(grams[0])

    sure = p.amax(dim=1) <= p.amax(dim=1).quantile(0.5)
    frequent = p.sum(dim=0) <= p.sum(dim=0).quantile(0.5)
    theirs = 0.0
    for tau in (2.0, 3.0, 4.0, 5.0, 6.0):
        theirs += 0.9 * (kd(weak, tau) * sure).mean()
        theirs += 0.9 * kd(weak if tau in (2.0, 6.0) else strong, tau)
        theirs += 0.9 * (relation(tau, False) * sure).mean()
        theirs += 0.9 * (relation(tau, True) * frequent).mean()
    share = frequent.double().mean().item()  # of an odd number of classes, a little over half
    ours = 0.9 * multi_level_loss(*weak, alpha=0.5, beta=0.5, gamma=share)
    only_kd = {"beta": 0.0, "gamma": 0.0}
    ours += 0.9 * multi_level_loss(*strong, (3.0, 4.0, 5.0), **only_kd)
    ours += 0.9 * multi_level_loss(*weak, (2.0, 6.0), **only_kd)
    torch.testing.assert_close(ours, theirs)


def test_the_term():
    assert repr(MultiLevelKD([4], beta=0)) == (
        "MultiLevelKD(temperatures=(4,), alpha=1.0, beta=0, gamma=1.0)"
    )
    for name in ("alpha", "beta", "gamma"):
        with pytest.raises(ArgumentError, match=f"{name} must be finite and lie in"):
            MultiLevelKD(**{name: -1.0})
    for wrong in ((), 4.0, "4"):
        with pytest.raises(ArgumentError, match="temperatures must be a list of at least one"):
            MultiLevelKD(wrong)
    with pytest.raises(ArgumentError, match="temperatures must be finite and lie in"):
        multi_level_loss(STUDENT, TEACHER, [2.0, 0.0])
