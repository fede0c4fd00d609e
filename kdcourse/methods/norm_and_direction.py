r"""Which properties? — the direction of an embedding, and that it is long (ND loss, of KD++).

A student's embeddings need not be the teacher's to be classified as well. It is enough that those
of a class lie in one direction, and far out. The direction is that of the mean of the teacher's
embeddings of that class, over the training set; far out is where the teacher's lie.

The means can be given, or be gathered by the term from the batches it sees.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse import processes
from kdcourse.checks import (
    check_matrix,
    check_positive,
    check_same_device,
    check_same_samples,
    check_same_shape,
    check_target,
)
from kdcourse.errors import ArgumentError
from kdcourse.grid import check_channels
from kdcourse.models import seeded
from kdcourse.objective import Layer, LayerTerm, Lesson
from kdcourse.precision import (
    SMALL,
    at_least_float32,
    not_below_zero,
    squares_fit,
    unit_rows,
    widest,
)
from kdcourse.signatures import checked


def norm_and_direction_loss(
    student_embeddings: Tensor, teacher_embeddings: Tensor, class_means: Tensor, target: Tensor
) -> Tensor:
    r"""How far embeddings fall short of the teacher's length in the direction of their class.

    .. math:: \frac1N \sum_n \left( 1 - \frac{s_n^\top e_{y_n}}{\max(\|s_n\|_2, \|t_n\|_2)} \right),
              \quad e_k = \frac{c_k}{\|c_k\|_2}

    with the mean :math:`c_k` of the teacher's embeddings of class k. Where a student's embedding is
    shorter than the teacher's, it is asked for more length in that direction; where it is longer,
    only for the direction, :math:`1 - \cos(s_n, e_{y_n})`. A class whose mean is zero has none.

    Args:
        student_embeddings: ``(N, D)``.
        teacher_embeddings: ``(N, D)``, of the same samples; receives no gradient.
        class_means: ``(K, D)``, of which only the directions count: sums will do.
        target: ``(N,)``, int64 class indices.

    Returns:
        Scalar in [0, 2].

    Source: Wang et al. 2023 (arXiv 2305.17007); the authors' code has the same mean.
    """
    check_matrix("student_embeddings", student_embeddings, "D")
    check_matrix("teacher_embeddings", teacher_embeddings, "D")
    check_same_shape(
        "student_embeddings", student_embeddings, "teacher_embeddings", teacher_embeddings
    )
    check_matrix("class_means", class_means, "D")
    check_same_device("class_means", class_means, "student_embeddings", student_embeddings)
    if class_means.shape[1] != teacher_embeddings.shape[1]:
        raise ArgumentError(
            "class_means",
            f"class_means must be as wide as teacher_embeddings, {teacher_embeddings.shape[1]}, "
            f"got {tuple(class_means.shape)}",
        )
    check_target(target, len(student_embeddings), len(class_means))
    check_same_device("target", target, "student_embeddings", student_embeddings)
    student = at_least_float32(student_embeddings)
    teacher = at_least_float32(teacher_embeddings.detach())
    direction = unit_rows(at_least_float32(class_means.detach()[target])).to(student.dtype)
    longer = _longer(student, teacher)
    if not squares_fit(longer):  # in units of the largest entry they do; the unit changes nothing
        largest = (one.detach().abs().amax(dim=1, keepdim=True) for one in (student, teacher))
        unit = torch.maximum(*largest).clamp_min(SMALL)
        student, teacher = student / unit, teacher / unit
        longer = F.threshold(_longer(student, teacher), 0.0, torch.inf)
    return not_below_zero((1 - (student * direction).sum(dim=1) / longer).mean())


def _longer(student: Tensor, teacher: Tensor) -> Tensor:
    return torch.maximum(*(torch.linalg.vector_norm(one, dim=1) for one in (student, teacher)))


def class_means(embeddings: Tensor, target: Tensor, classes: int) -> Tensor:
    """Return the mean embedding of each class, zero for a class without samples.

    >>> means = class_means(embed(teacher, images), images.target, len(images.classes))

    Args:
        embeddings: ``(N, D)``, as :func:`kdcourse.metrics.embed` makes them of a set.
        target: ``(N,)``, int64 class indices.
        classes: Number K of classes.

    Returns:
        ``(K, D)``, float32 at least.
    """
    check_matrix("embeddings", embeddings, "D")
    check_positive(classes=classes)
    check_target(target, len(embeddings), classes)
    check_same_device("target", target, "embeddings", embeddings)
    embeddings = at_least_float32(embeddings)
    means = _class_sums(embeddings.to(widest(embeddings)), target, classes)
    counts = _class_sums(means.new_ones(len(target), 1), target, classes)
    return (means / counts.clamp_min(1)).to(embeddings.dtype)


def _class_sums(rows: Tensor, target: Tensor, classes: int) -> Tensor:
    """Add up the rows ``(N, D)`` of each class, ``(K, D)``."""
    return rows.new_zeros(classes, rows.shape[1]).index_put((target,), rows, accumulate=True)


@checked
class NormAndDirection(LayerTerm):
    """Embeddings in the direction of their class, and far out: :func:`norm_and_direction_loss`.

    Where the two nets' embeddings have different widths, a linear map from the student's to the
    teacher's is learned with the student. Layers with positions are flattened to one embedding a
    sample.

    Args:
        layer: Name of the layer of embeddings, or a pair of names.
        means: The teacher's class means ``(K, D)``, by :func:`class_means`. Without them, the
            teacher's embeddings are added up as they are seen in training, the present batch
            included, so that the means are those of all batches so far; these are part of
            ``state_dict()``.
        projection: A module that maps the student's embeddings to the teacher's width, in place of
            the linear map.
        seed: Seed of the linear map; that of the training by default.

    Source: Wang et al. 2023 (arXiv 2305.17007). The authors' code has batch norm and dropout before
    the linear map.
    """

    needs_labels = True

    def __init__(
        self,
        layer: Layer = "embedding",
        means: Tensor | None = None,
        *,
        projection: nn.Module | None = None,
        seed: int | None = None,
    ):
        super().__init__([layer])
        if means is not None:
            check_matrix("means", means, "D")
            means = means.detach().clone()
        self.projection = projection
        self.means: Tensor | None
        self.register_buffer("means", means)
        self._gathers, self._seed = means is None, seed
        self.prepared = False

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Make a map between the two widths where they differ, and room for the class means."""
        student, teacher = self._embeddings(lesson)
        if self.projection is None and student.shape[1] != teacher.shape[1]:
            with seeded(seed if self._seed is None else self._seed):
                linear = nn.Linear(student.shape[1], teacher.shape[1])
            self.projection = linear.to(student.device, at_least_float32(student).dtype)
        if self.means is None:
            classes, width = lesson.student_logits.shape[1], teacher.shape[1]
            self.means = teacher.new_zeros(classes, width, dtype=widest(teacher))
        self.prepared = True

    def loss(self, lesson: Lesson) -> Tensor:
        """Return how far the student's embeddings fall short."""
        if not self.prepared:
            self.prepare(lesson)
        student, teacher = self._embeddings(lesson)
        if self.projection is not None:
            if isinstance(self.projection, nn.Linear):
                check_channels("student_embeddings", student, self.projection.in_features)
            weights = [*self.projection.parameters(), at_least_float32(student)]
            student = self.projection(student.to(weights[0].dtype))
        means = self._means(teacher, lesson)
        return norm_and_direction_loss(student, teacher, means, lesson.target)

    def _embeddings(self, lesson: Lesson) -> tuple[Tensor, Tensor]:
        ((student, teacher),) = self.shown(lesson)
        check_same_samples("student_embeddings", student, "teacher_embeddings", teacher)
        return student.flatten(1), teacher.flatten(1)

    def _means(self, teacher: Tensor, lesson: Lesson) -> Tensor:
        """Return the class means, or sums, to which the batch is added in training."""
        assert self.means is not None
        if not self._gathers or not self.training:
            return self.means
        if lesson.again:
            raise ArgumentError(
                "teacher", f"{self!r} gathers the class means of one teacher, and there are more"
            )
        check_channels("teacher_embeddings", teacher, self.means.shape[1])
        check_target(lesson.target, len(teacher), len(self.means))
        rows = teacher.detach().to(self.means.dtype)
        sums = self.means + processes.total(_class_sums(rows, lesson.target, len(self.means)))
        if torch.compiler.is_compiling():
            self.means = sums  # a compiled backward pass reads the old one again
        else:
            self.means.copy_(sums)  # a step may be replayed
        return sums
