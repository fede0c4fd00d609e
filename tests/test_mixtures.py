"""Divergences from a mixture of both predictions, by definition; their limits; masked places."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_predictions import SHAPES, K, drawn, example_of, value_and_gradient
from torch.nn import functional as F

from kdcourse.errors import ArgumentError
from kdcourse.logit import kd_loss
from kdcourse.methods.mixtures import (
    GeneralizedJSD,
    SkewedKL,
    generalized_jsd_loss,
    skewed_kl_loss,
)
from kdcourse.objective import Lesson, Outputs

STUDENT, TEACHER = drawn(7, K), drawn(7, K, seed=1)
LOSSES = {
    "jsd": generalized_jsd_loss,
    "jsd, mostly forward": lambda s, t: generalized_jsd_loss(s, t, 0.1, 2.0),
    "skewed": skewed_kl_loss,
    "skewed, reverse": lambda s, t: skewed_kl_loss(s, t, 0.3, 2.0, reverse=True),
}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


# The definitions at one place, in Python's own floats.


def softmax(z, temperature):
    powers = [math.exp(v / temperature) for v in z]
    return [v / math.fsum(powers) for v in powers]


def kl(p, q):
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def mixed(p, q, share):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def naive_jsd(p, q, beta):
    m = mixed(p, q, beta)
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def naive_skewed(p, q, alpha, reverse):
    first, second = (q, p) if reverse else (p, q)
    return kl(first, mixed(first, second, alpha))


def mean_over(s, t, counted, temperature, definition):
    rows = [
        (w, definition(softmax(b, temperature), softmax(a, temperature)))
        for w, a, b in zip(counted, s, t, strict=True)
        if w
    ]
    total = math.fsum(w * value for w, value in rows) / math.fsum(w for w, _ in rows)
    return temperature**2 * total


def rows_of(logits, class_dim):
    return logits.movedim(class_dim, -1).reshape(-1, K).tolist()


@pytest.mark.parametrize(("shape", "class_dim"), SHAPES.values(), ids=SHAPES)
def test_both_equal_their_definitions_at_places(shape, class_dim):
    s, t, target, mask, weight = example_of(shape, class_dim)
    rows = rows_of(s, class_dim), rows_of(t, class_dim)
    counted, labels = (weight * mask).flatten().tolist(), target.masked_fill(~mask, -100)
    lesson = Lesson(Outputs(logits=s), labels, Outputs(logits=t), weight=weight)
    at = {"class_dim": class_dim, "ignore_index": -100}
    for term, definition in (
        (GeneralizedJSD(0.2, 2.0, **at), lambda p, q: naive_jsd(p, q, 0.2)),
        (SkewedKL(0.2, 2.0, **at), lambda p, q: naive_skewed(p, q, 0.2, False)),
        (SkewedKL(0.2, 2.0, reverse=True, **at), lambda p, q: naive_skewed(p, q, 0.2, True)),
    ):
        expected = mean_over(*rows, counted, 2.0, definition)
        assert term.loss(lesson).item() == pytest.approx(expected, rel=1e-9)


@given(temperature=st.floats(0.3, 40))
def test_half_of_each_is_jensen_shannon(temperature):
    expected = kd_loss(STUDENT, TEACHER, temperature, divergence="jensen-shannon")
    torch.testing.assert_close(generalized_jsd_loss(STUDENT, TEACHER, 0.5, temperature), expected)


def test_its_limits_are_both_directions_of_kl():
    small = 1e-6
    forward = generalized_jsd_loss(STUDENT, TEACHER, small) / small
    torch.testing.assert_close(forward, kd_loss(STUDENT, TEACHER, 1.0), rtol=1e-3, atol=0)
    backward = generalized_jsd_loss(STUDENT, TEACHER, 1 - small) / small
    reverse = kd_loss(STUDENT, TEACHER, 1.0, divergence="reverse")
    torch.testing.assert_close(backward, reverse, rtol=1e-3, atol=0)


@pytest.mark.parametrize("reverse", [False, True])
def test_without_a_skew_it_is_kl(reverse):
    expected = kd_loss(STUDENT, TEACHER, 3.0, divergence="reverse" if reverse else "forward")
    found = skewed_kl_loss(STUDENT, TEACHER, 0.0, 3.0, reverse=reverse)
    torch.testing.assert_close(found, expected)


def test_where_predictions_are_close_skewed_kl_is_kl_by_the_factor_of_the_docstring():
    close = TEACHER + 1e-4 * STUDENT
    for reverse in (False, True):
        found = skewed_kl_loss(close, TEACHER, 0.3, reverse=reverse)
        expected = 0.7**2 * kd_loss(close, TEACHER, 1.0)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


@given(share=st.floats(0.01, 0.99), size=st.floats(0, 1e4))
def test_both_are_bounded_whatever_is_ruled_out(share, size):
    s, t = size * STUDENT, -size * TEACHER
    entropy = -share * math.log(share) - (1 - share) * math.log1p(-share)
    value, gradient = value_and_gradient(generalized_jsd_loss, s, t, share)
    assert 0 <= value <= entropy + 1e-9
    assert gradient.isfinite().all()
    for reverse in (False, True):
        value, gradient = value_and_gradient(skewed_kl_loss, s, t, share, reverse=reverse)
        assert 0 <= value <= -math.log(share) + 1e-9
        assert gradient.isfinite().all()


def test_classes_that_are_masked_in_both_do_not_count():
    masked = torch.tensor([0.0, 0.0, -math.inf, 0.0, 0.0])[:K]
    kept = masked == 0
    for loss in (generalized_jsd_loss, skewed_kl_loss):
        expected = value_and_gradient(loss, STUDENT[:, kept], TEACHER[:, kept])
        found = value_and_gradient(loss, STUDENT + masked, TEACHER + masked)
        torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1][:, kept], expected[1])
        assert not found[1][:, ~kept].any()


def test_equals_trls_form_without_the_factor():
    """Both logits by τ, the mixture in logarithms, the mean over tokens."""
    beta, tau = 0.3, 2.0
    own, theirs = ((z / tau).log_softmax(dim=1) for z in (STUDENT, TEACHER))
    shares = torch.tensor([1 - beta, beta], dtype=torch.float64).log()
    mixture = torch.logsumexp(torch.stack([own + shares[0], theirs + shares[1]]), dim=0)
    parts = [F.kl_div(mixture, z, reduction="none", log_target=True) for z in (theirs, own)]
    expected = (beta * parts[0] + (1 - beta) * parts[1]).sum() / len(STUDENT)
    found = generalized_jsd_loss(STUDENT, TEACHER, beta, tau)
    torch.testing.assert_close(found, tau**2 * expected)


def test_equals_the_authors_skewed_form():
    """That is a cross-entropy where it is not reversed: up to the teacher's entropy, the same."""
    p, q = (z.softmax(dim=1) for z in (TEACHER, STUDENT))
    entropy = -(p * p.log()).sum(dim=1).mean()
    theirs = -(p * (0.1 * p + 0.9 * q).log()).sum(dim=1).mean()
    torch.testing.assert_close(skewed_kl_loss(STUDENT, TEACHER), theirs - entropy)
    theirs = (q * q.log() - q * (0.9 * p + 0.1 * q).log()).sum(dim=1).mean()
    torch.testing.assert_close(skewed_kl_loss(STUDENT, TEACHER, reverse=True), theirs)


@pytest.mark.parametrize(
    ("loss", "given"),
    [
        (generalized_jsd_loss, {"beta": 0.0}),
        (generalized_jsd_loss, {"beta": 1.0}),
        (skewed_kl_loss, {"alpha": 1.0}),
        (skewed_kl_loss, {"alpha": -0.1}),
    ],
)
def test_what_is_out_of_range_is_refused(loss, given):
    (name,) = given
    with pytest.raises(ArgumentError, match=name):
        loss(STUDENT, TEACHER, **given)
