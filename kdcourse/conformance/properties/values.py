"""What a loss is: one number, ours up to a factor, zero when the student has arrived."""

import itertools
import math

import torch
from torch import Tensor

from kdcourse.conformance.calling import LossCall
from kdcourse.conformance.convention import gradient_of, value_of
from kdcourse.conformance.explanations import explanation
from kdcourse.conformance.trial import (
    BREAKS,
    DIFFERS,
    HOLDS,
    NOT_HERE,
    Fault,
    Observation,
    Trial,
    as_program,
    four_digits,
    nearly_equal,
    single,
)

SAME, TEACHER = "ours, up to a factor", "no gradient to the teacher"
ADDED = "something is added to its value that the student cannot change"


def same_function(trial: Trial) -> Observation:
    r"""The loss is ours up to a factor, :math:`L = c(N, K, \tau, …) \cdot L_{ours}`."""
    name, found, ours = SAME, trial.convention, trial.reference.name
    if found.factor is not None and found.by_value:
        told = "" if found.factor.is_one else f"it is {found.factor.of(ours)}"
        return Observation(name, DIFFERS if told else HOLDS, told)
    if found.factor is not None:
        told = f"its gradient is that of {found.factor.of(ours)}; {ADDED}"
        return Observation(name, DIFFERS, told)
    told = explanation(trial.call, trial.reference, trial.kind)
    return Observation(name, BREAKS, told, _two_ratios(trial))


def _two_ratios(trial: Trial) -> str:
    """Show by two small inputs that there is no factor, or by one that it is not finite."""
    tau, seen = trial.temperature, list[tuple[tuple[Tensor, Tensor], str, float]]()
    drawn = (trial.kind.draw(seed) for seed in range(3))
    for student, teacher in itertools.chain(trial.kind.small(), drawn):
        value, ours = (
            value_of(one, student, teacher, tau) for one in (trial.call, trial.reference)
        )
        if value is None or ours is None or not math.isfinite(ours):
            continue
        line = trial.call.shown(temperature=tau)
        line += f"  # {four_digits(value)}, ours {four_digits(ours)}"
        if not math.isfinite(value) or (abs(ours) < 1e-6 < abs(value)):
            return trial.program((student, teacher), (line,))
        if abs(ours) > 1e-6:
            for other, before, ratio in seen:
                if other[0].shape == student.shape and not nearly_equal(value / ours, ratio, 0.01):
                    then = as_program(student=student, teacher=teacher)
                    return trial.program(other, (before, *then, line))
            seen.append(((student, teacher), line, value / ours))
    return ""


def scalar(trial: Trial) -> Observation:
    r"""A loss is one number, :math:`L \in \mathbb R`, which ``backward()`` can be called on."""
    student, teacher = map(single, trial.kind.draw())
    shape = tuple(trial.call.returned(student, teacher, trial.temperature).shape)
    if shape in ((), (1,)):
        return Observation("one number", HOLDS)
    many = "one number a sample" if len(shape) == 1 else "a tensor"
    return Observation(
        "one number",
        DIFFERS,
        f"it returns {many}, of shape {shape}, and is judged by the mean over samples of their sum",
    )


def gradient(trial: Trial) -> Observation:
    r"""What the student feels: :math:`\partial L/\partial z_S = c\,(p_S - p_T)\,\tau / N` for KD.

    Of any other loss, it is the gradient of ours times the factor.
    """
    name = "gradient"
    if trial.convention.by_gradient:
        return Observation(name, HOLDS)
    unknown = trial.convention.factor is None
    if unknown and gradient_of(trial.call, *trial.kind.draw(), trial.temperature) is not None:
        return Observation(name, NOT_HERE, "there is no factor to compare by")

    def measure(call: LossCall, s: Tensor, t: Tensor, tau: float) -> Fault | None:
        found, right = gradient_of(call, s, t, tau), gradient_of(trial.reference, s, t, tau)
        if found is not None and right is not None:
            right = trial.expected_gradient(s, t, tau) if call is trial.call else right
            if right is None or float((found - right).norm()) <= 0.01 * float(right.norm()) + 1e-9:
                return None
        if found is None:
            told = "no gradient reaches the student"
        elif not found.isfinite().all():
            told = "its gradient is not finite: does a root or a norm meet 0?"
        else:
            told = "the value is that of ours, but not the gradient: part of the student is cut off"
        return Fault(
            told,
            (
                "student.requires_grad_()",
                f"{call.shown(temperature=tau)}.backward()",
                "student.grad",
            ),
        )

    return trial.looked_at(name, measure)


def inputs_stay(trial: Trial) -> Observation:
    r"""What the nets show is left as it is, for other terms and for what is cached of them."""

    def measure(call: LossCall, s: Tensor, t: Tensor, tau: float) -> Fault | None:
        before, after = ({"student": single(s), "teacher": single(t)} for _ in range(2))
        call.returned(after["student"], after["teacher"], tau)
        changed = [name for name in before if not after[name].equal(before[name])]
        if not changed:
            return None
        sums = (
            f"{name}.sum()  # {four_digits(float(after[name].sum()))}, was "
            f"{four_digits(float(before[name].sum()))} before"
            for name in changed
        )
        told = f"it changes what the {' and the '.join(changed)} shows, in place"
        return Fault(told, (call.shown(temperature=tau), *sums))

    return trial.looked_at("inputs stay as they are", measure, anyway=True)


def zero_at_equality(trial: Trial) -> Observation:
    r"""A student that shows what the teacher shows has arrived: :math:`L(z, z) = 0`."""

    def measure(call: LossCall, s: Tensor, t: Tensor, tau: float) -> Fault | None:
        value = call.number(s, t, tau)
        if abs(value) <= 1e-5 * max(1.0, tau**2):
            return None
        return Fault(
            f"it is {four_digits(value)} where both nets show the same",
            (f"{call.shown(temperature=tau)}  # {four_digits(value)}, should be 0",),
        )

    found = trial.looked_at("zero at equality", measure, prepare=lambda s, t: (s, s.clone()))
    if found.status == BREAKS and trial.convention.by_gradient and not trial.convention.by_value:
        return Observation(found.name, DIFFERS, f"{found.told}; its gradient is zero there")
    return found


def not_below_zero(trial: Trial) -> Observation:
    r"""A distance is not negative: :math:`L(z_S, z_T) \ge 0`."""

    def measure(call: LossCall, s: Tensor, t: Tensor, tau: float) -> Fault | None:
        value = call.number(s, t, tau)
        if value >= -1e-6:
            return None
        return Fault(
            f"it is {four_digits(value)}" + ", below zero" * (value < 0),
            (f"{call.shown(temperature=tau)}  # {four_digits(value)}, should not be below 0",),
        )

    return trial.looked_at("not below zero", measure)


def teacher_stays(trial: Trial) -> Observation:
    r"""The teacher is not trained: :math:`\partial L / \partial z_T` does not reach it."""

    def measure(call: LossCall, s: Tensor, t: Tensor, tau: float) -> Fault | None:
        own, theirs = (single(x).requires_grad_() for x in (s, t))
        value = call(own, theirs, tau)
        if not value.requires_grad:
            return None
        (reached,) = torch.autograd.grad(value, theirs, allow_unused=True)
        if reached is None or not reached.any():
            return None
        return Fault(
            "a gradient reaches the teacher, unless it is detached, or asked under no_grad",
            (
                "teacher.requires_grad_()",
                f"{call.shown(temperature=tau)}.backward()",
                "teacher.grad  # should be None",
            ),
        )

    return trial.looked_at(TEACHER, measure, anyway=True)
