"""RandAugment for whole batches: random operations for every image, then a grey square.

What an operation does is what Pillow does; each has a value drawn for every image from a range of
its own. All are computed for all images, of which each keeps one: no shape depends on what was
drawn, so that a GPU need not be waited for.

Source: Cubuk et al. 2020 (arXiv 1909.13719), with the operations and ranges of Sohn et al. 2020
(arXiv 2001.07685, appendix), who draw the strength anew for every image, and add the square.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_number, check_positive
from kdcourse.data import check_pixels
from kdcourse.signatures import checked

GREY = 125


@checked
@dataclass(frozen=True)
class RandAugment:
    """Apply ``operations`` random ones to each image, then cover a part of it with a grey square.

    The side of the square is drawn between 0 and ``cutout`` times the image's; it may stick out.
    Its grey is 125 in each channel (in code after FixMatch, 125, 123 and 114).
    """

    operations: int = 2
    cutout: float = 0.5

    def __post_init__(self) -> None:
        check_positive(operations=self.operations)
        check_number("cutout", self.cutout, 0.0, 1.0)

    @checked
    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        check_pixels(pixels, generator)
        device, each = pixels.device, (len(pixels), 1, 1, 1)

        def draw(*size: int) -> Tensor:
            return torch.rand(size, generator=generator, device=device, dtype=torch.float32)

        for _ in range(self.operations):
            kinds = 1 + len(OPERATIONS)  # of which the first leaves an image as it is
            chosen = torch.randint(kinds, each, generator=generator, device=device)
            share, changed = draw(*each), pixels
            for number, operation in enumerate(OPERATIONS.values(), start=1):
                changed = torch.where(chosen == number, operation(pixels, share), changed)
            pixels = changed
        side, across, down = draw(3, *each)
        height, width = pixels.shape[2:]
        x, y = _centres(pixels)
        beside = (x - width * across).abs() < self.cutout * side * width / 2
        above = (y - height * down).abs() < self.cutout * side * height / 2
        return pixels.masked_fill(beside & above, GREY)


def _brightness(pixels: Tensor, share: Tensor) -> Tensor:
    return _mixed(torch.zeros_like(pixels), pixels, share)


def _colour(pixels: Tensor, share: Tensor) -> Tensor:
    return _mixed(_grey(pixels).expand_as(pixels), pixels, share)


def _contrast(pixels: Tensor, share: Tensor) -> Tensor:
    mean = _grey(pixels).float().mean(dim=(1, 2, 3), keepdim=True)
    return _mixed((mean + 0.5).floor().expand(pixels.shape), pixels, share)


def _sharpness(pixels: Tensor, share: Tensor) -> Tensor:
    """Mix an image with what is smoother inside: a centre counts 5 of 13, its neighbours 1."""
    if min(pixels.shape[2:]) < 3:
        return pixels
    smooth = pixels.clone()
    inside = pixels[..., 1:-1, 1:-1]
    total = 9 * F.avg_pool2d(pixels.float(), 3, stride=1) + 4 * inside.float()
    smooth[..., 1:-1, 1:-1] = (total / 13 + 0.5).to(torch.uint8)
    return _mixed(smooth, pixels, share)


def _autocontrast(pixels: Tensor, share: Tensor) -> Tensor:
    low, high = pixels.amin(dim=(2, 3), keepdim=True), pixels.amax(dim=(2, 3), keepdim=True)
    spread = (high - low).float()
    stretched = ((pixels - low).float() * 255 / spread.clamp(min=1)).to(torch.uint8)
    return torch.where(spread > 0, stretched, pixels)


def _equalize(pixels: Tensor, share: Tensor) -> Tensor:
    """Let every channel have as many dark pixels as bright ones, by its sorted values."""
    values, _ = pixels.flatten(2).long().sort(dim=-1)
    keys = torch.arange(256, device=pixels.device).expand(*pixels.shape[:2], -1).contiguous()
    below = torch.searchsorted(values, keys)  # how many are below each value
    step = below.gather(-1, values[..., -1:]) // 255
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    places = pixels.flatten(2).long()
    found = table.gather(-1, places).to(torch.uint8).view(pixels.shape)
    return torch.where(step[..., None] > 0, found, pixels)


def _posterize(pixels: Tensor, share: Tensor) -> Tensor:
    """Keep the upper 4 to 7 bits."""
    dropped = 4 - (4 * share).to(torch.uint8)
    return (pixels >> dropped) << dropped


def _solarize(pixels: Tensor, share: Tensor) -> Tensor:
    return torch.where(pixels < 256 * share, pixels, 255 - pixels)


def _rotate(pixels: Tensor, share: Tensor) -> Tensor:
    angle = _either_way(math.radians(30), share)
    x, y = _centres(pixels)
    middle, centre = pixels.shape[3] / 2, pixels.shape[2] / 2
    x, y = x - middle, y - centre
    turned = angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y
    return _fetched(pixels, turned[0] + middle, turned[1] + centre)


def _shear_x(pixels: Tensor, share: Tensor) -> Tensor:
    x, y = _centres(pixels)
    return _fetched(pixels, x + _either_way(0.3, share) * y, y)


def _shear_y(pixels: Tensor, share: Tensor) -> Tensor:
    x, y = _centres(pixels)
    return _fetched(pixels, x, y + _either_way(0.3, share) * x)


def _translate_x(pixels: Tensor, share: Tensor) -> Tensor:
    x, y = _centres(pixels)
    return _fetched(pixels, x + _either_way(0.3, share) * pixels.shape[3], y)


def _translate_y(pixels: Tensor, share: Tensor) -> Tensor:
    x, y = _centres(pixels)
    return _fetched(pixels, x, y + _either_way(0.3, share) * pixels.shape[2])


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _autocontrast,
    "brightness": _brightness,
    "colour": _colour,
    "contrast": _contrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "rotate": _rotate,
    "sharpness": _sharpness,
    "shear x": _shear_x,
    "shear y": _shear_y,
    "solarize": _solarize,
    "translate x": _translate_x,
    "translate y": _translate_y,
}


def _either_way(most: float, share: Tensor) -> Tensor:
    """Return numbers between −most and most."""
    return most * (2 * share - 1)


def _mixed(base: Tensor, pixels: Tensor, share: Tensor) -> Tensor:
    """Go from a base towards the pixels, 0.05 to 0.95 of the way."""
    base = base.float()
    return (base + (0.05 + 0.9 * share) * (pixels - base)).to(torch.uint8)


def _grey(pixels: Tensor) -> Tensor:
    """Return the brightness ``(N, 1, H, W)``: of red, green and blue as the eye sees it."""
    if pixels.shape[1] != 3:
        return (pixels.float().mean(dim=1, keepdim=True) + 0.5).to(torch.uint8)
    red, green, blue = pixels.int().split(1, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)


def _centres(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the centres of the pixels are, by column and by row."""
    height, width = pixels.shape[2:]
    x = torch.arange(width, device=pixels.device, dtype=torch.float32) + 0.5
    y = torch.arange(height, device=pixels.device, dtype=torch.float32) + 0.5
    return x.view(1, 1, 1, -1), y.view(1, 1, -1, 1)


def _fetched(pixels: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Fetch every pixel from another place; black from outside."""
    height, width = pixels.shape[2:]
    x, y = (one.floor().long().expand(len(pixels), 1, height, width) for one in (x, y))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = (y * width + x).masked_fill(~inside, 0).expand_as(pixels)
    found = pixels.flatten(2).gather(-1, places.flatten(2))
    return found.view(pixels.shape) * inside
