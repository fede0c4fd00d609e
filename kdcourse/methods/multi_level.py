r"""Which properties? — predictions at three levels: multi-level logit distillation.

What a batch of predictions says of one sample is matched by KD. It also says which samples look
alike, and which classes are confused with each other: both are inner products of predictions, and a
student learns to have the teacher's. All this is done at several temperatures at once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_number, check_temperature
from kdcourse.errors import ArgumentError
from kdcourse.objective import Lesson
from kdcourse.precision import (
    HOTTEST,
    at_least_float32,
    dtype_for,
    gram_matrix,
    not_below_zero,
    product,
)
from kdcourse.prediction_term import PredictionTerm
from kdcourse.predictions import both_at_places, expected_of_rows, place_mean, to_divide_by
from kdcourse.processes import all_pairs, all_samples

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


def multi_level_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperatures: Sequence[float] = TEMPERATURES,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Multi-level logit distillation (MLLD): KD, and relations of samples and of classes.

    .. math:: \sum_\tau \left(\alpha\, \frac{\tau^2}{N} \sum_n KL\big(p_T^{(n)} \| p_S^{(n)}\big)
              + \frac\beta N \left\| P_T P_T^\top - P_S P_S^\top \right\|_F^2
              + \frac\gamma K \left\| P_T^\top P_T - P_S^\top P_S \right\|_F^2 \right)

    where P are N rows of K probabilities softened by τ. An entry of the N×N matrix is how probable
    it is that two samples belong to one class; one of the K×K matrix, how often a sample of the
    batch is taken for both of two classes.

    *Batches.* The relations are sums over a batch, and not means: the second part grows as N, the
    third as N². Neither has a factor τ²: for high τ they vanish, as 1/τ⁴ and 1/τ².

    *Places.* A row is a place that counts: a sample, a token or a pixel. A weight of 2 is the place
    twice. What does not count may hold anything; if nothing counts, the loss is zero. Where places
    are many, no N×N matrix is made.

    *Many processes.* The places of all of them are gathered, as samples are by
    :func:`kdcourse.processes.all_samples`.

    Args:
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        teacher_logits: Of the same shape; receives no gradient.
        temperatures: All τ, for both student and teacher, each from 10⁻⁹ to 10⁶.
        alpha: Weight of the level of samples, ≥ 0.
        beta: Weight of the relations between samples, ≥ 0.
        gamma: Weight of the relations between classes, ≥ 0.
        class_dim, mask, weight: As in :func:`kdcourse.logit.kd_loss`.

    Returns:
        Scalar ≥ 0.

    Source: Jin, Wang, Lin 2023 (CVPR, "Multi-Level Logit Distillation"), where the first part is a
    sum over samples and has no τ². In the authors' code it is as here; it sees two views of a batch
    and multiplies all by 0.9. Of the one with weak augmentation it takes half of all three levels:
    it means to leave out what the teacher is surest of, but multiplies means by masks, which hold
    for half of the samples and classes. Of the other view it takes, in whole, the first part at
    τ = 3, 4, 5; that at 2 and 6 is again of the first view. Relations there are computed, and left
    out. Its recipe (``kdcourse/recipes/cifar100.toml``) does so by :class:`OneView
    <kdcourse.view_term.OneView>`.
    """
    _check(temperatures, alpha, beta, gamma)
    student, teacher, weights = both_at_places(
        student_logits, teacher_logits, class_dim, mask=mask, weight=weight
    )
    student, teacher = all_pairs(student, teacher)
    weights = None if weights is None else all_samples(weights)
    instance, samples, classes = _levels(student, teacher, weights, temperatures)
    loss = alpha * instance + beta * samples + gamma * classes
    loss = not_below_zero(loss)
    return loss.to(at_least_float32(student_logits).dtype)


class MultiLevelKD(PredictionTerm):
    """KD, and relations of samples and classes, at many temperatures: :func:`multi_level_loss`.

    Args:
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.
    """

    needs_logits = True
    mean_over = "batch"

    def __init__(
        self,
        temperatures: Sequence[float] = TEMPERATURES,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        *,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        _check(temperatures, alpha, beta, gamma)
        self.temperatures = tuple(temperatures)
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the weighted sum of the three levels, over the places of all processes."""
        return multi_level_loss(
            lesson.student_logits,
            lesson.teacher_logits,
            self.temperatures,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
        )


def _check(temperatures: Sequence[float], alpha: float, beta: float, gamma: float) -> None:
    if not isinstance(temperatures, (tuple, list)) or len(temperatures) == 0:
        raise ArgumentError(
            "temperatures", f"temperatures must be a list of at least one, got {temperatures!r}"
        )
    for temperature in temperatures:
        check_temperature(temperature, "temperatures", high=HOTTEST)
    check_number("alpha", alpha, 0.0)
    check_number("beta", beta, 0.0)
    check_number("gamma", gamma, 0.0)


def _levels(
    student: Tensor, teacher: Tensor, weights: Tensor | None, temperatures: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what differs between samples, between their relations, and between those of classes.

    Predictions are ``(T, N, K)``, for T temperatures.
    """
    dtype = dtype_for(student, max(temperatures))
    log_p, log_q = (
        F.log_softmax(torch.stack([z.to(dtype) / each for each in temperatures]), dim=-1)
        for z in (teacher, student)
    )
    p, q = log_p.exp(), log_q.exp()
    divergence = expected_of_rows(p.flatten(0, 1), (log_p - log_q).flatten(0, 1)).view(p.shape[:2])
    means = zip(temperatures, (place_mean(one, weights) for one in divergence), strict=True)
    instance = torch.stack([tau**2 * mean for tau, mean in means]).sum()
    if weights is not None:
        root = weights.to(dtype).sqrt()[:, None]
        p, q = p * root, q * root
    places, classes = p.shape[1:]
    relations = _of_many if places > 2 * classes else _of_few
    of_samples, of_classes = relations(p, q)
    number = places if weights is None else to_divide_by(weights)
    return instance, of_samples / number, of_classes / classes


def _of_few(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squares of P Pᵀ − Q Qᵀ, and of Pᵀ P − Qᵀ Q."""
    grams = _GramDifference.apply(p, q), _GramDifference.apply(p.mT, q.mT)
    return grams[0].square().sum(), grams[1].square().sum()


def _of_many(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same, without a matrix of all pairs of rows.

    With the mean A and the difference D of both, P Pᵀ − Q Qᵀ = D Aᵀ + A Dᵀ, whose square is made of
    Aᵀ A, Dᵀ D and Aᵀ D.
    """
    classes = p.shape[-1]
    blocks = gram_matrix(torch.cat([(p + q) / 2, p - q], dim=-1).mT)
    above, below = blocks.split(classes, dim=-2)
    both = above[..., classes:]
    of_rows = (above[..., :classes] * below[..., classes:]).sum() + (both * both.mT).sum()
    return 2 * of_rows, (both + both.mT).square().sum()


class _GramDifference(torch.autograd.Function):
    """P Pᵀ − Q Qᵀ, by one product, and another one backward; P receives no gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, q: Tensor) -> Tensor:
        half = product(p - q, (p + q).mT / 2)  # no small difference of large products
        return half + half.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, product(-gradient - gradient.mT, *ctx.saved_tensors)
