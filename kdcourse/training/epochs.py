"""The batches of every epoch: from a set in memory, or from anything that yields batches."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from kdcourse import processes
from kdcourse.batch import (
    Batch,
    Given,
    Inputs,
    are_classes,
    blaming_argument,
    map_samples,
    read_batch,
    to_device,
    views_of,
)
from kdcourse.data import Images, replay_seed
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.training.fingerprint import described, fingerprint
from kdcourse.training.knobs import Knobs
from kdcourse.training.labels import labels_of
from kdcourse.training.stream import Stream

Batches = Images | Iterable[Given]
SAMPLES = 4  # enough to see what the nets show
ROWS = 10  # of the history, at most, where batches come from a stream


class Epochs:
    """The batches of every epoch: from a set in memory, or from anything that yields batches.

    Those of a set in memory are drawn on ``device``. An epoch is a pass through the set; of a
    stream, a tenth of the training.
    """

    def __init__(self, train: Batches, device: torch.device, knobs: Knobs):
        self.knobs, self.device = knobs, device
        self.labels = labels_of(train, knobs.views)
        if isinstance(train, Dataset) and not isinstance(train, IterableDataset):
            kind = type(train).__name__
            raise ArgumentTypeError(
                "train", f"train must yield batches, got a {kind}: put it into a DataLoader"
            )
        if isinstance(train, Mapping):
            kind = type(train).__name__
            raise ArgumentTypeError(
                "train", f"train must yield batches, got a {kind}: put one batch into a list"
            )
        if isinstance(train, Iterator):
            raise ArgumentTypeError(
                "train", "train must yield its batches anew each epoch, got an iterator"
            )
        if not isinstance(train, Images):
            self._check_images_only(train)
        if isinstance(train, Sequence) and len(train):  # no loader: a look costs nothing
            read_batch(train[0], "train")
        self.train = train.to(device) if isinstance(train, Images) else train
        self.stream = None
        if not self._has_length():
            self.stream = Stream(self._pass, self._generators(), knobs.seed)
        place = self.train.device if isinstance(self.train, Images) else "cpu"
        self.generator = torch.Generator(place)  # of order and augmentation of a set in memory
        self.drawn = False  # whether augmentation or views have been called
        if len(self) == 0:
            raise ArgumentError("train", "train holds no batch")

    def _check_images_only(self, train: Batches) -> None:
        """Refuse what only a set in memory can do, and others have to do by themselves.

        A batch size they have anyway: another one is told to change nothing.
        """
        for name in ("augment", "views", "drop_last"):
            if getattr(self.knobs, name):
                raise ArgumentError(
                    name,
                    f"{name} needs Images, got a {type(train).__name__}, which must do so by itself"
                    + " (its inputs may be SeparateViews)" * (name == "views"),
                )
        given, own = self.knobs.batch_size, getattr(train, "batch_size", None)
        if given not in (None, own, (own or 0) * processes.count()):
            warnings.warn(
                f"batch_size={given} changes nothing: train is a {type(train).__name__}, which has "
                f"batches of {own or 'its own'}",
                stacklevel=6,  # whoever calls fit
            )

    def _has_length(self) -> bool:
        """Whether a pass has an end that is known, as it must where no ``steps`` are given."""
        kind = type(self.train).__name__
        try:
            len(self.train)  # type: ignore[arg-type]
        except TypeError:
            if not isinstance(self.train, Iterable):
                raise ArgumentTypeError(
                    "train", f"train must be Images or yield batches (a DataLoader), got {kind}"
                ) from None
            if self.knobs.steps is None:
                raise ArgumentError(
                    "steps", f"a {kind} has no length: say by steps=… when the training ends"
                ) from None
            return False
        return True

    @property
    def last(self) -> int | None:
        """The number of samples in an epoch's last batch, where it can be told."""
        train, size = self.train, self.knobs.size
        if isinstance(train, Images):
            samples, dropped = len(train), self.knobs.drop_last
        elif (
            isinstance(train, DataLoader)
            and train.batch_size is not None
            and not isinstance(train.dataset, IterableDataset)
        ):
            samples, size, dropped = len(train.sampler), train.batch_size, train.drop_last  # type: ignore[arg-type]
        elif self._shared_by_batch and hasattr(train, "samples"):  # what shares out by itself
            samples, size, dropped = train.samples, train.batch_size, False  # type: ignore[union-attr]
        else:
            return None
        return size if dropped or self.steps < len(self) else (samples - 1) % size + 1

    @property
    def _shared_by_batch(self) -> bool:
        """Whether the processes have a part of every batch, and not batches of their own."""
        return isinstance(self.train, Images) or getattr(self.train, "shares_out", False)

    def check_parts(self, parts: int) -> None:
        """Refuse batches that cannot be split among processes, and each share into parts."""
        count = processes.count()
        if not isinstance(self.train, Images) and count > 1 and not _shares_out(self.train):
            raise ArgumentError(
                "train",
                f"under {count} processes, train must be Images, CachedLessons, or a "
                f"DataLoader with a DistributedSampler, got {type(self.train).__name__}: each "
                "process would see the same samples",
            )
        if not self._shared_by_batch:
            parts = self.knobs.accumulate
        if self.last is not None and self.last < parts:
            raise ArgumentError(
                "batch_size",
                f"the last batch of an epoch holds {self.last} sample(s), too few for "
                f"{count} process(es) and accumulate={self.knobs.accumulate}: change batch_size, "
                "or use drop_last=True (of fit for Images, of their loader for others)",
            )

    def smallest(self, parts: int) -> int | None:
        """The fewest samples that a model sees at a time, where a batch has so many parts."""
        if not self._shared_by_batch:
            parts = self.knobs.accumulate
        return None if self.last is None else self.last // parts

    def __len__(self) -> int:
        if isinstance(self.train, Images):
            return self.train.steps(self.knobs.size, drop_last=self.knobs.drop_last)
        return math.ceil(self.steps / ROWS) if self.stream else len(self.train)  # type: ignore[arg-type]

    @property
    def steps(self) -> int:
        """The number of steps of the whole training."""
        if self.knobs.epochs is not None:
            return self.knobs.epochs * len(self)
        assert self.knobs.steps is not None  # as Knobs sees to
        return self.knobs.steps

    @property
    def count(self) -> int:
        """The number of epochs, of which the last may be cut short."""
        return math.ceil(self.steps / len(self))

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        return map(self.draw, self.given(epoch))

    def given(self, epoch: int) -> Iterable[Any]:
        """Return what :meth:`draw` makes each batch of an epoch from."""
        if self.knobs.steps is None:  # the source knows best when an epoch ends
            return self._pass(epoch)
        left = self.knobs.steps - epoch * len(self)
        return islice(self.stream or self._pass(epoch), min(left, len(self)))

    def _pass(self, epoch: int) -> Iterable[Any]:
        """Begin a pass through the set."""
        if isinstance(self.train, Images):
            self.generator.manual_seed(replay_seed(self.knobs.seed, epoch))
            size, drop_last = self.knobs.size, self.knobs.drop_last
            return self.train.order(size, self.generator, drop_last=drop_last)
        self._set_epoch(epoch)
        return self._read(iter(self.train))

    def _set_epoch(self, epoch: int) -> None:
        """Tell the number of the epoch to whatever draws its batches from that."""
        for source in self._sources():
            draw = getattr(source, "set_epoch", None)
            if draw is not None:
                draw(epoch)

    def _sources(self) -> list[Any]:
        """Return all that may take part in drawing the batches of a loader, but for workers."""
        parts = (getattr(self.train, name, None) for name in ("sampler", "dataset"))
        return [self.train, *(part for part in parts if part is not None)]

    def draw(self, given: Any) -> Batch:
        """Make a batch: draw the images of these indices, or move a loader's to the device.

        This is part of a step: what happens here happens on the device.
        """
        if isinstance(self.train, Images):
            augment, views = self.knobs.augment, self.knobs.views
            name, what = ("views", "views") if views else ("augment", "augmentation")
            with blaming_argument(name, f"the {what}", first=not self.drawn):
                batch = self.train.draw(
                    given, self.generator, augment=augment, views=views, part=processes.part()
                )
            self.drawn = True
            return batch
        inputs, target = given
        return to_device(inputs, self.device), target.to(self.device)

    def _read(self, batches: Iterator[object]) -> Iterator[Batch]:
        """Yield all batches, and say if they are not as many as the schedule has steps."""
        number = 0
        while True:
            with blaming_argument("train", "yielding a batch of train", first=number == 0):
                batch = next(batches, self)  # which is no batch
            if batch is self:
                break
            number += 1
            yield read_batch(batch, "train")
        if number == 0:
            raise ArgumentError("train", "train yielded no batch")
        if self.stream is None and number != len(self):
            warnings.warn(
                f"train has a length of {len(self)} batches, but yields {number}: the learning "
                "rate follows its length",
                stacklevel=2,
            )

    def sample(self) -> tuple[Inputs, Inputs, Tensor]:
        """Return a few samples: what the student sees, what the teacher sees, the target."""
        if isinstance(self.train, Images):
            images = self.train[_few(self.train.target)]
            return images.inputs(), images.inputs(), images.target
        with torch.random.fork_rng(devices=[]):
            inputs, target = next(self._read(iter(self.train)))
        few = _few(target)
        own, theirs, target = (
            to_device(map_samples(lambda tensor: tensor[few], one, len(target)), self.device)
            for one in (*views_of(inputs), target)
        )
        return own, theirs, target

    def state_dict(self) -> dict[str, Any]:
        """Return the state of what draws the batches, where it has one that goes on."""
        state: dict[str, Any] = {n: g.get_state() for n, g in self._generators().items()}
        if self.stream is not None:
            state |= {**self.stream.begun, "stream": self.stream.state_dict()}
        if hasattr(self.train, "state_dict"):
            state["train"] = self.train.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the batches were."""
        for name, generator in self._generators().items():
            generator.set_state(state[name].cpu())
        if self.stream is not None:
            self.stream.load_state_dict(state["stream"])
        if hasattr(self.train, "state_dict"):
            if self.stream is not None:
                self.stream.taken = 0  # it finds its place by itself
            self.train.load_state_dict(state["train"])  # type: ignore[union-attr]

    def close(self) -> None:
        """Let a stream go, and the workers that a loader has for it."""
        if self.stream is not None:
            self.stream.batches.close()

    def _generators(self) -> dict[str, torch.Generator]:
        """Return the generators of a loader's own, by where they are."""
        owners = {"loader": self.train, "sampler": getattr(self.train, "sampler", None)}
        found = {name: getattr(owner, "generator", None) for name, owner in owners.items()}
        return {name: one for name, one in found.items() if isinstance(one, torch.Generator)}

    @property
    def unrepeatable(self) -> str:
        """Why a run that is resumed may draw other batches than one that is not; or nothing."""
        if getattr(self.train, "persistent_workers", False):
            return "its workers go on through all epochs (persistent_workers=True)"
        known = isinstance(self.train, (Images, DataLoader, Sequence))
        told = hasattr(self.train, "state_dict") or any(
            hasattr(one, "set_epoch") for one in self._sources()
        )
        if told or (known and self.stream is None):
            return ""
        kind = type(self._sources()[-1]).__name__
        return f"a {kind} has neither set_epoch nor state_dict"

    @property
    def settings(self) -> dict[str, Any]:
        """What distinguishes these batches from others, for the checkpoint."""
        name = self.train.name if isinstance(self.train, Images) else type(self.train).__name__
        self._set_epoch(0)  # it may still have the number of another training's last epoch
        return {
            "batch_size": self.knobs.size,
            "augment": described(self.knobs.augment),
            "views": described(self.knobs.views),
            "seed": self.knobs.seed,
            "train": f"{name}, {len(self)} batches [{fingerprint(self.train)}]",
        }


def _few(target: Tensor) -> Tensor:
    """Return the indices of a few samples, with the largest label among them."""
    first = torch.arange(min(SAMPLES, len(target)), device=target.device)
    if are_classes(target):
        first[-1] = target.argmax() // (target.numel() // len(target))
    return first


def _shares_out(train: object) -> bool:
    """Whether every process gets samples of its own."""
    if isinstance(train, DataLoader):
        return isinstance(train.sampler, DistributedSampler) or isinstance(
            train.dataset, IterableDataset
        )
    return getattr(train, "shares_out", False)
