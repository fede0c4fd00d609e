"""Numerically safe arithmetic: half precision, zeros, extreme magnitudes."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F


def readable(tensor: Tensor) -> bool:
    """Whether the values of ``tensor`` can be read without stalling a device."""
    return (
        tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not isinstance(tensor, FakeTensor)
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; leave float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def in_one_precision(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in the more precise of their dtypes."""
    if one.dtype == other.dtype:
        return one, other
    dtype = torch.promote_types(one.dtype, other.dtype)
    return one.to(dtype), other.to(dtype)


def widest(tensor: Tensor) -> torch.dtype:
    """Return the most precise dtype that a tensor's device has: float64, but not on MPS."""
    return tensor.dtype if tensor.device.type == "mps" else torch.float64


HOT = 32.0  # a temperature from which on predictions hardly differ: compared in float64
HOTTEST = 1e6  # beyond, they differ too little for float64, too


def dtype_for(logits: Tensor, temperature: float) -> torch.dtype:
    """Return the dtype in which predictions at a temperature are compared."""
    if temperature >= HOT:
        return widest(logits)
    return torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else logits.dtype


def not_below_zero(loss: Tensor) -> Tensor:
    """Return a loss without what rounding has taken it below zero by; its gradient is the same."""
    return loss - loss.detach().clamp_max(0)


def product_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of products of such a tensor: autocast's where that is on, or its own."""
    kind = tensor.device.type
    if kind == "meta" or tensor.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return tensor.dtype
    return torch.get_autocast_dtype(kind)


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Let products of such a tensor have its own dtype, under autocast too."""
    if product_dtype(tensor) == tensor.dtype:
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def product(one: Tensor, other: Tensor) -> Tensor:
    """Product of matrices in the precision they have, under autocast too."""
    with full_precision(one):
        return one @ other


def gram_matrix(features: Tensor) -> Tensor:
    """Return the inner products of rows ``(…, N, D)`` with each other, ``(…, N, N)``."""
    if not features.requires_grad:
        return product(features, features.mT)
    return _Gram.apply(features)


class _Gram(torch.autograd.Function):
    """F Fᵀ: one product of matrices backward, and never in half precision."""

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor) -> Tensor:
        return product(features, features.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return product(gradient + gradient.mT, *ctx.saved_tensors)


def inner_products(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner products of rows ``(…, N, D)`` with rows ``(…, M, D)``, ``(…, N, M)``."""
    one, other = in_one_precision(one, other)
    if product_dtype(one) == one.dtype:
        return one @ other.mT
    return _InnerProducts.apply(one, other)


class _InnerProducts(torch.autograd.Function):
    """A Bᵀ, and never in half precision, backward neither."""

    generate_vmap_rule = True

    @staticmethod
    def forward(one: Tensor, other: Tensor) -> Tensor:
        return product(one, other.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        one, other = ctx.saved_tensors
        first, second = ctx.needs_input_grad
        return (
            product(gradient, other) if first else None,
            product(gradient.mT, one) if second else None,
        )


def cosines(rows: Tensor) -> Tensor:
    """Return the cosines of rows ``(N, D)`` with each other; of zeros 0, without gradient."""
    return _Cosines.apply(rows) if rows.requires_grad else _Cosines.forward(rows)


class _Cosines(torch.autograd.Function):
    """Products of rows of unit norm: one product of matrices forward, and one backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor) -> Tensor:
        unit = rows * inverse_norms(rows)
        return product(unit, unit.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rows, cosine = ctx.saved_tensors
        inverse, both = inverse_norms(rows), gradient + gradient.mT
        along = (both * cosine).sum(dim=1, keepdim=True)  # no cosine changes with a row's length
        return (product(both * inverse.mT, rows) - along * inverse * rows) * inverse


def inverse_norms(rows: Tensor) -> Tensor:
    """Return 1 over the norms of rows ``(N, D)``, ``(N, 1)``; 0 for rows of zeros."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return 1 / (norms if squares_fit(norms) else row_norms(rows)[0])


SMALL = 1e-36  # stands in for zero in denominators; 1 / SMALL is still finite in float32


def unit_rows(rows: Tensor) -> Tensor:
    """Scale rows ``(N, M)`` to unit norm, zeros staying zeros, without gradient."""
    return rows / row_norms(rows)[0]


def directions(rows: Tensor) -> Tensor:
    """:func:`unit_rows`, in fewer passes where plain norms are seen to do."""
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norm if squares_fit(norm) else unit_rows(rows)


def squares_fit(norms: Tensor) -> bool:
    """Whether norms can be read, and no square that counts in them has left float32's range."""
    if not readable(norms):
        return False
    lowest, highest = torch.stack(norms.detach().aminmax()).tolist()
    return 1e-15 < lowest <= highest < 1e15


def row_norms(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Norms of rows ``(N, M)`` as ``(N, 1)``, to divide by, and in units of the largest entry.

    The largest entry is taken out before squaring: the squares of tiny or huge entries would
    leave the range. What is left has a norm from 1 to √M, unless all is zero. Then the norm is
    infinite: what is divided by it is zero, and so is the gradient, which has no direction.
    """
    given = rows.detach()  # of which abs() would make a copy
    largest = torch.maximum(given.amax(1, True), -given.amin(1, True)).clamp_min(SMALL)
    scaled = torch.linalg.vector_norm(rows / largest, dim=1, keepdim=True).clamp_min(1)
    norm = scaled * largest
    return F.threshold(norm, SMALL, torch.inf), scaled
