"""A loss on trial: what is measured of it beside ours, and the smallest input with a fault."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from kdcourse.conformance.calling import LossCall
from kdcourse.conformance.convention import (
    REFUSALS,
    SEEDS,
    WARM,
    Convention,
    gradient_of,
    value_of,
)
from kdcourse.conformance.factor import ABSOLUTE
from kdcourse.conformance.kinds import LossKind

HOLDS, DIFFERS, BREAKS, NOT_HERE = "holds", "differs", "breaks", "does not apply"
CLOSE = 1e-3  # how far apart, relative, two values may be that should be the same
TINY = 1e-12
MANY = 64  # numbers in an input, beyond which nobody reads them


@dataclass(frozen=True)
class Observation:
    """What was found of a property.

    Attributes:
        name: The property.
        status: ``"holds"``, ``"differs"`` (a convention), ``"breaks"``, or ``"does not apply"``.
        told: One sentence.
        code: A program that shows it by the smallest input that was found, where it breaks.
    """

    name: str
    status: str
    told: str = ""
    code: str = ""


@dataclass(frozen=True)
class Fault:
    """Where a property does not hold: in a sentence, and by calls to be pasted."""

    told: str
    lines: tuple[str, ...] = ()


Measure = Callable[[LossCall, Tensor, Tensor, float], Fault | None]
Inputs = tuple[Tensor, Tensor]
Prepare = Callable[[Tensor, Tensor], Inputs]


@dataclass(frozen=True)
class Trial:
    """A loss beside ours.

    Attributes:
        call: The loss.
        reference: Ours.
        kind: What both compare.
        convention: How they differ.
    """

    call: LossCall
    reference: LossCall
    kind: LossKind
    convention: Convention = field(default_factory=Convention)

    @property
    def temperature(self) -> float:
        """The temperature at which it is tried."""
        return WARM if self.call.takes_temperature else float(self.call.temperature)

    def looked_at(
        self,
        name: str,
        measure: Measure,
        *,
        prepare: Prepare = lambda student, teacher: (student, teacher),
        temperature: float | None = None,
        anyway: bool = False,
    ) -> Observation:
        """Look for an input at which a property does not hold, and then for the smallest one.

        Args:
            name: The property.
            measure: Returns what is wrong with a loss, for an input and a temperature, or None.
            prepare: Makes the inputs of those that are drawn.
            temperature: Another one than the trial's.
            anyway: Whether it is asked of every loss, whatever ours does.
        """
        tau = self.temperature if temperature is None else temperature
        wrong = partial(_wrong, measure, tau)
        drawn = [prepare(*self.kind.draw(seed)) for seed in SEEDS]
        if not anyway and any(wrong(self.reference, inputs) for inputs in drawn):
            return Observation(name, NOT_HERE, f"{self.reference.name} has no such property")
        found = [(inputs, fault) for inputs in drawn if (fault := wrong(self.call, inputs))]
        if not found:
            return Observation(name, HOLDS)
        shown, told = found[0]
        for inputs in (prepare(*pair) for pair in self.kind.small()):
            fault = wrong(self.call, inputs)
            if fault is None or _words(fault) != _words(told):
                continue
            if anyway or not wrong(self.reference, inputs):
                shown, told = inputs, fault
                break
        return Observation(name, BREAKS, told.told, self.program(shown, told.lines))

    def program(self, inputs: Inputs, lines: tuple[str, ...]) -> str:
        """Return a program that defines student and teacher, and calls the loss; of many, none."""
        if not lines or max(one.numel() for one in inputs) > MANY:
            return ""
        made = as_program(student=inputs[0], teacher=inputs[1])
        imports = ["import torch", *([self.call.imports] if self.call.imports else [])]
        return "\n".join([*imports, "", *made, *lines])

    def expected(self, student: Tensor, teacher: Tensor, temperature: float) -> float:
        """Return what the loss should be, by ours and the factor, or NaN if there is none."""
        value = value_of(self.reference, student.double(), teacher.double(), temperature)
        if value is None or self.convention.factor is None:
            return math.nan
        return value * self._factor(student, temperature)

    def expected_gradient(
        self, student: Tensor, teacher: Tensor, temperature: float
    ) -> Tensor | None:
        """Return what its gradient should be, or None if there is no factor."""
        gradient = gradient_of(self.reference, student.double(), teacher.double(), temperature)
        if gradient is None or self.convention.factor is None:
            return None
        return gradient * self._factor(student, temperature)

    def _factor(self, student: Tensor, temperature: float) -> float:
        assert self.convention.factor is not None
        sizes = dict(zip(self.kind.letters, student.shape, strict=True))
        return self.convention.factor.value(temperature, **sizes)

    def apart(
        self, call: LossCall, student: Tensor, teacher: Tensor, temperature: float, close: float
    ) -> Fault | None:
        """Say how the loss differs from ours times the factor: by values, or by gradients."""
        line = call.shown(temperature=temperature)
        if call is self.reference:
            value, expected = (call.number(student, teacher, temperature), math.nan)
            return None if math.isfinite(value) else Fault("it is not finite")
        if self.convention.by_value:
            value = call.number(student, teacher, temperature)
            expected = self.expected(student, teacher, temperature)
            if not math.isfinite(expected) or nearly_equal(value, expected, close):
                return None
            capped = ": does an epsilon, or a clamp, cap it?" * (abs(value) < abs(expected) / 2)
            return Fault(
                f"it is {four_digits(value)} where {four_digits(expected)} is right{capped}",
                (f"{line}  # {four_digits(value)}, should be {four_digits(expected)}",),
            )
        gradient = gradient_of(call, student, teacher, temperature)
        right = self.expected_gradient(student, teacher, temperature)
        if right is None or not right.isfinite().all():
            return None
        if gradient is None or not gradient.isfinite().all():
            return Fault("its gradient is not finite", (f"{line}.backward()",))
        if float((gradient - right).norm()) <= close * float(right.norm()) + ABSOLUTE:
            return None
        return Fault("its gradient is not that of ours times the factor", (f"{line}.backward()",))


def _wrong(measure: Measure, temperature: float, call: LossCall, inputs: Inputs) -> Fault | None:
    """Return what is wrong with a loss, which may be that it raises an error."""
    try:
        return measure(call, *inputs, temperature)
    except REFUSALS as error:
        told = f"it raises {type(error).__name__}" + f": {_short(error)}" * bool(str(error))
        return Fault(told, _raising(call, *inputs, temperature))


def _raising(call: LossCall, student: Tensor, teacher: Tensor, tau: float) -> tuple[str, ...]:
    """Return the line that calls a loss, if that alone raises an error."""
    try:
        call(single(student), single(teacher), tau)
    except REFUSALS:
        return (call.shown(temperature=tau),)
    return ()


def nearly_equal(value: float, expected: float, close: float = CLOSE) -> bool:
    """Whether two values are the same but for rounding."""
    return abs(value - expected) <= close * max(abs(value), abs(expected)) + 1e-6


def four_digits(value: float) -> str:
    """Write a number in four digits, and what rounding has left of zero as zero."""
    return "0" if abs(value) <= TINY else f"{value:.4g}"


def single(tensor: Tensor) -> Tensor:
    """Return a copy in float32, as nets show it."""
    return tensor.detach().to(torch.float32, copy=True)


def as_program(**tensors: Tensor) -> list[str]:
    """Write tensors as the lines of a program that make them."""
    lines = []
    for name, tensor in tensors.items():
        values = tensor.detach().double().mul(1e4).round().div(1e4).tolist()
        lines.append(f"{name} = torch.tensor({values})".replace("nan", "torch.nan"))
    return lines


def _words(fault: Fault) -> str:
    """Return what is wrong but for the numbers, which change with the input."""
    return re.sub(r"-?\d[\d.e+-]*", "", fault.told)


def _short(error: BaseException) -> str:
    line = (str(error).splitlines() or [""])[0]
    return line if len(line) <= 120 else f"{line[:117]}..."
