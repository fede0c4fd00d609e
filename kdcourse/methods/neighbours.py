r"""Which properties? — who is likely to be whose neighbour.

Each sample of a batch picks another one at random, the more likely the more alike their embeddings
are; a student learns to pick as its teacher does. The embeddings may have different widths, and
:mod:`kdcourse.relational` says what a sample is, and what happens in many processes.
"""

import torch
from torch import Tensor

from kdcourse.known_gradient import with_gradient
from kdcourse.objective import Lesson
from kdcourse.precision import inverse_norms, not_below_zero, product
from kdcourse.relation_term import RelationTerm, both_embeddings, chunks

LEAST_ALIKE = 1e-7  # no two samples are less alike: their logarithm is finite


def neighbour_loss(student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
    r"""Match the probabilities with which samples pick each other: probabilistic transfer (PKT).

    .. math:: \frac1N \sum_i \sum_{j \ne i} p^T_{j|i}
              \left(\log p^T_{j|i} - \log p^S_{j|i}\right), \quad
              p_{j|i} = \frac{k_{ij}}{\sum_{l \ne i} k_{il}}, \quad
              k_{ij} = \tfrac12 \left(1 + \cos(z_i, z_j)\right)

    Scaling or rotating an embedding changes nothing. A sample that is zero has a cosine of 0 with
    all others, and receives no gradient from them. No k is below 10⁻⁷: samples that are opposite
    send each other no gradient through it. The cosines of a few samples at a time are made and
    forgotten, and the gradient is summed up on the way.

    Args:
        student_embeddings: ``(N, D)``, N ≥ 2.
        teacher_embeddings: ``(N, D')``; receives no gradient.

    Returns:
        Scalar ≥ 0 in nats, once differentiable.

    Source: Passalis, Tefas 2018 (arXiv 1803.10837), section 3, with the cosine kernel and without a
    bandwidth to choose. There it is a sum over i, N times this. The authors' code takes the mean
    over all N² pairs, those of a sample with itself included, and adds 10⁻⁷ to norms and to both p
    in the logarithm.
    """
    return _loss(*both_embeddings(student_embeddings, teacher_embeddings, least=2))


def _loss(student: Tensor, teacher: Tensor) -> Tensor:
    with torch.no_grad():
        loss, gradient = _loss_and_gradient(student, teacher)
    return with_gradient(student, not_below_zero(loss), gradient)


def _loss_and_gradient(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Let a few samples pick at a time, so that there are never N × N cosines.

    For a = 1 + cos = 2k: ∂L/∂cos_ij = (1/Σ_l a_il − p_ij/a_ij) / N, with p of the teacher.
    """
    samples, inverse = len(student), inverse_norms(student)
    own, theirs = student * inverse, teacher * inverse_norms(teacher)
    loss, pull = student.new_zeros(()), torch.zeros_like(own)
    for rows in chunks(student, samples):
        alike, p = _alike(own, rows), _alike(theirs, rows)
        total = alike.sum(dim=1, keepdim=True)
        p = p.div_(p.sum(dim=1, keepdim=True))
        slope = p / alike
        ratio = slope * total
        ratio.diagonal(rows.start).fill_(1.0)  # where both are 0
        loss = loss + ratio.log_().mul_(p).sum()
        slope = (1 / total).sub(slope).masked_fill_(alike <= 2 * LEAST_ALIKE, 0.0)
        if len(slope) == samples:  # one product does for both ends of a pair
            pull = product(slope + slope.mT, own)
        else:
            pull = pull + product(slope.mT, own[rows])
            pull[rows] += product(slope, own)
    along = (pull * own).sum(dim=1, keepdim=True)  # no cosine changes with a row's length
    return loss / samples, pull.sub_(along * own).mul_(inverse / samples)


def _alike(unit: Tensor, rows: slice) -> Tensor:
    """Return 1 + the cosines of some samples with all, 0 for a sample and itself."""
    alike = product(unit[rows], unit.mT).add_(1).clamp_min_(2 * LEAST_ALIKE)
    alike.diagonal(rows.start).zero_()
    return alike


class Neighbours(RelationTerm):
    """Who picks whom, of layers flattened to ``(N, D)``: :func:`neighbour_loss`."""

    least = 2

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence of the picks, summed over layers."""
        return self.related(lesson, _loss)
