"""The exercises of notebook 5b: likely mistakes are named."""

import pytest
import torch

from kdcourse.course.exercises import online as check


def entropy(p):
    return -torch.xlogy(p, p).sum(dim=-1)


def information(p):
    return entropy(p.mean(dim=0)) - entropy(p).mean()


def log_k(p):
    return torch.tensor(p.shape[1]).log()


def rounded(weight, most, largest):
    return (weight * most / largest).round() * largest / most


def by_row(weight, most):
    return rounded(weight, most, weight.abs().amax(dim=1, keepdim=True))


MISTAKES = [
    (check.target, lambda y, p, weight: y, "no say"),
    (check.target, lambda y, p, weight: y + weight * p, "your rows sum to 2"),
    (check.target, lambda y, p, weight: (weight * y + p) / (1 + weight), "not of the label"),
    (check.target, lambda y, p, weight: p, "its gradient is not"),
    (check.momentum_for, lambda n: 1 - 1 / n, "the mean age"),
    (check.momentum_for, lambda n: 0.5**n, "solve mⁿ = ½"),
    (check.momentum_for, lambda n: 1 - 0.5 ** (1 / n), "that is 1 − m"),
    (check.told, lambda p: information(p + 1e-9), "for certain predictions"),
    (check.told, lambda p: entropy(p.mean(dim=0)) / log_k(p), "if all outputs are always alike"),
    (check.told, lambda p: 1 - entropy(p).mean() / log_k(p), "if all images get the same"),
    (check.told, lambda p: -(p * p.log()).sum(), "should be finite"),
    (check.told, lambda p: (information(p) / log_k(p)).sign(), "for predictions of four outputs"),
    (check.to_bits, lambda w, b: rounded(w, 2 ** (b - 1) - 1, w.abs().max()), "of that row's"),
    (check.to_bits, lambda w, b: by_row(w, 2**b - 1), "at most 3 values"),
    (check.to_bits, lambda w, b: w, "at most 3 values"),
    (check.to_bits, lambda w, b: by_row(w, 1), "not rounded to the nearest"),
    (check.break_even, lambda v, p: v / (v + p), "that may be left"),
    (check.break_even, lambda v, p: p / v, "takes its own bits"),
    (check.break_even, lambda v, p: 0.0, "needs its place"),
]


@pytest.mark.parametrize(("exercise", "answer", "words"), MISTAKES)
def test_a_mistake_is_named(exercise, answer, words, named):
    named(exercise, answer, words)
