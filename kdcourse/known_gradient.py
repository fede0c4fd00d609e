"""Losses whose gradient is made together with their value, in fewer passes than autograd takes."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import TransformType

Gradient = TypeVar("Gradient")
OVER = -2  # the level of a tensor of torch.func's whose derivative has been taken


def once_only(backward: Callable[..., Gradient]) -> Callable[..., Gradient]:
    """Have a backward pass without a graph of its own refuse to be differentiated.

    :func:`torch.autograd.function.once_differentiable` refuses only where the gradient behind it
    depends on something, and elsewhere lets a sum with other losses lack a part, in silence.
    """

    @wraps(backward)
    def refusing(ctx: Any, *slopes: Any) -> Gradient:
        if not torch.compiler.is_compiling() and _once_more(ctx.saved_tensors):
            raise RuntimeError("this loss can be differentiated once only")
        with torch.no_grad():
            return backward(ctx, *slopes)

    return refusing


def _once_more(saved: Sequence[Tensor]) -> bool:
    """Whether a backward pass is to be differentiated: by create_graph=True, or torch.func.

    The latter always makes a graph. There it is to be if another derivative is being taken around
    this one, which is over where what it saved has no level any more, as in a vjp.
    """
    functorch = torch._C._functorch
    levels = [functorch.maybe_get_level(one) for one in saved]
    if not any(map(functorch.is_functorch_wrapped_tensor, saved)):
        return torch.is_grad_enabled()
    transforms = [one.key() for one in functorch.get_interpreter_stack() or ()]
    return transforms.count(TransformType.Grad) > (OVER not in levels)


def with_gradient(student: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
    """Return a loss, made without autograd, that sends this gradient to what it was made of.

    Args:
        student: What the loss is differentiated by.
        loss: Its value, a scalar.
        gradient: Its gradient, of the student's shape.

    Returns:
        The loss, which can be differentiated once.
    """
    return _WithGradient.apply(student, loss, gradient)


class _WithGradient(torch.autograd.Function):
    """A loss whose gradient is there already."""

    generate_vmap_rule = True

    @staticmethod
    def forward(student: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])
        ctx.dtype = inputs[0].dtype

    @staticmethod
    @once_only
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * slope).to(ctx.dtype), None, None
