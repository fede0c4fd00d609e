"""A factor between two losses: a constant times powers of sizes and of τ, in signs and in words."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from kdcourse.conformance.kinds import WORDS

EXACT = 3e-3  # how far apart two ratios may be: float32, and small epsilons
ABSOLUTE = 1e-9  # values and gradients below are taken for zero
NAMED = {1 / math.log(2): "1/ln 2", math.log(2): "ln 2"}
CONSTANTS = {1 / math.log(2): "takes logarithms to base 2"}
TEMPERATURE = {
    -2.0: "leaves out the factor τ²",
    -1.0: "has a factor τ, where ours has τ²",
    2.0: "has a further factor τ²",
}
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
Powers = tuple[tuple[str, float], ...]


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

    @property
    def letters(self) -> set[str]:
        """What it changes with: N, K, τ, …"""
        return {base.partition("−")[0] for base, _ in self.powers}

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
                said[letter] = f"counts other pairs or triples of {what}, hence a factor {part}"
            elif abs(alone[0][1]) == 1:
                summed, averaged = f"sums over the {what}", f"averages over the {what}, too"
                said[letter] = summed if alone[0][1] > 0 else averaged
            else:
                said[letter] = f"has a factor {part}"
        if self.constant != 1:
            constant = f"has a constant factor {_number(self.constant)}"
            said["constant"] = CONSTANTS.get(self.constant, constant)
        return said


@cache
def _of_size(letter: str) -> list[Powers]:
    """Return products of powers of a size, and of it less 1 and less 2, the simplest first."""
    bases = (letter, f"{letter}−1", f"{letter}−2")
    halves = [half / 2 for half in range(-6, 7)]
    products = [
        tuple(pair for pair in zip(bases, powers, strict=True) if pair[1])
        for powers in itertools.product(halves, (-1, 0, 1), (-1, 0, 1))
    ]
    return sorted(products, key=_complexity)


def _of_tau() -> list[Powers]:
    return sorted(((("τ", float(p)),) if p else () for p in range(-4, 5)), key=_complexity)


def _complexity(candidate: Powers) -> tuple[float, int]:
    halves = sum(power != int(power) for _, power in candidate)
    return sum(abs(power) for _, power in candidate) + 2 * halves, len(candidate)


def powers_in(ratios: Mapping[float, float | None], letter: str) -> Powers | None:
    """Return the simplest powers that ratios change by as a size does, or τ; None if none do.

    Args:
        ratios: By the size; None where it is not one number, NaN where it could not be measured.
        letter: What the size is called.
    """
    if None in ratios.values():
        return None
    known = {size: r for size, r in ratios.items() if r is not None and math.isfinite(r) and size}
    for powers in _of_tau() if letter == "τ" else _of_size(letter):
        factor = Factor(1.0, powers)
        sizes = {size: {} if letter == "τ" else {letter: int(size)} for size in known}
        if any(int(b.partition("−")[2] or 0) >= min(known) for b, _ in powers):
            continue  # a size less 1 or 2 would be zero
        if common([r / factor.value(size, **sizes[size]) for size, r in known.items()]) is not None:
            return powers
    return None


def common(ratios: Sequence[float]) -> float | None:
    """Return the one number that all ratios are, or None."""
    low, high = min(ratios), max(ratios)
    if not all(map(math.isfinite, ratios)) or high - low > EXACT * max(abs(low), abs(high)):
        return None
    middle = sum(ratios) / len(ratios)
    return middle if abs(middle) > ABSOLUTE else None


def meant(constant: float) -> float:
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
