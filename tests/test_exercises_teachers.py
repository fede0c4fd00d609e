"""The exercises of notebook 5a: likely mistakes are named, and other right answers are right."""

import numpy as np
import pytest
import torch

from kdcourse.course.exercises import teachers as check


def erring(*voters):
    """The errors of three voters, each a list of questions."""
    wrong = np.zeros((3, 20), dtype=bool)
    for voter, questions in enumerate(voters):
        wrong[voter, list(questions)] = True
    return wrong


def divergence(p, log_p, log_q):
    return (p * (log_p - log_q)).sum(dim=2)


def joint(logits):
    return logits.mean(dim=0).log_softmax(dim=1)


def apart(logits):
    return divergence(joint(logits).exp(), joint(logits), logits.log_softmax(dim=2))


def reversed_(logits):
    own = logits.log_softmax(dim=2)
    return divergence(own.exp(), own, joint(logits)).mean()


def from_probabilities(logits):
    mean = logits.softmax(dim=2).mean(dim=0)
    return divergence(mean, mean.log(), logits.log_softmax(dim=2)).mean()


TWICE = erring((0, 1, 3, 4, 5, 6), (0, 2, 7, 8, 9, 10), (1, 2, 11, 12, 13, 14))

MISTAKES = [
    (check.seeds, 12, "with the root"),
    (check.seeds, 3, "the seeds to add"),
    (check.seeds, 12.7426, "round up"),
    (check.errors, TWICE[:2], "shape (3, 20)"),
    (check.errors, 2 * TWICE.astype(int), "True (an error) or False"),
    (check.errors, ~TWICE, "turn it round"),
    (check.errors, erring(range(6), range(6), range(5)), "voter 3 errs 5 times"),
    (check.errors, erring(range(6), range(6), range(6)), "the majority is right on 70%"),
    (check.opinions, torch.full((3, 4), 0.25), "three classes"),
    (check.opinions, torch.eye(3), "above 0"),
    (check.opinions, torch.tensor([[0.5, 0.2, 0.2]]), "off by 0.1"),
    (check.opinions, torch.full((2, 3), 1 / 3), "no clear winner"),
    (check.opinions, torch.tensor([[0.5, 0.3, 0.2]]), "the vote names class 0, the mean"),
    (check.both_known, lambda share, nets: 1 - (1 - share) ** nets, "will do, too"),
    (
        check.both_known,
        lambda share, nets: 1 - ((1 - share) / 2) ** nets,
        "headlight or the window",
    ),
    (check.both_known, lambda share, nets: 1 - 2 * 0.5**nets, "all by itself"),
    (check.disagreement, reversed_, "the wrong way round"),
    (check.disagreement, from_probabilities, "not the mean of the softmaxes"),
    (check.disagreement, lambda z: apart(z).mean(dim=1).sum(), "the sum over the members"),
    (check.disagreement, lambda z: apart(z).mean(dim=0).sum(), "the sum over the samples"),
    (check.disagreement, lambda z: apart(z).mean() / z.shape[2], "the mean over the classes"),
]


@pytest.mark.parametrize(("exercise", "answer", "words"), MISTAKES)
def test_a_mistake_is_named(exercise, answer, words, named):
    named(exercise, answer, words)


def by_labels(logits):
    """The gain of averaging for the label 0: the same for every label."""
    own = -logits.log_softmax(dim=2)[:, :, 0]
    return own.mean() + joint(logits)[:, 0].mean()


def test_the_majority_may_lose_to_two_at_once_as_well(capsys):
    check.errors(TWICE.tolist())
    assert "✓ Right" in (said := capsys.readouterr().out)
    assert "correlation of -0.19" in said


def test_averaging_gains_the_disagreement_whatever_the_label(capsys):
    check.disagreement(by_labels)
    assert "✓ Right" in capsys.readouterr().out
