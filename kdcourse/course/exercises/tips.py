"""Checks of the exercises of notebook 6, views and patience."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kdcourse.course import claims
from kdcourse.course.exercises.exercise import exercise
from kdcourse.homework import expect


@exercise
def described(answer: Sequence[str]) -> str:
    """The designs of three trainings that are described in words."""
    assert isinstance(answer, (list, tuple)), "give a list of three names"
    assert len(answer) == 3, f"three names are asked for, but you gave {len(answer)}"
    right = {
        "fixed": "its teacher saw the whole image, once, and the student a crop",
        "consistent": "both saw the same crop",
        "independent": "each drew a crop of its own",
    }
    for number, (found, (name, why)) in enumerate(zip(answer, right.items(), strict=True), start=1):
        assert found == name, f"number {number} is another design: {why}"
    return "The first is the most common, because it is the cheapest."


@exercise
def best_answer(answer: Callable[[Tensor], tuple[Tensor, float]]) -> str:
    """The one answer that is nearest to many, and the mean divergence that remains."""
    for seed, crops in ((0, 2), (1, 5)):
        answers = (2 * expect.normal(seed, crops, 4)).softmax(dim=1).double()
        mean = answers.mean(dim=0)
        left = float((answers * (answers / mean).log()).sum(dim=1).mean())
        found = expect.returned(answer(answers.clone()))
        assert isinstance(found, tuple), "return both: q, and how large the mean divergence remains"
        assert len(found) == 2, "return both: q, and how large the mean divergence remains"
        expect.close(found[0], mean, "q should be the mean of the teacher's predictions")
        reverse = float((mean * (mean / answers).log()).sum(dim=1).mean())
        mistakes = {
            "is the divergence taken the wrong way round, KL(q ‖ p)?": reverse,
            "is this the sum over the crops, not their mean?": crops * left,
        }
        expect.value(found[1], left, "the mean divergence that remains", mistakes)
    entropies = [-(p * p.log()).sum(dim=-1) for p in (mean, answers)]
    gap = torch.as_tensor(entropies[0] - entropies[1].mean())
    return (
        f"What remains is the entropy of the mean less the mean entropy, here {gap:.2f} nats: the "
        "student is taught to be vaguer than its teacher ever was."
    )


@exercise
def gained(answer: Mapping[str, float]) -> str:
    """By how much each design's mean accuracy rises from 120 epochs to 480."""
    assert isinstance(answer, Mapping), "give a dictionary from design to points"
    result = claims.load("patience")
    designs = ("labels", "fixed", "independent", "consistent", "matching")
    assert answer.keys() == set(designs), f"its keys should be {', '.join(designs)}"
    for design in designs:
        rise = result.mean(f"{design} 480") - result.mean(f"{design} 120")
        expect.value(answer[design], rise, f"the gain of {design}")
    return "Labels have least to gain from time, and function matching most."


@exercise
def terabytes(answer: float) -> str:
    """The size of a teacher's answers to 300 epochs of ImageNet."""
    mistakes = {
        "a number in half precision takes two bytes": 1.536,
        "how many bytes does a number take?": 0.384,
        "every epoch has crops of its own": 0.768 / 300,
        "that is in gigabytes": 768.0,
    }
    expect.value(answer, 0.768, "the size in terabytes", mistakes)
    return "Storing only the few largest of 1,000 probabilities makes it a hundredth of that."
