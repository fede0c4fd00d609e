"""The exercises of notebook 2: likely mistakes are named."""

import pytest
import torch

from kdcourse import logit
from kdcourse.course.exercises import logit as check


def gradient(student, teacher, tau):
    return (logit.softmax(student, tau) - logit.softmax(teacher, tau)) / tau


def unlike(first, second):
    """Logits of two images that differ in these, each sure of class 0."""
    logits = torch.full((2, 10), -10.0)
    logits[:, 0], logits[0, 1], logits[1, 1] = 10.0, first, second
    return logits


MISTAKES = [
    (check.kd_gradient, lambda s, t, tau: -gradient(s, t, tau), "its sign is the opposite"),
    (check.kd_gradient, lambda s, t, tau: tau * gradient(s, t, tau), "factor 1/τ is missing"),
    (check.kd_gradient, lambda s, t, tau: gradient(s, t, tau) / tau, "a factor 1/τ too many"),
    (check.kd_gradient, lambda s, t, tau: gradient(s, t, tau) / 5, "do not divide by the number"),
    (check.kd_gradient, lambda s, t, tau: gradient(s, t, 1.0), "autograd finds another"),
    (check.their_weight, lambda weight, tau, _: weight * tau**2, "not for the mean over"),
    (check.their_weight, lambda weight, _, classes: weight * classes, "but not for τ²"),
    (check.their_weight, lambda weight, tau, k: weight * tau * k, "τ must be squared"),
    (check.their_weight, lambda weight, tau, k: weight / (tau**2 * k), "their λ is the larger"),
    (check.precision, lambda recall, share, _: recall / (recall + share), "each adds its share"),
    (check.precision, lambda recall, share, k: recall / (recall + k * share), "counts the boots"),
    (check.precision, lambda _, share, k: 1 / (1 + (k - 1) * share), "only the recall"),
    (check.twins, unlike(1.0, 8.0), "the service tells them apart"),
    (check.twins, unlike(1.0, 1.0), "no class differs by more than 0.00"),
    (check.twins, unlike(float("-inf"), 4.0), "must be finite"),
]


@pytest.mark.parametrize(("exercise", "answer", "words"), MISTAKES)
def test_a_mistake_is_named(exercise, answer, words, named):
    named(exercise, answer, words)
