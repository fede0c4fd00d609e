r"""Which properties? — relations between tokens.

How the tokens of a sequence relate to each other: each one attends to all of them, by the scaled
products of their queries, keys or values. That says nothing about the axes of these vectors, so
student and teacher may have different widths, and different numbers of attention heads.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import (
    check_flag,
    check_positive,
    check_same_device,
    check_same_samples,
    check_tensor,
)
from kdcourse.errors import ArgumentError
from kdcourse.grid import both_sides, channels_first
from kdcourse.objective import Layer, LayerTerm, Lesson
from kdcourse.precision import at_least_float32, gram_matrix, not_below_zero
from kdcourse.predictions import left_out_by
from kdcourse.signatures import check_is


def attention_relation_loss(
    student_vectors: Tensor,
    teacher_vectors: Tensor,
    heads: int = 12,
    mask: Tensor | None = None,
    *,
    channel_dim: int | tuple[int, int] = -1,
) -> Tensor:
    r"""Match which tokens of a sequence attend to which, by their queries, keys or values.

    .. math:: \frac{1}{A\,|C|} \sum_{a=1}^{A} \sum_{(n,t) \in C}
              \mathrm{KL}\!\left(R^T_{nat} \,\|\, R^S_{nat}\right), \quad
              R_{na} = \mathrm{softmax}\!\left(\frac{V_{na} V_{na}^\top}{\sqrt{d}}\right)

    with the vectors of sample n split into A *relation heads* :math:`V_{na}` of width d = D/A,
    whatever the numbers of attention heads of the two nets, and C the positions that count: all, or
    those of the mask. To the others nobody attends.

    Args:
        student_vectors: Queries, keys or values of all tokens, ``(N, T, D)``.
        teacher_vectors: The same of the teacher, ``(N, T, D')``; receives no gradient.
        heads: Number A of relation heads, which divides D and D'.
        mask: ``(N, T)``, True (or 1) where a position counts and False (or 0) where it is padding,
            which may hold anything; without one all positions count.
        channel_dim: 1 where the channels come behind N, as behind the convolutions of some vision
            transformers, ``(N, D, H, W)``; or a pair, the student's and the teacher's.

    Returns:
        Scalar ≥ 0: the mean over heads and positions of a sum over what they attend to; 0 where no
        position counts.

    Source: Wang et al. 2020 (arXiv 2002.10957), section 3, for values, in as many heads as the nets
    have; Wang et al. 2021 (arXiv 2012.15828), section 3, for queries, keys and values in relation
    heads, whose three losses are added. They take the mean over the positions of one sequence;
    here it is that over the whole batch, the same where all sequences have one length.
    """
    student, teacher = _tokens(student_vectors, teacher_vectors, channel_dim)
    check_positive(heads=heads)
    for name, tokens in (("student_vectors", student), ("teacher_vectors", teacher)):
        if tokens.shape[2] % heads:
            raise ArgumentError(
                "heads", f"heads must divide the width of {name}, {tokens.shape[2]}, got {heads}"
            )
    counted = None if mask is None else _counted(mask, student)
    if counted is not None:
        student, teacher = (one.masked_fill(~counted[:, :, None], 0) for one in (student, teacher))
    ours, theirs = (_log_relations(tokens, heads, counted) for tokens in (student, teacher))
    divergence = theirs.exp() * (theirs - ours)  # (N, A, T, T)
    if counted is None:
        return not_below_zero(divergence.sum(dim=3).mean())
    pairs = counted[:, None, :, None] & counted[:, None, None, :]
    total = divergence.masked_fill(~pairs, 0.0).sum()
    return not_below_zero(total / (heads * counted.sum().clamp_min(1)))


class AttentionRelation(LayerTerm):
    """Relations between tokens, summed over layers: :func:`attention_relation_loss`.

    The layers are those that put out queries, keys or values, such as a BERT's:

    >>> self_attention = "encoder.layer.-1.attention.self."
    >>> AttentionRelation([self_attention + name for name in ("query", "key", "value")])
    >>> AttentionRelation(["h.-1.attn.c_attn"], joined=True)    # GPT-2's; timm's: "attn.qkv"

    Without ``mask``, all positions count, padding as well.

    Args:
        layers: Names of layers with vectors ``(N, T, D)``, or pairs of names.
        heads: Number of relation heads, which divides the widths of both nets.
        joined: Whether a layer puts out queries, keys and values side by side, ``(N, T, 3·D)``,
            whose three losses are then added.
        channel_dim: 1 where the channels come behind N; or a pair, the student's and the teacher's.
        mask: The name of an entry of the inputs, such as ``"attention_mask"``, ``(N, T)``: where it
            is 0 or False, a position does not count.
    """

    mask: str | None = None  # in the repr only where it is set

    def __init__(
        self,
        layers: Sequence[Layer],
        heads: int = 12,
        *,
        joined: bool = False,
        channel_dim: int | tuple[int, int] = -1,
        mask: str | None = None,
    ):
        super().__init__(layers)
        check_positive(heads=heads)
        check_flag("joined", joined)
        both_sides(channel_dim)  # checks them
        check_is("mask", mask, str | None)
        self.heads, self.joined, self.channel_dim = heads, joined, channel_dim
        if mask is not None:
            self.mask = mask

    @property
    def mean_over(self) -> str:  # type: ignore[override]
        """What the loss is a mean over: the positions that a mask counts, or all of each sample."""
        return "samples" if self.mask is None else "places"

    def count(self, lesson: Lesson) -> Tensor:
        """Return the number of positions that count, or of samples where all do."""
        if self.mask is None:
            return super().count(lesson)
        return lesson.entry(self.mask).sum()

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the sum of the divergences between relations."""
        counted = None if self.mask is None else lesson.entry(self.mask)
        return self.compared(lesson, partial(self.of_layer, counted=counted))

    def of_layer(self, student: Tensor, teacher: Tensor, counted: Tensor | None = None) -> Tensor:
        """Return the loss of one layer."""
        loss = partial(
            attention_relation_loss,
            heads=self.heads,
            mask=counted,
            channel_dim=self.channel_dim,
        )
        if not self.joined:
            return loss(student, teacher)
        (one, _), (other, _) = both_sides(self.channel_dim)
        own, theirs = _thirds(student, one), _thirds(teacher, other)
        first, *others = map(loss, own, theirs)
        return sum(others, start=first)


def _thirds(features: Tensor, channel_dim: int) -> Sequence[Tensor]:
    """Take queries, keys and values apart."""
    if features.dim() < 2 or features.shape[channel_dim] % 3:
        raise ArgumentError(
            "joined",
            "joined needs layers with queries, keys and values side by side (N, T, 3·D), got "
            f"{tuple(features.shape)}",
        )
    return features.chunk(3, dim=channel_dim)


def _tokens(
    student: Tensor, teacher: Tensor, channel_dim: int | tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Check the vectors of both, lay them out as ``(N, T, D)``, and cut the teacher off."""
    names, sides = ("student_vectors", "teacher_vectors"), both_sides(channel_dim)
    own, theirs = (
        at_least_float32(channels_first(name, vectors, *side)).flatten(2).mT
        for name, vectors, side in zip(names, (student, teacher), sides, strict=True)
    )
    check_same_samples(names[0], student, names[1], teacher)
    if own.shape[1] != theirs.shape[1]:
        raise ArgumentError(
            names[0],
            f"{names[0]} and {names[1]} must hold the same tokens (N, T, D), got "
            f"{own.shape[1]} and {theirs.shape[1]}",
        )
    return own, theirs.detach()


def _counted(mask: Tensor, tokens: Tensor) -> Tensor:
    """Check a mask of tokens ``(N, T, D)``, and return it as True and False."""
    check_tensor("mask", mask)
    check_same_device("mask", mask, "student_vectors", tokens)
    if mask.shape != tokens.shape[:2] or mask.is_floating_point() or mask.is_complex():
        raise ArgumentError(
            "mask",
            f"mask must hold True and False, or 1 and 0, of shape {tuple(tokens.shape[:2])}, got "
            f"{mask.dtype} of shape {tuple(mask.shape)}",
        )
    return ~left_out_by(mask)


def _log_relations(tokens: Tensor, heads: int, counted: Tensor | None) -> Tensor:
    """Log-probabilities ``(N, A, T, T)`` with which tokens attend to those that count."""
    vectors = tokens.unflatten(2, (heads, -1)).transpose(1, 2)  # (N, A, T, d)
    scores = gram_matrix(vectors) / math.sqrt(vectors.shape[3])
    if counted is not None:  # not by −∞: a sample of padding alone would be NaN
        scores = scores.masked_fill(~counted[:, None, None, :], torch.finfo(scores.dtype).min)
    return F.log_softmax(scores, dim=3)
