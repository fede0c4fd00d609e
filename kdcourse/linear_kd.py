"""KD from hidden states and output projections: the logits are never all there."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_floating, check_same_device
from kdcourse.errors import ArgumentError
from kdcourse.many_classes import (
    LARGER,
    Step,
    enlarged,
    kd_step,
    largest_one,
    over_weights,
    rows_at_once,
    scaled,
    split_weights,
)
from kdcourse.precision import at_least_float32, full_precision, product_dtype
from kdcourse.predictions import counted_only, place_rows, place_weights

# As in many_classes, but each chunk reads the weights and adds to their gradient: more rows pay.
CHUNK = {"cpu": 2**23, "other": 2**26}


def linear_kd_loss(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    temperature: float = 4.0,
    *,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    divergence: str = "forward",
    scale: bool = True,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    rows: int | None = None,
    compile: bool = False,
) -> Tensor:
    r"""KD from hidden states and output projections; the ``(N, V)`` logits are never all there.

    .. math:: \ell_{KD}(h_S W_S^\top + b_S,\; h_T W_T^\top + b_T)

    equals :func:`kdcourse.logit.kd_loss` of these logits, in value and gradient. They are made a
    few places at a time, and so are the gradients for the student's hidden states, projection and
    bias: in the forward pass, and only those that are needed. Backward multiplies them by the
    gradient from above.

    *Precision.* Products have the precision of the inputs, or autocast's; softmax, divergence and
    all sums over chunks are computed in float32 at least.

    Args:
        student_hidden: ``(N, D)`` or ``(N, T, D)``, the student's last hidden states, one a place.
        student_weight: ``(V, D)``, its output projection, as ``nn.Linear`` stores it.
        teacher_hidden: ``(N, D')`` or ``(N, T, D')``; receives no gradient.
        teacher_weight: ``(V, D')``; receives no gradient.
        temperature: τ, from 10⁻⁹ to 10⁶.
        student_bias: ``(V,)``, if its projection has one.
        teacher_bias: ``(V,)``; receives no gradient.
        divergence: ``"forward"``, ``"reverse"`` or ``"jensen-shannon"``.
        scale: Whether to multiply by τ².
        mask: Which places count, bool or 0 and 1, ``(N,)`` or ``(N, T)``. Hidden states of the
            others may hold anything: they are replaced by zeros before the first product.
        weight: How much each counts, ≥ 0, of the same shape as a mask; receives no gradient.
        rows: Places in a chunk. By default, so many that its logits take 32 MB in float32 on the
            CPU, and 256 MB on a GPU; some five times as much lives at a time.
        compile: Whether to let ``torch.compile`` fuse what is done with a chunk's logits.

    Returns:
        The loss, a scalar ≥ 0 in nats; it can be differentiated once, backward runs once, and
        ``torch.func`` does not reach it (``RuntimeError``).

    Source: made in the forward pass like the fused linear cross-entropy of Hsu et al. 2024
    (arXiv 2410.10989), section 3.2; the divergences as in :func:`kdcourse.logit.kd_loss`.
    """
    for who, hidden, projection, bias in (
        ("student", student_hidden, student_weight, student_bias),
        ("teacher", teacher_hidden, teacher_weight, teacher_bias),
    ):
        _check_projection(who, hidden, projection, bias)
    _check_same_places(student_hidden, teacher_hidden)
    if len(student_weight) != len(teacher_weight):
        raise ArgumentError(
            "student_weight",
            "student_weight and teacher_weight must have the same classes V (rows), "
            f"got {len(student_weight)} and {len(teacher_weight)}",
        )
    step = kd_step(temperature, divergence=divergence, scale=scale, compile=compile)
    weights = largest_one(place_weights(student_hidden, -1, mask=mask, weight=weight))
    student_rows, teacher_rows = (
        counted_only(place_rows(hidden, -1), weights) for hidden in (student_hidden, teacher_hidden)
    )
    student = student_rows, student_weight, student_bias
    teacher = teacher_rows, teacher_weight, teacher_bias
    logits = CHUNK.get(student_hidden.device.type, CHUNK["other"])
    rows = rows_at_once(rows, logits, len(student_weight))
    wanted = [each is not None and each.requires_grad for each in student]
    wanted = [each and torch.is_grad_enabled() for each in wanted]
    mean = _LinearKD.apply(step, rows, wanted, weights, *student, *teacher)
    return over_weights(mean, weights)


class _LinearKD(torch.autograd.Function):
    """KD from hidden states, over all places: it keeps the gradients that are wanted."""

    @staticmethod
    def forward(
        context: Any,
        step: Step,
        rows: int,
        wanted: list[bool],
        weights: Tensor | None,
        *inputs: Any,
    ) -> Tensor:
        own = inputs[:3]
        gradients = [
            torch.zeros_like(each, dtype=at_least_float32(each).dtype) if want else None
            for each, want in zip(own, wanted, strict=True)
        ]
        # Cast as autocast would, but once and not at every chunk.
        cast: list[Any] = [z if z is None else z.to(product_dtype(z)) for z in inputs]
        hidden, weight, bias, theirs, *teacher = cast
        larger, totals = LARGER.get(hidden.dtype), []
        with full_precision(own[0]):
            for number, weighed in enumerate(split_weights(weights, rows, len(hidden))):
                chunk = slice(number * rows, (number + 1) * rows)
                student, made = F.linear(hidden[chunk], weight, bias), None
                if any(wanted):
                    made = torch.empty_like(student, dtype=torch.float32 if larger else None)
                taught = F.linear(theirs[chunk], *teacher)
                totals.append(step.total(made, weighed, student, taught))
                if made is not None:
                    made = enlarged(made, larger).to(hidden.dtype) if larger else made
                    _add_gradients(gradients, made, weight, hidden, chunk)
        context.save_for_backward(*(each for each in gradients if each is not None))
        context.dtypes = [
            each.dtype if want else None for each, want in zip(own, wanted, strict=True)
        ]
        context.slope = step.slope / len(own[0]) / (larger or 1.0)
        return step.loss(totals, own[0])

    @staticmethod
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        factor, saved = upstream * context.slope, iter(context.saved_tensors)
        gradients = [
            None if dtype is None else scaled(next(saved), factor).to(dtype)
            for dtype in context.dtypes
        ]
        return *(None,) * 4, *gradients, None, None, None


def _add_gradients(
    gradients: list[Tensor | None], made: Tensor, weight: Tensor, hidden: Tensor, chunk: slice
) -> None:
    """Add what a chunk's gradient of the logits means for hidden states, weight and bias."""
    of_hidden, of_weight, of_bias = gradients
    if of_hidden is not None:
        of_hidden[chunk] = made @ weight
    if of_weight is not None:
        if of_weight.dtype == made.dtype:
            of_weight.addmm_(made.T, hidden[chunk])
        else:  # in float32, as there are many chunks
            of_weight += made.T @ hidden[chunk]
    if of_bias is not None:
        of_bias += made.sum(dim=0, dtype=of_bias.dtype)


def _check_projection(who: str, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Require hidden states ``(…, D)``, weights ``(V, D)`` and a bias ``(V,)`` of one kind."""
    name = f"{who}_hidden"
    check_floating(name, hidden)
    if hidden.dim() < 2 or hidden.numel() == 0:
        raise ArgumentError(
            name,
            f"{name} must have shape (N, D) or (N, T, D), at least 1 each, "
            f"got {tuple(hidden.shape)}",
        )
    _check_kind(f"{who}_weight", weight, name, hidden)
    width = hidden.shape[-1]
    if weight.dim() != 2 or weight.shape[1] != width or len(weight) < 2:
        raise ArgumentError(
            f"{who}_weight",
            f"{who}_weight must have shape (V, {width}), V ≥ 2, as {name} is "
            f"{tuple(hidden.shape)}, got {tuple(weight.shape)}",
        )
    if bias is None:
        return
    _check_kind(f"{who}_bias", bias, name, hidden)
    if bias.shape != weight.shape[:1]:
        raise ArgumentError(
            f"{who}_bias", f"{who}_bias must have shape ({len(weight)},), got {tuple(bias.shape)}"
        )


def _check_same_places(student_hidden: Tensor, teacher_hidden: Tensor) -> None:
    check_same_device("student_hidden", student_hidden, "teacher_hidden", teacher_hidden)
    ours, theirs = tuple(student_hidden.shape[:-1]), tuple(teacher_hidden.shape[:-1])
    if ours != theirs:
        raise ArgumentError(
            "student_hidden",
            f"student_hidden and teacher_hidden must hold the same places, got {ours} and {theirs}",
        )


def _check_kind(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    check_floating(name, tensor)
    check_same_device(name, tensor, other_name, other)
    if product_dtype(tensor) != product_dtype(other):
        raise ArgumentError(
            name, f"{name} must be {other.dtype} as {other_name}, got {tensor.dtype}"
        )
