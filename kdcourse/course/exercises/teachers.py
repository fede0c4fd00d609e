"""Checks of the exercises of notebook 5a, which teacher."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from kdcourse.course import claims
from kdcourse.course.exercises.exercise import exercise
from kdcourse.homework import expect


@exercise
def seeds(answer: int) -> str:
    """The seeds after which the interval of one assistant's gain would lie above zero."""
    measured = claims.load("assistant").estimates[0]
    ratio = (measured.mean - measured.low) / measured.mean
    exact = measured.seeds * ratio**2
    mistakes = {
        "the width falls with the root of the number of seeds": np.ceil(measured.seeds * ratio),
        "these are the seeds to add, not all of them": np.ceil(exact) - measured.seeds,
        "there is no fraction of a seed: round up": exact,
    }
    expect.value(answer, np.ceil(exact), "the number of seeds", mistakes)
    return (
        "But decide on the number before you look: adding seeds until the interval clears zero "
        "finds gains where there are none."
    )


@exercise
def errors(answer: np.ndarray) -> str:
    """Errors of three voters of 70 % whose majority is right on 85 % of twenty questions."""
    given = np.asarray(answer)
    assert given.shape == (3, 20), (
        f"give an array of shape (3, 20), a row a voter; yours is of shape {given.shape}"
    )
    assert np.isin(given, (0, 1)).all(), "each entry should be True (an error) or False"
    wrong = given.astype(bool)
    assert (wrong.sum(axis=1) != 14).any(), "this marks where the voters are right: turn it round"
    for voter, count in enumerate(wrong.sum(axis=1), start=1):
        assert count == 6, f"voter {voter} errs {count} times; 70 % of twenty leaves 6 errors"
    right = (wrong.sum(axis=0) < 2).mean()
    assert np.isclose(right, 0.85), (
        f"the majority is right on {right:.0%}: it should lose three questions, and a question is "
        "lost where at least two err"
    )
    rho = np.mean([np.corrcoef(wrong)[pair] for pair in combinations(range(3), 2)])
    return (
        "More than independent voters reach. The errors of two of yours have a correlation of "
        f"{rho:+.2f} on average; other ways to 85 % have −0.19 to +0.29. It does not settle what a "
        "vote is worth."
    )


@exercise
def opinions(answer: Tensor) -> str:
    """Predictions of which vote, mean probabilities and mean logits make different classes."""
    p = expect.tensor(answer)
    assert p.dim() == 2, f"give a matrix (M, 3), a member a row; yours has {p.dim()} dimensions"
    assert p.shape[1] == 3, f"three classes are asked for, but you gave {p.shape[1]}"
    assert bool((p > 0).all()), "every probability should be above 0: its logarithm is needed"
    off = float((p.sum(dim=1) - 1).abs().max())
    assert off < 1e-3, f"every row should add up to 1, but one is off by {off:.2g}"
    scores = {
        "the vote": torch.bincount(p.argmax(dim=1), minlength=3).double(),
        "the mean probability": p.mean(dim=0),
        "the mean logit": p.log().mean(dim=0),
    }
    named = {}
    for way, score in scores.items():
        second, first = score.sort().values[-2:]
        assert first - second > 1e-6, f"{way} has no clear winner: two classes are level"
        named[way] = int(score.argmax())
    said = ", ".join(f"{way} names class {k}" for way, k in named.items())
    assert len(set(named.values())) == 3, f"they should name three classes, but {said}"
    return (
        "A vote hears only who comes first. Mean probabilities listen to whoever is surest. Mean "
        "logits give everyone a veto: one probability near 0 rules a class out."
    )


@exercise
def both_known(answer: Callable[[float, int], float]) -> str:
    """The probability that several nets together know both views of a class."""
    for share, nets in ((0.46, 1), (0.46, 2), (0.0, 3), (0.2, 5)):
        lacking = (1 - share) / 2
        mistakes = {
            "a net that knows the headlight and one that knows the window will do, too": (
                1 - (1 - share) ** nets
            ),
            "the view that all lack may be the headlight or the window": 1 - lacking**nets,
            "a net may know both views all by itself": 1 - 2 * 0.5**nets,
        }
        right = 1 - 2 * lacking**nets
        where = f"for share = {share:g} and nets = {nets}, the probability"
        expect.value(answer(share, nets), right, where, mistakes)
    measured = claims.load("multi-view")
    alone, taught = (measured.mean(f"{arm} both views") for arm in ("alone", "self"))
    union = 100 - (100 - alone) ** 2 / 200
    return (
        f"Two nets that know both views of {alone:.0f} % each would know both of {union:.0f} % "
        f"together. The student taught by one knows {taught:.0f} %: a part of the union."
    )


@exercise
def disagreement(answer: Callable[[Tensor], Tensor]) -> str:
    """The mean divergence of the members from their ensemble, which is what averaging gains."""
    for number, size in enumerate(((2, 5, 3), (4, 6, 5))):
        logits = 2 * expect.normal(number, *size)
        own, joint = logits.log_softmax(dim=2), logits.mean(dim=0).log_softmax(dim=1)
        mixed = own.exp().mean(dim=0)
        right = float((joint.exp() * (joint - own)).sum(dim=2).mean())
        reverse = float((own.exp() * (own - joint)).sum(dim=2).mean())
        probabilities = float((mixed * (mixed.log() - own)).sum(dim=2).mean())
        mistakes = {
            "is the divergence taken the wrong way round, KL(pₘ ‖ p̄)?": reverse,
            "p̄ is the softmax of the mean logits, not the mean of the softmaxes": probabilities,
            "is this the sum over the members, not their mean?": size[0] * right,
            "is this the sum over the samples, not their mean?": size[1] * right,
            "is this the mean over the classes, not their sum?": right / size[2],
        }
        expect.value(answer(logits.clone()), right, f"for {size[0]} members", mistakes)
    return (
        "Whatever the labels are, that is what averaging gains: members that say the same gain "
        "nothing, however good they are."
    )
