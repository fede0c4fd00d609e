r"""KD with very many classes, as the words of a language are: a few samples at a time.

A loss called plainly keeps several ``(N, K)`` tensors for the backward pass. Here the gradient is
made in the forward pass, chunk by chunk, while the chunk's probabilities are at hand; backward only
multiplies it by the gradient from above. Nothing else is kept, and nothing is computed twice.

:func:`kdcourse.logit.in_chunks` does this for logits that are there, :func:`linear_kd_loss` for
logits that are never made as a whole.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._autograd import _get_current_graph_task_keep_graph
from torch.nn import functional as F

from kdcourse.checks import (
    check_choice,
    check_flag,
    check_positive,
    check_temperature,
)
from kdcourse.precision import HOTTEST, at_least_float32, dtype_for
from kdcourse.predictions import to_divide_by

DIVERGENCES = ("forward", "reverse", "jensen-shannon")

# Logits in a chunk, where nobody says how many rows. On a CPU few enough for its caches (4 MB in
# float32), on a GPU enough to fill it (64 MB), as every launch of a kernel takes its time.
CHUNK = {"cpu": 2**20, "other": 2**24}
# In float16 the gradient of a mean over many samples and classes would vanish: it is kept larger,
# which leaves room up to 256 for that of a sample.
LARGER = {torch.float16: 2.0**8}


class Step(NamedTuple):
    """A loss that can be taken a chunk at a time.

    Attributes:
        total: Given where to write the gradient (or None, for no gradient), the weights of the
            chunk's places (or None, for 1 each), their student logits and the loss's other
            arguments, returns the weighted sum over the chunk's places.
        value: The loss is the sum of the totals, over the number of all places, times this,
        slope: and its gradient what is written, over the number of all places, times this.
    """

    total: Callable[..., Tensor]
    value: float = 1.0
    slope: float = 1.0

    def loss(self, totals: list[Tensor], student: Tensor) -> Tensor:
        """Return the loss of all chunks, in the precision that one of these places has."""
        mean = torch.stack(totals).sum() / len(student)
        return (mean * self.value).to(at_least_float32(student).dtype)


def kd_step(
    temperature: float = 4.0,
    *,
    divergence: str = "forward",
    scale: bool = True,
    compile: bool = False,
) -> Step:
    """Return KD as a step; arguments as in :func:`kdcourse.logit.kd_loss`."""
    check_temperature(temperature, high=HOTTEST)
    check_choice("divergence", divergence, DIVERGENCES)
    check_flag("scale", scale)
    check_flag("compile", compile)
    total = partial(
        torch.compile(_kd_total) if compile else _kd_total,
        temperature=temperature,
        divergence=divergence,
    )
    factor = (temperature**2 if scale else 1.0) * (0.5 if divergence == "jensen-shannon" else 1.0)
    return Step(total, factor, factor / temperature)


def step_of(loss: Callable[..., Tensor]) -> Step:
    """Return any mean over places as a step, its gradient made by autograd, chunk by chunk."""

    def summed(weights: Tensor | None, student: Tensor, *others: Tensor) -> Tensor:
        if weights is None:
            return len(student) * loss(student, *others)
        return weights.sum() * loss(student, *others, weight=weights)

    def total(
        place: Tensor | None, weights: Tensor | None, student: Tensor, *others: Tensor
    ) -> Tensor:
        if place is None:
            return summed(weights, student, *others)
        with torch.enable_grad():
            leaf = at_least_float32(student).detach().requires_grad_()
            value = summed(weights, leaf, *others)
            place.copy_(torch.autograd.grad(value, leaf)[0])
        return value.detach()

    return Step(total)


def chunked(
    step: Step,
    rows: int | None,
    weights: Tensor | None,
    student_logits: Tensor,
    *others: Tensor,
) -> Tensor:
    """Return a loss that is made a few places at a time, and its gradient with it."""
    logits = CHUNK.get(student_logits.device.type, CHUNK["other"])
    rows = rows_at_once(rows, logits, student_logits.shape[1])
    wanted = student_logits.requires_grad and torch.is_grad_enabled()
    weights = largest_one(weights)
    mean = _Chunked.apply(step, rows, wanted, weights, student_logits, *others)
    return over_weights(mean, weights)


class _Chunked(torch.autograd.Function):
    """A loss of logits, over all places: it keeps their gradient, and nothing else."""

    @staticmethod
    def forward(
        context: Any,
        step: Step,
        rows: int,
        wanted: bool,
        weights: Tensor | None,
        student: Tensor,
        *others: Tensor,
    ) -> Tensor:
        split = [each.split(rows) for each in (student, *others)]
        parts = zip(split_weights(weights, rows, len(student)), *split, strict=True)
        if not wanted:
            return step.loss([step.total(None, *chunk) for chunk in parts], student)
        gradient, larger = torch.empty_like(student), LARGER.get(student.dtype)
        totals = []
        for place, chunk in zip(gradient.split(rows), parts, strict=True):
            made = place if larger is None else torch.empty_like(place, dtype=torch.float32)
            totals.append(step.total(made, *chunk))
            if larger is not None:
                place.copy_(enlarged(made, larger))
        context.save_for_backward(gradient)
        context.rows, context.slope = rows, step.slope / len(student) / (larger or 1.0)
        return step.loss(totals, student)

    @staticmethod
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = context.saved_tensors
        factor = (upstream * context.slope).reshape(1, 1)  # a scalar would be rounded to half
        gradient = scaled(gradient, factor, context.rows)
        return *(None,) * 4, gradient, *(None for _ in context.needs_input_grad[5:])


def _kd_total(
    place: Tensor | None,
    weights: Tensor | None,
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    divergence: str,
) -> Tensor:
    """Sum of a divergence; its gradient for the logits over τ goes to ``place``.

    For p of the student, q of the teacher, and what is compared with each, r:

        forward   Σ q log q/p                            p − q
        reverse   Σ p log p/r,  r = q                    p (log p/r − Σ p log p/r)
        JS        Σ q log q/r + Σ p log p/r,  r = ½(p + q)    as reverse (both are twice as much)

    Where p or q is 0, as of a masked class, so is the product, though the logarithm is infinite:
    nansum leaves it out. NaN among the logits is NaN all over its row, and is put back.
    """
    dtype = dtype_for(student, temperature)
    room = place if place is not None and place.dtype == dtype else None  # until it is needed
    log_p, log_q = (
        _log_softmax(each, weights, temperature, dtype, room) for each in (student, teacher)
    )
    q = torch.exp(log_q, out=room)
    broken = 0 * (log_p[:, 0].exp() + q[:, 0]).sum()
    if divergence == "forward":
        total = _sum(log_q.sub_(log_p).mul_(q), weights)
        if place is not None:
            torch.sub(_weighed(log_p.exp_(), weights), _weighed(q, weights), out=place)
        return total.clamp_min(0) + broken
    log_r, total = log_q, torch.zeros_like(broken)
    if divergence == "jensen-shannon":
        log_r = torch.logaddexp(log_p, log_q).sub_(math.log(2))
        total = _sum(log_q.sub_(log_r).mul_(q), weights)
    p = torch.exp(log_p, out=room)
    each = log_p.sub_(log_r).mul_(p)
    own = _weighed(each.nansum(dim=1, keepdim=True), weights)
    if place is not None:
        each = _weighed(each.nan_to_num_(0.0, math.inf, -math.inf), weights)
        torch.addcmul(each, p, own, value=-1, out=place)
    return (total + own.sum()).clamp_min(0) + broken


def _log_softmax(
    logits: Tensor,
    weights: Tensor | None,
    temperature: float,
    dtype: torch.dtype,
    room: Tensor | None,
) -> Tensor:
    if logits.dtype == dtype:
        softened = torch.div(logits, temperature, out=room)
    else:
        softened = logits.to(dtype).div_(temperature)
    if weights is not None:
        softened.masked_fill_((weights == 0)[:, None], 0.0)  # whatever was there
    return F.log_softmax(softened, dim=1)


def _sum(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows.nansum() if weights is None else (rows.nansum(dim=1) * weights).sum()


def _weighed(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows if weights is None else rows.mul_(weights[:, None])


def largest_one(weights: Tensor | None) -> Tensor | None:
    """Let the largest weight be 1, so that gradients in float16 have the room they had."""
    if weights is None:
        return None
    return weights / weights.amax().clamp_min(torch.finfo(weights.dtype).tiny)


def over_weights(mean: Tensor, weights: Tensor | None) -> Tensor:
    """Turn what is weighed, but a mean over all places, into the mean over those that count."""
    return mean if weights is None else mean * len(weights) / to_divide_by(weights)


def split_weights(weights: Tensor | None, rows: int, places: int) -> Sequence[Tensor | None]:
    """Return the weights of every chunk, or as many times None."""
    return weights.split(rows) if weights is not None else [None] * math.ceil(places / rows)


def enlarged(gradient: Tensor, larger: float) -> Tensor:
    """Multiply a gradient for float16, and keep it within the range of that."""
    most = torch.finfo(torch.float16).max
    return gradient.mul_(larger).clamp_(-most, most)


def scaled(gradient: Tensor, factor: Tensor, rows: int | None = None) -> Tensor:
    """Multiply what was kept, in place if the graph goes now: there may be no room for another."""
    if torch.is_grad_enabled():  # create_graph=True, which would silently get no graph
        raise RuntimeError("a loss in chunks can be differentiated once only")
    if torch.compiler.is_compiling() or _get_current_graph_task_keep_graph():
        return (gradient * factor).to(gradient.dtype)
    for part in gradient.split(rows or len(gradient)):  # on a CPU half precision takes a copy
        part.mul_(factor)
    return gradient


def rows_at_once(rows: int | None, logits: int, classes: int) -> int:
    """Return the samples of a chunk: as told, or so many as have that many logits."""
    if rows is not None:
        check_positive(rows=rows)
        return rows
    return max(1, logits // classes)
