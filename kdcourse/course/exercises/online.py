"""Checks of the exercises of notebook 5b, online and compressed."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdcourse.course.exercises.exercise import exercise
from kdcourse.homework import expect


@exercise
def target(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """The one target that has the gradient of a label and of a peer with a weight."""
    label = torch.eye(4)[torch.tensor([0, 2, 3])]
    peer = (2 * expect.normal(0, 3, 4)).softmax(dim=1)
    for weight in (1.0, 3.0):
        found = expect.tensor(answer(label.clone(), peer.clone(), weight), label.shape)
        assert not found.equal(label.double()), "the peer has no say in your target"
        sums = found.sum(dim=1)
        assert bool(((sums - 1).abs() < 1e-3).all()), (
            f"a target is a distribution, but for λ = {weight:g} your rows sum to "
            f"{float(sums[0]):.3g}"
        )
        swapped = (weight * label + peer) / (1 + weight)
        assert weight == 1 or (found - swapped).abs().max() > 1e-3, (
            "λ is the weight of the peer, not of the label"
        )
        right = (label + weight * peer) / (1 + weight)
        expect.close(found, right, f"for λ = {weight:g}, its gradient is not that of the loss")
    return (
        "A peer is a label smoother that learns. At λ = 3 it has three quarters of the say, and at "
        "first it knows nothing."
    )


@exercise
def momentum_for(answer: Callable[[int], float]) -> str:
    """The momentum at which what is remembered counts half after so many steps."""
    for steps in (8, 32, 1000):
        right = 0.5 ** (1 / steps)
        mistakes = {
            "1 − 1/n sets the mean age of what is remembered, not its half-life": 1 - 1 / steps,
            "what is left after n steps is mⁿ: solve mⁿ = ½ for m": 0.5**steps,
            "that is 1 − m": 1 - right,
        }
        expect.value(answer(steps), right, f"for {steps} steps, m", mistakes, tolerance=1e-5)
    half = {m: round(math.log(0.5) / math.log(m)) for m in (0.98, 0.996, 0.999)}
    return (
        f"Read backwards: 0.98 forgets by half in {half[0.98]} steps, DINO's 0.996 in "
        f"{half[0.996]}, and Mean Teacher's 0.999 in {half[0.999]}. In a training of 320 steps, "
        "the last two would still remember the random start."
    )


@exercise
def told(answer: Callable[[Tensor], float]) -> str:
    """What a prediction tells about its image, as a share of log K."""
    certain = torch.eye(3).repeat(2, 1)
    expect.value(answer(certain), 1.0, "for certain predictions of every output equally often")
    expect.value(answer(certain[:1].repeat(6, 1)), 0.0, "if all images get the same output")
    expect.value(answer(torch.full((6, 3), 1 / 3)), 0.0, "if all outputs are always alike")
    p = (2 * expect.normal(0, 6, 4)).softmax(dim=1)
    entropy, of_mean = _entropy(p).mean(), _entropy(p.mean(dim=0))
    information, most = float(of_mean - entropy), math.log(4)
    mistakes = {
        "the share is in units of log K": information,
        "that is the entropy of the mean alone: it does not see that predictions are vague": (
            float(of_mean) / most
        ),
        "that is the mean entropy: it is large if predictions are vague": float(entropy) / most,
        "is the difference taken the other way round?": -information / most,
    }
    expect.value(answer(p), information / most, "for predictions of four outputs", mistakes)
    return "Either entropy alone is fooled by one of the two collapses. Their difference is not."


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(dim=-1)


@exercise
def to_bits(answer: Callable[[Tensor, int], Tensor]) -> str:
    """Weights (C, D) rounded to b bits, with a scale for each row."""
    weight = expect.normal(0, 6, 40) * torch.linspace(0.1, 2, 6)[:, None]
    for bits in (2, 4, 8):
        found = expect.tensor(answer(weight.clone(), bits), weight.shape)
        largest = weight.abs().amax(dim=1, keepdim=True).double()
        ends = found.abs().amax(dim=1, keepdim=True)
        assert bool(((ends - largest).abs() <= 1e-4 * largest).all()), (
            "the largest weight of every row should stay as it is, since it is the end of that "
            "row's scale"
        )
        most = 2 ** (bits - 1) - 1
        values = max(len(row.unique()) for row in (1e4 * found / largest).round())
        assert values <= 2 * most + 1, (
            f"with {bits} bits, a row holds at most {2 * most + 1} values, but one of yours has "
            f"{values}"
        )
        scale = largest / most
        right = (weight / scale).round() * scale
        expect.close(found, right, f"with {bits} bits, some weight is not rounded to the nearest")
    zeros = float((weight.abs() < largest / 2).double().mean())
    return (
        f"With 2 bits, {100 * zeros:.0f} % of these weights have become zero, because the largest "
        "one sets the scale. The library looks for a better scale, at which that one is clipped."
    )


@exercise
def break_even(answer: Callable[[int, int], float]) -> str:
    """The sparsity from which a list of weights with their places is smaller than all weights."""
    for value, place in ((32, 16), (4, 16), (32, 32)):
        right = place / (value + place)
        mistakes = {
            "that is the share of weights that may be left": 1 - right,
            "each weight that is left takes its own bits, too": place / value,
            "each weight that is left needs its place, too": 0.0,
        }
        where = f"for weights of {value} bits and places of {place}, the sparsity"
        expect.value(answer(value, place), right, where, mistakes)
    return (
        "The better the weights are rounded, the less pruning saves: places do not shrink with "
        "them. A mask of one bit a weight would pay from 1/32 on, and for 4 bits from 1/4."
    )
