r"""Learning from labels: cross-entropy, the ``L(f)`` of the lecture's formula.

A place has a label of K classes, perhaps as probabilities: one for a sample, a token or a pixel
(:mod:`kdcourse.predictions`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.batch import are_classes
from kdcourse.checks import (
    check_number,
    check_probabilities,
    check_same_device,
    check_same_shape,
    check_tensor,
    check_values,
)
from kdcourse.errors import ArgumentError
from kdcourse.objective import Lesson, Objective
from kdcourse.precision import at_least_float32
from kdcourse.prediction_term import PredictionTerm, judge_of
from kdcourse.predictions import (
    check_not_negative,
    check_predictions,
    counted_only,
    place_mean,
    place_rows,
    place_target,
    place_weights,
    to_divide_by,
)
from kdcourse.signatures import check_is


def cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weight: Tensor | None = None,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Cross-entropy with the labels, the ``L(f)`` of the lecture, as a mean over places.

    .. math:: -\sum_p w_p \sum_k c_k\, t_p^{(k)} \log p_p^{(k)} \,\Big/\,
              \sum_p w_p \sum_k c_k\, y_p^{(k)}, \quad t = (1 - \varepsilon)\, y + \varepsilon / K

    where y is the label, as one class or as probabilities, and all w and c are 1 if none are given.
    With classes as the target, it equals ``torch.nn.functional.cross_entropy``; with probabilities
    and class weights, that one divides by the number of places.

    Args:
        logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        target: Class indices, int64, of the logits' shape without ``class_dim``; or probabilities,
            of the logits' shape.
        label_smoothing: ε in [0, 1), the share of every label that is spread over all classes.
        class_weight: c ``(K,)``, ≥ 0: how much each class counts; receives no gradient.
        class_dim, mask, weight: As in :func:`kd_loss`.
        ignore_index: The target of places that do not count, where targets are classes.

    Returns:
        Scalar ≥ 0 in nats; zero if nothing counts.
    """
    check_number("label_smoothing", label_smoothing, 0.0, 1.0, open_high=True)
    check_predictions("logits", logits, class_dim)
    check_tensor("target", target)
    soft = target.is_floating_point()
    weights = place_weights(
        logits,
        class_dim,
        mask=mask,
        weight=weight,
        target=None if soft else target,
        ignore_index=ignore_index,
    )
    if soft:
        check_same_shape("target", target, "logits", logits)
        rows = place_rows(target.detach(), class_dim)
        label = counted_only(rows, weights, 1 / rows.shape[1])
        check_probabilities("target", label)
        label = label.to(at_least_float32(logits).dtype)
    else:
        label = place_target(target, logits, class_dim, weights)
    rows = at_least_float32(counted_only(place_rows(logits, class_dim), weights))
    if class_weight is not None:
        _check_class_weight(class_weight, logits, class_dim)
        class_weight = class_weight.detach().to(rows.dtype)
    each = F.cross_entropy(
        rows, label, class_weight, reduction="none", label_smoothing=label_smoothing
    )
    if class_weight is None:
        return place_mean(each, weights)
    counted = label @ class_weight if soft else class_weight[label]
    if weights is not None:
        each, counted = each * weights, counted * weights
    return each.sum() / to_divide_by(counted)


class CrossEntropy(PredictionTerm):
    """``L(f)``: cross-entropy with the labels, :func:`cross_entropy_loss`.

    Places without a label do not count; a batch without any label costs nothing. A target of
    probabilities, made outside by mixing samples, say, will do as well.

    Args:
        label_smoothing: The share of every label that is spread over all classes, in [0, 1).
        class_weight: How much each of the K classes counts, ≥ 0; all alike by default.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`; what has no label is −1 by default.
    """

    needs_teacher = False
    mean_over = "labels"
    ignore_index = -1
    class_weight: tuple[float, ...] | None = None  # in the repr only where they are set

    def __init__(
        self,
        label_smoothing: float = 0.0,
        *,
        class_weight: Sequence[float] | Tensor | None = None,
        class_dim: int = 1,
        ignore_index: int = -1,
        mask: str | None = None,
    ):
        check_is("ignore_index", ignore_index, int)
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_number("label_smoothing", label_smoothing, 0.0, 1.0, open_high=True)
        self.label_smoothing = label_smoothing
        if class_weight is not None:
            if isinstance(class_weight, Tensor) and class_weight.dim() == 1:
                check_values("class_weight", class_weight)
                class_weight = class_weight.tolist()
            check_is("class_weight", class_weight, Sequence[float])
            for each in class_weight:
                check_number("class_weight", each, 0.0)
            self.class_weight = tuple(map(float, class_weight))
            self._of_classes: Tensor = nn.Buffer(torch.tensor(self.class_weight), persistent=False)

    @classmethod
    def at_places_of(cls, objective: Objective) -> "CrossEntropy":
        """Return labels alone, at the places where an objective looks at predictions."""
        judge = judge_of(objective)
        none = cls.ignore_index if judge.ignore_index is None else judge.ignore_index
        return cls(class_dim=judge.class_dim, ignore_index=none, mask=judge.mask)

    def count(self, lesson: Lesson) -> Tensor:
        """Return the sum of the weights of labels, or their number."""
        if self.class_weight is None:
            return super().count(lesson)
        target, weights = lesson.target, self.counting(lesson)
        if are_classes(target):
            each = self._of_classes[target.clamp(min=0, max=len(self._of_classes) - 1)]
        else:
            each = target.float().movedim(self.class_dim, -1) @ self._of_classes
        return (each if weights is None else each * weights).sum()

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the mean cross-entropy over the labels of the batch."""
        self.check_labels(lesson)
        logits, target = lesson.student_logits, lesson.target
        plain = logits.dim() == 2 and lesson.weight is None and self.mask is None
        if plain and self.class_weight is None:  # in one kernel
            loss = F.cross_entropy(
                logits,
                target,
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
            )
            return torch.where((target != self.ignore_index).any(), loss, 0.0)
        return cross_entropy_loss(
            logits,
            target,
            label_smoothing=self.label_smoothing,
            class_weight=None if self.class_weight is None else self._of_classes,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
        )


def _check_class_weight(class_weight: Tensor, logits: Tensor, class_dim: int) -> None:
    check_tensor("class_weight", class_weight)
    check_same_device("class_weight", class_weight, "the predictions", logits)
    classes = logits.shape[class_dim]
    if class_weight.shape != (classes,) or not class_weight.is_floating_point():
        raise ArgumentError(
            "class_weight",
            f"class_weight must be floating point of shape ({classes},), got {class_weight.dtype} "
            f"of shape {tuple(class_weight.shape)}",
        )
    check_not_negative("class_weight", class_weight)
