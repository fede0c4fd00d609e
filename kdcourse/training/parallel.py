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
from kdcourse.batch import Batch, Inputs, seen_of, views_of
from kdcourse.objective import Lesson, Objective, Outputs
from kdcourse.precision import widest
from kdcourse.prediction_term import judge_of
from kdcourse.training.tally import ACCURACY

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Counts:
    """How much a batch counts in all processes: what the losses of objectives are means over.

    These are a vector: the number of samples, that of predictions that can be right or wrong, and
    what each term counts. By them a process weights its share of a batch, so it has to know them
    before it learns. They come with the gradients of the batch before; for this, batches are drawn
    one ahead.

    Args:
        device: Where they are.
        objectives: Those that learn from the batches.

    Attributes:
        ahead: Those of this process's share of the next batch; zeros behind the last one.
        coming: Those of the next batch, once a message has brought them.
    """

    def __init__(self, device: torch.device, objectives: Sequence[Objective]):
        self.device = device
        self.judge = judge_of(objectives[0])
        parts = (part for objective in objectives for part in objective.parts())
        self.terms = [term for _, term in parts if term.mean_over != "batch"]
        self.ahead = torch.zeros(2 + len(self.terms), device=device)
        self.coming: Tensor | None = None
        self._whole: Tensor | None = None  # of the batch that was yielded

    def of(self, inputs: Inputs, target: Tensor) -> Tensor:
        """Return those of the present batch, given this process's share of it."""
        return processes.total(self.counted(inputs, target)) if self._whole is None else self._whole

    def measured(self, inputs: Inputs, target: Tensor) -> Tensor:
        """Return the first two of them: how much counts what was measured on the present batch."""
        if self._whole is not None:
            return self._whole[:2]
        return processes.total(self._first_two(_unseen(inputs, target)))

    def counted(self, inputs: Inputs, target: Tensor) -> Tensor:
        """Return those of a share of a batch, or of a part of one."""
        lesson = _unseen(inputs, target)
        first = self._first_two(lesson)
        return torch.cat([first, *(term.count(lesson).to(first).view(1) for term in self.terms)])

    def _first_two(self, lesson: Lesson) -> Tensor:
        judged, target = self.judge.judged(lesson), lesson.target
        if judged is None:
            number = torch.zeros((), dtype=torch.int64, device=target.device)
        else:
            number = judged.sum()
        return torch.stack([torch.full_like(number, len(target)), number]).to(widest(target))

    def shares(
        self, objective: Objective, part: Tensor, whole: Tensor, accumulate: int
    ) -> dict[str, Tensor]:
        """Return how much a part counts, by the names of the terms, and for the accuracy.

        By these factors, the values of parts add up to one of a process, and the mean of these over
        the processes is the value of the whole batch.
        """
        share = processes.count() * part / whole.masked_fill(whole == 0, 1)
        of_terms = dict(zip(self.terms, share[2:], strict=True))
        of_batch = torch.full_like(share[0], 1 / accumulate)  # it has seen all processes' samples
        named = zip(objective.names, objective.parts(), strict=True)
        return {
            ACCURACY: share[1],
            **{name: of_terms.get(term, of_batch) for name, (_, term) in named},
        }

    def known(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches, already on the device, whose counts are known by then."""
        source = iter(batches)
        self._whole = self.coming = None
        batch = next(source, None)
        while batch is not None:
            self._whole = self.of(*batch) if self.coming is None else self.coming
            following = next(source, None)
            self.ahead = (
                torch.zeros_like(self._whole) if following is None else self.counted(*following)
            )
            self.coming = None
            yield batch
            self._whole, batch = None, following


def _unseen(inputs: Inputs, target: Tensor) -> Lesson:
    """Return a batch as a term sees it to count, before the nets have seen it."""
    own, theirs = views_of(inputs)
    seen, weight = seen_of(own)
    taught, _ = seen_of(theirs)
    return Lesson(Outputs(), target, inputs=seen, weight=weight, teacher_inputs=taught)


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
