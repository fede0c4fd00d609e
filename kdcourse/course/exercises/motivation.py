"""Checks of the exercises of notebook 1, motivation."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse import claims, metrics, models, motivation
from kdcourse.course import one_weight
from kdcourse.course.claims.motivation import fitted
from kdcourse.course.exercises.exercise import exercise
from kdcourse.homework import expect


def _model(answer: Any, what: str) -> nn.Module:
    """Expect a model."""
    kind = type(answer).__name__
    assert isinstance(answer, nn.Module), f"{what} should be a model, but yours is of type {kind}"
    return answer


@exercise
def cheap_twin(answer: nn.Module) -> str:
    """A model with exactly plain8's parameters and at most a third of its multiply–adds."""
    net, twin = models.plain(8), _model(answer, "`cheap_twin`")
    image = expect.normal(0, 1, 1, 28, 28)
    expect.tensor(metrics.predict(twin, image), (1, 10))
    parameters, own = models.count_parameters(net), models.count_parameters(twin)
    assert own == parameters, (
        f"plain8 has {parameters:,} parameters, but yours has {own:,}: what changes the size of "
        "the feature maps, but not the kernels?"
    )
    adds, fewer = models.multiply_adds(net, image), models.multiply_adds(twin, image)
    assert 3 * fewer <= adds, (
        f"yours takes {fewer:,} multiply–adds an image, which is more than a third of {adds:,}: "
        "where does plain8 spend most of them?"
    )
    return (
        f"The same {own:,} parameters, but {fewer:,} multiply–adds instead of {adds:,}: a weight "
        "of a convolution is used at every place of a map, so the size of the maps decides."
    )


@exercise
def interval(answer: Callable[[Tensor, Tensor], Sequence[float]]) -> str:
    """Mean and 95 % interval of the paired differences of ten seeds: mean, low, high."""
    result = claims.load("gap")
    wide, narrow = (torch.tensor(result.values(name)).double() for name in ("plain16", "plain8"))
    for more, less in ((expect.normal(0, 10), expect.normal(1, 10)), (wide, narrow)):
        difference = (more - less).double()
        mean, deviation = float(difference.mean()), float(difference.std())
        found = expect.returned(answer(more, less))
        three = isinstance(found, (list, tuple)) and len(found) == 3
        assert three, "the function should return three numbers: mean, low, high"
        expect.value(found[0], mean, "the mean difference", {"it is less − more": -mean})
        error, t = deviation / math.sqrt(10), 2.262
        unpaired = math.sqrt(float(more.double().var() + less.double().var()) / 10)
        mistakes = {
            "1.96 is right only for very many seeds": mean - 1.96 * error,
            "that is the spread of single seeds; that of their mean is √10 times less": mean
            - t * deviation,
            "divide the squares by 9, not by 10 (`.std()` does)": mean - t * error * math.sqrt(0.9),
            "the two arms are paired: take the deviation of the differences": mean - t * unpaired,
        }
        expect.value(found[1], mean - t * error, "the lower end", mistakes)
        expect.value(found[2], mean + t * error, "the upper end")
    return (
        f"For width 16 − width 8 you get {mean:+.2f} ± {t * error:.2f}, as the claim prints. "
        f"Without the pairs it would be ± {t * unpaired:.2f}: not much more, since nets of two "
        "widths share little but the order of the images. Pairing pays most where both arms start "
        "from the same weights."
    )


@exercise
def sawtooth(answer: Callable[[int], nn.Module]) -> str:
    """A net of width 2 and any depth that has 2^(depth − 1) equal teeth on [0, 1]."""
    x = torch.linspace(0, 1, 513)[:, None]
    for depth in (1, 2, 6):
        net = _model(expect.returned(answer(depth)), "what the function returns")
        assert isinstance(net, motivation.NarrowNet), "start from a `motivation.NarrowNet`"
        widths = [layer.out_features for layer in net.hidden]
        assert widths == [2] * depth, (
            f"for depth {depth} the hidden layers should have widths {[2] * depth}, but yours have "
            f"{widths}"
        )
        teeth = 1 - (2 * (x * 2 ** (depth - 1) % 1) - 1).abs()
        problem = f"at depth {depth} it is not a sawtooth from 0 to 1 with {2 ** (depth - 1)} teeth"
        with torch.no_grad():
            expect.close(net(x), teeth, problem)
    weights = models.count_parameters(net)
    height = (teeth[:, 0] - teeth.mean()) / teeth.std()
    trained = motivation.NarrowNet(1, 1, depth, width=2)
    left = fitted(trained, x, height, steps=300, rate=0.01)
    return (
        f"{weights} parameters make 32 teeth exactly. Trained from its usual start for 300 steps, "
        f"the same net is left with an error of {left:.0f} % of the deviation: that a function is "
        "in the set does not mean that training finds it."
    )


@exercise
def sharpened(answer: Callable[[nn.Sequential], nn.Module]) -> str:
    """A model with the same outputs whose loss curves upwards at least a hundred times as much."""
    with models.seeded(0):
        net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    inputs, target = expect.normal(1, 64, 2), expect.normal(2, 64, 1)
    before = net(inputs).detach()
    other = _model(expect.returned(answer(net)), "what the function returns")
    assert torch.equal(net(inputs), before), "the net itself has changed: work on a deep copy of it"
    expect.close(other(inputs), before, "the outputs are no longer the same")
    old, new = (motivation.curvature(one, inputs, target, loss=F.mse_loss) for one in (net, other))
    ratio = new.largest / old.largest
    assert ratio >= 100, (
        f"the largest eigenvalue should be at least 100 times as large, but yours is {ratio:.3g} "
        "times: for a > 0, relu(a·x) = a·relu(x)"
    )
    return (
        f"The same function with {ratio:,.0f} times the curvature: how sharp a minimum looks means "
        "nothing until the scale of the filters is taken out, and that is what the normalisation "
        "of the directions does."
    )


@exercise
def misleading(answer: tuple[float, float]) -> str:
    """A teacher with a loss below 0.9 who leads a student from w = 4 into the bad minimum."""
    pair = isinstance(answer, (list, tuple)) and len(answer) == 2
    assert pair, "a teacher is a pair of numbers, f(x₁) and f(x₂)"
    teacher = (expect.number(answer[0]), expect.number(answer[1]))
    own = float(one_weight.labels_loss(np.array(teacher)))
    assert own < 0.9, f"the teacher's own loss should be below 0.9, but yours has {own:.2f}"
    weights = np.linspace(-1.5, 4.5, 601)
    students = one_weight.functions(weights)
    loss = one_weight.labels_loss(students)
    alone = one_weight.descend(weights, loss, 4)
    end = one_weight.descend(weights, loss + one_weight.dist(students, teacher), 4)
    assert end < 1.37, (  # the ridge between the two minima
        f"with your teacher the student ends at w = {end:.2f}, on the good side of the ridge; "
        f"alone it ends at {alone:.2f}"
    )
    at_alone, at_end = (loss[np.abs(weights - place).argmin()] for place in (alone, end))
    return (
        f"Alone, the student ends with a loss of {at_alone:.2f}; your teacher has {own:.2f} and "
        f"leads it to {at_end:.2f}. Stay close to a teacher who is no better than you, and "
        "you lose."
    )
