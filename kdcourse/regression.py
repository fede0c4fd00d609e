r"""Quantities instead of classes: least squares, with the labels and with a teacher.

.. math:: \min_f\; \ell_{MSE}(f, y) + \lambda \cdot \ell_{MSE}(f, f_{large})

Every entry of a prediction is a place. What is called logits elsewhere are the predictions here.
"""

import torch
from torch import Tensor

from kdcourse.errors import ArgumentError
from kdcourse.objective import Lesson
from kdcourse.precision import at_least_float32, widest
from kdcourse.prediction_term import EntryTerm, check_entries
from kdcourse.predictions import counted_only, entry_weights, place_mean


def squared_error_loss(
    predictions: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Mean squared error over the entries that count.

    .. math:: \sum_e w_e (\hat y_e - y_e)^2 \,/\, \textstyle\sum_e w_e

    Args:
        predictions: Of any shape: ``(N,)``, ``(N, D)`` for D quantities a sample, ``(N, 1, H, W)``.
        target: Of the same shape; receives no gradient.
        mask: Which entries count, of the same shape, bool or 0 and 1.
        weight: How much each counts, ≥ 0, of the same shape.

    Returns:
        Scalar ≥ 0, in the square of the predictions' unit; zero if nothing counts.
    """
    check_entries("target", target, "predictions", predictions)
    weights = entry_weights(predictions, mask=mask, weight=weight)
    rows = at_least_float32(counted_only(predictions.flatten(), weights))
    wanted = counted_only(target.detach().flatten(), weights).to(rows.dtype)
    return place_mean((rows - wanted).square(), weights)


class MeanSquared(EntryTerm):
    """``L(f)`` with quantities as labels: :func:`squared_error_loss`.

    A student is rated by R², the share of the labels' variance that it explains; of several
    quantities (in dimension 1), the mean.

    Args:
        mask: The name of an entry of the inputs, of the predictions' shape: where it is 0 or False,
            an entry does not count.
    """

    needs_teacher = False
    mean_over = "labels"
    measure = "r2"

    def __init__(self, *, mask: str | None = None):
        super().__init__(mask=mask)

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the mean squared error of the batch."""
        return squared_error_loss(
            lesson.student_logits, lesson.target, weight=self.counting(lesson)
        )

    def sums(self, lesson: Lesson) -> Tensor:
        """Return Σw, Σwy, Σwy² and Σw(ŷ − y)² of every quantity, ``(4, D)``."""
        target, counting = lesson.target, self.counting(lesson)
        wide = widest(lesson.student_logits)
        weights = torch.ones_like(target, dtype=wide) if counting is None else counting.to(wide)
        left_out = weights == 0
        y, error = (
            one.to(wide).masked_fill(left_out, 0)
            for one in (target, lesson.student_logits.detach() - target)
        )
        each = torch.stack([weights, weights * y, weights * y**2, weights * error**2])
        if each.dim() > 2:
            each = each.movedim(2, 1).flatten(2)
        return each.sum(dim=-1)

    def rate(self, sums: Tensor) -> float:
        """Return R² = 1 − Σw(ŷ − y)² / Σw(y − ȳ)²."""
        counted, of_y, of_squares, of_errors = sums
        variation = of_squares - of_y**2 / counted
        if not bool((variation > 0).all()):
            raise ArgumentError(
                "validation", "validation must hold different labels: R² compares with their mean"
            )
        return float((1 - of_errors / variation).mean())


class RegressionKD(EntryTerm):
    """Distilled regression: :func:`squared_error_loss` with the teacher's predictions.

    Args:
        mask: As for :class:`MeanSquared`.
    """

    needs_logits = True

    def __init__(self, *, mask: str | None = None):
        super().__init__(mask=mask)

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the mean squared difference between teacher and student."""
        return squared_error_loss(
            lesson.student_logits, lesson.teacher_logits, weight=self.counting(lesson)
        )
