"""How much worse is a net where images are worse? Corruptions made here, from clean test images.

Each has five severities; those of noise, blur, contrast, brightness and pixelation are those of
CIFAR-10-C and CIFAR-100-C, translation and occlusion are added. They are made for images of about
32×32 pixels: lengths are shares of the height, or pixels of an image 32 pixels high. All draws are
seeded, and the same for every severity.

Source: Hendrycks and Dietterich 2019 (arXiv 1903.12261), section 4.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from kdcourse.checks import check_choice, check_integer
from kdcourse.data import Images, replay
from kdcourse.evaluation.accuracy import in_top
from kdcourse.evaluation.resampling import Interval, Resamples
from kdcourse.metrics import predict
from kdcourse.signatures import checked

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]  # of pixels in [0, 1]


@dataclass(frozen=True)
class Robustness:
    """Shares of images that are classified correctly, in [0, 1].

    Attributes:
        clean: As they are.
        corrupted: Mean over all corruptions and severities.
        by_corruption: At severities 1 to 5, by the name of the corruption.
        minus_teacher: ``corrupted`` less that of the teacher, on the same images.
        minus_baseline: ``corrupted`` less that of the student that others are compared with.
    """

    clean: Interval
    corrupted: Interval
    by_corruption: dict[str, tuple[float, ...]]
    minus_teacher: Interval | None = None
    minus_baseline: Interval | None = None


def _gaussian_noise(pixels: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return pixels + deviation * torch.randn(pixels.shape, generator=generator)


def _gaussian_blur(pixels: Tensor, width: float, generator: torch.Generator) -> Tensor:
    sigma, channels = width * pixels.shape[2] / 32, pixels.shape[1]
    radius = math.ceil(4 * sigma)
    weights = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    kernel = (weights / weights.sum()).expand(channels, 1, 1, -1)
    padded = F.pad(pixels, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=channels), kernel.mT, groups=channels)


def _contrast(pixels: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    return (pixels - mean) * factor + mean


def _brightness(pixels: Tensor, more: float, generator: torch.Generator) -> Tensor:
    value = pixels.amax(dim=1, keepdim=True)  # that of hue, saturation and value
    raised = (value + more).clamp(max=1)
    return torch.where(value > 0, pixels * (raised / value.clamp_min(1e-6)), raised)


def _pixelation(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    height, width = pixels.shape[2:]
    coarse = max(int(height * share), 1), max(int(width * share), 1)
    return F.interpolate(F.adaptive_avg_pool2d(pixels, coarse), (height, width), mode="nearest")


def _translation(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    samples, _, height, width = pixels.shape
    by = max(round(share * height), 1)
    steps = torch.tensor([(-1, 0), (1, 0), (0, -1), (0, 1)])
    down, right = by * steps[torch.randint(4, (samples,), generator=generator)].T
    rows = (torch.arange(height) - down[:, None]).clamp(0, height - 1)  # the edge goes on
    columns = (torch.arange(width) - right[:, None]).clamp(0, width - 1)
    return pixels[
        torch.arange(samples)[:, None, None], :, rows[:, :, None], columns[:, None]
    ].movedim(-1, 1)


def _occlusion(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    samples, _, height, width = pixels.shape
    sizes = torch.tensor([max(round(share * side), 1) for side in (height, width)])
    first = (
        torch.rand(samples, 2, generator=generator) * (1 + torch.tensor([height, width]) - sizes)
    ).long()
    rows, columns = (
        (torch.arange(side) >= start[:, None]) & (torch.arange(side) < start[:, None] + size)
        for side, start, size in zip((height, width), first.T, sizes, strict=True)
    )
    return torch.where((rows[:, :, None] & columns[:, None])[:, None], 0.5, pixels)


# What each is told at severities 1 to 5.
CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "Gaussian noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),  # deviation
    "Gaussian blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),  # deviation, in pixels
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),  # factor around the mean
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),  # more of it
    "pixelation": (_pixelation, (0.95, 0.9, 0.85, 0.75, 0.65)),  # share of the resolution
    "translation": (_translation, (0.03, 0.06, 0.09, 0.12, 0.15)),  # share of the height
    "occlusion": (_occlusion, (0.15, 0.25, 0.35, 0.45, 0.55)),  # share of either side
}
SEVERITIES = (1, 2, 3, 4, 5)
IMAGES = 2000  # that are corrupted, at most


@checked
def corrupt(images: Images, corruption: str, severity: int, *, seed: int = 0) -> Images:
    """Return corrupted images.

    Args:
        images: Clean images.
        corruption: ``"Gaussian noise"``, ``"Gaussian blur"``, ``"contrast"``, ``"brightness"``,
            ``"pixelation"``, ``"translation"`` or ``"occlusion"`` (a grey rectangle).
        severity: From 1 to 5; 0 leaves them as they are.
        seed: Seed of noise, directions and places, the same for all severities.
    """
    check_choice("corruption", corruption, tuple(CORRUPTIONS))
    check_integer("severity", severity, 0, len(SEVERITIES))
    if severity == 0:
        return images
    change, amounts = CORRUPTIONS[corruption]
    clean = images.pixels.cpu().float() / 255  # there, draws are the same for every device
    changed = change(clean, amounts[severity - 1], replay(seed))
    pixels = (255 * changed).round().clamp(0, 255).to(torch.uint8)
    return replace(images, pixels=pixels.to(images.device))


def robustness_of(
    nets: Mapping[str, nn.Module],
    images: Images,
    teacher: str | None = None,
    baseline: str | None = None,
    *,
    resamples: int,
    seed: int,
    progress: bool,
) -> dict[str, Robustness]:
    """Measure the accuracy of every net on (some of) the images, clean and corrupted."""
    images = images.subset(min(IMAGES, len(images)), seed=seed)
    clean = _right(nets, images)
    found: dict[str, dict[str, list[Tensor]]] = {name: {} for name in nets}
    for corruption, made in _corrupted(images, seed, progress=progress):
        for name, right in _right(nets, made).items():
            found[name].setdefault(corruption, []).append(right)
    drawn = Resamples(len(images), resamples, seed)
    means = {
        name: torch.stack([right for rights in by.values() for right in rights]).mean(dim=0)
        for name, by in found.items()
    }

    def minus(name: str, other: str | None) -> Interval | None:
        alone = other in (None, name) or name == teacher
        return None if alone else drawn.interval(means[name] - means[str(other)])

    return {
        name: Robustness(
            drawn.interval(clean[name]),
            drawn.interval(means[name]),
            {kind: tuple(float(r.mean()) for r in rights) for kind, rights in by.items()},
            minus(name, teacher),
            minus(name, baseline),
        )
        for name, by in found.items()
    }


def _corrupted(images: Images, seed: int, *, progress: bool) -> Iterator[tuple[str, Images]]:
    kinds = list(product(CORRUPTIONS, SEVERITIES))
    for corruption, severity in tqdm(kinds, "corruptions", disable=not progress, leave=False):
        yield corruption, corrupt(images, corruption, severity, seed=seed)


def _right(nets: Mapping[str, nn.Module], images: Images) -> dict[str, Tensor]:
    """Say of which images each net names the class, ``(N,)``."""
    target = images.target.cpu()
    return {
        name: in_top(predict(net, images).float().cpu(), target).double()
        for name, net in nets.items()
    }
