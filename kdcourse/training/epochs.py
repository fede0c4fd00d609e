"""The batches of every epoch: from a set in memory, or from anything that yields batches."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from kdcourse import processes
from kdcourse.checks import check_number
from kdcourse.data import Augmentation, Images, Views
from kdcourse.training.learner import Batch
from kdcourse.training.run import described

Batches = Images | Iterable[Batch]


class Epochs:
    """The batches of every epoch: from a set in memory, or from anything that yields batches."""

    def __init__(
        self,
        train: Batches,
        device: torch.device,
        batch_size: int,
        augment: Augmentation | None,
        views: Views | None,
        seed: int,
    ):
        check_number("batch_size", batch_size, 1)
        if augment is not None and views is not None:
            raise ValueError("augment and views were both given: views hold their augmentation")
        if views is not None and not isinstance(train, Images):
            raise ValueError("views need Images; let a DataLoader yield pairs of inputs instead")
        self.train = train.to(device) if isinstance(train, Images) else train
        self.batch_size = batch_size
        self.augment = augment
        self.views = views
        self.seed = seed
        if len(self) == 0:
            raise ValueError("train holds no batch")

    def check_parts(self, count: int, accumulate: int) -> None:
        """Refuse batches that cannot be split among processes, and each share in parts."""
        if isinstance(self.train, Images):
            last = (len(self.train) - 1) % self.batch_size + 1
            if last < count * accumulate:
                raise ValueError(
                    f"the last batch of an epoch holds {last} of {len(self.train)} images, too few "
                    f"for {count} process(es) and accumulate={accumulate}: change batch_size"
                )
        elif count > 1 and not _shares_out(self.train):
            raise ValueError(
                f"under {count} processes, train must be Images, CachedLessons, or a DataLoader "
                f"with a DistributedSampler, got {type(self.train).__name__}: each process would "
                "see the same samples"
            )

    def __len__(self) -> int:
        if isinstance(self.train, Images):
            return -(-len(self.train) // self.batch_size)
        try:
            return len(self.train)  # type: ignore[arg-type]
        except TypeError:
            kind = type(self.train).__name__
            raise TypeError(
                f"train must be Images or have a length (a DataLoader), got {kind}"
            ) from None

    def batches(self, epoch: int) -> Iterable[Batch]:
        if isinstance(self.train, Images):
            return self.train.batches(
                self.batch_size,
                seed=self.seed,
                epoch=epoch,
                augment=self.augment,
                views=self.views,
                part=processes.part(),
            )
        for source in (self.train, getattr(self.train, "sampler", None)):
            draw = getattr(source, "set_epoch", None)
            if draw is not None:  # it draws its batches from the epoch's number
                draw(epoch)
        return self.train

    @property
    def settings(self) -> dict[str, Any]:
        """What distinguishes these batches from others, for the checkpoint."""
        name = self.train.name if isinstance(self.train, Images) else type(self.train).__name__
        return {
            "train": f"{name}, {len(self)} batches",
            "batch_size": self.batch_size,
            "augment": described(self.augment),
            "views": described(self.views),
            "seed": self.seed,
        }


def _shares_out(train: Iterable[Batch]) -> bool:
    """Whether every process gets samples of its own."""
    if isinstance(train, DataLoader):
        return isinstance(train.sampler, DistributedSampler) or isinstance(
            train.dataset, IterableDataset
        )
    return getattr(train, "shares_out", False)
