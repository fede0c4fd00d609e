"""Train mode and eval mode, which every part of a model has for itself."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from kdcourse.signatures import checked


@contextmanager
@checked
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and afterwards put every part of it back into its old mode."""
    with kept_modes([model]):
        model.eval()
        yield


@contextmanager
@checked
def training_mode(models: Iterable[nn.Module]) -> Iterator[Callable[[], None]]:
    """Let models learn, and afterwards put every part of them back into its old mode.

    What is in eval mode on purpose stays in it: a part whose weights are all frozen, and a single
    layer of a part in train mode.

    Yields:
        What puts the models into train mode, to be called whenever they may have left it.
    """
    models = list(models)
    before = {part: part.training for model in models for part in model.modules()}
    kept = [part for part, training in before.items() if not training and _is_frozen(part)]
    for part, training in before.items():
        if training:
            kept += [
                one
                for one in part.children()
                if not one.training and not any(True for _ in one.children())
            ]

    def enter() -> None:
        for model in models:
            model.train()
        for part in kept:
            for one in part.modules():
                one.training = before[one]

    with kept_modes(models):
        yield enter


@contextmanager
@checked
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Put the buffers (running statistics) back as they were."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in kept:
                    buffer.copy_(kept[name])


@contextmanager
@checked
def kept_modes(models: Iterable[nn.Module]) -> Iterator[None]:
    """Put every part of the models back into its old mode."""
    modes = [(part, part.training) for model in models for part in model.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _is_frozen(model: nn.Module) -> bool:
    weights = [*model.parameters()]
    return bool(weights) and not any(weight.requires_grad for weight in weights)
