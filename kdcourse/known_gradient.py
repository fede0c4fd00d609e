"""Losses whose gradient is made together with their value, in fewer passes than autograd takes."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * slope).to(ctx.dtype), None, None
