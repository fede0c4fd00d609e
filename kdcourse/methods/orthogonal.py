r"""Which properties? — an embedding, but for a rotation: orthogonal projections (VkD).

A projection that may be anything can learn what the student should: it stretches some directions
and drops others. One that keeps all angles and lengths leaves all of that to the student.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.checks import check_matrix, check_same_samples, check_same_shape
from kdcourse.grid import both_sides, channels_first, check_channels
from kdcourse.models import seeded
from kdcourse.objective import Layer, LayerTerm, Lesson
from kdcourse.precision import at_least_float32
from kdcourse.signatures import checked


def vkd_loss(student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
    r"""Compare a projected student with the standardised teacher (VkD).

    .. math:: \frac{1}{N D} \sum_{nd} \ell_1\!\left(z^S_{nd},\,
              \frac{z^T_{nd} - \mu_n}{\sqrt{\sigma_n^2 + 10^{-5}}}\right)

    with the Huber loss :math:`\ell_1` of width 1, and the mean :math:`\mu_n` and the variance
    :math:`\sigma_n^2` of the teacher's D numbers of a sample. So the teacher's scale and offset do
    not matter, sample by sample; the student's do.

    Args:
        student_embeddings: ``(N, D)``, projected to the teacher's width, as by
            :class:`OrthogonalProjection`.
        teacher_embeddings: ``(N, D)``; receives no gradient.

    Returns:
        Scalar ≥ 0.

    Source: Miles et al. 2024 (arXiv 2403.06213), section 3. Distance and standardisation are those
    of the authors' code for image classification. Their code for detection standardises each of
    the D features over the positions of a batch instead, the student's as well, and the paper
    whitens the teacher's features where images are generated.
    """
    check_matrix("student_embeddings", student_embeddings, "D")
    check_matrix("teacher_embeddings", teacher_embeddings, "D")
    check_same_shape(
        "student_embeddings", student_embeddings, "teacher_embeddings", teacher_embeddings
    )
    teacher = at_least_float32(teacher_embeddings.detach())
    standardised = F.layer_norm(teacher, teacher.shape[1:])
    return F.smooth_l1_loss(at_least_float32(student_embeddings), standardised)


@checked
class OrthogonalProjection(LayerTerm):
    r"""A layer, projected to the teacher's width by an orthogonal matrix: :func:`vkd_loss`.

    .. math:: z \mapsto P z, \qquad P^\top P = 1

    with z the mean over a layer's positions. As P, of shape ``(D', D)``, has orthonormal columns,
    distances and angles between samples are those of the student's own embeddings. Where the
    teacher is narrower, D' < D, its rows are orthonormal, :math:`P P^\top = 1`, and D − D'
    directions of the student's embedding are not compared with anything.

    P is the factor Q of a free matrix QR, with a positive diagonal of R. That fits what the two
    nets show on the first batch, and is learned with the student.

    >>> OrthogonalProjection(("norm", "layer4"), channel_dim=(-1, 1))    # tokens to (N, C, H, W)

    Args:
        layer: Name of a layer with features ``(N, C, …)``, or a pair of names.
        channel_dim: −1 where the channels come last, as in tokens ``(N, T, C)``; or a pair, the
            student's and the teacher's.
        class_token: Whether the first token stands for the whole, and is left out; or a pair.
        seed: Seed of the projection; that of the training by default.

    Source: Miles et al. 2024 (arXiv 2403.06213), section 3. They make the orthogonal matrix by the
    exponential of a skew-symmetric one, and their code by
    ``torch.nn.utils.parametrizations.orthogonal``: by Householder reflections where the widths
    differ. All of these reach every rotation, along different paths; a QR decomposition takes a
    fraction of the time.
    """

    def __init__(
        self,
        layer: Layer = "embedding",
        *,
        channel_dim: int | tuple[int, int] = 1,
        class_token: bool | tuple[bool, bool] = False,
        seed: int | None = None,
    ):
        super().__init__([layer])
        self._sides, self._seed = both_sides(channel_dim, class_token), seed
        self.free: nn.Parameter | None = None  # (D', D), or (D, D') where the teacher is narrower
        self.prepared = False

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Make a projection from the student's channels to the teacher's."""
        student, teacher = self._embeddings(lesson)
        widths = student.shape[1], teacher.shape[1]
        with seeded(seed if self._seed is None else self._seed):
            free = nn.init.orthogonal_(torch.empty(max(widths), min(widths)))
        self.free = nn.Parameter(free.to(student.device, at_least_float32(student).dtype))
        self._narrower = widths[1] < widths[0]
        self.prepared = True

    def projection(self) -> Tensor:
        """Return the projection ``(D', D)``."""
        q, r = torch.linalg.qr(self.free)
        q = q * r.diagonal().detach().sign()  # or else columns would flip on the way
        return q.mT if self._narrower else q

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the distance between the projected student and the standardised teacher."""
        if self.free is None:
            self.prepare(lesson)
        student, teacher = self._embeddings(lesson)
        projection = self.projection()
        check_channels("student_features", student, projection.shape[1])
        return vkd_loss(F.linear(student.to(projection.dtype), projection), teacher)

    def _embeddings(self, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """Return the means over positions, ``(N, D)`` and ``(N, D')``."""
        (shown,), names = self.shown(lesson), ("student_features", "teacher_features")
        check_same_samples(names[0], shown[0], names[1], shown[1])
        own, theirs = (
            at_least_float32(channels_first(name, one, *side, vectors=True)).flatten(2).mean(dim=2)
            for name, one, side in zip(names, shown, self._sides, strict=True)
        )
        return own, theirs
