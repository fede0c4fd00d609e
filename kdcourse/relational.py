r"""Which properties? — relations between samples.

Not what the teacher says of one sample, but how it places the samples of a batch against each
other: how far apart two of them are, and what angle three of them form. That says nothing about
the axes of the embedding, so student and teacher may have different widths, and the losses do not
change when an embedding is moved, rotated or (for distances and angles) scaled.

Every function takes one embedding a sample, ``(N, D)``, computes in float32 at least, returns a
scalar and sends no gradient to the teacher. Bad input raises ``ValueError`` or ``TypeError``
naming the argument.

*A sample of tokens is the whole sequence.* Layers with more than one number a position, ``(N, C, H,
W)`` or a transformer's ``(N, T, C)``, are flattened to one embedding a sample, so that sequences
are compared token by token and must have one length. (How the tokens of one sequence place each
other is told by :func:`kdcourse.methods.attention_relation.attention_relation_loss`.)

*Many processes.* Under ``torchrun`` the samples of all processes are compared with each other.
Every process then returns the loss of the whole batch, and gradients that are right once
``DistributedDataParallel`` has averaged them over the processes, as it does with any other loss.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_floating, check_matrix
from kdcourse.errors import ArgumentError
from kdcourse.known_gradient import once_only, with_gradient
from kdcourse.objective import LayerTerm, Lesson
from kdcourse.precision import (
    at_least_float32,
    full_precision,
    gram_matrix,
    product,
    readable,
    widest,
)
from kdcourse.relation_term import RelationTerm, both_embeddings, chunks


def rkd_distance_loss(student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
    r"""Match the distances between samples, each net's in units of its own mean distance.

    .. math:: \frac{1}{N(N-1)} \sum_{i \ne j} \ell_1\!\left(\frac{d^S_{ij}}{\mu_S},
              \frac{d^T_{ij}}{\mu_T}\right), \quad d_{ij} = \|z_i - z_j\|_2, \quad
              \mu = \frac{1}{N(N-1)} \sum_{i \ne j} d_{ij}

    with the Huber loss :math:`\ell_1` of width 1. Moving, rotating or scaling either embedding
    changes nothing. Two samples that coincide have distance 0, and send each other no gradient.

    Args:
        student_embeddings: ``(N, D)``, N ≥ 2.
        teacher_embeddings: ``(N, D')``; receives no gradient.

    Returns:
        Scalar ≥ 0.

    Source: Park et al. 2019 (arXiv 1904.05068), section 3.2.1. The authors' code means over all N²
    pairs, a sample with itself included, which makes it smaller by the factor (N − 1)/N. There
    no two samples are closer than 10⁻⁶: those that coincide count in μ as here, but where all
    samples of a net coincide, each distance is its mean there and 0 here.
    """
    return _distance_loss(*both_embeddings(student_embeddings, teacher_embeddings, least=2))


def _distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    ours, theirs = _in_units_of_mean(distances(student)), _in_units_of_mean(distances(teacher))
    return F.smooth_l1_loss(ours, theirs, reduction="sum") / (len(student) * (len(student) - 1))


def rkd_angle_loss(student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
    r"""Match the angles that triples of samples form.

    .. math:: \frac{1}{N(N-1)(N-2)} \sum_{i \ne j \ne k \ne i}
              \ell_1(\cos\angle^S_{ijk},\, \cos\angle^T_{ijk}), \quad
              \cos\angle_{ijk} = \frac{(z_i - z_j)\cdot(z_k - z_j)}{d_{ij}\, d_{kj}}
              = \frac{d_{ij}^2 + d_{kj}^2 - d_{ik}^2}{2\, d_{ij}\, d_{kj}}

    with the Huber loss :math:`\ell_1` of width 1. By the law of cosines (the last form) only the
    N × N distances are needed, not the N × N × D differences; the N³ cosines are made in chunks
    and forgotten, and the gradient is summed up on the way. On a GPU, where each launch costs more
    than some arithmetic, few samples are taken all at once, by the first form. A vertex that
    coincides with one of the other two forms an angle of cosine 0, without gradient.

    Args:
        student_embeddings: ``(N, D)``, N ≥ 3.
        teacher_embeddings: ``(N, D')``; receives no gradient.

    Returns:
        Scalar ≥ 0, once differentiable.

    Source: Park et al. 2019 (arXiv 1904.05068), section 3.2.2. The authors' code means over all N³
    triples, and is (N − 1)(N − 2)/N² times this, plus P/N³ where P pairs of samples coincide in
    one net only: its cos∠iji is 1 if i and j lie apart and 0 if they coincide, so that iji and
    jij each add a Huber loss of ½. The gradient of embeddings that coincide in the student is there
    divided by 10⁻¹².
    """
    return _angle_loss(*both_embeddings(student_embeddings, teacher_embeddings, least=3))


def _angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    made = _of_all_differences
    if not _few(max(student.numel(), teacher.numel(), len(student) ** 2) * len(student), student):
        student, teacher, made = distances(student), distances(teacher), _of_distances
    with torch.no_grad():
        loss, gradient = made(student, teacher)
    return with_gradient(student, loss, gradient)


def similarity_preserving_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Match which samples of a batch look alike: normalised matrices of inner products.

    .. math:: \frac{1}{N^2} \left\| \tilde G_S - \tilde G_T \right\|_F^2, \quad
              G = F F^\top, \quad \tilde G_{i\cdot} = G_{i\cdot} / \|G_{i\cdot}\|_2

    with one flattened row of F a sample: of tokens ``(N, T, C)``, a whole sequence. Rotating or
    scaling an embedding changes nothing; moving it does. A sample whose features are all zero has a
    row of zeros.

    Args:
        student_features: ``(N, …)``, of any shape behind N.
        teacher_features: ``(N, …)``; receives no gradient.

    Returns:
        Scalar ≥ 0.

    Source: Tung, Mori 2019 (arXiv 1907.09682), section 3.
    """
    pair = []
    for name, features in (
        ("student_features", student_features),
        ("teacher_features", teacher_features),
    ):
        check_floating(name, features)
        if features.dim() < 2:
            raise ArgumentError(name, f"{name} must have shape (N, …), got {tuple(features.shape)}")
        pair.append(features.flatten(1))
    student, teacher = both_embeddings(*pair, least=1, what="features")
    difference = _similarities(student) - _similarities(teacher)
    return difference.square().mean().to(student.dtype)


class RKDDistance(RelationTerm):
    """Distances between samples, of layers flattened to ``(N, D)``: :func:`rkd_distance_loss`."""

    least = 2

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the loss of the distances, summed over layers."""
        return self.related(lesson, _distance_loss)


class RKDAngle(RelationTerm):
    """Angles of triples of samples, of layers flattened to ``(N, D)``: :func:`rkd_angle_loss`."""

    least = 3

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the loss of the angles, summed over layers."""
        return self.related(lesson, _angle_loss)


class SimilarityPreserving(LayerTerm):
    """Which samples look alike, by the outputs of layers: :func:`similarity_preserving_loss`."""

    mean_over = "batch"

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the loss of the similarity matrices, summed over layers."""
        return self.compared(lesson, similarity_preserving_loss)


def distances(embeddings: Tensor) -> Tensor:
    """Euclidean distances between all pairs of samples, zero on the diagonal.

    Each pair is subtracted before it is squared, so nothing is lost where the embedding lies far
    from the origin. Two samples that coincide send each other no gradient.

    Args:
        embeddings: ``(N, D)``.

    Returns:
        ``(N, N)``, once differentiable.
    """
    check_matrix("embeddings", embeddings, "D")
    return _Distances.apply(at_least_float32(embeddings))


HALVES = "cpu"  # where computing a distance once and writing it twice takes less time than twice


class _Distances(torch.autograd.Function):
    """Distances of all pairs, and their gradient as one product of matrices."""

    generate_vmap_rule = True

    @staticmethod
    def forward(embeddings: Tensor) -> Tensor:
        if embeddings.device.type != HALVES:  # one kernel; and MPS has no pdist
            direct = "donot_use_mm_for_euclid_dist"
            return torch.cdist(embeddings, embeddings, compute_mode=direct)
        samples = len(embeddings)
        first, second = torch.triu_indices(samples, samples, 1, device=embeddings.device)
        square = embeddings.new_zeros(samples, samples)
        square[first, second] = torch.pdist(embeddings)
        return square + square.T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    @once_only
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        embeddings, distance = ctx.saved_tensors
        centred = embeddings - embeddings.mean(dim=0)  # the products below see no offset
        weight = (gradient + gradient.T) / _or_infinite(distance)
        return weight.sum(dim=1, keepdim=True) * centred - product(weight, centred)


FEW = {"cpu": 0, "other": 2**25}  # numbers that a GPU handles in the time of a few launches


def _few(numbers: int, samples: Tensor) -> bool:
    """Whether so many numbers take less time than the launches that would save some of them."""
    return numbers <= FEW.get(samples.device.type, FEW["other"])


def _of_distances(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the angle loss of N × N distances and its gradient, a few vertices at a time.

    From cos_ijk = (d_ij² + d_kj² − d_ik²) / (2 d_ij d_kj):
    ∂cos/∂d_ij = 1/d_kj − cos/d_ij (for d_kj alike), and ∂cos/∂d_ik = −d_ik / (d_ij d_kj).
    """
    samples, inverse = len(student), 1 / _or_infinite(student)
    student_sides = student.square(), inverse
    teacher_sides = teacher.square(), 1 / _or_infinite(teacher)
    loss, opposite, adjacent = student.new_zeros(()), torch.zeros_like(student), []
    for vertices in chunks(student, samples**2):
        cosine = _cosines(*student_sides, vertices)  # (J, N, N)
        difference = cosine - _cosines(*teacher_sides, vertices)
        difference.diagonal(dim1=1, dim2=2).zero_()  # i = k is no triple
        slope = difference.clamp(-1, 1)  # of the Huber loss, as above
        loss = loss + difference.sub_(slope, alpha=0.5).mul_(slope).sum()
        along = torch.mul(cosine, slope).sum(dim=2)
        near = inverse[vertices]  # (J, N): 1 / d_ij from vertex j
        pull = product(slope, near[:, :, None])[:, :, 0] - near * along
        adjacent.append(2 * pull)  # i and k play the same part
        opposite = opposite + slope.mul_(near[:, :, None]).mul_(near[:, None, :]).sum(dim=0)
    triples = samples * (samples - 1) * (samples - 2)
    return loss / triples, (torch.cat(adjacent) - student * opposite) / triples


def _of_all_differences(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the angle loss and its gradient by N × N × D numbers, in as few kernels as possible.

    For the unit vectors u_ij = (z_i − z_j) / d_ij: cos_ijk = u_ij · u_kj, and
    ∂cos/∂z_i = (u_kj − cos u_ij) / d_ij.
    """
    samples = len(student)
    triples = samples * (samples - 1) * (samples - 2)
    unit, distance = _units(student)  # (J, N, D), (J, N, 1)
    with full_precision(student):
        theirs = _units(teacher)[0]
        theirs = theirs @ theirs.mT
        difference = torch.baddbmm(theirs, unit, unit.mT, beta=-1)  # (J, N, N)
        difference.diagonal(dim1=1, dim2=2).zero_()  # i = k is no triple
        slope = difference.clamp(-1, 1)  # of the Huber loss, which is slope · (x − slope / 2)
        pull = slope @ unit
    loss = difference.sub_(slope, alpha=0.5).mul_(slope).sum() / triples
    along = (pull * unit).sum(dim=2, keepdim=True)
    pull = pull.addcmul_(unit, along, value=-1).div_(distance)
    return loss, (pull.sum(dim=0) - pull.sum(dim=1)) * (2 / triples)  # i and k are alike


def _units(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors from each sample to each, zero between those that coincide, and distances."""
    apart = embeddings[None] - embeddings[:, None]
    distance = _or_infinite(torch.linalg.vector_norm(apart, dim=2, keepdim=True))
    return apart / distance, distance


def _cosines(square: Tensor, inverse: Tensor, vertices: slice) -> Tensor:
    """cos∠ijk for some vertices j, ``(J, N, N)``, from d² and 1/d."""
    from_vertex, near = square[vertices], inverse[vertices] * 0.5**0.5
    sides = (from_vertex[:, :, None] + from_vertex[:, None, :]).sub_(square)
    return sides.mul_(near[:, :, None]).mul_(near[:, None, :])


def _or_infinite(distance: Tensor) -> Tensor:
    """d to divide by, and infinity for d = 0: what is divided by it is zero."""
    return F.threshold(distance, torch.finfo(distance.dtype).tiny, torch.inf)


def _in_units_of_mean(distance: Tensor) -> Tensor:
    mean = distance.sum() / (len(distance) * (len(distance) - 1))
    return distance / F.threshold(mean, 0.0, 1.0)


def _similarities(features: Tensor) -> Tensor:
    """Rows of F Fᵀ ``(N, N)`` scaled to unit norm."""
    gram = _inner_products(features)
    norm = torch.linalg.vector_norm(gram, dim=1, keepdim=True)
    return gram / F.threshold(norm, torch.finfo(norm.dtype).tiny, 1.0)


def _inner_products(features: Tensor) -> Tensor:
    """F Fᵀ ``(N, N)``, in float64 where its entries may hardly differ.

    At a large offset all products are nearly the same, and what tells samples apart is lost in
    their rounding. There what all samples share is put back after the product, in float64.
    """
    wide = widest(features)
    if wide == torch.float64 and _few(features.numel() * len(features), features):
        return gram_matrix(features.to(wide))
    if readable(features):
        gram = gram_matrix(features)
        if gram.amin() < 0.9 * gram.amax():  # no such offset
            return gram
    rest, common = _split(features)
    along = (rest * common).sum(dim=1, keepdim=True).to(wide)
    shared = along + along.T + common.to(wide).square().sum()
    return gram_matrix(rest).to(wide) + shared


def _split(features: Tensor) -> tuple[Tensor, Tensor]:
    """Split features ``(N, D)`` into the rest and what all samples share, ``(D,)``.

    Shared is, by column, the value nearest to zero if all have the same sign. So it is never
    larger than a sample, and taking it out loses nothing.
    """
    lowest, highest = features.detach().aminmax(dim=0)
    common = lowest.clamp_min(0) + highest.clamp_max(0)
    return features - common, common
