import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from kdcourse.teachers import majority_vote_accuracy, majority_vote_bounds, right_votes

SHARE = st.floats(0, 1)
VOTERS = st.integers(1, 40)


def test_the_brain_teaser():
    assert majority_vote_accuracy(0.7, 3) == pytest.approx(0.784, abs=1e-12)
    assert majority_vote_bounds(0.7, 3) == pytest.approx((0.55, 1.0), abs=1e-12)


@pytest.mark.parametrize("voters", range(1, 9))
@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.7, 1.0])
def test_independent_voters_by_enumeration(p, voters):
    won = 0.0
    for ballot in itertools.product((0, 1), repeat=voters):
        right = sum(ballot)
        worth = 1.0 if 2 * right > voters else 0.5 if 2 * right == voters else 0.0
        won += worth * p**right * (1 - p) ** (voters - right)
    assert majority_vote_accuracy(p, voters) == pytest.approx(won, abs=1e-12)


@given(p=st.floats(0.01, 0.99), rho=st.floats(0.001, 0.99), voters=VOTERS)
def test_correlated_votes_are_beta_binomial(p, rho, voters):
    a, b = p * (1 - rho) / rho, (1 - p) * (1 - rho) / rho
    expected = betabinom.pmf(np.arange(voters + 1), voters, a, b)
    np.testing.assert_allclose(right_votes(p, voters, rho), expected, atol=1e-9)


@given(p=st.sampled_from([0, 1]) | st.floats(1e-6, 1 - 1e-6), voters=VOTERS)
def test_independent_votes_are_binomial(p, voters):
    expected = binom.pmf(np.arange(voters + 1), voters, p)
    np.testing.assert_allclose(right_votes(p, voters), expected, atol=1e-12)


@given(p=st.floats(0.01, 0.99), rho=st.floats(0, 1e-12), voters=VOTERS)
def test_votes_that_hardly_correlate_are_nearly_independent(p, rho, voters):
    np.testing.assert_allclose(right_votes(p, voters, rho), right_votes(p, voters), atol=1e-8)


@given(p=SHARE, rho=SHARE, voters=VOTERS)
def test_the_vote_lies_between_its_bounds(p, rho, voters):
    low, high = majority_vote_bounds(p, voters)
    assert low - 1e-9 <= majority_vote_accuracy(p, voters, rho) <= high + 1e-9
    shares = right_votes(p, voters, rho)
    assert shares.sum() == pytest.approx(1)
    assert shares @ np.arange(voters + 1) == pytest.approx(p * voters, abs=1e-9)


@given(p=SHARE, voters=VOTERS)
def test_voters_who_all_say_the_same_are_one_voter(p, voters):
    assert majority_vote_accuracy(p, voters, 1.0) == pytest.approx(p)


@given(p=SHARE, n=st.integers(1, 15))
def test_a_coin_makes_an_even_number_as_good_as_one_voter_less(p, n):
    even, odd = majority_vote_accuracy(p, 2 * n), majority_vote_accuracy(p, 2 * n - 1)
    assert even == pytest.approx(odd, abs=1e-12)


def test_many_voters_neither_overflow_nor_lose_mass():
    assert majority_vote_accuracy(0.6, 10001) == pytest.approx(1)
    assert right_votes(0.6, 10001, 0.3).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-0.1, 3), "accuracy"),
        ((1.1, 3), "accuracy"),
        ((float("nan"), 3), "accuracy"),
        ((0.7, 0), "voters"),
        ((0.7, 2.5), "voters"),
        ((0.7, 3, -0.1), "correlation"),
        ((0.7, 3, 1.1), "correlation"),
    ],
)
def test_bad_input_is_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        majority_vote_accuracy(*arguments)
