r"""Which convention a loss follows: the factor to ours, as a function of N, K, τ and other sizes.

.. math:: L = c \cdot N^a K^b \tau^d \cdots \; L_{\text{ours}}

It is measured, not read: the ratio of gradients, and that of values, at several sizes and
temperatures. Where the ratio differs between two inputs of one size, there is no such factor.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from kdcourse.conformance.calling import LossCall
from kdcourse.conformance.kinds import WORDS, LossKind

EXACT = 3e-3  # how far apart two ratios may be: float32, and small epsilons
HOT, WARM = (1.0, 2.0, 3.0, 6.0), 2.0  # temperatures that are tried, and the one for all sizes
GROWN = (lambda n: n - 1, lambda n: n + 1, lambda n: 2 * n)  # what a size is changed to
NAMED = {1 / math.log(2): "1/ln 2", math.log(2): "ln 2"}
CONSTANTS = {1 / math.log(2): "takes logarithms to base 2"}
TEMPERATURE = {
    -2.0: "leaves out the factor τ²",
    -1.0: "has a factor τ, where ours has τ²",
    2.0: "has a further factor τ²",
}
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
ABSOLUTE = 1e-9  # values and gradients below are taken for zero


@dataclass(frozen=True)
class Factor:
    """A constant times powers of sizes and of the temperature.

    Attributes:
        constant: What is left.
        powers: Exponents by what they are of: ``("N", 1)``, ``("N−1", -1)``, ``("τ", 2)``.
    """

    constant: float = 1.0
    powers: tuple[tuple[str, float], ...] = ()

    def value(self, temperature: float = 1.0, **sizes: int) -> float:
        """Return the factor at these sizes and this temperature."""
        numbers = {**sizes, "τ": temperature}
        value = self.constant
        for base, power in self.powers:
            letter, _, less = base.partition("−")
            value *= (numbers[letter] - int(less or 0)) ** power
        return value

    def power(self, base: str) -> float:
        """Return the exponent of a size or of the temperature, alone or less 1 or 2."""
        return sum(power for name, power in self.powers if name.partition("−")[0] == base)

    @property
    def is_one(self) -> bool:
        """Whether both losses are the same."""
        return not self.powers and self.constant == 1.0

    def of(self, name: str = "") -> str:
        """Write the product of the factor and what is called so."""
        above = [_power(base, power) for base, power in self.powers if power > 0]
        below = [_power(base, -power) for base, power in self.powers if power < 0]
        constant = [] if self.constant == 1 else [_number(self.constant)]
        top = " · ".join([*constant, *above, *([name] if name else [])]) or "1"
        bottom = " · ".join(below)
        return f"{top} / ({bottom})" if len(below) > 1 else " / ".join([top, *below])

    def __str__(self) -> str:
        return self.of()

    def inverse(self) -> "Factor":
        """Return what undoes it."""
        return Factor(1 / self.constant, tuple((base, -power) for base, power in self.powers))

    def phrases(self) -> dict[str, str]:
        """Say what the loss does beside ours, by what is in its factor, or ``"constant"``."""
        said = {}
        for letter in dict.fromkeys(base.partition("−")[0] for base, _ in self.powers):
            alone = tuple(pair for pair in self.powers if pair[0].partition("−")[0] == letter)
            part, what = Factor(1.0, alone), WORDS.get(letter, letter)
            if letter == "τ":
                said[letter] = TEMPERATURE.get(alone[0][1], f"has a further factor {part}")
            elif len(alone) > 1 or "−" in alone[0][0]:
                said[letter] = f"counts other pairs or triples of {what}, a factor {part}"
            elif abs(alone[0][1]) == 1:
                summed, averaged = f"sums over the {what}", f"averages over the {what}, too"
                said[letter] = summed if alone[0][1] > 0 else averaged
            else:
                said[letter] = f"has a factor {part}"
        if self.constant != 1:
            constant = f"has a constant factor {_number(self.constant)}"
            said["constant"] = CONSTANTS.get(self.constant, constant)
        return said


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
    value, gradient = (
        fitted(ratio(call, reference), kind, call, reference)
        for ratio in (value_ratio, gradient_ratio)
    )
    if value is None or gradient is None:
        factor = value if gradient is None else gradient
        return Convention(factor, value is not None, gradient is not None)
    alike = math.isclose(value.constant, gradient.constant, rel_tol=EXACT)
    return Convention(gradient, alike and value.powers == gradient.powers, True)


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
        found = _explained({size: base, **tried}, _candidates(letter))
        if found is None:
            return None
        powers += found
    if call.takes_temperature and (reference.takes_temperature or _varies(ratio, kind)):
        found = _explained({t: ratio(kind, t) for t in HOT}, _of_tau())
        if found is None:
            return None
        powers += found
    constant = base / Factor(1.0, tuple(powers)).value(tau, **kind.sizes)
    return Factor(_rounded(constant), tuple(powers))


def value_ratio(call: LossCall, reference: LossCall) -> Ratio:
    """Return the ratio of the values of two losses, or None where it differs between inputs."""

    def ratio(kind: LossKind, temperature: float) -> float | None:
        found = []
        for seed in range(2):
            inputs = kind.draw(seed)
            one, other = (value_of(loss, *inputs, temperature) for loss in (call, reference))
            if one is None or other is None:
                return math.nan  # this size is refused
            found.append(one / other if abs(other) > ABSOLUTE else math.inf)
        return _common(found)

    return ratio


def gradient_ratio(call: LossCall, reference: LossCall) -> Ratio:
    """Return the ratio of the gradients of two losses, or None where they differ in direction."""

    def ratio(kind: LossKind, temperature: float) -> float | None:
        found = []
        for seed in range(2):
            inputs = kind.draw(seed)
            one, other = (gradient_of(loss, *inputs, temperature) for loss in (call, reference))
            if one is None or other is None:
                return math.nan
            scale = float((one * other).sum() / other.square().sum().clamp_min(ABSOLUTE**2))
            apart = float((one - scale * other).norm())
            if not apart <= EXACT * float(one.norm()):
                return None
            found.append(scale)
        return _common(found)

    return ratio


def value_of(
    call: LossCall, student: Tensor, teacher: Tensor, temperature: float = 1.0
) -> float | None:
    """Return the value of a loss of numbers in float64, or None if it refuses them."""
    for dtype in (torch.float64, torch.float32):
        try:
            return float(call(student.to(dtype), teacher.to(dtype), temperature))
        except REFUSALS:
            continue
    return None


def gradient_of(
    call: LossCall, student: Tensor, teacher: Tensor, temperature: float = 1.0
) -> Tensor | None:
    """Return its gradient with respect to the student in float64, or None if there is none."""
    for dtype in (torch.float64, torch.float32):
        leaf = student.detach().to(dtype, copy=True).requires_grad_()
        try:
            value = call(leaf, teacher.to(dtype), temperature)
            return torch.autograd.grad(value, leaf)[0].double()
        except REFUSALS:
            continue
    return None


REFUSALS = (ValueError, TypeError, RuntimeError, IndexError, AssertionError, NotImplementedError)


def _common(ratios: Sequence[float]) -> float | None:
    """Return the one number that all ratios are, or None."""
    low, high = min(ratios), max(ratios)
    if not all(map(math.isfinite, ratios)) or high - low > EXACT * max(abs(low), abs(high)):
        return None
    middle = sum(ratios) / len(ratios)
    return middle if abs(middle) > ABSOLUTE else None


Candidate = tuple[tuple[str, float], ...]


def _candidates(letter: str) -> list[Candidate]:
    """Return products of powers of a size, and of it less 1 and less 2, the simplest first."""
    bases = (letter, f"{letter}−1", f"{letter}−2")
    halves = [half / 2 for half in range(-6, 7)]
    products = [
        tuple(pair for pair in zip(bases, powers, strict=True) if pair[1])
        for powers in itertools.product(halves, (-1, 0, 1), (-1, 0, 1))
    ]
    return sorted(products, key=_complexity)


def _of_tau() -> list[Candidate]:
    return sorted(((("τ", float(p)),) if p else () for p in range(-4, 5)), key=_complexity)


def _complexity(candidate: Candidate) -> tuple[float, int]:
    halves = sum(power != int(power) for _, power in candidate)
    return sum(abs(power) for _, power in candidate) + 2 * halves, len(candidate)


def _explained(
    ratios: dict[float, float | None], candidates: Iterable[Candidate]
) -> Candidate | None:
    """Return the simplest product that changes as the ratios do; None if there is none."""
    if None in ratios.values():
        return None
    known = {n: r for n, r in ratios.items() if r is not None and math.isfinite(r) and n > 0}
    for candidate in candidates:
        letter = candidate[0][0].partition("−")[0] if candidate else ""
        values = []
        for size, ratio in known.items():
            try:
                sizes = {letter: size} if letter != "τ" else {}
                value = Factor(1.0, candidate).value(size, **sizes)  # type: ignore[arg-type]
                values.append(ratio / value)
            except ZeroDivisionError:
                break
        else:
            if _common(values) is not None:
                return candidate
    return None


def _varies(ratio: Ratio, kind: LossKind) -> bool:
    return _common([ratio(kind, t) or math.inf for t in HOT[:2]]) is None


def _rounded(constant: float) -> float:
    """Return the number that is meant: a simple fraction, one with a name, or as measured."""
    for named in NAMED:
        if abs(constant / named - 1) < EXACT / 3:
            return named
    simple = float(Fraction(constant).limit_denominator(12))
    return simple if simple and abs(constant / simple - 1) < EXACT / 3 else constant


def _number(constant: float) -> str:
    if constant in NAMED:
        return NAMED[constant]
    fraction = Fraction(constant).limit_denominator(12)
    return str(fraction) if float(fraction) == constant else f"{constant:.4g}"


def _power(base: str, power: float) -> str:
    plain = f"({base})" if "−" in base else base
    if power in (1, 0.5):
        return plain if power == 1 else f"√{plain}"
    digits = f"{power:g}"
    return plain + digits.translate(RAISED) if digits.isdigit() else f"{plain}^{digits}"
