"""Losses whose gradient is made together with their value, in fewer passes than autograd takes."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import TransformType

Gradient = TypeVar("Gradient")


def once_only(backward: Callable[..., Gradient]) -> Callable[..., Gradient]:
    """Have a backward pass without a graph of its own refuse to be differentiated.

    :func:`torch.autograd.function.once_differentiable` refuses only where the gradient behind it
    depends on something, and elsewhere lets a sum with other losses lack a part, in silence.
    """

    @wraps(backward)
    def refusing(ctx: Any, *slopes: Any) -> Gradient:
        if not torch.compiler.is_compiling() and _once_more():
            raise RuntimeError("this loss can be differentiated once only")
        with torch.no_grad():
            return backward(ctx, *slopes)

    return refusing


def _once_more() -> bool:
    """Whether a backward pass is to be differentiated: by create_graph=True, or torch.func."""
    transforms = [one.key() for one in torch._C._functorch.get_interpreter_stack() or ()]
    asked = transforms.count(TransformType.Grad)  # which always make a graph
    return asked > 1 if asked else torch.is_grad_enabled()


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
