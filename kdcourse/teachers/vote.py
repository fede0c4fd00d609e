"""The brain teaser: how good is the majority of n voters who are each right with probability p?

The answer depends on how their errors hang together, which the question does not say.
"""

import math

import numpy as np

from kdcourse.checks import check_number


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
        accuracy: p, in [0, 1].
        voters: n ≥ 1.
        correlation: ρ, in [0, 1].

    Raises:
        ValueError: any of them is out of range.
    """
    right = right_votes(accuracy, voters, correlation)
    count = np.arange(voters + 1)
    return float(right[2 * count > voters].sum() + right[2 * count == voters].sum() / 2)


def right_votes(accuracy: float, voters: int, correlation: float = 0.0) -> np.ndarray:
    """Probabilities of 0, 1, …, n right votes, ``(n + 1,)``; see :func:`majority_vote_accuracy`."""
    check_number("accuracy", accuracy, 0.0, 1.0)
    check_number("correlation", correlation, 0.0, 1.0)
    _check_voters(voters)
    if correlation == 1 or accuracy in (0, 1):  # all vote alike
        shares = np.zeros(voters + 1)
        shares[0], shares[voters] = 1 - accuracy, accuracy
        return shares

    # P(X = k) = C(n, k) · Π (p(1−ρ) + iρ) · Π ((1−p)(1−ρ) + jρ) / Π (1−ρ + mρ), in logarithms.
    def rising(start: float) -> np.ndarray:
        """Logarithms of the products of 0, 1, …, n factors start, start + ρ, start + 2ρ, …."""
        factors = start + correlation * np.arange(voters)
        return np.concatenate([[0.0], np.cumsum(np.log(factors))])

    own = 1 - correlation
    choices = np.array(
        [
            math.lgamma(voters + 1) - math.lgamma(k + 1) - math.lgamma(voters - k + 1)
            for k in range(voters + 1)
        ]
    )
    right, wrong = rising(accuracy * own), rising((1 - accuracy) * own)
    shares = np.exp(choices + right + wrong[::-1] - rising(own)[-1])
    return shares / shares.sum()


def majority_vote_bounds(accuracy: float, voters: int) -> tuple[float, float]:
    """Lowest and highest accuracy of a majority vote, over all ways the errors can hang together.

    The majority is right where m = ⌊n/2⌋ + 1 voters are. At best nobody wastes a right vote on a
    question that is lost, or a further one on a question that is won: min(1, np / m). At worst the
    wrong votes are laid out as cleverly. Three voters of 0.7: from 0.55 to 1.

    Args:
        accuracy: p of every voter, in [0, 1].
        voters: n ≥ 1.
    """
    check_number("accuracy", accuracy, 0.0, 1.0)
    _check_voters(voters)
    enough = voters // 2 + 1
    high = min(1.0, voters * accuracy / enough)
    low = max(0.0, 1 - voters * (1 - accuracy) / enough)
    return low, high


def _check_voters(voters: int) -> None:
    check_number("voters", voters, 1)
    if int(voters) != voters:
        raise ValueError(f"voters must be a whole number, got {voters}")
