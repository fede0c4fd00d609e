r"""Which properties? — of a teacher that nobody has trained: teacher-free KD.

A teacher that is always right can be written down: it gives the label most of the probability, and
all other classes the same. The student learns from its softened prediction as from any teacher's.
"""

import math

from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_flag, check_number, check_temperature
from kdcourse.errors import ArgumentError
from kdcourse.objective import Lesson
from kdcourse.precision import HOTTEST, at_least_float32, dtype_for, not_below_zero
from kdcourse.prediction_term import PredictionTerm
from kdcourse.predictions import (
    check_predictions,
    counted_only,
    place_mean,
    place_rows,
    place_target,
    place_weights,
)
from kdcourse.signatures import check_is


def teacher_free_loss(
    logits: Tensor,
    target: Tensor,
    temperature: float = 20.0,
    *,
    correct: float = 0.99,
    scale: bool = True,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    r"""KD from a virtual teacher, which knows the label and nothing else.

    .. math:: \tau^2 \cdot \frac1N \sum_n KL\left(p^d_\tau \,\|\, p_\tau\right), \quad
              p^d(k) = \begin{cases} a & k = y \\ \frac{1 - a}{K - 1} & k \ne y \end{cases}

    where τ softens both. The virtual teacher has the logit :math:`\log\frac{a (K - 1)}{1 - a}` for
    the label, and 0 for all other classes.

    *Is it label smoothing?* That takes the cross-entropy with
    :math:`(1 - \varepsilon)\, y + \varepsilon / K`, which is what a softened virtual teacher
    predicts, for :math:`\varepsilon = K \cdot p^d_\tau(k \ne y)`. At τ = 1, with
    :math:`\varepsilon = K (1 - a) / (K - 1)`, the two differ by the teacher's entropy, a constant.
    At any other τ the student is softened, too: for high τ its logits are compared with those of
    the teacher.

    *Teacher-free, too* is a student that learns from itself, as it was trained before: that is KD,
    :func:`kdcourse.logit.kd_loss`, and one generation of :func:`kdcourse.teachers.born_again`.

    Args:
        logits: The student's, ``(N, K)``, or of any shape with K classes in ``class_dim``.
        target: int64 class indices, of the logits' shape without ``class_dim``. Where a place does
            not count, any number will do.
        temperature: τ, for both, from 10⁻⁹ to 10⁶.
        correct: a, the teacher's probability of the label, from 1/K to below 1.
        scale: Whether to multiply by τ².
        class_dim, mask, weight: As in :func:`kdcourse.logit.kd_loss`.
        ignore_index: The target of places that do not count.

    Returns:
        Scalar ≥ 0 in nats; zero if nothing counts.

    Source: Yuan et al. 2020 (arXiv 1909.11723), section 4, eq. 8 and 9, there without τ², with
    a ≥ 0.9 and τ ≥ 20; section 3 for label smoothing. The authors' code (a = 0.99, τ = 20) softens
    neither: it compares the student's prediction at τ = 1 with the softmax of
    :math:`p^d / \tau`, of probabilities in place of logits, which is all but uniform. It takes the
    mean over the classes, too, times a multiplier, 100 for 100 classes. That is multiplier / K
    times this loss at τ = 1 with :math:`a' = 1 / (1 + (K - 1)\, e^{-x})` and
    :math:`x = (a - \frac{1 - a}{K - 1}) / \tau`: label smoothing with :math:`a'` hardly above 1/K.
    """
    check_temperature(temperature, high=HOTTEST)
    check_flag("scale", scale)
    check_predictions("logits", logits, class_dim)
    classes = logits.shape[class_dim]
    share, entropy = _softened(correct, classes, temperature)
    weights = place_weights(
        logits, class_dim, mask=mask, weight=weight, target=target, ignore_index=ignore_index
    )
    label = place_target(target, logits, class_dim, weights)
    rows = counted_only(place_rows(logits, class_dim), weights)
    rows = rows.to(dtype_for(rows, temperature))
    log_p = F.log_softmax(rows / temperature, dim=1)
    right = log_p.gather(1, label[:, None])[:, 0]
    each = -(1 - share) * right - share * log_p.mean(dim=1) - entropy
    loss = place_mean(each, weights)
    loss = not_below_zero(loss)
    return (loss * temperature**2 if scale else loss).to(at_least_float32(logits).dtype)


class TeacherFreeKD(PredictionTerm):
    """KD from a virtual teacher, in place of any other: :func:`teacher_free_loss`.

    >>> objective = 0.9 * CrossEntropy() + 0.1 * TeacherFreeKD()

    Places without a label do not count; a batch without any label costs nothing.

    Args:
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`; what has no label is −1 by default.
    """

    needs_teacher = False
    mean_over = "labels"
    takes_probabilities = False
    ignore_index = -1

    def __init__(
        self,
        temperature: float = 20.0,
        *,
        correct: float = 0.99,
        scale: bool = True,
        class_dim: int = 1,
        ignore_index: int = -1,
        mask: str | None = None,
    ):
        check_is("ignore_index", ignore_index, int)
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_temperature(temperature, high=HOTTEST)
        check_number("correct", correct, 0.0, 1.0, open_low=True, open_high=True)
        check_flag("scale", scale)
        self.temperature = temperature
        self.correct = correct
        self.scale = scale

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence of the student from the virtual teacher."""
        return teacher_free_loss(
            lesson.student_logits,
            lesson.target,
            self.temperature,
            correct=self.correct,
            scale=self.scale,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
        )


def _softened(correct: float, classes: int, temperature: float) -> tuple[float, float]:
    """Return what a virtual teacher predicts as smoothed labels: their ε, and their entropy."""
    check_number("correct", correct, 0.0, 1.0, open_low=True, open_high=True)
    if correct * classes < 1 - 1e-9:  # 1/K itself is rounded
        raise ArgumentError(
            "correct", f"correct must be at least 1/K, of K = {classes} classes, got {correct}"
        )
    logit = math.log(correct) - math.log1p(-correct) + math.log(classes - 1)
    logit = max(logit, 0.0) / temperature
    odds = (classes - 1) * math.exp(-logit)  # of all other classes
    wrong = odds / (1 + odds)
    return min(wrong * classes / (classes - 1), 1.0), math.log1p(odds) + wrong * logit
