r"""Which properties? — relations within predictions: DIST.

A student that is much smaller than its teacher cannot predict the same probabilities. DIST asks for
less: that they are large and small *together*. Two vectors are compared by their correlation, which
does not see where they lie, nor on what scale:

* a place's K probabilities, a row: which classes does it look like? (*inter-class*)
* a class's probabilities at all places, a column: which places look like it? (*intra-class*)
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse import processes
from kdcourse.checks import check_number, check_temperature
from kdcourse.many_classes import HOT, HOTTEST
from kdcourse.objective import Lesson
from kdcourse.precision import at_least_float32, product, widest
from kdcourse.prediction_term import PredictionTerm
from kdcourse.predictions import both_at_places


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""DIST: one minus the correlation of predictions, over classes and over places.

    .. math:: \beta \cdot \frac1N \sum_n \left(1 - \rho\big(p_S^{(n,\cdot)},\, p_T^{(n,\cdot)}\big)
              \right) + \gamma \cdot \frac1K \sum_k \left(1 - \rho\big(p_S^{(\cdot,k)},\,
              p_T^{(\cdot,k)}\big)\right), \quad
              \rho(u, v) = \frac{\operatorname{Cov}(u, v)}{\sigma(u)\, \sigma(v)}

    with probabilities softened by τ, as N rows of K classes.

    *Places.* A row is a place that counts: a sample, a token or a pixel; a column runs over all of
    these. With weights :math:`w_n`, both are those of a sample drawn with probability
    :math:`\omega_n = w_n / \sum_m w_m`: the first mean is :math:`\sum_n \omega_n (\dots)`, and a
    column has the mean :math:`\mu = \sum_n \omega_n u_n` and the covariance
    :math:`\sum_n \omega_n (u_n - \mu_u)(v_n - \mu_v)`. A weight of 2 is the place twice. What does
    not count may hold anything; if nothing counts, the loss is zero.

    *Without τ².* A correlation does not change with the scale of the predictions: for high τ it
    becomes that of the logits, and its gradient does not vanish, as that of KL does.

    *Constants* have no correlation, which counts as ρ = 0, without gradient: a row that is uniform,
    a class of one probability at all places, and so every class where there is a single place.

    *Many processes.* Columns run over the places of all processes, which send each other sums, some
    5 K numbers, and no predictions. Every process then returns the loss of the whole batch, and
    gradients that are right once they have been averaged over the processes.

    Args:
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        teacher_logits: Of the same shape; receives no gradient.
        temperature: τ, for both student and teacher, from 10⁻⁹ to 10⁶.
        beta: Weight of the part over classes, ≥ 0.
        gamma: Weight of the part over places, ≥ 0.
        class_dim, mask, weight: As in :func:`kdcourse.logit.kd_loss`.

    Returns:
        Scalar from 0 to 2 (β + γ).

    Source: Huang et al. 2022 (arXiv 2205.10536), and its appendix A.1 for τ without a factor. The
    authors' code (β = γ = 1, and a weight for the sum) multiplies both parts by τ². It adds 10⁻⁸ to
    the product of the two norms in ρ, which draws the correlation of classes with hardly any
    probability towards 0; here it is that of the formula.
    """
    check_number("beta", beta, 0.0)
    check_number("gamma", gamma, 0.0)
    check_temperature(temperature, high=HOTTEST)
    student, teacher, weights = both_at_places(
        student_logits, teacher_logits, class_dim, mask=mask, weight=weight
    )
    # Hot predictions hardly differ.
    dtype = widest(student) if temperature >= HOT else at_least_float32(student).dtype
    pair = [F.softmax(logits.to(dtype) / temperature, dim=1) for logits in (student, teacher)]
    counted = pair[0].new_ones(len(student)) if weights is None else weights.to(dtype)
    sums = [counted.sum(), *(product(counted[None], p)[0] for p in pair)]
    total, *sums = _over_processes(sums, slope=0)  # no correlation has a slope along the means
    share = counted / total.masked_fill(total == 0, torch.inf)  # of nothing, it is zero
    means = [one / total.masked_fill(total == 0, 1.0) for one in sums]

    even = torch.full_like(total, 1 / student.shape[1])  # the mean and the share of each class
    rho = _correlation(*_moments([_deviations(p, even, even) for p in pair], dim=1))
    columns = [_deviations(*one, share[:, None]) for one in zip(pair, means, strict=True)]
    parts = [product(share, 1 - rho), *_moments(columns, dim=0)]
    inter, *moments = _over_processes(parts, slope=processes.count())
    intra = (1 - _correlation(*moments)).mean() * (total > 0)
    loss = beta * inter + gamma * intra
    loss = loss + (-loss).clamp_min(0).detach()  # not below zero by rounding
    return loss.to(at_least_float32(student_logits).dtype)


class DIST(PredictionTerm):
    """Correlations within predictions: :func:`dist_loss`, which explains the arguments.

    Args:
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.
    """

    needs_logits = True
    mean_over = "batch"  # as a column is compared as a whole

    def __init__(
        self,
        temperature: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        *,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_temperature(temperature, high=HOTTEST)
        check_number("beta", beta, 0.0)
        check_number("gamma", gamma, 0.0)
        self.temperature = temperature
        self.beta = beta
        self.gamma = gamma

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the weighted sum of both parts, over the places of all processes."""
        return dist_loss(
            lesson.student_logits,
            lesson.teacher_logits,
            self.temperature,
            beta=self.beta,
            gamma=self.gamma,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
        )


def _deviations(p: Tensor, mean: Tensor, share: Tensor) -> Tensor:
    """Return deviations from a mean in its units, so that their squares keep within the range.

    They are multiplied by the roots of shares: sums of squares are then variances.
    """
    return share.sqrt() * (p - mean) / mean.masked_fill(mean == 0, 1.0)


def _moments(pair: list[Tensor], dim: int) -> list[Tensor]:
    """Return the covariance of two rows of deviations, and both variances."""
    squares = [torch.linalg.vector_norm(one, dim=dim).square() for one in pair]
    return [(pair[0] * pair[1]).sum(dim=dim), *squares]


def _correlation(covariance: Tensor, *variances: Tensor) -> Tensor:
    """Divide a covariance by both deviations; 0 where one of them is but rounding."""
    rounding = (64 * torch.finfo(covariance.dtype).eps) ** 2
    for variance in variances:
        deviation = variance.masked_fill(variance <= rounding, torch.inf).sqrt()
        covariance = covariance / deviation
    return covariance


def _over_processes(sums: list[Tensor], *, slope: int) -> list[Tensor]:
    """Add up scalars and vectors over all processes, in one message.

    Where there are others, gradients reach this process's own summands only, times a slope: the
    number of processes, as with :func:`kdcourse.processes.all_samples`.
    """
    if processes.count() == 1:
        return sums
    own = torch.cat([one.view(-1) for one in sums])
    whole = processes.total(own) + slope * (own - own.detach())
    pieces = whole.split([one.numel() for one in sums])
    return [piece.view_as(one) for piece, one in zip(pieces, sums, strict=True)]
