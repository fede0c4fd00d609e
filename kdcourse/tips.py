"""Same views: what the teacher and the student see of an image.

A view maps uint8 pixels ``(N, C, H, W)``, the target ``(N,)`` and a generator to the student's
pixels, the teacher's pixels and the target. Pass it to :func:`kdcourse.training.fit` as ``views``.

The first four are the designs of the paper, from what fails to what works: a fixed teacher,
independent noise, consistent teaching, function matching. :class:`CrossedViews` serves
self-distillation, :class:`WeakAndStrong` terms that look at one of two views
(:class:`kdcourse.view_term.OneView`).

Source: Beyer et al. 2022 (arXiv 2106.05237), section 3.1.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from kdcourse.checks import check_same_device, check_target
from kdcourse.data import Augmentation, check_pixels
from kdcourse.signatures import checked

Seen = tuple[Tensor, Tensor, Tensor]  # what the student sees, what the teacher sees, the target


@checked
@dataclass(frozen=True)
class _View:
    """A view that augments images.

    Attributes:
        augment: The augmentation, which maps pixels and a generator to pixels.
        labelled: Whether the samples that the view makes still have labels.
    """

    augment: Augmentation
    labelled: ClassVar[bool] = True

    @checked
    def __call__(self, pixels: Tensor, target: Tensor, generator: Generator) -> Seen:
        check_pixels(pixels)
        check_target(target, len(pixels))
        check_same_device("target", target, "pixels", pixels)
        return self.see(pixels, target, generator)

    def see(self, pixels: Tensor, target: Tensor, generator: Generator) -> Seen:
        """Return what the student sees, what the teacher sees, and the target."""
        raise NotImplementedError


class FixedTeacher(_View):
    """The student sees an augmented image, the teacher always the original."""

    def see(self, pixels: Tensor, target: Tensor, generator: Generator) -> Seen:
        return self.augment(pixels, generator), pixels, target


class Independent(_View):
    """Student and teacher see different augmentations of the image."""

    def see(self, pixels: Tensor, target: Tensor, generator: Generator) -> Seen:
        return self.augment(pixels, generator), self.augment(pixels, generator), target


class Consistent(_View):
    """Student and teacher see the same augmentation of the image."""

    def see(self, pixels: Tensor, target: Tensor, generator: Generator) -> Seen:
        seen = self.augment(pixels, generator)
        return seen, seen, target


class FunctionMatching(_View):
    r"""Both see the same augmentation of the same *mixture* of two images.

    .. math:: \lambda x_i + (1 - \lambda) x_j, \qquad \lambda \sim U[0, 1]

    with a λ drawn for every image (mixup with a wide λ). A mixture has no label: the target becomes
    −1, and the student learns from the teacher alone.
    """

    labelled = False

    def see(self, pixels: Tensor, target: Tensor, generator: Generator) -> Seen:
        seen = self.augment(pixels, generator)
        share = torch.rand(len(seen), 1, 1, 1, generator=generator, device=seen.device)
        other = seen[torch.randperm(len(seen), generator=generator, device=seen.device)]
        mixed = (share * seen + (1 - share) * other).round_().to(torch.uint8)
        return mixed, mixed, torch.full_like(target, -1)


class CrossedViews(_View):
    """Two augmented views a and b of each image: the student sees a and b, the teacher b and a."""

    def see(self, pixels: Tensor, target: Tensor, generator: Generator) -> Seen:
        a, b = self.augment(pixels, generator), self.augment(pixels, generator)
        return torch.cat([a, b]), torch.cat([b, a]), torch.cat([target, target])


@checked
@dataclass(frozen=True)
class WeakAndStrong(_View):
    """Both see two views of each image side by side: one of ``augment``, the next of ``strong``.

    So a batch is twice as large. A term sees one of the views alone as
    :class:`kdcourse.view_term.OneView`.
    """

    strong: Augmentation

    def see(self, pixels: Tensor, target: Tensor, generator: Generator) -> Seen:
        pair = [self.augment(pixels, generator), self.strong(pixels, generator)]
        seen = torch.stack(pair, dim=1).flatten(0, 1)
        return seen, seen, target.repeat_interleave(2)
