r"""Which properties? — features of stages, with the help of all deeper ones: knowledge review.

A shallow stage of the student is not asked for the teacher's on its own. What its deeper stages
hold is fused with it first, step by step from deep to shallow, and each fusion is compared with the
teacher's stage: in detail, and ever more coarsely.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.checks import (
    check_floating,
    check_positive,
    check_same_samples,
    check_same_shape,
)
from kdcourse.errors import ArgumentError
from kdcourse.feature import CONVOLUTIONS, NORMS
from kdcourse.grid import channels_first, check_channels, pooled
from kdcourse.models import seeded
from kdcourse.objective import Layer, LayerTerm, Lesson
from kdcourse.precision import at_least_float32, in_one_precision
from kdcourse.signatures import checked

LEVELS = (4, 2, 1)  # positions along each dimension of the coarser views
WIDEST = 512  # channels in which stages are fused, unless the deepest has fewer


def hierarchical_context_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Compare features in detail and pooled: the hierarchical context loss (HCL).

    .. math:: \frac{\sum_l w_l \operatorname{MSE}\big(\mathrm{pool}_l(A_S),\,
              \mathrm{pool}_l(A_T)\big)}{\sum_l w_l}, \quad w = 1, \tfrac12, \tfrac14, \tfrac18

    The first level is the features as they are; the others are averages over a grid of 4 × 4, 2 × 2
    and 1 × 1 parts. Levels that are no coarser than the features are left out, and the weights go
    to those that remain, in this order.

    Args:
        student_features: ``(N, C, H, W)``, or any other grid of positions: ``(N, C, T)``,
            ``(N, C, D, H, W)``; or vectors ``(N, C)``, which have the first level only.
        teacher_features: Of the same shape; receives no gradient.

    Returns:
        Scalar ≥ 0.

    Source: Chen et al. 2021 (arXiv 2104.09044), section 3.3; weights and levels are those of the
    authors' code, which sums this over stages. It knows square images only.
    """
    for name, features in (
        ("student_features", student_features),
        ("teacher_features", teacher_features),
    ):
        check_floating(name, features)
        if not 2 <= features.dim() <= 5 or features.numel() == 0:
            raise ArgumentError(
                name,
                f"{name} must have shape (N, C, H, W), (N, C, T), (N, C, D, H, W) or (N, C) and "
                f"not be empty, got {tuple(features.shape)}",
            )
    check_same_shape("student_features", student_features, "teacher_features", teacher_features)
    student, teacher = in_one_precision(
        at_least_float32(student_features), at_least_float32(teacher_features.detach())
    )
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    difference, size = student - teacher, list(student.shape[2:])  # pooling is linear
    for level in LEVELS:
        coarser = [min(level, length) for length in size]
        if coarser == size:
            continue
        weight /= 2
        total += weight
        view = pooled(difference, coarser)
        loss = loss + weight * view.square().mean()
        if all(n % parts == 0 for n, parts in zip(difference.shape[2:], coarser, strict=True)):
            difference = view  # of equal parts, so that averages of them are averages of all
    return loss / total


@checked
class KnowledgeReview(LayerTerm):
    r"""Stages fused with all deeper ones, and compared: :func:`hierarchical_context_loss`.

    The attention-based fusion of a stage x with what the deeper ones have become, y, both of some
    width:

    .. math:: y' = a \cdot W x + b \cdot \uparrow y, \quad
              (a, b) = \sigma\big(V [W x, \uparrow y]\big)

    with maps a and b in (0, 1), and 1 × 1 convolutions W and V. A 3 × 3 convolution of it, with as
    many channels as the teacher's stage, is what is compared with that; the next shallower stage is
    fused with y'. The deepest has nothing to be fused with. Sizes are bridged by repetition of the
    nearest position. All weights are made to fit what the two nets show on the first batch, learned
    with the student and thrown away afterwards.

    >>> KnowledgeReview(["stage1", "stage2", "stage3", "embedding"])

    Args:
        layers: Names of layers from shallow to deep, or pairs of names, with features
            ``(N, C, H, W)``, ``(N, C, T)`` or ``(N, C, D, H, W)``. Vectors ``(N, C)``, such as the
            embedding that the authors take as the deepest stage, have one position.
        width: Channels in which stages are fused; by default as many as the student's deepest layer
            has, 512 at most.
        norm: Whether batch norm follows the convolutions W and 3 × 3. It takes two samples or more,
            as a layer may have a single position; in many processes each has its own, unless
            ``sync_batch_norm`` is set.
        seed: Seed of the weights; that of the training by default.

    Source: Chen et al. 2021 (arXiv 2104.09044), section 3; width, batch norm, the absence of other
    biases than that of V, and He's uniform initialization of W and the 3 × 3 convolution with a
    gain of 1 are the authors' code's. That takes the student's stages behind their last ReLU and
    the teacher's before it: ``("stage1", "stage1.-1.sum")`` in a residual net of ours. They warm
    the term up, from 0 in the first epochs (:class:`kdcourse.objective.WarmUp`). Their batch norm
    keeps statistics that nobody reads.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        width: int | None = None,
        *,
        norm: bool = True,
        seed: int | None = None,
    ):
        super().__init__(layers)
        if width is not None:
            check_positive(width=width)
        self.width, self.norm, self._seed = width, norm, seed
        self.fusions = nn.ModuleList()
        self.prepared = False

    @property
    def least(self) -> int:  # type: ignore[override]
        """The fewest samples that the term can compare: batch norm cannot see a single one."""
        return 2 if self.norm else 1

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Make a fusion for every stage, from the student's channels to the teacher's."""
        stages = self._stages(lesson)
        example = stages[-1][0]
        width = self.width or min(WIDEST, example.shape[1])
        with seeded(seed if self._seed is None else self._seed):
            self.fusions = nn.ModuleList(
                _Fusion(own, theirs, width, self.norm, deepest=own is example)
                for own, theirs in stages
            )
        self.fusions.to(example.device, at_least_float32(example).dtype)
        self.prepared = True

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the hierarchical context losses of the fused stages, summed.

        It is 0 for an epoch's last batch, if that is a single sample and there is batch norm.
        """
        if not self.prepared:
            self.prepare(lesson)
        stages = self._stages(lesson)
        if len(stages[0][0]) < self.least:
            return 0.0 * stages[0][0].sum()
        deeper, losses = None, []
        for fusion, (student, teacher) in zip(reversed(self.fusions), stages[::-1], strict=True):
            compared, deeper = fusion(student, deeper, teacher.shape[2:])
            losses.append(hierarchical_context_loss(compared, teacher))
        return torch.stack(losses).sum()

    def _stages(self, lesson: Lesson) -> list[tuple[Tensor, Tensor]]:
        """Return what both nets show, ``(N, C, …)`` in as many dimensions at all stages."""
        shown = self.shown(lesson)
        most = max(3, *(features.dim() for pair in shown for features in pair))
        for own, theirs in shown:
            check_same_samples("student_features", own, "teacher_features", theirs)
        return [
            (_on_grid("student_features", own, most), _on_grid("teacher_features", theirs, most))
            for own, theirs in shown
        ]


def _on_grid(name: str, features: Tensor, dimensions: int) -> Tensor:
    """Lay vectors, and other features with a single position, out in as many dimensions as all."""
    features = channels_first(name, features, 1, vectors=True)
    missing = dimensions - features.dim()
    if missing and features.shape[2:].numel() > 1:
        raise ArgumentError(
            name,
            f"{name} must have positions in as many dimensions at all layers, or a single one, got "
            f"{tuple(features.shape)} beside features of {dimensions} dimensions",
        )
    return features[(..., *[None] * missing)]


class _Fusion(nn.Module):
    """One stage: what it is compared by, and what goes on to the next shallower one."""

    def __init__(self, own: Tensor, theirs: Tensor, width: int, norm: bool, *, deepest: bool):
        super().__init__()
        dimensions = own.dim() - 2
        convolution = CONVOLUTIONS[dimensions]
        into = convolution(own.shape[1], width, 1, bias=False)
        out = convolution(width, theirs.shape[1], 3, padding=1, bias=False)
        self.attention = None if deepest else convolution(2 * width, 2, 1)
        for made in (into, out):
            nn.init.kaiming_uniform_(made.weight, a=1)
        self.into, self.out = nn.Sequential(into), nn.Sequential(out)
        if norm:
            for part in (self.into, self.out):
                channels = part[0].out_channels
                part.append(NORMS[dimensions](channels, track_running_stats=False))

    def forward(
        self, features: Tensor, deeper: Tensor | None, size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return features ``(N, C', *size)`` to compare, and what goes on to the next stage."""
        check_channels("student_features", features, self.into[0].in_channels)  # type: ignore[arg-type]
        fused = self.into(features.to(next(self.into.parameters()).dtype))
        if self.attention is not None and deeper is not None:
            deeper = _resized(deeper, fused.shape[2:])
            maps = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * maps[:, :1] + deeper * maps[:, 1:]
        fused = _resized(fused, size)
        return self.out(fused), fused


def _resized(features: Tensor, size: Sequence[int]) -> Tensor:
    """Repeat, or leave out, positions of features ``(N, C, …)``."""
    return features if features.shape[2:] == size else F.interpolate(features, tuple(size))
