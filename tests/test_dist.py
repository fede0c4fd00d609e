"""Correlations within predictions, by definition; what they do not see; many processes."""

import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_predictions import SHAPES, K, drawn, example_of, value_and_gradient
from torch.nn import functional as F
from torchdistill.losses import mid_level

from kdcourse import processes
from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.methods.dist import DIST, dist_loss
from kdcourse.objective import Lesson, Outputs

STUDENT, TEACHER = drawn(7, K), drawn(7, K, seed=1)
WEIGHT = torch.tensor([1.0, 0.3, 0.0, 2.0, 0.7, 0.0, 1.1], dtype=torch.float64)
LOSSES = {
    "plain": dist_loss,
    "rows": lambda s, t: dist_loss(s, t, 2.0, gamma=0.0),
    "columns": lambda s, t: dist_loss(s, t, 4.0, beta=0.0),
    "weighted": lambda s, t: dist_loss(
        s, t, weight=torch.arange(7, device=s.device) % 3, beta=0.5, gamma=2.0
    ),
}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


# The definition, in Python's own floats.


def softmax(z, temperature):
    powers = [math.exp(v / temperature) for v in z]
    return [v / math.fsum(powers) for v in powers]


def pearson(u, v, weights):
    total = math.fsum(weights)
    means = [math.fsum(w * a for w, a in zip(weights, one, strict=True)) / total for one in (u, v)]
    rows = [(w, a - means[0], b - means[1]) for w, a, b in zip(weights, u, v, strict=True) if w > 0]
    covariance = math.fsum(w * a * b for w, a, b in rows)
    variances = math.fsum(w * a * a for w, a, _ in rows), math.fsum(w * b * b for w, _, b in rows)
    return covariance / math.sqrt(variances[0] * variances[1])


def naive(s, t, weights, temperature=1.0, beta=1.0, gamma=1.0):
    s, t = ([softmax(z, temperature) for z in rows] for rows in (s, t))
    of_rows = [1 - pearson(p, q, [1.0] * len(p)) for p, q in zip(s, t, strict=True)]
    inter = math.fsum(w * d for w, d in zip(weights, of_rows, strict=True)) / math.fsum(weights)
    columns = zip(zip(*s, strict=True), zip(*t, strict=True), strict=True)
    intra = [1 - pearson(p, q, weights) for p, q in columns]
    return beta * inter + gamma * math.fsum(intra) / len(intra)


def rows_of(logits, class_dim):
    return logits.movedim(class_dim, -1).reshape(-1, K).tolist()


@pytest.mark.parametrize(("shape", "class_dim"), SHAPES.values(), ids=SHAPES)
def test_equals_the_definition(shape, class_dim):
    s, t, target, mask, weight = example_of(shape, class_dim)
    rows = rows_of(s, class_dim), rows_of(t, class_dim)
    knobs = {"temperature": 2.0, "beta": 0.5, "gamma": 3.0}
    for counting, counted in (
        ({}, torch.ones_like(weight)),
        ({"mask": mask}, mask.double()),
        ({"weight": weight}, weight),
        ({"mask": mask, "weight": weight}, weight * mask),
    ):
        expected = naive(*rows, counted.flatten().tolist(), **knobs)
        value = dist_loss(s, t, class_dim=class_dim, **counting, **knobs)
        assert value.item() == pytest.approx(expected, rel=1e-9), list(counting)

    term = DIST(2.0, 0.5, 3.0, class_dim=class_dim, ignore_index=-100, mask="mask")
    labels, inputs = target.masked_fill(~mask, -100), {"mask": mask.long()}
    lesson = Lesson(Outputs(logits=s), labels, Outputs(logits=t), inputs=inputs, weight=weight)
    assert term.loss(lesson).item() == pytest.approx(expected, rel=1e-9)


# Places.


@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf, 1e300])
def test_what_does_not_count_may_hold_anything(padding):
    out = WEIGHT == 0
    expected = value_and_gradient(dist_loss, STUDENT, TEACHER, weight=WEIGHT)
    s, t = (z.masked_fill(out[:, None], padding) for z in (STUDENT, TEACHER))
    found = value_and_gradient(dist_loss, s, t, weight=WEIGHT)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    assert found[1][out].abs().max() == 0


def test_where_nothing_counts_loss_and_gradient_are_zero():
    for padding in (0.0, math.nan):
        s = torch.full_like(STUDENT, padding)
        value, gradient = value_and_gradient(dist_loss, s, s, mask=torch.zeros(7))
        assert value == 0
        assert gradient.abs().max() == 0


@given(
    times=st.lists(st.integers(0, 3), min_size=7, max_size=7).filter(any),
    factor=st.floats(1e-20, 1e20),
)
def test_a_weight_of_k_is_the_place_k_times(times, factor):
    times = torch.tensor(times)
    repeated = (z.repeat_interleave(times, dim=0) for z in (STUDENT, TEACHER))
    found = dist_loss(STUDENT, TEACHER, weight=factor * times.double())
    torch.testing.assert_close(found, dist_loss(*repeated))


# What a correlation sees, and what not.


def test_it_is_the_correlation_of_logits_where_it_is_hot():
    """So that no τ² is needed: value and gradient neither vanish nor grow."""
    centred = [z - z.mean(dim=1, keepdim=True) for z in (STUDENT, TEACHER)]
    expected = 1 - F.cosine_similarity(*centred, dim=1).mean()
    found, gradient = value_and_gradient(dist_loss, STUDENT, TEACHER, 1e5, gamma=0.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    warm = value_and_gradient(dist_loss, STUDENT, TEACHER, 100.0, gamma=0.0)[1]
    torch.testing.assert_close(gradient, warm, rtol=0.2, atol=0.01)


def test_a_student_that_stands_above_its_teacher_in_scale_and_place_has_arrived():
    s = (3 * TEACHER + drawn(7, 1, seed=2)).requires_grad_()
    value, gradient = value_and_gradient(dist_loss, s, TEACHER, 1e6, gamma=0.0)
    assert value.item() == pytest.approx(0, abs=1e-9)
    assert gradient.abs().max() < 1e-5
    value, gradient = value_and_gradient(dist_loss, TEACHER, TEACHER)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


def test_order_does_not_matter_neither_of_places_nor_of_classes():
    places, classes = (torch.randperm(size, generator=replay(3)) for size in (7, K))
    value = dist_loss(STUDENT, TEACHER, 2.0)
    for mixed in (lambda z: z[places], lambda z: z[:, classes]):
        torch.testing.assert_close(dist_loss(mixed(STUDENT), mixed(TEACHER), 2.0), value)


def test_classes_with_hardly_any_probability_count_as_the_others():
    """Their squares are no numbers of float32."""
    shift = -20.0 * torch.arange(-1, K - 1).clamp(min=0)  # two share nearly all
    s, t = (z + shift for z in (STUDENT, TEACHER))
    found = value_and_gradient(dist_loss, s.float(), t.float(), gamma=2.0)
    expected = value_and_gradient(dist_loss, s, t, gamma=2.0)
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-3, atol=1e-5)
    assert naive(s.tolist(), t.tolist(), [1.0] * 7, gamma=2.0) == pytest.approx(found[0].item())


@pytest.mark.parametrize("gap", [60.0, 95.0, 1e4])
@pytest.mark.parametrize("places", [1, 7])
def test_classes_that_are_all_but_ruled_out_at_all_places_that_count(gap, places):
    """Less probable than a number of float32 can tell; and than where a place does not count."""
    shift = -gap * (torch.arange(K) == K - 1)
    s, t = (z[:places] + shift for z in (STUDENT, TEACHER))
    weight = torch.ones(places + 1, dtype=torch.float64)
    weight[-1] = 0
    s, t = (F.pad(z, (0, 0, 0, 1)) for z in (s, t))
    found = value_and_gradient(dist_loss, s.float(), t.float(), weight=weight, gamma=2.0)
    expected = value_and_gradient(dist_loss, s, t, weight=weight, gamma=2.0)
    assert found[0].isfinite()
    assert found[1].isfinite().all()
    if gap == 60:
        assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
        torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-3, atol=1e-5)


CONSTANT = {
    "uniform": torch.zeros(7, K),
    "the same everywhere": torch.arange(K).float().expand(7, K),
    "certain of one class": 1e4 * F.one_hot(torch.zeros(7, dtype=torch.int64), K).float(),
}


@pytest.mark.parametrize("constant", CONSTANT.values(), ids=CONSTANT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_what_is_constant_has_no_correlation_and_no_gradient(constant, dtype):
    other, constant = STUDENT.to(dtype), constant.to(dtype)
    for s, t in ((other, constant), (constant, other), (constant, constant)):
        value, gradient = value_and_gradient(dist_loss, s, t, beta=0.0)
        assert value == 1
        assert not gradient.any()
        assert value_and_gradient(dist_loss, s, t)[1].isfinite().all()


def test_a_single_place_has_no_columns():
    value, gradient = value_and_gradient(dist_loss, STUDENT[:1], TEACHER[:1])
    rows, of_rows = value_and_gradient(dist_loss, STUDENT[:1], TEACHER[:1], gamma=0.0)
    torch.testing.assert_close((value - 1, gradient), (rows, of_rows))


# A second opinion, and many processes.


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_agrees_with_torchdistill_up_to_the_factor_of_the_docstring(temperature):
    knobs = {"beta": 2.0, "gamma": 0.5}
    theirs = mid_level.DISTLoss("s", "output", "t", "output", tau=temperature, **knobs)
    s = STUDENT.clone().requires_grad_()
    value = theirs({"s": {"output": s}}, {"t": {"output": TEACHER}})
    own, gradient = value_and_gradient(dist_loss, STUDENT, TEACHER, temperature, **knobs)
    assert value.item() == pytest.approx(temperature**2 * own.item(), rel=1e-6)
    (expected,) = torch.autograd.grad(value, s)
    torch.testing.assert_close(temperature**2 * gradient, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("sizes", [(4, 3), (1, 6), (2, 2, 3)])
def test_processes_find_the_loss_of_all_places(sizes, monkeypatch):
    """Played by threads: what one counts is added to what the others do."""
    count, shared = len(sizes), {}
    barrier = Barrier(count)

    def total(values):
        shared.setdefault(int(barrier.wait()), values)  # in any order
        barrier.wait()
        summed = sum(shared.values())
        if barrier.wait() == 0:
            shared.clear()
        barrier.wait()
        return summed.detach()

    expected = value_and_gradient(dist_loss, STUDENT, TEACHER, weight=WEIGHT, gamma=2.0)
    monkeypatch.setattr(processes, "count", lambda: count)
    monkeypatch.setattr(processes, "total", total)

    def share(s, t, weight):
        return value_and_gradient(dist_loss, s, t, weight=weight, gamma=2.0)

    parts = [z.split(sizes) for z in (STUDENT, TEACHER, WEIGHT)]
    with ThreadPoolExecutor(count) as pool:
        values, gradients = zip(*pool.map(share, *parts), strict=True)
    for value in values:
        torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(torch.cat(gradients) / count, expected[1])


def test_the_term():
    assert repr(DIST(4)) == "DIST(temperature=4, beta=1.0, gamma=1.0)"
    assert (2.0 * DIST()).names == ["dist"]
    for name in ("beta", "gamma"):
        with pytest.raises(ArgumentError, match=f"{name} must be finite and lie in"):
            DIST(**{name: -1.0})
