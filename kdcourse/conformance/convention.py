r"""Which convention a loss follows: the factor to ours, as a function of N, K, τ and other sizes.

.. math:: L = c \cdot N^a K^b \tau^d \cdots \; L_{\text{ours}}

It is measured, not read: the ratio of gradients, and that of values, at several sizes and
temperatures. Where the ratio differs between two inputs of one size, there is no such factor.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kdcourse.conformance.calling import LossCall
from kdcourse.conformance.factor import ABSOLUTE, EXACT, Factor, common, meant, powers_in
from kdcourse.conformance.kinds import LossKind

PRECISIONS = torch.float64, torch.float32  # the first that a loss takes
SEEDS = 0, 1  # of the inputs that are drawn
HOT, WARM = (1.0, 2.0, 3.0, 6.0), 2.0  # temperatures that are tried, and the one for all sizes
GROWN = (lambda n: n - 1, lambda n: n + 1, lambda n: 2 * n)  # what a size is changed to
REFUSALS = (Exception, SystemExit)  # whatever a loss of anybody's raises


@dataclass(frozen=True)
class Convention:
    """How a loss differs from ours.

    Attributes:
        factor: That of the gradients, or of the values where the gradients have none.
        by_value: Whether values agree up to it.
        by_gradient: Whether gradients do.
    """

    factor: Factor | None = None
    by_value: bool = False
    by_gradient: bool = False


def convention_of(call: LossCall, reference: LossCall, kind: LossKind) -> Convention:
    """Measure the factor between a loss and ours, by values and by gradients."""
    both = measured(call), measured(reference)
    value, gradient = (
        fitted(ratio(*both), kind, call, reference) for ratio in (value_ratio, gradient_ratio)
    )
    if value is None or gradient is None:
        factor = value if gradient is None else gradient
        return Convention(factor, value is not None, gradient is not None)
    alike = math.isclose(value.constant, gradient.constant, rel_tol=EXACT)
    return Convention(value, True, alike and value.powers == gradient.powers)


Ratio = Callable[[LossKind, float], float | None]


def fitted(ratio: Ratio, kind: LossKind, call: LossCall, reference: LossCall) -> Factor | None:
    """Find the factor, one size after the other; None if there is none.

    Args:
        ratio: Of two losses, for a kind and a temperature: None if it is not one number, NaN if
            they cannot be computed.
        kind: What they compare.
        call, reference: The losses, of which it counts whether they take a temperature.
    """
    tau = WARM if call.takes_temperature else float(call.temperature)
    base = ratio(kind, tau)
    if base is None or math.isnan(base):
        return None
    powers: list[tuple[str, float]] = []
    for letter, size in kind.sizes.items():
        tried = {grown(size): ratio(kind.sized(**{letter: grown(size)}), tau) for grown in GROWN}
        found = powers_in({size: base, **tried}, letter)
        if found is None:
            return None
        powers += found
    if call.takes_temperature and (reference.takes_temperature or _varies(ratio, kind)):
        found = powers_in({t: ratio(kind, t) for t in HOT}, "τ")
        if found is None:
            return None
        powers += found
    constant = base / Factor(1.0, tuple(powers)).value(tau, **kind.sizes)
    return Factor(meant(constant), tuple(powers))


Measured = Callable[[LossKind, int, float], tuple[float, Tensor | None] | None]


def measured(call: LossCall) -> Measured:
    """Return the value of a loss, and its gradient, for a kind, a seed and a temperature."""

    @cache
    def at(kind: LossKind, seed: int, temperature: float) -> tuple[float, Tensor | None] | None:
        student, teacher = kind.draw(seed)
        for dtype in PRECISIONS:
            leaf = student.to(dtype, copy=True).requires_grad_()
            try:
                value = call(leaf, teacher.to(dtype), temperature)
                gradient = torch.autograd.grad(value, leaf, allow_unused=True)[0]
                return float(value.detach()), None if gradient is None else gradient.double()
            except REFUSALS:
                known = value_of(call, student, teacher, temperature)
                if known is not None:  # without a gradient
                    return known, None
        return None

    return at


def value_ratio(own: Measured, theirs: Measured) -> Ratio:
    """Return the ratio of the values of two losses, or None where it differs between inputs."""

    def ratio(kind: LossKind, temperature: float) -> float | None:
        found = []
        for seed in SEEDS:
            one, other = (at(kind, seed, temperature) for at in (own, theirs))
            if one is None or other is None:
                return math.nan  # this size is refused
            found.append(one[0] / other[0] if abs(other[0]) > ABSOLUTE else math.inf)
        return common(found)

    return ratio


def gradient_ratio(own: Measured, theirs: Measured) -> Ratio:
    """Return the ratio of the gradients of two losses, or None where they differ in direction."""

    def ratio(kind: LossKind, temperature: float) -> float | None:
        found = []
        for seed in SEEDS:
            one, other = (at(kind, seed, temperature) for at in (own, theirs))
            if one is None or other is None:
                return math.nan
            if one[1] is None or other[1] is None:
                return None
            scale = float((one[1] * other[1]).sum() / other[1].square().sum().clamp_min(1e-18))
            if not float((one[1] - scale * other[1]).norm()) <= EXACT * float(one[1].norm()):
                return None
            found.append(scale)
        return common(found)

    return ratio


def value_of(
    call: LossCall, student: Tensor, teacher: Tensor, temperature: float = 1.0
) -> float | None:
    """Return the value of a loss of numbers in float64, or None if it refuses them."""
    for dtype in PRECISIONS:
        try:
            return call.number(student.to(dtype), teacher.to(dtype), temperature)
        except REFUSALS:
            continue
    return None


def gradient_of(
    call: LossCall, student: Tensor, teacher: Tensor, temperature: float = 1.0
) -> Tensor | None:
    """Return its gradient with respect to the student in float64, or None if there is none."""
    for dtype in PRECISIONS:
        leaf = student.detach().to(dtype, copy=True).requires_grad_()
        try:
            value = call(leaf, teacher.to(dtype), temperature)
            return torch.autograd.grad(value, leaf)[0].double()
        except REFUSALS:
            continue
    return None


def _varies(ratio: Ratio, kind: LossKind) -> bool:
    return common([ratio(kind, t) or math.inf for t in HOT[:2]]) is None
