r"""Which properties? — relations between samples.

Not what the teacher says of one sample, but how it places the samples of a batch against each
other: how far apart two of them are, and what angle three of them form. That says nothing about
the axes of the embedding, so student and teacher may have different widths, and the losses do not
change when an embedding is moved, rotated or (for distances and angles) scaled.

Every function takes one embedding a sample, ``(N, D)``, computes in float32 at least, returns a
scalar and sends no gradient to the teacher. Bad input raises ``ValueError`` or ``TypeError``
naming the argument.

*Many processes.* Under ``torchrun`` the samples of all processes are compared with each other.
Every process then returns the loss of the whole batch, and gradients that are right once
``DistributedDataParallel`` has averaged them over the processes, as it does with any other loss.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcourse.checks import check_floating, check_matrix, check_same_samples
from kdcourse.errors import ArgumentError
from kdcourse.objective import Layer, LayerTerm, Lesson
from kdcourse.precision import at_least_float32, readable, widest
from kdcourse.processes import all_pairs


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
    return _distance_loss(*_both(student_embeddings, teacher_embeddings, least=2))


def _distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    difference = _in_units_of_mean(distances(student)) - _in_units_of_mean(distances(teacher))
    slope = difference.detach().clamp(-1, 1)  # of the Huber loss, which is slope · (x − slope / 2)
    return (slope * (difference - slope / 2)).sum() / (len(student) * (len(student) - 1))


def rkd_angle_loss(student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
    r"""Match the angles that triples of samples form.

    .. math:: \frac{1}{N(N-1)(N-2)} \sum_{i \ne j \ne k \ne i}
              \ell_1(\cos\angle^S_{ijk},\, \cos\angle^T_{ijk}), \quad
              \cos\angle_{ijk} = \frac{(z_i - z_j)\cdot(z_k - z_j)}{d_{ij}\, d_{kj}}
              = \frac{d_{ij}^2 + d_{kj}^2 - d_{ik}^2}{2\, d_{ij}\, d_{kj}}

    with the Huber loss :math:`\ell_1` of width 1. By the law of cosines (the last form) only the
    N × N distances are needed, not the N × N × D differences; the N³ cosines are made in chunks
    and forgotten, and the gradient is summed up on the way. A vertex that coincides with one of
    the other two forms an angle of cosine 0, without gradient.

    Args:
        student_embeddings: ``(N, D)``, N ≥ 3.
        teacher_embeddings: ``(N, D')``; receives no gradient.

    Returns:
        Scalar ≥ 0, once differentiable.

    Source: Park et al. 2019 (arXiv 1904.05068), section 3.2.2. The authors' code means over all N³
    triples, and is (N − 1)(N − 2)/N² times this, plus P/N³ where P pairs of samples coincide in
    one net only: its cos∠iji is 1 if i and j lie apart and 0 if they coincide, so that iji and
    jij each add a Huber loss of ½.
    """
    return _angle_loss(*_both(student_embeddings, teacher_embeddings, least=3))


def _angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    return _AngleLoss.apply(distances(student), distances(teacher))[0]


def similarity_preserving_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Match which samples of a batch look alike: normalised matrices of inner products.

    .. math:: \frac{1}{N^2} \left\| \tilde G_S - \tilde G_T \right\|_F^2, \quad
              G = F F^\top, \quad \tilde G_{i\cdot} = G_{i\cdot} / \|G_{i\cdot}\|_2

    with one flattened row of F a sample. Rotating or scaling an embedding changes nothing;
    moving it does. A sample whose features are all zero has a row of zeros.

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
    student, teacher = _both(*pair, least=1, what="features")
    difference = _similarities(student) - _similarities(teacher)
    return difference.square().mean().to(student.dtype)


class _RelationTerm(LayerTerm):
    """A term on relations between the samples of a batch."""

    mean_over = "batch"
    relation: Callable[[Tensor, Tensor], Tensor]  # of the samples of all processes

    def __init__(self, layers: Sequence[Layer] = ("embedding",)):
        super().__init__(layers)

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the loss of the relations, summed over layers."""
        return self.compared(lesson, self.of_layer)

    def of_layer(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one layer: 0 for an epoch's last batch that holds no relation."""
        student, teacher = _both(student.flatten(1), teacher.flatten(1))
        return 0.0 * student.sum() if len(student) < self.least else self.relation(student, teacher)


class RKDDistance(_RelationTerm):
    """Distances between samples, of layers flattened to ``(N, D)``: :func:`rkd_distance_loss`."""

    relation = staticmethod(_distance_loss)
    least = 2


class RKDAngle(_RelationTerm):
    """Angles of triples of samples, of layers flattened to ``(N, D)``: :func:`rkd_angle_loss`."""

    relation = staticmethod(_angle_loss)
    least = 3


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


class _Distances(torch.autograd.Function):
    """Distances of all pairs, and their gradient as one product of matrices."""

    generate_vmap_rule = True

    @staticmethod
    def forward(embeddings: Tensor) -> Tensor:
        if embeddings.device.type == "mps":  # which has no pdist
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
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        embeddings, distance = ctx.saved_tensors
        centred = embeddings - embeddings.mean(dim=0)  # the products below see no offset
        weight = (gradient + gradient.T) * _inverse(distance)
        return weight.sum(dim=1, keepdim=True) * centred - _product(weight, centred)


CHUNK = {"cpu": 2**16, "other": 2**25}  # cosines at a time: few enough for a processor's cache


class _AngleLoss(torch.autograd.Function):
    """The angle loss of N × N distances; value and gradient are made a few vertices at a time.

    From cos_ijk = (d_ij² + d_kj² − d_ik²) / (2 d_ij d_kj):
    ∂cos/∂d_ij = 1/d_kj − cos/d_ij (for d_kj alike), and ∂cos/∂d_ik = −d_ik / (d_ij d_kj).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        samples = len(student)
        at_once = max(1, CHUNK.get(student.device.type, CHUNK["other"]) // samples**2)
        inverse = _inverse(student)
        student_sides = student.square(), inverse
        teacher_sides = teacher.square(), _inverse(teacher)
        loss, opposite, adjacent = student.new_zeros(()), torch.zeros_like(student), []
        for start in range(0, samples, at_once):
            vertices = slice(start, start + at_once)
            cosine = _cosines(*student_sides, vertices)  # (J, N, N)
            difference = cosine - _cosines(*teacher_sides, vertices)
            difference.diagonal(dim1=1, dim2=2).zero_()  # i = k is no triple
            slope = difference.clamp(-1, 1)  # of the Huber loss, as above
            loss = loss + difference.sub_(slope, alpha=0.5).mul_(slope).sum()
            along = torch.mul(cosine, slope).sum(dim=2)
            near = inverse[vertices]  # (J, N): 1 / d_ij from vertex j
            pull = _product(slope, near[:, :, None])[:, :, 0] - near * along
            adjacent.append(2 * pull)  # i and k play the same part
            opposite = opposite + slope.mul_(near[:, :, None]).mul_(near[:, None, :]).sum(dim=0)
        triples = samples * (samples - 1) * (samples - 2)
        return loss / triples, (torch.cat(adjacent) - student * opposite) / triples

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


def _cosines(square: Tensor, inverse: Tensor, vertices: slice) -> Tensor:
    """cos∠ijk for some vertices j, ``(J, N, N)``, from d² and 1/d."""
    from_vertex, near = square[vertices], inverse[vertices] * 0.5**0.5
    sides = (from_vertex[:, :, None] + from_vertex[:, None, :]).sub_(square)
    return sides.mul_(near[:, :, None]).mul_(near[:, None, :])


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Product of matrices in the precision they have, under autocast too."""
    kind = one.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return one @ other
    with torch.autocast(kind, enabled=False):
        return one @ other


def _inverse(distance: Tensor) -> Tensor:
    """1/d, and 0 for d = 0."""
    return torch.where(distance > torch.finfo(distance.dtype).tiny, 1 / distance, 0.0)


def _in_units_of_mean(distance: Tensor) -> Tensor:
    mean = distance.sum() / (len(distance) * (len(distance) - 1))
    return distance / torch.where(mean > 0, mean, 1.0)


def _similarities(features: Tensor) -> Tensor:
    """Rows of F Fᵀ ``(N, N)`` scaled to unit norm."""
    gram = _inner_products(features)
    norm = torch.linalg.vector_norm(gram, dim=1, keepdim=True)
    return gram / torch.where(norm > torch.finfo(norm.dtype).tiny, norm, 1.0)


class _Gram(torch.autograd.Function):
    """F Fᵀ ``(N, N)``: one product of matrices backward, and never in half precision."""

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor) -> Tensor:
        return _product(features, features.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _product(gradient + gradient.mT, *ctx.saved_tensors)


def _inner_products(features: Tensor) -> Tensor:
    """F Fᵀ ``(N, N)``, in float64 where its entries may hardly differ.

    At a large offset all products are nearly the same, and what tells samples apart is lost in
    their rounding. There what all samples share is put back after the product, in float64.
    """
    gram = _Gram.apply(features)
    if readable(gram) and gram.amin() < 0.9 * gram.amax():  # no such offset
        return gram
    wide = widest(gram)
    rest, common = _split(features)
    along = (rest * common).sum(dim=1, keepdim=True).to(wide)
    shared = along + along.T + common.to(wide).square().sum()
    return _Gram.apply(rest).to(wide) + shared


def _split(features: Tensor) -> tuple[Tensor, Tensor]:
    """Split features ``(N, D)`` into the rest and what all samples share, ``(D,)``.

    Shared is, by column, the value nearest to zero if all have the same sign. So it is never
    larger than a sample, and taking it out loses nothing.
    """
    lowest, highest = features.detach().aminmax(dim=0)
    common = lowest.clamp_min(0) + highest.clamp_max(0)
    return features - common, common


def _both(
    student: Tensor, teacher: Tensor, *, least: int = 0, what: str = "embeddings"
) -> tuple[Tensor, Tensor]:
    """Check both, gather the samples of all processes, and cut the teacher off."""
    own, theirs = f"student_{what}", f"teacher_{what}"
    check_matrix(own, student, "D")
    check_matrix(theirs, teacher, "D")
    check_same_samples(own, student, theirs, teacher)
    student, teacher = all_pairs(student, teacher)
    if len(student) < least:
        raise ArgumentError(own, f"{own} must hold at least {least} samples, got {len(student)}")
    return at_least_float32(student), at_least_float32(teacher.detach())
