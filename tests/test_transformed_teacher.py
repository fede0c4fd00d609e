"""A teacher that alone is softened, by definition; and what that adds to KD."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcourse.data import replay
from kdcourse.errors import ArgumentTypeError
from kdcourse.logit import kd_loss
from kdcourse.methods.transformed_teacher import TTM, WTTM, ttm_loss

K = 5
LOSSES = {
    "plain": ttm_loss,
    "weighted": lambda s, t: ttm_loss(s, t, 3.0, weighted=True),
    "cold": lambda s, t: ttm_loss(s, t, 0.5, weighted=True),
}
TEMPERATURES = st.floats(0.3, 40)


def drawn(seed, *shape):
    return 3 * torch.randn(shape or (6, K), generator=replay(seed), dtype=torch.float64)


STUDENT, TEACHER = drawn(0), drawn(1)


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


# The definition at one place, in Python's own floats: a power of probabilities.


def log_p(z):
    normalise = math.log(math.fsum(math.exp(v) for v in z))
    return [v - normalise for v in z]


def naive(s, t, temperature):
    powers = [math.exp(v) ** (1 / temperature) for v in log_p(t)]
    transformed = [v / math.fsum(powers) for v in powers]
    return math.fsum(p * (math.log(p) - q) for p, q in zip(transformed, log_p(s), strict=True))


def naive_weighted(s, t, temperature):
    powers = [math.exp(v) ** (1 / temperature) for v in log_p(t)]
    return math.fsum(powers) * naive(s, t, temperature)


@given(temperature=TEMPERATURES)
def test_equals_the_definition(temperature):
    for weighted, definition in ((False, naive), (True, naive_weighted)):
        rows = zip(STUDENT.tolist(), TEACHER.tolist(), strict=True)
        expected = math.fsum(definition(s, t, temperature) for s, t in rows) / len(STUDENT)
        value = ttm_loss(STUDENT, TEACHER, temperature, weighted=weighted)
        assert value.item() == pytest.approx(expected, rel=1e-9)


@given(temperature=TEMPERATURES.filter(lambda tau: abs(tau - 1) > 1e-3))
def test_it_is_kd_and_a_renyi_entropy_of_the_student(temperature):
    """The docstring's sum, whose constant is the entropy of the softened teacher."""
    power = 1 / temperature
    own = STUDENT.log_softmax(dim=1)
    renyi = ((power * own).logsumexp(dim=1) / (1 - power)).mean()
    softened = (TEACHER / temperature).softmax(dim=1)
    constant = (temperature - 1) * -(softened * softened.log()).sum(dim=1).mean()
    kd = kd_loss(STUDENT, TEACHER, temperature, scale=False)
    expected = temperature * kd - (temperature - 1) * renyi + constant
    torch.testing.assert_close(ttm_loss(STUDENT, TEACHER, temperature), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_without_a_temperature_both_are_kd(weighted):
    torch.testing.assert_close(
        ttm_loss(STUDENT, TEACHER, 1.0, weighted=weighted), kd_loss(STUDENT, TEACHER, 1.0)
    )


@given(temperature=TEMPERATURES)
def test_a_student_that_has_arrived_predicts_the_softened_teacher(temperature):
    s = (TEACHER / temperature).requires_grad_()
    for weighted in (False, True):
        value = ttm_loss(s, TEACHER, temperature, weighted=weighted)
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert torch.autograd.grad(value, s)[0].abs().max() < 1e-12


def test_the_gradient_is_the_difference_and_does_not_vanish_when_hot():
    for temperature in (1.0, 4.0, 1e6):
        s = STUDENT.clone().requires_grad_()
        (found,) = torch.autograd.grad(ttm_loss(s, TEACHER, temperature), s)
        expected = (STUDENT.softmax(1) - (TEACHER / temperature).softmax(1)) / len(STUDENT)
        torch.testing.assert_close(found, expected)


def test_the_power_sum_goes_from_one_to_that_of_a_teacher_that_knows_nothing():
    for teacher, expected in (
        (1e4 * torch.eye(K).double(), 1.0),
        (torch.zeros(K, K).double(), K ** (1 - 1 / 4)),
    ):
        one, other = (ttm_loss(drawn(2, K, K), teacher, weighted=w) for w in (False, True))
        assert (other / one).item() == pytest.approx(expected)


def test_powers_of_probabilities_that_float32_does_not_hold():
    """0.1 of 10⁻⁶⁰ is 10⁻⁶; the power of a probability that is zero would be zero."""
    teacher = torch.linspace(-140, 0, K).expand(3, K)
    student = drawn(3, 3, K)
    value = ttm_loss(student.float(), teacher, 10.0, weighted=True)
    expected = ttm_loss(student, teacher.double(), 10.0, weighted=True)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_term():
    assert repr(WTTM(10)) == "WTTM(temperature=10)"
    assert (TTM() + 0.5 * WTTM()).names == ["ttm", "wttm"]
    with pytest.raises(ArgumentTypeError, match="weighted must be True or False"):
        ttm_loss(STUDENT, TEACHER, weighted=1)
