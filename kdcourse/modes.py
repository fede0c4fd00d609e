"""Train mode and eval mode, which every part of a model has for itself."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from kdcourse.signatures import checked


@contextmanager
@checked
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and afterwards put every part of it back into its old mode."""
    with _kept([model]):
        model.eval()
        yield


@contextmanager
@checked
def training_mode(models: Iterable[nn.Module]) -> Iterator[Callable[[], None]]:
    """Let models learn, and afterwards put every part of them back into its old mode.

    A part whose weights are all frozen, and that is in eval mode, stays in it.

    Yields:
        What puts the models into train mode, to be called whenever they may have left it.
    """
    models = list(models)
    frozen = [
        part
        for model in models
        for part in model.modules()
        if not part.training and _is_frozen(part)
    ]

    def enter() -> None:
        for model in models:
            model.train()
        for part in frozen:
            part.eval()

    with _kept(models):
        yield enter


@contextmanager
def _kept(models: Iterable[nn.Module]) -> Iterator[None]:
    modes = [(part, part.training) for model in models for part in model.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _is_frozen(model: nn.Module) -> bool:
    weights = [*model.parameters()]
    return bool(weights) and not any(weight.requires_grad for weight in weights)
