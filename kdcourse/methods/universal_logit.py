r"""Which properties? — logits that nobody knows how to match up.

Two language models with vocabularies of their own have no class in common: *universal logit
distillation* (ULD) compares how probable the likeliest token is, the second, the third, whatever
they may be. It does not see which tokens they are: for two predictions that are permutations of
each other, the loss is zero.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_choice, check_same_device, check_temperature
from kdcourse.errors import ArgumentError
from kdcourse.language.alignment import AlignedTerm, Read, common_places
from kdcourse.language.vocabulary import Vocabulary
from kdcourse.objective import Lesson
from kdcourse.precision import HOTTEST, at_least_float32, dtype_for, not_below_zero
from kdcourse.predictions import (
    check_predictions,
    counted_only,
    place_mean,
    place_rows,
    place_shape,
    place_weights,
)

PLACES = ("text", "order")  # by what student and teacher meet


def universal_logit_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    *,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Distance of two predictions sorted by probability, of any two numbers of classes.

    .. math:: \frac1N \sum_n \sum_{k=1}^{\max(K, K')} \big| p_S^{(\sigma k)} - p_T^{(\sigma' k)}
              \big|

    where σ and σ' sort them in decreasing order, and the shorter one is continued with zeros: the
    least distance over all ways to match the classes one to one.

    Args:
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        teacher_logits: Of the same shape, but for the number K' of classes; receives no gradient.
        temperature: τ, for both, from 10⁻⁹ to 10⁶. The loss shrinks as 1/τ.
        class_dim, mask, weight: As in :func:`kdcourse.logit.kd_loss`.

    Returns:
        Scalar from 0 to 2; zero if nothing counts.

    Source: Boizard et al. 2024 (arXiv 2402.12030). The authors' code (with the weight
    1.5, τ = 1 for both, and no factor τ²) takes the mean over the tokens of each text, and then
    that over texts: the same if texts are of equal length, or with 1/length as the weight.
    """
    check_temperature(temperature, high=HOTTEST)
    check_predictions("student_logits", student_logits, class_dim)
    check_predictions("teacher_logits", teacher_logits, class_dim)
    check_same_device("student_logits", student_logits, "teacher_logits", teacher_logits)
    own, theirs = (place_shape(logits, class_dim) for logits in (student_logits, teacher_logits))
    if own != theirs:
        raise ArgumentError(
            "teacher_logits",
            "student_logits and teacher_logits must hold the same places, got "
            f"{tuple(own)} and {tuple(theirs)}",
        )
    weights = place_weights(student_logits, class_dim, mask=mask, weight=weight)
    count = min(student_logits.shape[class_dim], teacher_logits.shape[class_dim])
    (student, student_rest), (teacher, teacher_rest) = (
        _largest(counted_only(place_rows(logits, class_dim), weights), temperature, count)
        for logits in (student_logits, teacher_logits.detach())
    )
    each = (student - teacher).abs().sum(dim=1)
    for rest in (student_rest, teacher_rest):
        each = each if rest is None else each + rest
    return place_mean(each, weights).to(at_least_float32(student_logits).dtype)


def _largest(logits: Tensor, temperature: float, count: int) -> tuple[Tensor, Tensor | None]:
    """Return the largest probabilities in decreasing order ``(P, count)``, and the others' sum."""
    logits = logits.to(dtype_for(logits, temperature))
    if temperature != 1:
        logits = logits / temperature
    if logits.shape[1] == count:  # sorted before: sums in another order would be rounded otherwise
        return F.softmax(logits.sort(dim=1, descending=True).values, dim=1), None
    largest = F.softmax(logits, dim=1).topk(count, dim=1).values
    return largest, not_below_zero(1 - largest.sum(dim=1))


class UniversalLogitKD(AlignedTerm):
    """Universal logit distillation: :func:`universal_logit_loss`.

    With two vocabularies, what is compared are the predictions at places at which both nets have
    read the same text, or at the k-th place of each.

    Args:
        student_vocabulary, teacher_vocabulary: As for every :class:`AlignedTerm
            <kdcourse.language.alignment.AlignedTerm>`.
        temperature: As of the loss.
        places: ``"text"``, or ``"order"`` for the k-th token that the student learns and the k-th
            of the teacher, as far as both go, whatever they have read by then: as in the paper.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.

    Source: Boizard et al. 2024 (arXiv 2402.12030). Places by their text are those of GOLD (Patiño
    et al. 2025, *Unlocking On-Policy Distillation for Any Model Family*), which goes on to multiply
    the prediction there by the probabilities of the chunk's further tokens.
    """

    def __init__(
        self,
        student_vocabulary: Vocabulary | None = None,
        teacher_vocabulary: Vocabulary | None = None,
        temperature: float = 1.0,
        *,
        places: str = "text",
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(
            student_vocabulary,
            teacher_vocabulary,
            class_dim=class_dim,
            ignore_index=ignore_index,
            mask=mask,
        )
        check_temperature(temperature, high=HOTTEST)
        check_choice("places", places, PLACES)
        self.temperature, self.places = temperature, places

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the distance of both predictions, sorted, where both nets meet."""
        student, teacher = lesson.student_logits, lesson.teacher_logits
        read, class_dim = self.read(lesson), self.class_dim
        if read is None:
            weight = self.counting(lesson)
        else:
            student, teacher = (z.movedim(class_dim, -1) for z in (student, teacher))
            class_dim, fewer = -1, teacher.shape[1] < student.shape[1]
            at, weight = self._met(read, fewer)
            if fewer:
                student = student.take_along_dim(at[:, :, None], dim=1)
            else:
                teacher = teacher.take_along_dim(at[:, :, None], dim=1)
        return universal_logit_loss(
            student, teacher, self.temperature, class_dim=class_dim, weight=weight
        )

    def count(self, lesson: Lesson) -> Tensor:
        read = self.read(lesson)
        return super().count(lesson) if read is None else self._met(read, False)[1].sum()

    def _met(self, read: Read, of_teacher: bool) -> tuple[Tensor, Tensor]:
        """Return, of each place of one net, that of the other, and how much the pair counts."""
        counts, end = read.student_ends >= 0, read.student_ends.amax(dim=1, keepdim=True)
        first = torch.where(counts, read.student_starts, end).amin(dim=1, keepdim=True)
        own, theirs = read.student_starts, read.teacher_starts
        as_well = (theirs >= first) & (theirs < end)
        if self.places == "order":
            own, theirs = counts.cumsum(dim=1), as_well.cumsum(dim=1)
        own, theirs = own.masked_fill(~counts, -1), theirs.masked_fill(~as_well, -1)
        at, met = common_places(theirs, own) if of_teacher else common_places(own, theirs)
        weights = read.weights.gather(1, at) if of_teacher else read.weights
        return at, weights.masked_fill(~met, 0)
