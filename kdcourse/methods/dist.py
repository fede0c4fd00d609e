r"""Which properties? — relations within predictions: DIST.

A student that is much smaller than its teacher cannot predict the same probabilities. DIST asks for
less: that they are large and small *together*. Two vectors are compared by their correlation, which
sees neither their offset nor their scale:

* a place's K probabilities, a row: which classes does it look like? (*inter-class*)
* a class's probabilities at all places, a column: which places look like it? (*intra-class*)
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse import processes
from kdcourse.checks import check_number, check_temperature
from kdcourse.known_gradient import with_gradient
from kdcourse.objective import Lesson
from kdcourse.precision import HOTTEST, at_least_float32, dtype_for, product
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
    a class of one probability at all places, and so every class where there is a single place. So
    does a class that is less probable on average than any normal number of its precision.

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
        Scalar from 0 to 2 (β + γ), once differentiable.

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
    with torch.no_grad():
        loss, gradient = _loss_and_gradient(student, teacher, weights, temperature, beta, gamma)
    loss = loss + (-loss).clamp_min(0)  # not below zero by rounding
    return with_gradient(student, loss.to(at_least_float32(student).dtype), gradient)


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


def _loss_and_gradient(
    student: Tensor,
    teacher: Tensor,
    weights: Tensor | None,
    temperature: float,
    beta: float,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    r"""Return the loss, and its gradient in the student's logits ``(N, K)``.

    That of a correlation, :math:`\partial\rho / \partial u = (\hat v - \rho\, \hat u) / \sigma(u)`
    with :math:`\hat u, \hat v` of unit variance, takes half of autograd's time.
    """
    dtype = dtype_for(student, temperature)
    logits = torch.stack([student.to(dtype), teacher.to(dtype)])
    both = F.softmax(logits if temperature == 1 else logits / temperature, dim=2)  # (2, N, K)
    counted = both.new_ones(len(student)) if weights is None else weights.to(dtype)
    if weights is not None:  # what does not count may be far from the means of what does
        both = both.masked_fill((weights == 0)[:, None], 0.0)
    total, sums = _over_processes([counted.sum(), product(counted, both)])
    share = counted / total.masked_fill(total == 0, torch.inf)  # of nothing, it is zero
    classes = student.shape[1]

    rows = both - 1 / classes
    products = (rows[0] * rows[1]).sum(dim=1, keepdim=True)
    squares = torch.linalg.vector_norm(rows, dim=2, keepdim=True).square()
    rho, of_rows = _correlation(rows, squares, products, classes**-0.5)
    inter = product(share, 1 - rho[:, 0])

    # Deviations from the means in their units, so that their squares keep within the range. A mean
    # below it counts as zero, as its reciprocal is no number.
    some = sums > total * torch.finfo(dtype).tiny
    ratio = both * (total / sums.masked_fill(~some, torch.inf))[:, None]
    columns = ratio - some[:, None].to(dtype)
    products = product((columns[0] * columns[1]).mT, share)
    squares = product(share, columns.square())
    inter, products, squares = _over_processes([inter, products, squares])
    rho, of_columns = _correlation(columns, squares, products, 1.0)
    intra = (1 - rho).mean() * (total > 0)

    slope = -processes.count() / temperature  # as with kdcourse.processes.all_samples
    slopes = torch.addcmul(beta * of_rows * both[0], of_columns, ratio[0], value=gamma / classes)
    slopes = slopes * (slope * share)[:, None]
    gradient = torch.addcmul(slopes, both[0], slopes.sum(dim=1, keepdim=True), value=-1)
    return beta * inter + gamma * intra, gradient


def _correlation(
    both: Tensor, squares: Tensor, products: Tensor, unit: float
) -> tuple[Tensor, Tensor]:
    """Return the correlation of deviations ``(2, N, K)``, and its gradient in the first ones.

    Both are 0 where one of the two sums of squares is but rounding of numbers that have this unit.
    """
    rounding = (64 * torch.finfo(squares.dtype).eps * unit) ** 2
    own, theirs = squares.masked_fill(squares <= rounding, torch.inf).rsqrt()
    inverse = own * theirs
    rho = products * inverse
    return rho, torch.addcmul(both[1] * inverse, both[0], rho * own.square(), value=-1)


def _over_processes(sums: list[Tensor]) -> list[Tensor]:
    """Add up scalars and vectors over all processes, in one message."""
    if processes.count() == 1:
        return sums
    whole = processes.total(torch.cat([one.view(-1) for one in sums]))
    pieces = whole.split([one.numel() for one in sums])
    return [piece.view_as(one) for piece, one in zip(pieces, sums, strict=True)]
