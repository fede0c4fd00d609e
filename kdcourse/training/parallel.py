"""One model in many processes: the message of every step, and batch norm over all samples.

A step sends one message, when the backward pass is over. ``DistributedDataParallel`` would send
several during it: that hides the time on the wire where nets are large and lines slow, but small
nets pay for every message, and for threads that send while the processor is busy. A message of
one's own also takes along what else the processes have to tell each other, sums gradients in the
same order in every run, and lets weights go without a gradient.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from kdcourse import processes
from kdcourse.batch import Batch, count_labels
from kdcourse.precision import widest

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Counts:
    """How many samples and labels a batch holds in all processes, ``(2,)``.

    By them a process weights its share of a batch, so it has to know them before it learns. They
    come with the gradients of the batch before; for this, batches are drawn one ahead.

    Attributes:
        ahead: Those of this process's share of the next batch; zeros behind the last one.
        coming: Those of the next batch, once a message has brought them.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.ahead = torch.zeros(2, device=device)
        self.coming: Tensor | None = None
        self._whole: Tensor | None = None  # of the batch that was yielded

    def of(self, target: Tensor) -> Tensor:
        """Return those of the present batch, given this process's share of its target."""
        return processes.total(counted(target)) if self._whole is None else self._whole

    def known(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches, already on the device, whose counts are known by then."""
        source = iter(batches)
        self._whole = self.coming = None
        batch = next(source, None)
        while batch is not None:
            self._whole = self.of(batch[1]) if self.coming is None else self.coming
            following = next(source, None)
            self.ahead = (
                torch.zeros_like(self._whole) if following is None else counted(following[1])
            )
            self.coming = None
            yield batch
            self._whole, batch = None, following


def counted(target: Tensor) -> Tensor:
    """Return the numbers of samples and of labels, ``(2,)``."""
    labels = count_labels(target)
    return torch.stack([torch.full_like(labels, len(target)), labels]).to(widest(target))


@torch.no_grad()
def average(weights: Sequence[Tensor], counts: Counts, followed: nn.Module | None = None) -> None:
    """Average the gradients over the processes, in one message with all else that goes round.

    A weight that has a gradient in no process is left without one, so that the optimiser passes it
    over; one that has it in some counts as zero in the others.

    Args:
        weights: What is trained, the same in all processes.
        counts: Those of the next batch are summed up.
        followed: A student whose buffers a teacher takes over; they become the main process's (not
            those of integers, which count batches).
    """
    given = [weight.grad for weight in weights]
    gradients = [
        torch.zeros_like(weight) if grad is None else grad.to_dense() if grad.is_sparse else grad
        for weight, grad in zip(weights, given, strict=True)
    ]
    absent = [number for number, grad in enumerate(given) if grad is None]
    has = torch.ones(len(weights), device=counts.device)
    for number in absent:
        has[number] = 0.0
    tensors = () if followed is None else followed.buffers()
    buffers = [one for one in tensors if one.is_floating_point()]
    mains = buffers if processes.is_main() else [torch.zeros_like(one) for one in buffers]
    sent = [*gradients, *mains, has, counts.ahead.float()]
    message = torch.cat([one.flatten() for one in sent])  # in the most precise of their dtypes
    distributed.all_reduce(message)
    message[: sum(one.numel() for one in gradients)] /= processes.count()
    pieces = message.split([one.numel() for one in sent])
    *sums, has, coming = (piece.view_as(one) for piece, one in zip(pieces, sent, strict=True))
    counts.coming = coming.to(counts.ahead.dtype, copy=True)  # a view would keep the message
    torch._foreach_copy_([*gradients, *buffers], sums)
    for number in absent:
        if has[number] > 0:  # a GPU is waited for here, and only here
            weights[number].grad = gradients[number]
    for weight, grad, mean in zip(weights, given, gradients, strict=True):
        if grad is not None and grad.is_sparse:
            weight.grad = mean.to_sparse(grad.sparse_dim())


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
