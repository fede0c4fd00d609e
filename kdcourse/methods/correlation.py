r"""Which properties? — how alike the samples of a batch are: correlation congruence.

Not only what is said about each sample should agree, but also how samples lie relative to each
other. The embeddings may have different widths, and :mod:`kdcourse.relational` says what a sample
is, and what happens in many processes.
"""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_number, check_positive
from kdcourse.objective import Layer, Lesson
from kdcourse.precision import cosines
from kdcourse.relation_term import RelationTerm, both_embeddings


def correlation_congruence_loss(
    student_embeddings: Tensor, teacher_embeddings: Tensor, gamma: float = 0.4, order: int = 2
) -> Tensor:
    r"""Match the correlations between samples: correlation congruence (CC).

    .. math:: \frac{1}{N^2} \sum_{ij} \left(k(z^S_i, z^S_j) - k(z^T_i, z^T_j)\right)^2, \quad
              k(x, y) = e^{-2\gamma} \sum_{p=0}^{P} \frac{(2\gamma)^p}{p!}
              \cos(x, y)^p \approx e^{-\gamma \left\| \hat x - \hat y \right\|^2}

    The kernel is that of a Gaussian between embeddings of unit length, expanded in a Taylor series
    of order P. With P = 1 it is the bilinear kernel cos(x, y), whose loss is multiplied by
    :math:`(2\gamma e^{-2\gamma})^2`, since what is constant in both correlations does not count.
    Scaling or rotating an embedding changes nothing. A sample that is zero has a cosine of 0 with
    all, and receives no gradient.

    Args:
        student_embeddings: ``(N, D)``, N ≥ 2.
        teacher_embeddings: ``(N, D')``; receives no gradient.
        gamma: γ > 0, one over twice the squared width of the Gaussian.
        order: The order P ≥ 1 of the Taylor series.

    Returns:
        Scalar ≥ 0.

    Source: Peng et al. 2019 (arXiv 1904.01802), section 3, with γ = 0.4 and P = 2. What the
    benchmark by Tian et al. 2020 (arXiv 1910.10699) calls CC, after code of the authors, is another
    loss and no multiple of this: it has no kernel, but maps both embeddings linearly to the same
    width, takes the absolute differences δ of student and teacher, and returns the mean inner
    product of the δ of a sample and that of the next one in the batch (with a weight of 0.02).
    """
    check_number("gamma", gamma, 0.0, open_low=True)
    check_positive(order=order)
    student, teacher = both_embeddings(student_embeddings, teacher_embeddings, least=2)
    return _loss(student, teacher, gamma, order)


def _loss(student: Tensor, teacher: Tensor, gamma: float, order: int) -> Tensor:
    ours, theirs = (_correlations(embeddings, gamma, order) for embeddings in (student, teacher))
    return F.mse_loss(ours, theirs)


def _correlations(embeddings: Tensor, gamma: float, order: int) -> Tensor:
    """Return the kernel between all samples ``(N, N)`` without its constant, by Horner's rule."""
    cosine = cosines(embeddings)
    weights = [
        math.exp(p * math.log(2 * gamma) - 2 * gamma - math.lgamma(p + 1))
        for p in range(1, order + 1)
    ]
    kernel = weights.pop() * cosine
    while weights:
        kernel = (kernel + weights.pop()) * cosine
    return kernel


class CorrelationCongruence(RelationTerm):
    """Correlations between samples, of layers flattened to ``(N, D)``, summed over layers.

    The loss is :func:`correlation_congruence_loss`, which explains the other arguments.
    """

    least = 2

    def __init__(
        self, layers: Sequence[Layer] = ("embedding",), gamma: float = 0.4, order: int = 2
    ):
        super().__init__(layers)
        check_number("gamma", gamma, 0.0, open_low=True)
        check_positive(order=order)
        self.gamma, self.order = gamma, order

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the squared difference of the correlations, summed over layers."""
        return self.related(lesson, lambda s, t: _loss(s, t, self.gamma, self.order))
