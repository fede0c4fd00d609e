"""Which of several teachers: a probe of a few steps."""

import pytest
import torch
from torch import nn
from toys import same, weights

from kdcourse import CrossEntropy, LogitKD, rank_teachers
from kdcourse.errors import ArgumentError, ArgumentTypeError

KNOBS = {"seed": 0, "progress": False, "device": "cpu"}
X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
GOOD, BAD = nn.Linear(6, 3), nn.Linear(6, 3)
with torch.no_grad():
    GOOD.weight.copy_(4 * torch.eye(3, 6))
    BAD.weight.copy_(-GOOD.weight)
    BAD.bias.copy_(-GOOD.bias)
TARGET = GOOD(X).argmax(dim=1)
DATA = (X, TARGET)


def right(net):
    return float((net(X).argmax(dim=1) == TARGET).float().mean())


def batches():
    return [(X[n : n + 16], TARGET[n : n + 16]) for n in range(0, 64, 16)]


def test_the_better_teacher_comes_first_and_nothing_is_changed():
    student = nn.Linear(6, 3)
    before, teachers = weights(student), {"bad": BAD, "good": GOOD}
    kept = [weights(one) for one in teachers.values()]
    found = rank_teachers(student, teachers, batches(), LogitKD(1), right, steps=30, **KNOBS)
    assert list(found) == ["good", "bad"]
    assert found["good"] > 0.8 > found["bad"]
    assert same(before, weights(student))
    assert all(same(old, weights(one)) for old, one in zip(kept, teachers.values(), strict=True))


def test_a_student_of_which_the_judge_says_nan_comes_last():
    said = iter([0.1, float("nan"), 0.5])
    teachers = dict.fromkeys(("one", "none", "best"), GOOD)
    found = rank_teachers(
        nn.Linear(6, 3), teachers, batches(), LogitKD(1), lambda net: next(said), steps=1, **KNOBS
    )
    assert list(found) == ["best", "one", "none"]


@pytest.mark.parametrize("said", [None, "good", {"accuracy": 1.0}, torch.ones(2)])
def test_a_judge_that_returns_no_number_is_refused(said):
    with pytest.raises(ArgumentError, match="judge must return a number, got"):
        rank_teachers(
            nn.Linear(6, 3), {"a": GOOD}, batches(), LogitKD(1), lambda n: said, steps=1, **KNOBS
        )


def test_every_teacher_begins_with_the_same_student_and_objective():
    student, seen = nn.Linear(6, 3), []

    def judge(net):
        seen.append(weights(net))
        return 1.0

    twins = {"one": GOOD, "other": GOOD}
    objective = CrossEntropy() + LogitKD(1)
    found = rank_teachers(student, twins, batches(), objective, judge, steps=3, **KNOBS)
    assert list(found) == ["one", "other"]  # in their order, where they are as good
    assert same(*seen)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"teachers": {}}, "teachers"),
        ({"steps": 0}, "steps"),
        ({"judge": lambda: 1.0}, "judge"),
        ({"student": nn.Flatten()}, "student"),
    ],
)
def test_bad_calls_are_refused(changed, named):
    asked = {"student": nn.Linear(6, 3), "teachers": {"one": GOOD}, "judge": right, **changed}
    steps = asked.pop("steps", 1)
    with pytest.raises((ArgumentError, ArgumentTypeError)) as refused:
        rank_teachers(train=batches(), objective=LogitKD(1), steps=steps, **asked, **KNOBS)
    assert refused.value.argument == named
