r"""Which properties? — relations within predictions: DIST.

A student that is much smaller than its teacher cannot predict the same probabilities. DIST asks for
less: that they are large and small *together*. Two vectors are compared by their correlation, which
does not see where they lie, nor on what scale:

* a place's K probabilities, a row: which classes does it look like? (*inter-class*)
* a class's probabilities at all places, a column: which places look like it? (*intra-class*)
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse import processes
from kdcourse.checks import check_number, check_temperature
from kdcourse.logit import _at_places
from kdcourse.many_classes import HOTTEST
from kdcourse.objective import Lesson
from kdcourse.precision import at_least_float32, product, widest
from kdcourse.prediction_term import PredictionTerm


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
    student, teacher, weights = _at_places(
        student_logits, teacher_logits, class_dim, mask=mask, weight=weight
    )
    # In float64: the squares of small probabilities leave the range of float32.
    wide = widest(student)
    pair = [F.softmax(logits.to(wide) / temperature, dim=1) for logits in (student, teacher)]
    counted = pair[0].new_ones(len(student)) if weights is None else weights.to(wide)
    sums = [counted.sum(), *(product(counted, p) for p in pair)]
    total, *sums = _over_processes(sums, slope=0)  # moments have no slope along the means
    whole = total.masked_fill(total == 0, torch.inf)  # of nothing, every share is zero
    share, means = counted / whole, [one / whole for one in sums]

    across = [p.mean(dim=1, keepdim=True) for p in pair]
    rho = _correlation([one.mean(dim=1) for one in _products(pair, across)], across)
    parts = [product(share, one) for one in (1 - rho, *_products(pair, means))]
    inter, *moments = _over_processes(parts, slope=processes.count())
    intra = (1 - _correlation(moments, means)).mean() * (total > 0)
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


def _products(pair: Sequence[Tensor], means: Sequence[Tensor]) -> list[Tensor]:
    """What covariance and both variances are means of."""
    u, v = (p - mean for p, mean in zip(pair, means, strict=True))
    return [u * v, u * u, v * v]


def _correlation(moments: Sequence[Tensor], means: Sequence[Tensor]) -> Tensor:
    """Divide a covariance by both deviations; 0 where one of them is but rounding."""
    rho, *variances = moments
    for variance, mean in zip(variances, means, strict=True):
        rounding = 64 * torch.finfo(mean.dtype).eps * mean.detach().view_as(variance)
        rho = rho / variance.masked_fill(variance <= rounding.square(), torch.inf).sqrt()
    return rho


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
