"""Checks of the exercises of notebook 8, language models."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.course.exercises.exercise import exercise
from kdcourse.homework import expect
from kdcourse.methods.universal_logit import universal_logit_loss


@exercise
def nats_of(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Mean cross-entropy over the places that have a target."""
    logits = 2 * expect.normal(0, 3, 5, 7)
    target = torch.tensor([[-1, -1, 3, 0, 6], [-1, 2, 2, -1, -1], [-1, 5, 1, 4, 0]])
    found = expect.number(answer(logits.clone(), target.clone()))
    each = F.cross_entropy(logits.movedim(-1, 1), target, ignore_index=-1, reduction="none")
    counted = (target >= 0).sum(dim=1)
    mistakes = {
        "places without a target are counted, too": float(each.mean()),
        "a target of −1 is not the last token": float(
            F.cross_entropy(logits.flatten(0, 1), target.flatten() % 7)
        ),
        "that is the sum over the places, not their mean": float(each.sum()),
        "take the mean over all places, not the mean of the texts' means": float(
            (each.sum(dim=1) / counted).mean()
        ),
    }
    right = float(each.sum() / counted.sum())
    expect.value(found, right, "the mean over the nine places that count", mistakes)
    return "Longer texts have more places, and so count for more."


@exercise
def nucleus(answer: Callable[[Tensor, float], Tensor]) -> str:
    """The fewest likeliest tokens that have a share together, made a distribution again."""
    cases = [
        ([0.05, 0.5, 0.15, 0.3], 0.75, [0.0, 0.5, 0.0, 0.3]),
        ([0.05, 0.5, 0.15, 0.3], 0.5, [0.0, 0.5, 0.0, 0.0]),
        ([0.05, 0.5, 0.15, 0.3], 0.1, [0.0, 0.5, 0.0, 0.0]),
        ([0.05, 0.5, 0.15, 0.3], 1.0, [0.05, 0.5, 0.15, 0.3]),
    ]
    for given, share, kept in cases:
        found = expect.tensor(answer(torch.tensor(given), share), (4,))
        wanted = torch.tensor(kept)
        total = float(found.sum())
        where = f"for p = {given} and a share of {share}"
        assert total > 0, f"nothing is left {where}: the likeliest token always stays"
        got = [n for n in range(4) if float(found[n]) > 0]
        names = [n for n in range(4) if kept[n] > 0]
        assert got == names, f"tokens {got} are left {where}; it should be {names}"
        assert abs(total - 1) < 1e-5, f"what is left sums to {total:.3g} {where}: divide by it"
        problem = f"the tokens that are left should keep their proportions {where}"
        expect.close(found, wanted / wanted.sum(), problem)
    return "Unlikely tokens are many: together they would be drawn quite often."


@exercise
def rest(answer: float) -> str:
    """KL of two tokens and the rest, where renormalised predictions are alike."""
    p, q = (torch.tensor(each, dtype=torch.float64) for each in ([0.6, 0.3, 0.1], [0.4, 0.2, 0.4]))
    right = float((p * (p / q).log()).sum())
    mistakes = {
        "that is what the two alone say; add the rest": 0.0,
        "the rest counts as well": float((p * (p / q).log())[:2].sum()),
        "weigh by the teacher's probabilities": float((q * (q / p).log()).sum()),
    }
    expect.value(expect.number(answer), right, "the KL with the rest", mistakes)
    return "With both renormalised, each says ⅔ and ⅓: the rest could have any mass, unseen."


@exercise
def blind(answer: Tensor) -> str:
    """Another prediction that sorted probabilities cannot tell from the teacher's."""
    teacher = torch.tensor([[0.7, 0.2, 0.06, 0.04]]).log()
    found = expect.tensor(answer, (1, 4))
    loss = float(universal_logit_loss(found, teacher))
    assert loss < 1e-6, f"ULD is {loss:.3g}; it should be 0"
    mass = float(found.softmax(dim=1)[0, 0])
    assert mass < 0.05, (
        f"the teacher's first choice has {mass:.0%} of the student's mass; it should be under 5 %"
    )
    return "It has learned how sure to be, and not of what."
