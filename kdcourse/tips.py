"""Same views: what the teacher and the student see of an image.

A view maps uint8 pixels ``(N, C, H, W)``, the target ``(N,)`` and a generator to the student's
pixels, the teacher's pixels and the target. :func:`kdcourse.training.fit` takes it as ``views``.

The four designs of the paper, from what fails to what works: a fixed teacher, independent noise,
consistent teaching, function matching.

Source: Beyer et al. 2022 (arXiv 2106.05237), section 3.1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcourse.data import Augmentation


@dataclass(frozen=True)
class FixedTeacher:
    """The student sees an augmented image, the teacher always the original."""

    augment: Augmentation

    def __call__(
        self, pixels: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.augment(pixels, generator), pixels, target


@dataclass(frozen=True)
class Independent:
    """Student and teacher see different augmentations of the image."""

    augment: Augmentation

    def __call__(
        self, pixels: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.augment(pixels, generator), self.augment(pixels, generator), target


@dataclass(frozen=True)
class Consistent:
    """Student and teacher see the same augmentation of the image."""

    augment: Augmentation

    def __call__(
        self, pixels: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        seen = self.augment(pixels, generator)
        return seen, seen, target


@dataclass(frozen=True)
class FunctionMatching:
    r"""Both see the same augmentation of the same *mixture* of two images.

    .. math:: \lambda x_i + (1 - \lambda) x_j, \qquad \lambda \sim U[0, 1]

    drawn for every image (mixup with a wide λ). A mixture has no label: the target becomes −1, and
    the student learns from the teacher alone.
    """

    augment: Augmentation
    labelled = False  # what is seen has no label any more

    def __call__(
        self, pixels: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        seen = self.augment(pixels, generator)
        share = torch.rand(len(seen), 1, 1, 1, generator=generator, device=seen.device)
        other = seen[torch.randperm(len(seen), generator=generator, device=seen.device)]
        mixed = (share * seen + (1 - share) * other).round_().to(torch.uint8)
        return mixed, mixed, torch.full_like(target, -1)


@dataclass(frozen=True)
class CrossedViews:
    """Two augmented views of each image: the student sees a and b, the teacher b and a."""

    augment: Augmentation

    def __call__(
        self, pixels: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        a, b = self.augment(pixels, generator), self.augment(pixels, generator)
        return torch.cat([a, b]), torch.cat([b, a]), torch.cat([target, target])
