"""Checks of the exercises of notebook 7, further readings."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdcourse.course.exercises.exercise import exercise
from kdcourse.evaluation import pareto_front
from kdcourse.further import generator_loss
from kdcourse.homework import expect


@exercise
def shares(answer: Sequence[float]) -> str:
    """The nearest one's share of a softmax over three cosines, at two temperatures."""
    assert isinstance(answer, (list, tuple)), "give a list of two numbers"
    assert len(answer) == 2, f"two numbers are asked for, but you gave {len(answer)}"
    cosines = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)
    plain = float(cosines.softmax(dim=0)[0])
    for found, tau in zip(answer, (0.01, 0.2), strict=True):
        right = float((cosines / tau).softmax(dim=0)[0])
        times = float((cosines * tau).softmax(dim=0)[0])
        mistakes = {"is it divided by τ?": plain, "divide by τ, do not multiply": times}
        expect.value(found, right, f"the share at τ = {tau:g}", mistakes)
    return "The teacher practically names one image; the student is allowed to be less sure."


@exercise
def logits(answer: Tensor) -> str:
    """Predictions that a generator of DAFL would like best."""
    found = expect.tensor(answer, (20, 10))
    for seed in (0, 1):
        features = expect.normal(seed, 20, 8, dtype=torch.float64)
        loss = float(generator_loss(found, features, balance=5.0, activation=0.0))
        rows = found.softmax(dim=1)
        sure = float(rows.max(dim=1).values.log().mean())
        hint = "not every row is sure of a class" if sure < -0.05 else "the classes are not even"
        assert loss < -11.4, f"the loss is {loss:.2f}: {hint}"
    return "Sure of each image, and undecided over all of them."


@exercise
def quietened(answer: Callable[[Tensor], Tensor]) -> str:
    """Logits with mean 0 and deviation 1 in every row."""
    z = 3 * expect.normal(0, 4, 6) + 2
    found = expect.tensor(answer(z.clone()), z.shape)
    means, deviations = found.mean(dim=1), found.std(dim=1, correction=0)
    for row in range(4):
        expect.value(float(means[row]), 0.0, f"the mean of row {row}")
        unbiased = math.sqrt(5 / 6)
        mistakes = {"without correction=0, K − 1 takes the place of K": unbiased}
        expect.value(float(deviations[row]), 1.0, f"the deviation of row {row}", mistakes)
    right = (z - z.mean(dim=1, keepdim=True)).double()
    ratio = found / right
    problem = "each row should keep its shape: subtract its mean, divide by its deviation"
    expect.close(ratio, ratio[:, :1].expand_as(ratio), problem)
    return "A student with small logits can match a teacher with large ones, and stay small."


@exercise
def divergence(answer: float) -> str:
    """The Jensen–Shannon divergence of two predictions without a class in common."""
    mistakes = {
        "that is in bits": 1.0,
        "is this the sum of both sides, not their mean?": 2 * math.log(2),
        "is this only one of two halves?": math.log(2) / 2,
    }
    expect.value(answer, math.log(2), "the divergence", mistakes)
    return "It can never be more: a student that is entirely wrong costs log 2, not infinity."


@exercise
def front(answer: Callable[[Sequence[float], Sequence[float]], Sequence[int]]) -> str:
    """The nets that no other is both as fast as and as accurate as."""
    cases = {
        "three nets, one of which is slow and poor": ([1.0, 2.0, 3.0], [0.8, 0.9, 0.85]),
        "two nets that are as fast": ([1.0, 1.0], [0.8, 0.9]),
        "two nets that are as accurate": ([1.0, 2.0], [0.9, 0.9]),
        "two nets that are alike in both": ([1.0, 1.0], [0.9, 0.9]),
        "a net that is worse in everything": ([2.0, 1.0], [0.7, 0.8]),
    }
    for words, (times, accuracies) in cases.items():
        found = answer(list(times), list(accuracies))
        assert isinstance(found, (list, tuple)), "return a list of numbers of nets"
        right = pareto_front(times, accuracies)
        assert sorted(found) == right, (
            f"of {words} (times {times}, accuracies {accuracies}) they are {right}, not {found}"
        )
    return "Whoever chooses a net needs to look at these only."
