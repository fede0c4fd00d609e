"""What changes nothing: a shift, the scale, the order of the samples, how many there are."""

from collections.abc import Callable

import torch
from torch import Tensor

from kdcourse.conformance.calling import LossCall
from kdcourse.conformance.trial import (
    BREAKS,
    DIFFERS,
    NOT_HERE,
    Fault,
    Observation,
    Trial,
    four_digits,
    nearly_equal,
)

Change = tuple[str, Callable[[Tensor], Tensor]]  # as a program writes it, and what it does


def _invariance(
    name: str,
    trial: Trial,
    own: Change,
    theirs: Change = ("teacher", lambda t: t),
) -> Observation:
    def measure(call: LossCall, s: Tensor, t: Tensor, tau: float) -> Fault | None:
        plain, changed = (call.number(*pair, tau) for pair in ((s, t), (own[1](s), theirs[1](t))))
        if nearly_equal(plain, changed):
            return None
        one, other = call.shown(temperature=tau), call.shown(own[0], theirs[0], temperature=tau)
        return Fault(
            f"it is {four_digits(plain)} before, and {four_digits(changed)} after",
            (
                f"{one}  # {four_digits(plain)}",
                f"{other}  # {four_digits(changed)}, should be the same",
            ),
        )

    return trial.looked_at(name, measure)


def shift_of_logits(trial: Trial) -> Observation:
    r"""A number added to all logits changes no prediction: :math:`L(z_S + a, z_T + b) = L`."""
    return _invariance(
        "shift invariance",
        trial,
        ("student + 100", lambda s: s + 100),
        ("teacher - 100", lambda t: t - 100),
    )


def scale_of_features(trial: Trial) -> Observation:
    r"""The scale of what the student shows does not count: :math:`L(3 z_S, z_T) = L`."""
    return _invariance("scale invariance", trial, ("3 * student", lambda s: 3 * s))


def moving_of_embeddings(trial: Trial) -> Observation:
    r"""Moving all samples changes no relation between them: :math:`L(z_S + 1000 u, z_T) = L`."""
    step = "1000 * (1 + torch.arange(student.shape[1]) % 2)"

    def moved(s: Tensor) -> Tensor:
        u = 1 + torch.arange(s.shape[1], dtype=s.dtype) % 2
        return s + 1000 * u.view(1, -1, *[1] * (s.dim() - 2))

    if trial.kind.letters != "ND":
        return Observation("moving all samples", NOT_HERE, "there are no embeddings")
    return _invariance("moving all samples", trial, (f"student + {step}", moved))


def rotation_of_embeddings(trial: Trial) -> Observation:
    r"""Rotating all samples changes no relation between them: :math:`L(z_S R, z_T) = L`."""
    if trial.kind.letters != "ND":
        return Observation("rotation", NOT_HERE, "there are no embeddings")

    def rotated(s: Tensor) -> Tensor:
        if s.shape[1] < 2:
            return -s
        return torch.cat([-s[:, 1:2], s[:, :1], s[:, 2:]], dim=1)

    code = "torch.cat([-student[:, 1:2], student[:, :1], student[:, 2:]], 1)"
    return _invariance("rotation", trial, (code, rotated))


def order_of_samples(trial: Trial) -> Observation:
    r"""The order of the samples in a batch says nothing: :math:`L(\pi z_S, \pi z_T) = L`."""
    return _invariance(
        "order of samples",
        trial,
        ("student.flip(0)", lambda s: s.flip(0)),
        ("teacher.flip(0)", lambda t: t.flip(0)),
    )


def batch_size(trial: Trial) -> Observation:
    r"""A batch seen twice weighs as it does once: :math:`L([z_S; z_S], [z_T; z_T]) = L`."""

    def twice(x: Tensor) -> Tensor:
        return torch.cat([x, x])

    found = _invariance(
        "batch size",
        trial,
        ("torch.cat([student, student])", twice),
        ("torch.cat([teacher, teacher])", twice),
    )
    factor = trial.convention.factor
    if found.status == BREAKS and factor is not None and "N" in factor.letters:
        return Observation(found.name, DIFFERS, f"it changes with N, by the factor {factor}")
    return found
