"""Image sets in memory: loaded by torchvision, kept as uint8, batched on the device.

>>> splits = fashion_mnist()                      # train, validation and test
>>> train = splits.train[:4000]                   # any slice, mask or index tensor
>>> for inputs, target in train.batches(128, seed=0, epoch=3):
...     ...                                       # float32 (N, C, H, W), int64 (N,)

A small image set fits in memory, on the CPU or on the GPU. Drawing a batch is then one indexing
operation instead of one Python call per image, and an epoch can be replayed from its seed.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcourse import places
from kdcourse.batch import Batch, SeparateViews, blaming_argument, share
from kdcourse.checks import (
    check_integer,
    check_labels,
    check_number,
    check_positive,
    check_same_device,
    check_tensor,
)
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.signatures import checked, describe
from kdcourse.torchvision_classes import dataset_class
from kdcourse.torchvision_sets import CorruptedFileError as CorruptedFileError
from kdcourse.torchvision_sets import read_set

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
# Maps pixels and target to what the student sees, what the teacher sees, and the target.
Views = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor, Tensor]]


def check_pixels(pixels: Tensor, generator: torch.Generator | None = None) -> None:
    """Require a batch of images as they are stored, on the device of the generator, if any."""
    check_tensor("pixels", pixels)
    if pixels.dtype != torch.uint8 or pixels.dim() != 4:
        kind = f"{pixels.dtype} {tuple(pixels.shape)}"
        raise ArgumentError(
            "pixels", f"pixels must be torch.uint8 of shape (N, C, H, W), got {kind}"
        )
    if generator is not None:
        check_same_device("pixels", pixels, "generator", generator)


@checked
@dataclass(frozen=True)
class Images:
    """A labelled set of images in memory.

    Attributes:
        pixels: The images ``(N, C, H, W)``, uint8.
        target: Class indices ``(N,)``, int64; −1 where the label is not known.
        classes: The names of the K classes.
        mean: Mean of each channel over the whole training set, of pixels scaled to [0, 1].
        std: Standard deviation of each channel, likewise.
        name: Name of the data set.
    """

    pixels: Tensor
    target: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str = "images"

    def __post_init__(self) -> None:
        check_pixels(self.pixels)
        check_same_device("target", self.target, "pixels", self.pixels)
        if self.target.shape != self.pixels.shape[:1] or self.target.dtype != torch.int64:
            kind = f"{self.target.dtype} {tuple(self.target.shape)}"
            raise ArgumentError(
                "target", f"target must be torch.int64 of shape (N,), one per image, got {kind}"
            )
        check_labels("target", self.target, len(self.pixels), len(self.classes))
        for name in ("mean", "std"):
            values, channels = getattr(self, name), self.pixels.shape[1]
            if len(values) != channels:
                raise ArgumentError(
                    name, f"{name} must have a value for each of {channels} channels, got {values}"
                )
        for mean, deviation in zip(self.mean, self.std, strict=True):  # of pixels in [0, 1]
            check_number("mean", mean, 0.0, 1.0)
            check_number("std", deviation, 0.0, 1.0, open_low=True)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: Any) -> "Images":
        """Take a subset by slice, mask or index tensor (a view of the pixels where possible)."""
        if isinstance(index, Integral):
            raise ArgumentTypeError(
                "index",
                f"index must be a slice, a mask or indices, got {index}: one image is "
                f"images[{index}:{index + 1}], and batches() needs no DataLoader",
            )
        return replace(self, pixels=self.pixels[index], target=self.target[index])

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def to(self, device: torch.device | str) -> "Images":
        """Move the images to a device, on which batches are then drawn."""
        return replace(self, pixels=self.pixels.to(device), target=self.target.to(device))

    def subset(self, size: int, *, seed: int = 0, balanced: bool = False) -> "Images":
        """Draw ``size`` different images; ``balanced`` draws equally many of every class."""
        check_integer("size", size, 1, len(self))
        order = torch.randperm(len(self), generator=replay(seed), device="cpu")
        order = order.to(self.device)
        if balanced:
            present = self.target.unique()
            if size % len(present):
                raise ArgumentError(
                    "size", f"size {size} cannot be split equally among {len(present)} classes"
                )
            each = size // len(present)
            picked = [order[self.target[order] == label][:each] for label in present]
            if min(map(len, picked)) < each:
                raise ArgumentError("size", f"some class has fewer than {each} images")
            order = torch.cat(picked).sort().values
        return self[order[:size]]

    def unlabelled(self) -> "Images":
        """Return the same images without their labels."""
        return replace(self, target=torch.full_like(self.target, -1))

    def __add__(self, other: "Images") -> "Images":
        """Join two sets with the same classes; statistics and name are those of the first."""
        if not isinstance(other, Images):
            return NotImplemented
        if self.classes != other.classes:
            raise ArgumentError("other", f"classes differ: {self.classes} and {other.classes}")
        pixels = torch.cat([self.pixels, other.pixels])
        return replace(self, pixels=pixels, target=torch.cat([self.target, other.target]))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Turn uint8 pixels into the float32 inputs of a network: zero mean, unit deviation."""
        mean, std = self._mean_and_std(pixels.device)
        return in_order(pixels).float().div_(255 * std).sub_(mean / std)

    def denormalize(self, inputs: Tensor) -> Tensor:
        """Turn inputs of a network back into uint8 pixels, clipped to their range."""
        mean, std = self._mean_and_std(inputs.device)
        return (255 * (inputs.detach() * std + mean)).round_().clamp_(0, 255).to(torch.uint8)

    def _mean_and_std(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return both as ``(C, 1, 1)``, to broadcast over images."""
        return tuple(_on_device(values, device) for values in (self.mean, self.std))

    def inputs(self) -> Tensor:
        """Return all images as network inputs, ``(N, C, H, W)`` float32."""
        return self.normalize(self.pixels)

    def steps(self, batch_size: int, *, drop_last: bool = False) -> int:
        """Return the number of batches that :meth:`batches` yields."""
        whole, rest = divmod(len(self), batch_size)
        if drop_last and rest and not whole:
            raise ArgumentError(
                "drop_last", f"drop_last leaves nothing of {rest} images, too few for one batch"
            )
        return whole + (rest > 0 and not drop_last)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        augment: Augmentation | None = None,
        views: Views | None = None,
        drop_last: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """Yield ``(inputs, target)`` once through the set.

        The order and the augmentations follow from ``(seed, epoch)`` alone, so that an epoch can
        be replayed, and so that the parts of many processes add up to the batches of one.

        Args:
            batch_size: Number of images per batch; the last batch may be smaller.
            seed: Seed of the run.
            epoch: Number of the epoch.
            shuffle: Whether to draw a new order for this epoch.
            augment: Maps uint8 pixels ``(N, C, H, W)`` and a generator to pixels.
            views: Used instead of ``augment``: maps pixels, target and a generator to what the
                student sees, what the teacher sees, and the target; the inputs are then
                :class:`kdcourse.batch.SeparateViews`.
            drop_last: Whether to leave out a last batch that is smaller.
            part: ``(i, P)`` to yield only the i-th of P consecutive parts of each batch, i from 0.
        """
        generator = replay(seed, epoch, self.device)
        order = self.order(batch_size, generator, shuffle=shuffle, drop_last=drop_last)
        what = "the augmentation" if views is None else "the views"
        for number, index in enumerate(order):
            with blaming_argument("views" if views else "augment", what, first=number == 0):
                batch = self.draw(index, generator, augment=augment, views=views, part=part)
            yield batch

    def order(
        self,
        batch_size: int,
        generator: torch.Generator,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> tuple[Tensor, ...]:
        """Return the indices of the images of every batch; arguments as for :meth:`batches`."""
        check_positive(batch_size=batch_size)
        order = torch.arange(len(self), device=self.device)
        if shuffle:
            order = torch.randperm(len(self), generator=generator, device=self.device)
        if drop_last:
            order = order[: len(order) // batch_size * batch_size]
        return order.split(batch_size)

    def draw(
        self,
        index: Tensor,
        generator: torch.Generator,
        *,
        augment: Augmentation | None = None,
        views: Views | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> Batch:
        """Draw one batch, of the images of these indices; arguments as for :meth:`batches`."""
        own = partial(share, part=part)
        pixels, target = self.pixels[index], self.target[index]
        if views is not None:
            student, teacher, target = views(pixels, target, generator)
            check_tensor("the target of views", target)
            for shown in (student, teacher):
                _check_seen("views", shown, target)
            seen = (self.normalize(own(pixels)) for pixels in (student, teacher))
            return SeparateViews(*seen), own(target)
        if augment is not None:
            pixels = augment(pixels, generator)
            _check_seen("augment", pixels, target)
        return self.normalize(own(pixels)), own(target)


def in_order(images: Tensor) -> Tensor:
    """Return images ``(N, C, H, W)`` that are stored in this order, channel by channel.

    Images from a crop or a file are often stored channels-last, and have the strides of that format
    even if they have a single channel. A network would take the format over, and oneDNN's gradient
    of a strided 1×1 convolution of fewer than 16 channels then writes past its memory (oneDNN issue
    6035, up to version 3.12 at least), which crashes the narrow nets of this course.
    """
    check_tensor("images", images)
    return images.flatten().view(images.shape)


@cache  # sent once: a GPU would wait for it at every batch
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(-1, 1, 1)


def _check_seen(name: str, pixels: object, target: Tensor) -> None:
    """Require of what an augmentation or a view has made that it is pixels, one image a label."""
    kind = pixels.dtype if isinstance(pixels, Tensor) else None
    fits = isinstance(pixels, Tensor) and kind == torch.uint8 and pixels.dim() == 4
    if not fits or len(pixels) != len(target):  # type: ignore[arg-type]
        raise ArgumentError(
            name,
            f"{name} must return pixels, torch.uint8 of shape ({len(target)}, C, H, W), got "
            f"{describe(pixels)}" + f" and {kind}" * (kind is not None),
        )


@dataclass(frozen=True)
class Splits:
    """Three disjoint sets: ``train`` to learn, ``validation`` to choose, ``test`` to report."""

    train: Images
    validation: Images
    test: Images


@checked
def replay(seed: int, epoch: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator that depends on ``(seed, epoch)`` alone, so that epochs can be replayed."""
    return torch.Generator(device).manual_seed(replay_seed(seed, epoch))


@checked
def replay_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Combine a run's seed with the numbers of an epoch and of a process."""
    # Their multiples also differ in the 32 bits that NumPy takes.
    return (seed * 1_000_003 + epoch + rank * 2_654_435_769) % 2**63


@checked
def fashion_mnist(root: str | Path | None = None, **options: Any) -> Splits:
    """Load Fashion-MNIST: 60,000 + 10,000 grey images of 28×28, ten kinds of clothing.

    The four original files ship with the course, so no network is needed. The options are those of
    :func:`from_torchvision`. Source: Xiao et al. 2017 (arXiv 1708.07747), MIT licence.
    """
    return from_torchvision("FashionMNIST", root, **options)


@checked
def cifar10(root: str | Path | None = None, **options: Any) -> Splits:
    """Load CIFAR-10: 50,000 + 10,000 colour images of 32×32; see :func:`from_torchvision`."""
    return from_torchvision("CIFAR10", root, **options)


@checked
def cifar100(root: str | Path | None = None, **options: Any) -> Splits:
    """Load CIFAR-100: 50,000 + 10,000 colour images of 32×32; see :func:`from_torchvision`."""
    return from_torchvision("CIFAR100", root, **options)


@checked
def from_torchvision(
    dataset: str | type,
    root: str | Path | None = None,
    *,
    validation: int = 5000,
    seed: int = 0,
    download: bool = False,
    image_size: int | None = None,
) -> Splits:
    """Load any classification set of torchvision that has a training and a test part.

    What its authors call validation stands for the test where their test part has no labels, or
    where there is none; of EMNIST, the balanced division is read.

    Args:
        dataset: Name of a class in ``torchvision.datasets``, or such a class.
        root: Folder of the images. By default ``$KDCOURSE_DATA``; without it ``data/`` in a clone
            of the course, or else the user's cache.
        validation: Number of images held out of the training set, on which to choose settings.
        seed: Seed of the split into training and validation.
        download: Whether to fetch missing files. They appear in ``root`` only once complete.
        image_size: Height and width to which images are resized; required where their sizes differ.

    Raises:
        FileNotFoundError: A file is missing.
        NotADirectoryError: ``root`` is a file.
        CorruptedFileError: The checksum of a file is not the published one, or it cannot be read.
        RuntimeError: The files could not be downloaded.
        ImportError: torchvision needs another package to read this set.
        ValueError: This is not such a data set, or its images differ in size and no ``image_size``
            is given.
    """
    kind = dataset_class(dataset)
    if image_size is not None:
        check_positive(image_size=image_size)
    (train, test), classes = read_set(
        kind, data_root(root), download=download, image_size=image_size
    )
    if not 0 <= validation < len(train[0]):
        raise ArgumentError(
            "validation", f"validation must lie in [0, {len(train[0])}), got {validation}"
        )
    mean, std = _statistics(train[0])
    everything = Images(*train, classes, mean, std, kind.__name__)
    order = torch.randperm(len(everything), generator=replay(seed))
    return Splits(
        train=everything[order[validation:]],
        validation=everything[order[:validation]],
        test=replace(everything, pixels=test[0], target=test[1]),
    )


@checked
def data_root(root: str | Path | None = None) -> Path:
    """Return ``root``, or without one what :func:`kdcourse.places.image_folder` returns."""
    return Path(os.path.expanduser(root)) if root else places.image_folder()


def _statistics(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return each channel's mean and deviation on the scale [0, 1], exactly, from a histogram."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(pixels.shape[1]):
        share = torch.bincount(pixels[:, channel].flatten(), minlength=256).double()
        share /= share.sum()
        mean.append(float((share * levels).sum()))
        std.append(float((share * (levels - mean[-1]).square()).sum().sqrt()) or 1.0)
    return tuple(mean), tuple(std)
