"""How good is a model, and how close to another?"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdcourse.data import Images


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and every part of it back into its old mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def predict(model: nn.Module, images: Images | Tensor, batch_size: int = 1000) -> Tensor:
    """Return a model's outputs for a whole set, batch by batch, in eval mode.

    Args:
        model: any module; its mode is restored afterwards.
        images: a set of images, or inputs ``(N, C, H, W)``.
        batch_size: samples per forward pass.

    Returns:
        ``(N, K)`` on the device of the model.
    """
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    outputs = []
    with evaluation_mode(model):
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            inputs = part if isinstance(part, Tensor) else part.inputs()
            outputs.append(model(inputs.to(device)))
    return torch.cat(outputs)


def accuracy(model: nn.Module, images: Images) -> float:
    """Share of images that a model names rightly, in [0, 1]."""
    return correct(predict(model, images), images.target)


def correct(predictions: Tensor, target: Tensor) -> float:
    """Share of predictions ``(N, K)`` whose largest entry is the target, in [0, 1]."""
    return agreement(predictions, nn.functional.one_hot(target, predictions.shape[1]))


def agreement(predictions: Tensor, others: Tensor) -> float:
    """Share of samples on which two predictions ``(N, K)`` name the same class, in [0, 1]."""
    same = predictions.argmax(dim=1) == others.argmax(dim=1).to(predictions.device)
    return float(same.float().mean())


def recall(predictions: Tensor, target: Tensor, label: int) -> float:
    """Share of the samples of class ``label`` that are named as such, in [0, 1]."""
    of_class = target == label
    if not bool(of_class.any()):
        raise ValueError(f"no sample of class {label}")
    named = predictions.argmax(dim=1).to(target.device)[of_class] == label
    return float(named.float().mean())
