"""Many labels at once, each a prediction of its own."""

import math

import pytest
import torch
from test_predictions import drawn
from torch.nn import functional as F

from kdcourse.errors import ArgumentError
from kdcourse.many_labels import (
    BinaryCrossEntropy,
    BinaryKD,
    binary_cross_entropy_loss,
    binary_kd_loss,
)
from kdcourse.objective import Lesson, Outputs
from kdcourse.precision import at_least_float32

SHAPE, TAU = (4, 3), 2.0
LOSSES = {
    "binary kd": binary_kd_loss,
    "binary kd, reverse": lambda s, t: binary_kd_loss(s, t, TAU, divergence="reverse"),
    "binary cross-entropy": lambda s, t: binary_cross_entropy_loss(
        s, at_least_float32(t).sigmoid()
    ),
}


def example(name):
    """Logits of student and teacher, here and for the tests of every loss."""
    return drawn(*SHAPE), drawn(*SHAPE, seed=1)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def naive_kd(s, t, tau):
    p, q = sigmoid(t / tau), sigmoid(s / tau)
    return tau**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))


def naive_labels(s, y):
    return -y * math.log(sigmoid(s)) - (1 - y) * math.log(1 - sigmoid(s))


def naive_mean(values, weights):
    pairs = list(zip(values, weights, strict=True))
    return math.fsum(v * w for v, w in pairs) / math.fsum(w for _, w in pairs)


@pytest.mark.parametrize("shape", [(4, 3), (6,), (2, 3, 2, 2)])
@pytest.mark.parametrize("weighted", [False, True])
def test_both_equal_their_definitions(shape, weighted):
    s, t = drawn(*shape), drawn(*shape, seed=1)
    labels = (drawn(*shape, seed=2) > 0).double()
    weight = drawn(*shape, seed=3).abs() if weighted else None
    w = torch.ones(shape).flatten().tolist() if weight is None else weight.flatten().tolist()
    values = [
        naive_kd(*pair, TAU) for pair in zip(*(z.flatten().tolist() for z in (s, t)), strict=True)
    ]
    assert binary_kd_loss(s, t, TAU, weight=weight).item() == pytest.approx(naive_mean(values, w))
    values = [
        naive_labels(*pair)
        for pair in zip(*(z.flatten().tolist() for z in (s, labels)), strict=True)
    ]
    value = binary_cross_entropy_loss(s, labels, weight=weight)
    assert value.item() == pytest.approx(naive_mean(values, w))


def test_of_whole_labels_it_is_that_of_torch():
    s, labels = drawn(4, 3), (drawn(4, 3, seed=2) > 0).long()
    expected = F.binary_cross_entropy_with_logits(s, labels.double())
    assert binary_cross_entropy_loss(s, labels).item() == pytest.approx(expected.item())


def test_labels_that_are_not_known_do_not_count():
    s, labels = drawn(4, 3), (drawn(4, 3, seed=2) > 0).double()
    known = drawn(4, 3, seed=5) > -1
    assert 0 < known.sum() < 12
    partly = labels.where(known, -1.0)
    expected = F.binary_cross_entropy_with_logits(s[known], labels[known]).item()
    assert binary_cross_entropy_loss(s, partly, ignore_index=-1).item() == pytest.approx(expected)
    term = BinaryCrossEntropy()
    lesson = Lesson(Outputs(logits=s), partly)
    assert term.loss(lesson).item() == pytest.approx(expected)
    assert term.count(lesson) == known.sum()
    right, judged = term.right(s, lesson)
    assert judged == known.sum()
    assert right == ((s > 0) == (labels > 0))[known].sum()


def test_a_batch_may_say_by_weights_what_counts():
    s, t = drawn(4, 3), drawn(4, 3, seed=1)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5])  # of samples
    lesson = Lesson(Outputs(logits=s), (t > 0).double(), Outputs(logits=t), weight=weight)
    rows = (
        binary_kd_loss(s[:1], t[:1]),
        binary_kd_loss(s[2:3], t[2:3]),
        binary_kd_loss(s[3:], t[3:]),
    )
    expected = (rows[0] + 2 * rows[1] + 0.5 * rows[2]) / 3.5
    assert BinaryKD().loss(lesson).item() == pytest.approx(expected.item())
    assert BinaryKD().count(lesson) == 3.5 * 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(4), r"target must have the shape .* of logits, \(4, 3\), got \(4,\)"),
        (torch.full((4, 3), 2.0), r"target must lie in \[0, 1\], got from 2.0 to 2.0"),
        (torch.full((4, 3), -1.0), r"target must lie in \[0, 1\], got from -1.0"),
    ],
)
def test_bad_labels_are_named(labels, message):
    with pytest.raises(ArgumentError, match=message):
        binary_cross_entropy_loss(drawn(4, 3), labels)
