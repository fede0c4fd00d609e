"""One model in many processes: how they average its gradients, and its batch norm their samples."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.parallel import DistributedDataParallel

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def in_parallel(model: nn.Module, *, partly: bool) -> DistributedDataParallel:
    """Let the processes average the gradients of a model, which starts as the main process's.

    Args:
        model: Any module.
        partly: Whether some of its weights may get no gradient.
    """
    once = partly or any(getattr(part, "sparse", False) for part in model.modules())
    parallel = DistributedDataParallel(model, find_unused_parameters=once)
    parallel.broadcast_buffers = False  # after the start, once an epoch is enough: Learner.epoch
    if not once:  # with it, messages stay as they were arranged at first
        _arrange(parallel)
    return parallel


def _arrange(parallel: DistributedDataParallel) -> None:
    """Let messages be arranged as they stay, before the first step.

    After the first gradients that it sees, ``DistributedDataParallel`` arranges its messages anew,
    and the sum of three numbers or more depends on where in a message they stand. A run that is
    resumed would take a step in the first arrangement, which the uninterrupted one had left by
    then. So the first gradients are zeros, the last layer's first, as in training.
    """
    model = parallel.module
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    model.forward = lambda: sum(0.0 * weight.sum() for weight in weights)
    parallel().backward()
    del model.forward  # which hid that of the class
    parallel.zero_grad(set_to_none=True)


@contextmanager
def synchronized(models: Iterable[nn.Module]) -> Iterator[None]:
    """Let batch norm see the samples of all processes, and be afterwards what it was before.

    The modules stay the same ones and only change their class, to ``torch.nn.SyncBatchNorm``.
    Subclasses of batch norm keep to what their authors wrote.
    """
    parts = {part for model in models for part in model.modules()}
    kinds = {part: type(part) for part in parts if type(part) in BATCH_NORMS}
    try:
        for part in kinds:
            part.__class__, part.process_group = nn.SyncBatchNorm, None  # type: ignore[assignment]
        yield
    finally:
        for part, kind in kinds.items():
            part.__class__ = kind
            del part.process_group
