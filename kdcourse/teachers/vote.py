"""The brain teaser: how good is the majority of n voters who are each right with probability p?

The answer depends on how their errors are related, which the question does not say.
"""

import numpy as np

from kdcourse.checks import check_number, check_positive


def majority_vote_accuracy(accuracy: float, voters: int, correlation: float = 0.0) -> float:
    r"""Probability that the majority of ``voters`` binary voters is right.

    .. math:: P(X > n/2) + \tfrac12 P(X = n/2)

    where X counts the right votes: a tie, which an even number of voters can reach, is decided by
    a fair coin. Independent voters give a binomial X: three of 0.7 make 0.7³ + 3·0.7²·0.3 = 0.784.

    Correlated voters follow Pólya's urn, which gives every pair of them the same correlation ρ (X
    is then beta-binomial): voter number m + 1 repeats the vote of an earlier voter, drawn at
    random, with probability mρ / (1 − ρ + mρ), and makes up its own mind otherwise. With ρ = 1 all
    repeat the first one, and the vote is worth no more than one voter.

    Args:
        accuracy: Probability p that a voter is right, in [0, 1].
        voters: Number of voters n ≥ 1.
        correlation: Correlation ρ of the votes of any two voters, in [0, 1].

    Raises:
        ValueError: One of the arguments is out of range.
    """
    right = right_votes(accuracy, voters, correlation)
    count = np.arange(voters + 1)
    return float(right[2 * count > voters].sum() + right[2 * count == voters].sum() / 2)


def right_votes(accuracy: float, voters: int, correlation: float = 0.0) -> np.ndarray:
    """Probabilities of 0, 1, …, n right votes, ``(n + 1,)``; see :func:`majority_vote_accuracy`."""
    check_number("accuracy", accuracy, 0.0, 1.0)
    check_number("correlation", correlation, 0.0, 1.0)
    check_positive(voters=voters)
    if correlation == 1 or accuracy in (0, 1):  # all vote alike
        return np.array([1 - accuracy, *[0.0] * (voters - 1), accuracy])
    # log P(X = k + 1) / P(X = k). scipy.stats.betabinom wants p(1 − ρ)/ρ, which overflows as ρ → 0,
    # and is off by 5e-9 at ρ = 1e-7 already.
    k, own = np.arange(voters), 1 - correlation
    right = np.log(accuracy * own + k * correlation)
    wrong = np.log((1 - accuracy) * own + k * correlation)
    logs = np.cumsum([0.0, *np.log((voters - k) / (k + 1)) + right - wrong[::-1]])
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def majority_vote_bounds(accuracy: float, voters: int) -> tuple[float, float]:
    """Lowest and highest accuracy of a majority vote, however the voters' errors are related.

    The majority is right where m = ⌊n/2⌋ + 1 voters are. At best, no right vote is wasted on a
    question that is lost anyway, or on one that is won already: min(1, np / m). At worst, the wrong
    votes are placed as cleverly. Three voters of 0.7: from 0.55 to 1. Arguments as in
    :func:`majority_vote_accuracy`.
    """
    check_number("accuracy", accuracy, 0.0, 1.0)
    check_positive(voters=voters)
    enough = voters // 2 + 1
    high = min(1.0, voters * accuracy / enough)
    low = max(0.0, 1 - voters * (1 - accuracy) / enough)
    return low, high
