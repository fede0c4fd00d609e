r"""Which properties? — which two embeddings show the same sample.

A student's embedding is to tell its teacher's embedding of the same sample from those of many
others, which a memory keeps from the batches before: contrastive representation distillation (CRD).
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.batch import are_classes
from kdcourse.checks import (
    check_matrix,
    check_number,
    check_positive,
    check_same_device,
    check_same_shape,
    check_tensor,
)
from kdcourse.errors import ArgumentError
from kdcourse.grid import check_channels
from kdcourse.models import seeded
from kdcourse.objective import Layer, Lesson
from kdcourse.precision import at_least_float32, inner_products, unit_rows
from kdcourse.processes import all_samples
from kdcourse.relation_term import RelationTerm
from kdcourse.signatures import checked


def contrastive_loss(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    *,
    student_negatives: Tensor | None = None,
    teacher_negatives: Tensor | None = None,
    excluded: Tensor | None = None,
    temperature: float = 0.07,
    normalizer: float = 1.0,
) -> Tensor:
    r"""Tell, from either side, the embedding of the same sample from those of M others.

    .. math:: -\frac1N \sum_i \Big[ 2 \log h(s_i, t_i)
              + \sum_j \log\big(1 - h(s_i, t^-_j)\big)
              + \sum_j \log\big(1 - h(t_i, s^-_j)\big) \Big], \quad
              h(u, v) = \frac{e^{\cos(u, v) / \tau}}{e^{\cos(u, v) / \tau} + M z}

    With z the mean of :math:`e^{\cos / \tau}` over embeddings that have nothing to do with each
    other, h begins at 1 / (1 + M), the share of pairs that do.

    Args:
        student_embeddings: ``(N, D)``.
        teacher_embeddings: ``(N, D)``; receives no gradient. (:class:`CRD` projects both nets'
            embeddings to one width, and learns the teacher's projection, too.)
        student_negatives: ``(M, D)`` of other samples; receives no gradient. Without either, the
            negatives are the other samples of the batch.
        teacher_negatives: ``(M, D)`` of the same samples as the student's.
        excluded: ``(N, M)``, True where a negative is not to be told from a sample, as with those
            of the same class; M is then the number of the others.
        temperature: τ > 0.
        normalizer: z > 0.

    Returns:
        Scalar ≥ 0.

    Source: Tian et al. 2020 (arXiv 1910.10699), eq. 18 and 19, with z as in the authors' code,
    which measures it on the first batch, in place of the reciprocal of the training set's size. The
    code compares a sample with what the memory holds of it, an epoch old, not with its present
    embedding, and adds 10⁻⁷ z n to each denominator of h, for n samples in the training set.
    """
    check_matrix("student_embeddings", student_embeddings, "D")
    check_matrix("teacher_embeddings", teacher_embeddings, "D")
    check_same_shape(
        "student_embeddings", student_embeddings, "teacher_embeddings", teacher_embeddings
    )
    check_number("temperature", temperature, 0.0, open_low=True)
    check_number("normalizer", normalizer, 0.0, open_low=True)
    student, teacher = map(_directions, (student_embeddings, teacher_embeddings.detach()))
    if (student_negatives is None) != (teacher_negatives is None):
        raise ArgumentError(
            "student_negatives", "student_negatives and teacher_negatives go together: give both"
        )
    if student_negatives is None or teacher_negatives is None:
        others = student, teacher
        itself = torch.eye(len(student), dtype=torch.bool, device=student.device)
        excluded = itself if excluded is None else itself | _checked(excluded, student, student)
    else:
        _check_negatives(student, student_negatives, teacher_negatives)
        kept = student_negatives.detach(), teacher_negatives.detach()
        others = _directions(kept[0]), _directions(kept[1])
        excluded = None if excluded is None else _checked(excluded, student, others[0])
    return _loss((student, teacher), others, excluded, temperature, normalizer)


def _loss(
    embeddings: tuple[Tensor, Tensor],
    others: tuple[Tensor, Tensor],
    excluded: Tensor | None,
    temperature: float,
    normalizer: float,
) -> Tensor:
    """The loss of directions, the student's and the teacher's, with their negatives."""
    student, teacher = embeddings
    own, theirs = others
    shift: Tensor | float = math.log(normalizer) + math.log(len(own))
    if excluded is not None:  # −∞ where that is all of them, for h = 1
        number = (~excluded).sum(dim=1, keepdim=True)
        shift = number.to(student.dtype).log() + math.log(normalizer)
    alike = (student * teacher).sum(dim=1, keepdim=True) / temperature
    each = 2 * F.softplus(shift - alike)
    for anchors, negatives in ((student, theirs), (teacher, own)):
        told = inner_products(anchors / temperature, negatives) - shift
        if excluded is not None:
            told = told.masked_fill(excluded, torch.finfo(told.dtype).min)
        each = each + F.softplus(told).sum(dim=1, keepdim=True)
    return each.mean()


def _directions(embeddings: Tensor) -> Tensor:
    return unit_rows(at_least_float32(embeddings))


def _check_negatives(student: Tensor, own: Tensor, theirs: Tensor) -> None:
    for name, negatives in (("student_negatives", own), ("teacher_negatives", theirs)):
        check_matrix(name, negatives, "D")
        check_same_device(name, negatives, "student_embeddings", student)
        if negatives.shape[1] != student.shape[1]:
            raise ArgumentError(
                name,
                f"{name} must have the embeddings' width {student.shape[1]}, got "
                f"{tuple(negatives.shape)}",
            )
    check_same_shape("student_negatives", own, "teacher_negatives", theirs)


def _checked(excluded: Tensor, student: Tensor, negatives: Tensor) -> Tensor:
    check_tensor("excluded", excluded)
    check_same_device("excluded", excluded, "student_embeddings", student)
    shape = (len(student), len(negatives))
    if excluded.dtype != torch.bool or tuple(excluded.shape) != shape:
        raise ArgumentError(
            "excluded",
            f"excluded must be torch.bool of shape {shape}, got {excluded.dtype} of shape "
            f"{tuple(excluded.shape)}",
        )
    return excluded


def random_normalizer(width: int, temperature: float) -> float:
    r"""Return the mean of :math:`e^{\cos / \tau}` over random directions in so many dimensions.

    It is :math:`{}_0F_1(D/2; 1/(4\tau^2))`, close to :math:`e^{1/(2 D \tau^2)}` for a large D.

    Raises:
        ValueError: τ is so small that no number is large enough.
    """
    check_positive(width=width)
    check_number("temperature", temperature, 0.0, open_low=True)
    half, square = width / 2, (0.5 / temperature) * (0.5 / temperature)
    total = term = 1.0
    count = 0
    while term > 1e-17 * total:
        term *= square / ((count + 1) * (half + count))
        total += term
        count += 1
    if math.isinf(total):
        raise ArgumentError("temperature", f"temperature must be larger, got {temperature}")
    return total


@checked
class CRD(RelationTerm):
    """Contrastive representation distillation: :func:`contrastive_loss` with a memory.

    Both nets' layers, flattened to ``(N, D)``, are mapped to one width by a linear layer each,
    which learn with the student. The memory holds what both gave for the last samples, whatever
    they were; it is filled with random directions at first, of which z is the mean
    (:func:`random_normalizer`). Those of a sample's own class are not its negatives, where there
    are labels.

    Args:
        layer: Name of a layer in both nets, or of the student's and the teacher's as a pair.
        width: To which the embeddings are mapped.
        memory: How many samples it holds, all of which are negatives.
        temperature: The temperature τ of :func:`contrastive_loss`.
        seed: Seed of the weights and the memory; that of the training by default.

    Source: Tian et al. 2020 (arXiv 1910.10699), section 3.2. There the memory holds one embedding
    for every sample of the training set, moved by half with each epoch, and 16,384 of them are
    drawn anew for every sample of a batch; the last samples need no number for each, and no copies.
    """

    student_memory: Tensor
    teacher_memory: Tensor
    labels: Tensor

    def __init__(
        self,
        layer: Layer = "embedding",
        *,
        width: int = 128,
        memory: int = 16384,
        temperature: float = 0.07,
        seed: int | None = None,
    ):
        super().__init__([layer])
        check_positive(width=width, memory=memory)
        self.width, self.memory, self.temperature = width, memory, temperature
        self._normalizer = random_normalizer(width, temperature)
        self._seed = seed
        self.prepared = False

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Make the two linear layers, and a memory of random directions."""
        ((student, teacher),) = self.shown(lesson)
        like = at_least_float32(student)
        with seeded(seed if self._seed is None else self._seed):
            self.student_head = nn.Linear(student[0].numel(), self.width).to(like)
            self.teacher_head = nn.Linear(teacher[0].numel(), self.width).to(like)
            for name in ("student_memory", "teacher_memory"):
                drawn = unit_rows(torch.randn(self.memory, self.width)).to(like)
                self.register_buffer(name, drawn)
        self.labels = nn.Buffer(torch.full((self.memory,), -1, device=like.device))
        self.prepared = True

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the contrastive loss, and remember what it was made of."""
        if not self.prepared:
            self.prepare(lesson)
        return self.related(lesson, partial(self._contrast, lesson))

    def _contrast(self, lesson: Lesson, student: Tensor, teacher: Tensor) -> Tensor:
        check_channels("student_embeddings", student, self.student_head.in_features)
        check_channels("teacher_embeddings", teacher, self.teacher_head.in_features)
        dtype = self.student_memory.dtype
        own = _directions(self.student_head(student.to(dtype)))
        theirs = _directions(self.teacher_head(teacher.to(dtype)))
        labels = torch.full_like(student[:, 0], -1, dtype=torch.int64)
        if are_classes(lesson.target) and lesson.target.dim() == 1:
            labels = all_samples(lesson.target)
        seen = {
            "student_memory": torch.cat([own.detach(), self.student_memory]),
            "teacher_memory": torch.cat([theirs.detach(), self.teacher_memory]),
            "labels": torch.cat([labels, self.labels]),
        }
        # Of tensors of their own: the memory changes before the backward pass.
        before = {name: held[len(own) :] for name, held in seen.items()}
        if self.training and not lesson.again:
            self._remember(seen)
        same_class = (labels[:, None] == before["labels"]) & (labels[:, None] >= 0)
        others = before["student_memory"], before["teacher_memory"]
        return _loss((own, theirs), others, same_class, self.temperature, self._normalizer)

    def _remember(self, seen: dict[str, Tensor]) -> None:
        """Keep the newest."""
        for name, held in seen.items():
            if torch.compiler.is_compiling():  # a compiled backward pass reads the old one again
                setattr(self, name, held[: self.memory].clone())
            else:  # a step may be replayed
                getattr(self, name).copy_(held[: self.memory])
