"""The batches of every epoch: from a set in memory, or from anything that yields batches."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from kdcourse import processes
from kdcourse.checks import ArgumentError
from kdcourse.data import Images
from kdcourse.training.history import described
from kdcourse.training.knobs import Knobs

Inputs = Tensor | tuple[Tensor, Tensor]  # the same for student and teacher, or one for each
Batch = tuple[Inputs, Tensor]
Batches = Images | Iterable[Batch]
SAMPLES = 4  # enough to see what the nets show


class Epochs:
    """The batches of every epoch: from a set in memory, or from anything that yields batches.

    Those of a set in memory are drawn on ``device``.
    """

    def __init__(self, train: Batches, device: torch.device, knobs: Knobs):
        self.knobs, self.device = knobs, device
        self.labels = _labels(train, knobs)
        if knobs.views is not None and not isinstance(train, Images):
            raise ArgumentError(
                "views", "views need Images; let a DataLoader yield pairs of inputs instead"
            )
        self.train = train.to(device) if isinstance(train, Images) else train
        if len(self) == 0:
            raise ArgumentError("train", "train holds no batch")

    def check_parts(self, parts: int) -> None:
        """Refuse batches that cannot be split among processes, and each share into parts."""
        count = processes.count()
        if isinstance(self.train, Images):
            last = (len(self.train) - 1) % self.knobs.batch_size + 1
            if last < parts:
                raise ArgumentError(
                    "batch_size",
                    f"the last batch of an epoch holds {last} of {len(self.train)} images, too few "
                    f"for {count} process(es) and accumulate={parts // count}: change batch_size",
                )
        elif count > 1 and not _shares_out(self.train):
            raise ArgumentError(
                "train",
                f"under {count} processes, train must be Images, CachedLessons, or a DataLoader "
                f"with a DistributedSampler, got {type(self.train).__name__}: each process would "
                "see the same samples",
            )

    def __len__(self) -> int:
        if isinstance(self.train, Images):
            return -(-len(self.train) // self.knobs.batch_size)
        try:
            return len(self.train)  # type: ignore[arg-type]
        except TypeError:
            kind = type(self.train).__name__
            raise TypeError(
                f"train must be Images or have a length (a DataLoader), got {kind}"
            ) from None

    def batches(self, epoch: int) -> Iterable[Batch]:
        """Return the batches of one epoch."""
        if isinstance(self.train, Images):
            return self.train.batches(
                self.knobs.batch_size,
                seed=self.knobs.seed,
                epoch=epoch,
                augment=self.knobs.augment,
                views=self.knobs.views,
                part=processes.part(),
            )
        for source in (self.train, getattr(self.train, "sampler", None)):
            draw = getattr(source, "set_epoch", None)
            if draw is not None:  # it draws its batches from the epoch's number
                draw(epoch)
        return self.train

    def sample(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return a few samples: what the student sees, what the teacher sees, the target."""
        if isinstance(self.train, Images):
            few = self.train[:SAMPLES]
            return few.inputs(), few.inputs(), few.target
        with torch.random.fork_rng():
            inputs, target = next(iter(self.train))
        pair = inputs if isinstance(inputs, tuple | list) else (inputs, inputs)
        own, theirs, target = (part[:SAMPLES].to(self.device) for part in (*pair, target))
        return own, theirs, target

    @property
    def settings(self) -> dict[str, Any]:
        """What distinguishes these batches from others, for the checkpoint."""
        name = self.train.name if isinstance(self.train, Images) else type(self.train).__name__
        return {
            "train": f"{name}, {len(self)} batches",
            "batch_size": self.knobs.batch_size,
            "augment": described(self.knobs.augment),
            "views": described(self.knobs.views),
            "seed": self.knobs.seed,
        }


def _labels(train: Batches, knobs: Knobs) -> str:
    """Whether ``"all"`` samples have a label, ``"some"``, or ``"none"``, as far as can be told."""
    if not getattr(train, "labelled", True) or not getattr(knobs.views, "labelled", True):
        return "none"
    if not isinstance(train, Images):
        return "all"
    known = train.target >= 0
    return "all" if bool(known.all()) else "some" if bool(known.any()) else "none"


def _shares_out(train: Iterable[Batch]) -> bool:
    """Whether every process gets samples of its own."""
    if isinstance(train, DataLoader):
        return isinstance(train.sampler, DistributedSampler) or isinstance(
            train.dataset, IterableDataset
        )
    return getattr(train, "shares_out", False)
