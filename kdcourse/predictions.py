r"""Predictions at places: one for a sample, a token or a pixel.

A place has K logits, a target and a weight w, and every loss on predictions is a mean over places:

.. math:: \sum_p w_p \ell_p \,/\, \textstyle\sum_p w_p

A place of weight zero does not count, and may hold anything, as padding does. Nothing is selected
by it, which would need a look at its values: its logits are replaced by zeros *before* the
arithmetic. So NaN and infinity there reach neither the value nor the gradient, which is zero, and
shapes do not depend on the mask. If nothing counts, the loss is zero, and so is its gradient.

In training, weights come with a batch, ``(inputs, target, weight)``; a term knows a target, or an
entry of the inputs that says which places do not count
(:class:`kdcourse.prediction_term.PredictionTerm`).
"""

from typing import Any

import torch
from torch import Tensor

from kdcourse.checks import (
    FLOATS,
    check_floating,
    check_integer,
    check_same_device,
    check_same_shape,
    check_target,
    check_tensor,
)
from kdcourse.errors import ArgumentError
from kdcourse.precision import at_least_float32, readable

INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_class_dim(class_dim: int) -> None:
    """Require a dimension that may be that of classes, of predictions that are still to come."""
    check_integer("class_dim", class_dim, -(2**63))
    if class_dim == 0:
        raise ArgumentError("class_dim", "class_dim must not be 0, the samples")


def check_predictions(name: str, logits: Tensor, class_dim: int = 1) -> None:
    """Require floating-point predictions of at least two classes, at one place at least.

    Args:
        name: What the logits, or probabilities, are called.
        logits: ``(N, K)``, ``(N, T, K)``, ``(N, K, H, W)``, …
        class_dim: The dimension of the K classes; any but the first, which is that of the samples.
    """
    check_floating(name, logits)
    shape = tuple(logits.shape)
    if len(shape) < 2:
        raise ArgumentError(
            name, f"{name} must have shape (N, K), or more dimensions of places, got {shape}"
        )
    check_integer("class_dim", class_dim, 1 - len(shape), len(shape) - 1)
    if class_dim == 0:
        raise ArgumentError(
            "class_dim", f"class_dim must not be 0, the samples, where {name} is {shape}"
        )
    if shape[class_dim] < 2:
        raise ArgumentError(
            name, f"{name} must have at least 2 classes in dimension {class_dim}, got {shape}"
        )
    if logits.numel() == 0:
        raise ArgumentError(name, f"{name} must hold at least one place, got {shape}")


def place_shape(logits: Tensor, class_dim: int = 1) -> list[int]:
    """Return the shape of what has one entry a place: the logits' without their classes."""
    shape = list(logits.shape)
    return shape[:class_dim] + shape[class_dim:][1:]


def place_rows(logits: Tensor, class_dim: int = 1) -> Tensor:
    """Return logits as one row a place ``(P, K)``: a view where the classes come last."""
    return logits if logits.dim() == 2 else logits.movedim(class_dim, -1).flatten(0, -2)


def place_weights(
    logits: Tensor,
    class_dim: int = 1,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    target: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor | None:
    """Return the weights of all places ``(P,)``, without gradient, or None if all count alike.

    Args:
        logits: Predictions, as :func:`check_predictions` lets them pass.
        class_dim: The dimension of their classes.
        mask: Of the places' shape, the logits' without ``class_dim``: 0 or False does not count.
        weight: Of the places' shape, ≥ 0.
        target: Of the places' shape, with ``ignore_index``.
        ignore_index: The target of places that do not count.

    Raises:
        ValueError: A shape or dtype is another; on the CPU also for a mask that is neither 0 nor 1,
            and weights that are negative or not finite where the mask does not leave them out.
    """
    weights, left_out = None, []
    if mask is not None:
        _check_counting("mask", mask, logits, class_dim)
        left_out.append(left_out_by(mask))
    if ignore_index is not None:
        check_integer("ignore_index", ignore_index, -(2**63), 2**63 - 1)
    if ignore_index is not None and target is not None:
        check_of_places("target", target, logits, class_dim)
        left_out.append(target == ignore_index)
    if weight is not None:
        _check_counting("weight", weight, logits, class_dim)
        weights = weight.detach().to(at_least_float32(logits).dtype)
    elif left_out:
        weights = logits.new_ones(left_out[0].shape, dtype=at_least_float32(logits).dtype)
    if weights is None:
        return None
    for places in left_out:
        weights = weights.masked_fill(places, 0.0)
    if weight is not None:
        check_not_negative("weight", weights)
    return weights.flatten()


def left_out_by(mask: Tensor) -> Tensor:
    """Return where a mask is 0 or False; where it can be read, require 0 and 1 of it."""
    left_out = mask == 0
    if readable(mask) and not bool((left_out | (mask == 1)).all()):
        raise ArgumentError(
            "mask",
            "mask must hold 0 and 1 only, or False and True (of one that is added to scores, 0 and "
            "−∞, take mask == 0)",
        )
    return left_out


def check_not_negative(name: str, weights: Tensor) -> None:
    """Require weights that are ≥ 0 and finite, where they can be read."""
    if readable(weights):
        lowest, highest = torch.stack(weights.aminmax()).tolist()
        if not 0 <= lowest <= highest < float("inf"):  # also false for NaN
            raise ArgumentError(
                name, f"{name} must be ≥ 0 and finite, got from {lowest} to {highest}"
            )


def entry_weights(predictions: Tensor, **counting: Any) -> Tensor | None:
    """Return the weights of predictions of which every entry is a place, as :func:`place_weights`.

    Args:
        predictions: Of any shape.
        counting: ``mask``, ``weight``, ``target`` and ``ignore_index``, as there.
    """
    return place_weights(predictions.unsqueeze(-1), -1, **counting)


def place_target(
    target: Tensor, logits: Tensor, class_dim: int = 1, weights: Tensor | None = None
) -> Tensor:
    """Return targets as ``(P,)`` class indices, 0 where a place does not count."""
    check_of_places("target", target, logits, class_dim)
    rows = counted_only(target.flatten(), weights)
    check_target(rows, len(rows), logits.shape[class_dim])
    return rows


def counted_only(rows: Tensor, weights: Tensor | None, other: float = 0.0) -> Tensor:
    """Put another number wherever a place does not count, before anything is done with it."""
    if weights is None:
        return rows
    return rows.masked_fill((weights == 0).view(-1, *[1] * (rows.dim() - 1)), other)


def place_mean(each: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of values ``(P,)``, one a place, over those that count; of none it is 0."""
    return each.mean() if weights is None else (each * weights).sum() / to_divide_by(weights)


def to_divide_by(weights: Tensor) -> Tensor:
    """Return the sum of the weights, 1 if nothing counts."""
    total = weights.sum()
    return total.masked_fill(total == 0, 1.0)


def check_of_places(name: str, tensor: Tensor, logits: Tensor, class_dim: int = 1) -> None:
    """Require one entry a place: the shape of the logits without their classes."""
    check_tensor(name, tensor)
    check_same_device(name, tensor, "the logits", logits)
    places = place_shape(logits, class_dim)
    if list(tensor.shape) != places:
        raise ArgumentError(
            name,
            f"{name} must have shape {tuple(places)}, one entry a place, as the logits are "
            f"{tuple(logits.shape)} with class_dim={class_dim}, got {tuple(tensor.shape)}",
        )


def _check_counting(name: str, tensor: Tensor, logits: Tensor, class_dim: int) -> None:
    check_of_places(name, tensor, logits, class_dim)
    if tensor.dtype not in (*INTEGERS, *FLOATS):
        raise ArgumentError(
            name, f"{name} must be bool, integer or floating point, got {tensor.dtype}"
        )


def both_at_places(
    student_logits: Tensor,
    teacher_logits: Tensor,
    class_dim: int,
    teacher_name: str = "teacher_logits",
    **counting: Any,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return predictions as rows ``(P, K)``, zero where a place does not count, and weights."""
    check_predictions("student_logits", student_logits, class_dim)
    check_predictions(teacher_name, teacher_logits, class_dim)
    check_same_shape("student_logits", student_logits, teacher_name, teacher_logits)
    weights = place_weights(student_logits, class_dim, **counting)
    student, teacher = (
        counted_only(place_rows(logits, class_dim), weights)
        for logits in (student_logits, teacher_logits.detach())
    )
    return student, teacher, weights


def log_probabilities_at(index: Tensor, logits: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Return p of some classes ``(P, k)``, and log p, which is finite where p is too small.

    Args:
        index: The classes, ``(P, k)``.
        logits: ``(P, K)``.
        p: Their softmax.
    """
    picked = p.gather(1, index)
    if readable(picked) and bool((picked >= torch.finfo(picked.dtype).tiny).all()):
        return picked, picked.log()  # two passes less
    largest = logits.amax(dim=1, keepdim=True)
    return picked, logits.gather(1, index) - largest + p.amax(dim=1, keepdim=True).log()


def kl_of_rows(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p‖q) from log-probabilities ``(P, K)``, sum over classes, at each place."""
    return expected_of_rows(log_p.exp(), log_p - log_q)


def expected_of_rows(p: Tensor, values: Tensor) -> Tensor:
    """Sum of values under p at each place: what has p = 0 does not count, even if infinite."""
    if readable(p) and readable(values):
        each = (p * values).sum(dim=1)
        if not bool(each.detach().sum().isnan()):  # nothing was infinite: one pass less
            return each
    return (p * torch.where(p > 0, values, 0.0)).sum(dim=1)
