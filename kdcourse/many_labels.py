r"""Many labels at once: each is a place with a prediction of its own, yes or no.

A sample may be of several classes, or of none. A logit z then stands for a yes with probability
:math:`\sigma(z)`, which is the softmax of two logits, z for yes and 0 for no. So whatever holds for
predictions of classes (:mod:`kdcourse.logit`) holds here with two classes at each entry.
"""

from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_choice, check_flag, check_floating, check_temperature
from kdcourse.errors import ArgumentError
from kdcourse.logit import kd_loss
from kdcourse.many_classes import DIVERGENCES
from kdcourse.objective import Lesson
from kdcourse.precision import HOTTEST, at_least_float32, readable
from kdcourse.prediction_term import EntryTerm, check_entries
from kdcourse.predictions import counted_only, entry_weights, place_mean
from kdcourse.signatures import check_is


def binary_cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Cross-entropy with many labels, as a mean over all that count.

    .. math:: -\sum_e w_e \left( y_e \log \sigma(z_e) + (1 - y_e) \log(1 - \sigma(z_e)) \right)
              \Big/ \textstyle\sum_e w_e

    over the entries e: the labels of all samples.

    Args:
        logits: Of any shape, ``(N, K)`` for K labels a sample.
        target: Of the same shape, in [0, 1].
        mask: Which labels count, of the same shape, bool or 0 and 1.
        weight: How much each counts, ≥ 0, of the same shape.
        ignore_index: The target of labels that do not count, such as −1.

    Returns:
        Scalar ≥ 0 in nats; zero if nothing counts.
    """
    check_entries("target", target, "logits", logits)
    weights = entry_weights(
        logits, mask=mask, weight=weight, target=target, ignore_index=ignore_index
    )
    rows = at_least_float32(counted_only(logits.flatten(), weights))
    labels = counted_only(target.detach().flatten(), weights).to(rows.dtype)
    if readable(labels) and not bool(((labels >= 0) & (labels <= 1)).all()):
        raise ArgumentError(
            "target",
            f"target must lie in [0, 1], got from {float(labels.min())} to {float(labels.max())}",
        )
    each = F.binary_cross_entropy_with_logits(rows, labels, reduction="none")
    return place_mean(each, weights)


def binary_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    *,
    divergence: str = "forward",
    scale: bool = True,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""KD on sigmoid predictions: the divergence of two softened yeses or noes, for every label.

    .. math:: \tau^2 \cdot \operatorname{mean}_e \; KL\left( \mathrm{Bernoulli}(\sigma(z_T/\tau))
              \,\|\, \mathrm{Bernoulli}(\sigma(z_S/\tau)) \right)

    :func:`kdcourse.logit.kd_loss` of the logits z and 0 at every entry, with the same options.

    Args:
        student_logits: Of any shape, ``(N, K)`` for K labels a sample.
        teacher_logits: Of the same shape; receives no gradient.
        temperature: τ, for both student and teacher, from 10⁻⁹ to 10⁶.
        divergence, scale: As in :func:`kdcourse.logit.kd_loss`.
        mask, weight: As there, of the logits' shape.

    Returns:
        Scalar ≥ 0 in nats.
    """
    for name, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        check_floating(name, logits)
        if logits.dim() == 0:
            raise ArgumentError(name, f"{name} must hold an entry for every label, got a scalar")
    student, teacher = (
        F.pad(logits.unsqueeze(-1), (0, 1))  # stack, under autocast, does not take every dtype
        for logits in (student_logits, teacher_logits)
    )
    return kd_loss(
        student,
        teacher,
        temperature,
        divergence=divergence,
        scale=scale,
        class_dim=-1,
        mask=mask,
        weight=weight,
    )


class BinaryCrossEntropy(EntryTerm):
    """``L(f)`` with many labels: :func:`binary_cross_entropy_loss`.

    Args:
        ignore_index: The target of labels that are not known; −1 by default.
        mask: The name of an entry of the inputs, of the logits' shape: where it is 0 or False, a
            label does not count.
    """

    needs_teacher = False
    mean_over = "labels"
    ignore_index = -1

    def __init__(self, *, ignore_index: int = -1, mask: str | None = None):
        check_is("ignore_index", ignore_index, int)
        super().__init__(ignore_index=ignore_index, mask=mask)

    def right(self, logits: Tensor, lesson: Lesson) -> tuple[Tensor, Tensor] | None:
        """Return the number of labels that are predicted correctly, and that of those judged."""
        judged = self.judged(lesson)
        return (((logits > 0) == (lesson.target > 0.5)) & judged).sum(), judged.sum()

    def judged(self, lesson: Lesson) -> Tensor:
        counting = self.counting(lesson)
        assert counting is not None  # there is always a target that does not count
        return counting > 0

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the mean cross-entropy over the labels of the batch."""
        return binary_cross_entropy_loss(
            lesson.student_logits, lesson.target, weight=self.counting(lesson)
        )


class BinaryKD(EntryTerm):
    """KD on sigmoid predictions: :func:`binary_kd_loss`, which explains the arguments.

    Args:
        temperature, divergence, scale: As in :func:`binary_kd_loss`.
        ignore_index, mask: As for :class:`BinaryCrossEntropy`.
    """

    needs_logits = True

    def __init__(
        self,
        temperature: float = 4.0,
        *,
        divergence: str = "forward",
        scale: bool = True,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(ignore_index=ignore_index, mask=mask)
        check_temperature(temperature, high=HOTTEST)
        check_choice("divergence", divergence, DIVERGENCES)
        check_flag("scale", scale)
        self.temperature = temperature
        self.divergence = divergence
        self.scale = scale

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence between the teacher's and the student's yeses and noes."""
        return binary_kd_loss(
            lesson.student_logits,
            lesson.teacher_logits,
            self.temperature,
            divergence=self.divergence,
            scale=self.scale,
            weight=self.counting(lesson),
        )
