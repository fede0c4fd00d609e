r"""Which properties? — who is likely to be whose neighbour.

Each sample of a batch picks another one at random, the more likely the more alike their embeddings
are; a student learns to pick as its teacher does. The embeddings may have different widths, and
:mod:`kdcourse.relational` says what a sample is, and what happens in many processes.
"""

import torch
from torch import Tensor

from kdcourse.objective import Lesson
from kdcourse.precision import cosines, not_below_zero
from kdcourse.relation_term import RelationTerm, both_embeddings

LEAST_ALIKE = 1e-7  # no two samples are less alike: their logarithm is finite


def neighbour_loss(student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
    r"""Match the probabilities with which samples pick each other: probabilistic transfer (PKT).

    .. math:: \frac1N \sum_i \sum_{j \ne i} p^T_{j|i}
              \left(\log p^T_{j|i} - \log p^S_{j|i}\right), \quad
              p_{j|i} = \frac{k_{ij}}{\sum_{l \ne i} k_{il}}, \quad
              k_{ij} = \tfrac12 \left(1 + \cos(z_i, z_j)\right)

    Scaling or rotating an embedding changes nothing. A sample that is zero has a cosine of 0 with
    all others, and receives no gradient from them. No k is below 10⁻⁷: samples that are opposite
    send each other no gradient through it.

    Args:
        student_embeddings: ``(N, D)``, N ≥ 2.
        teacher_embeddings: ``(N, D')``; receives no gradient.

    Returns:
        Scalar ≥ 0 in nats.

    Source: Passalis, Tefas 2018 (arXiv 1803.10837), section 3, with the cosine kernel and without a
    bandwidth to choose. There it is a sum over i, N times this. The authors' code takes the mean
    over all N² pairs, those of a sample with itself included, and adds 10⁻⁷ to norms and to both p
    in the logarithm.
    """
    return _loss(*both_embeddings(student_embeddings, teacher_embeddings, least=2))


def _loss(student: Tensor, teacher: Tensor) -> Tensor:
    itself = torch.eye(len(student), dtype=torch.bool, device=student.device)
    log_q, log_p = (_log_neighbours(one, itself) for one in (student, teacher))
    loss = (log_p.exp().masked_fill(itself, 0.0) * (log_p - log_q)).sum() / len(student)
    return not_below_zero(loss)


def _log_neighbours(embeddings: Tensor, itself: Tensor) -> Tensor:
    """Return log-probabilities ``(N, N)``, with any number for a sample and itself."""
    alike = (1 + cosines(embeddings)).clamp_min(2 * LEAST_ALIKE)
    others = alike.masked_fill(itself, 0.0).sum(dim=1, keepdim=True)
    return alike.log() - others.log()


class Neighbours(RelationTerm):
    """Who picks whom, of layers flattened to ``(N, D)``: :func:`neighbour_loss`."""

    least = 2

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence of the picks, summed over layers."""
        return self.related(lesson, _loss)
