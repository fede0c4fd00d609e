"""What is no fault: large numbers, zeros, few samples, half precision, padding, any temperature."""

import math
from functools import partial

import torch
from torch import Tensor

from kdcourse.conformance.calling import LossCall
from kdcourse.conformance.convention import REFUSALS, gradient_of, value_of
from kdcourse.conformance.trial import (
    NOT_HERE,
    Fault,
    Measure,
    Observation,
    Trial,
    four_digits,
    nearly_equal,
    single,
)

ROUNDED = 0.02  # how far off a loss in half precision, or at an extreme, may be


def hot_limit(trial: Trial) -> Observation:
    r"""τ → ∞: KD tends to :math:`\|\bar z_S - \bar z_T\|^2 / 2K`, and is itself at τ = 100."""
    return _at_temperature(trial, "τ → ∞", 100.0)


def cold_limit(trial: Trial) -> Observation:
    r"""τ → 0: predictions become decisions, of which none is infinite; here τ = 0.001."""
    return _at_temperature(trial, "τ → 0", 1e-3)


def _at_temperature(trial: Trial, name: str, temperature: float) -> Observation:
    if not (trial.call.takes_temperature and trial.reference.takes_temperature):
        return Observation(name, NOT_HERE, "there is no temperature")
    if trial.convention.factor is None:
        return Observation(name, NOT_HERE, "there is no factor to compare by")
    measure = partial(trial.apart, close=5 * ROUNDED)
    return trial.looked_at(name, measure, temperature=temperature)


def one_sample(trial: Trial) -> Observation:
    r"""A batch may hold one sample, N = 1, as an epoch's last one does."""
    return trial.looked_at("N = 1", _finite(trial), prepare=lambda s, t: (s[:1], t[:1]))


def extreme(trial: Trial) -> Observation:
    r"""Large numbers are no fault: with :math:`10^4 z` the loss is finite, and that of ours."""
    hint = ": does exp overflow, or log meet 0?" if trial.kind.letters[1] == "K" else ""
    return trial.looked_at(
        "extreme inputs", _finite(trial, hint), prepare=lambda s, t: (1e4 * s, 1e4 * t)
    )


def zeros(trial: Trial) -> Observation:
    r"""Zeros are no fault, as of dead features: the loss and its gradient are finite."""
    return trial.looked_at("zeros", _finite(trial), prepare=lambda s, t: (torch.zeros_like(s), t))


def samples_that_coincide(trial: Trial) -> Observation:
    r"""Two samples may be the same, :math:`z_1 = z_2`: the loss and its gradient are finite."""

    def alike(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([s[:1], s[:1], s[2:]]), t

    def prepare(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return alike(s, t) if len(s) > 1 else (s, t)

    return trial.looked_at("samples that coincide", _finite(trial), prepare=prepare)


def _finite(trial: Trial, hint: str = "") -> Measure:
    def measure(call: LossCall, s: Tensor, t: Tensor, tau: float) -> Fault | None:
        line = call.shown(temperature=tau)
        value = call.number(single(s), single(t), tau)
        if not math.isfinite(value):
            return Fault(f"it is {value}{hint}", (f"{line}  # {value}",))
        found = gradient_of(call, single(s), single(t), tau)
        if found is not None and not found.isfinite().all():
            return Fault(
                "its gradient is not finite",
                ("student.requires_grad_()", f"{line}.backward()", "student.grad  # not finite"),
            )
        if trial.convention.factor is None:
            return None
        return trial.apart(call, s, t, tau, ROUNDED)

    return measure


def half_precision(trial: Trial) -> Observation:
    r"""In float16 and bfloat16 it is what it is in float64, within 8 roundings of such numbers."""
    times = 8.0 if trial.kind.letters[1] == "K" else 64.0

    def measure(call: LossCall, s: Tensor, t: Tensor, tau: float) -> Fault | None:
        for dtype in (torch.float16, torch.bfloat16):
            own, theirs = s.to(dtype), t.to(dtype)
            right = value_of(call, own.double(), theirs.double(), tau)
            value = call.number(own, theirs, tau)
            close = 8 * torch.finfo(dtype).eps
            if right is None or not math.isfinite(right) or nearly_equal(value, right, close):
                continue
            found, wanted = four_digits(value), four_digits(right)
            line = call.shown("student.to(dtype)", "teacher.to(dtype)", temperature=tau)
            return Fault(
                f"in {str(dtype).removeprefix('torch.')} it is {found} where {wanted} is right",
                (f"dtype = {dtype}", f"{line}  # {found}, should be {wanted}"),
            )
        return None

    def prepare(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return times * s, t if trial.kind.probabilities else times * t

    return trial.looked_at("half precision", measure, prepare=prepare)


def mask(trial: Trial) -> Observation:
    r"""What is masked does not count, be it NaN: :math:`L(z_S, z_T, m) = L(z_S[m], z_T[m])`."""
    if trial.call.mask is None:
        return Observation("mask", NOT_HERE, "it takes none")
    if trial.kind.letters[1] != "K":
        return Observation("mask", NOT_HERE, "it is not one of samples")

    def measure(call: LossCall, s: Tensor, t: Tensor, tau: float) -> Fault | None:
        counted = torch.arange(len(s)) > 0
        if not _takes(call, s, t, counted):  # one entry each, as of many labels
            counted = counted[:, None].expand(s.shape)
        right = call.number(s[1:], t[1:], tau) if len(s) > 1 else math.nan
        padded = torch.cat([torch.full_like(s[:1], math.nan), s[1:]])
        for own, told in (
            (s, "the mask makes no difference, or another one"),
            (padded, "what is masked out, here NaN, reaches the loss"),
        ):
            value = call.number(own, t, tau, mask=counted)
            if math.isnan(right) or nearly_equal(value, right):
                continue
            found, wanted = four_digits(value), four_digits(right)
            lines = [f"mask = torch.tensor({counted.tolist()})"]
            lines += ["student[0] = torch.nan"] * (own is padded)
            lines += [f"{call.shown(temperature=tau, mask='mask')}  # {found}, should be {wanted}"]
            return Fault(f"{told}: it is {found} where {wanted} is right", tuple(lines))
        return None

    return trial.looked_at("mask", measure, anyway=True)


def _takes(call: LossCall, student: Tensor, teacher: Tensor, mask: Tensor) -> bool:
    try:
        call(student, teacher, mask=mask)
    except REFUSALS:
        return False
    return True
