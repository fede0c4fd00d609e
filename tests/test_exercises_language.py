"""The exercises of notebook 8: likely mistakes are named."""

import pytest
import torch
from torch.nn import functional as F

from kdcourse.course.exercises import language as check


def each(logits, target):
    return F.cross_entropy(logits.movedim(2, 1), target, ignore_index=-1, reduction="none")


def of_texts(logits, target):
    return (each(logits, target).sum(dim=1) / (target >= 0).sum(dim=1)).mean()


def nucleus(p, share, kept, divide=True):
    ordered, places = p.sort(descending=True)
    left = torch.zeros_like(p)
    chosen = places[kept(ordered, share)]
    left[chosen] = p[chosen]
    return left / left.sum() if divide else left


def before(ordered, share):
    return ordered.cumsum(0) - ordered < share


def up_to(ordered, share):
    return ordered.cumsum(0) <= share + 1e-6


MISTAKES = [
    (check.nats_of, lambda z, y: each(z, y).mean(), "without a target are counted"),
    (check.nats_of, lambda z, y: each(z, y).sum(), "the sum over the places"),
    (check.nats_of, of_texts, "not the mean of the texts' means"),
    (check.nats_of, lambda z, y: F.cross_entropy(z.flatten(0, 1), y.flatten() % 7), "of −1"),
    (check.nucleus, lambda p, share: nucleus(p, share, up_to), "tokens [1] are left"),
    (check.nucleus, lambda p, share: nucleus(p, share, before, divide=False), "divide by it"),
    (check.nucleus, lambda p, share: p, "it should be [1, 3]"),
    (check.nucleus, lambda p, share: p * 0, "the likeliest token always stays"),
    (check.nucleus, lambda p, share: (nucleus(p, share, before) > 0) / 1.0, "divide by it"),
    (check.rest, 0.0, "the two alone say"),
    (
        check.rest,
        (p := torch.tensor([0.4, 0.2, 0.4])) @ (p / torch.tensor([0.6, 0.3, 0.1])).log(),
        "by the teacher's",
    ),
    (check.rest, 0.9 * torch.tensor(1.5).log(), "the rest counts as well"),
    (check.blind, torch.tensor([[0.04, 0.7, 0.2, 0.06]]), "ULD is"),
    (check.blind, torch.tensor([[0.7, 0.2, 0.06, 0.04]]).log(), "has 70% of the student's mass"),
]


@pytest.mark.parametrize(("exercise", "answer", "words"), MISTAKES)
def test_a_mistake_is_named(exercise, answer, words, named):
    named(exercise, answer, words)
