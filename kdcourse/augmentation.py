"""Augmentations that work on whole batches, on the device the batch is on.

Each maps uint8 pixels ``(N, C, H, W)`` and a ``torch.Generator`` on their device to pixels of the
same shape, and draws anew for every image. Any callable that takes these two arguments will do as
well. (The transforms of ``torchvision.transforms.v2`` draw once per call, so that all images of a
batch would share one crop.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_integer, check_number
from kdcourse.data import Augmentation, check_pixels
from kdcourse.signatures import checked


@checked
@dataclass(frozen=True)
class PadCrop:
    """Pad by ``padding`` pixels on every side, then crop at random to the original size."""

    padding: int = 2

    def __post_init__(self) -> None:
        check_integer("padding", self.padding, 0)

    @checked
    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        check_pixels(pixels, generator)
        samples, _, height, width = pixels.shape
        padded = F.pad(pixels, (self.padding,) * 4)
        down, right = torch.randint(
            2 * self.padding + 1, (2, samples), generator=generator, device=pixels.device
        )
        # All crops of every image, as a view: (N, C, 2p + 1, 2p + 1, H, W).
        crops = padded.unfold(2, height, 1).unfold(3, width, 1)
        return crops[torch.arange(samples, device=pixels.device), :, down, right]


@checked
@dataclass(frozen=True)
class Flip:
    """Mirror each image left to right, with the given probability."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_number("probability", self.probability, 0.0, 1.0)

    @checked
    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        check_pixels(pixels, generator)
        draw = torch.rand(len(pixels), generator=generator, device=pixels.device)
        mirrored = (draw < self.probability).view(-1, 1, 1, 1)
        return torch.where(mirrored, pixels.flip(-1), pixels)


@checked
@dataclass(frozen=True)
class ResizedCrop:
    """Cut out a part and enlarge it to full size; ``scale`` bounds its random share of the area."""

    scale: tuple[float, float] = (0.3, 1.0)

    def __post_init__(self) -> None:
        low, high = self.scale
        check_number("the upper scale", high, 0.0, 1.0, open_low=True)
        check_number("the lower scale", low, 0.0, high, open_low=True)

    @checked
    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        check_pixels(pixels, generator)
        low, high = self.scale
        draw = torch.rand(
            *(3, len(pixels)), generator=generator, device=pixels.device, dtype=torch.float32
        )
        side = (low + (high - low) * draw[0]).sqrt()  # of the image's, which is 2 long in the grid
        shift = (2 * draw[1:] - 1) * (1 - side)
        zero = torch.zeros_like(side)
        transform = torch.stack([side, zero, shift[0], zero, side, shift[1]], dim=1)
        grid = F.affine_grid(transform.view(-1, 2, 3), list(pixels.shape), align_corners=False)
        cut = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
        return cut.round_().to(torch.uint8)


@checked
@dataclass(frozen=True)
class Noise:
    """Add Gaussian noise whose standard deviation is given as a share of the range of pixels."""

    deviation: float = 0.1

    def __post_init__(self) -> None:
        check_number("deviation", self.deviation, 0.0)

    @checked
    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        check_pixels(pixels, generator)
        noise = torch.randn(pixels.shape, generator=generator, device=pixels.device)
        return (pixels + 255 * self.deviation * noise).round_().clamp_(0, 255).to(torch.uint8)


@checked
class Compose:
    """Apply several augmentations one after the other."""

    def __init__(self, *steps: Augmentation):
        self.steps = steps

    @checked
    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        for step in self.steps:
            pixels = step(pixels, generator)
        return pixels

    def __repr__(self) -> str:
        return f"Compose{self.steps!r}"


def pad_crop_flip(padding: int = 2) -> Compose:
    """Return the usual augmentation of small images: pad, crop at random, mirror at random."""
    return Compose(PadCrop(padding), Flip())


def crop_flip(scale: tuple[float, float] = (0.3, 1.0)) -> Compose:
    """Return a strong augmentation: enlarge a random part of the image, mirror at random."""
    return Compose(ResizedCrop(scale), Flip())
