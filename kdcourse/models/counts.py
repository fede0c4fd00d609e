"""How large a net is: its parameters, and the multiply–adds of a forward pass."""

import torch
from torch import Tensor, nn

from kdcourse.batch import blaming_argument
from kdcourse.modes import evaluation_mode
from kdcourse.signatures import checked


@checked
def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@checked
def multiply_adds(model: nn.Module, inputs: Tensor) -> int:
    """Count the multiply–adds of a forward pass, half of what torch counts as operations.

    Counted are convolutions, products of matrices and attention, in which nearly all operations
    are; normalisation, activations and pooling are not.

    Args:
        model: Any module; its mode and its running statistics stay as they are.
        inputs: Inputs ``(N, …)``, of one sample for the count per sample.

    Raises:
        ValueError: The model fails on these inputs.
    """
    from torch.utils.flop_counter import FlopCounterMode  # a third of a second

    counter = FlopCounterMode(display=False)
    failing = blaming_argument("inputs", f"calling {type(model).__name__} with inputs")
    with failing, evaluation_mode(model), torch.no_grad(), counter:
        model(inputs)
    return counter.get_total_flops() // 2
