"""Terms on predictions: at which places these are made, which count, and when one is right."""

import torch
from torch import Tensor

from kdcourse.batch import are_classes
from kdcourse.checks import (
    FLOATS,
    check_floating,
    check_integer,
    check_probabilities,
    check_same_device,
    check_tensor,
)
from kdcourse.errors import ArgumentError
from kdcourse.objective import Lesson, Objective, Term
from kdcourse.precision import readable, widest
from kdcourse.predictions import (
    INTEGERS,
    check_class_dim,
    check_predictions,
    counted_only,
    left_out_by,
    place_rows,
    place_shape,
)
from kdcourse.signatures import check_is, describe


class PredictionTerm(Term):
    """A term on predictions, a mean over the places that count.

    What counts is said by the weights of a batch, if it has some, and by two arguments:

    Args:
        class_dim: The dimension of the classes: 1 for ``(N, K)`` and ``(N, K, H, W)``, −1 for
            ``(N, T, K)``.
        ignore_index: The target of places that do not count, such as −100 or 255.
        mask: The name of an entry of the inputs, such as ``"attention_mask"``, of the places'
            shape: where it is 0 or False, a place does not count.
    """

    mean_over = "places"
    measure = "accuracy"  # of predictions, by which a student is rated on a validation set
    class_dim: int = 1  # in the repr only where it is set, as the others
    ignore_index: int | None = None
    mask: str | None = None

    def __init__(
        self,
        *,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__()
        check_class_dim(class_dim)
        check_is("mask", mask, str | None)
        if ignore_index is not None:
            check_integer("ignore_index", ignore_index, -(2**63), 2**63 - 1)
        given = {"class_dim": class_dim, "ignore_index": ignore_index, "mask": mask}
        for name, value in given.items():
            if value != getattr(type(self), name):
                setattr(self, name, value)

    @property
    def takes_probabilities(self) -> bool:
        """Whether labels may be probabilities of the classes, too."""
        return self.mean_over == "labels"

    @property
    def at_places(self) -> Term | None:
        return self

    def counting(self, lesson: Lesson) -> Tensor | None:
        """Return how much each place counts, of the places' shape; None if all count alike."""
        weights, left_out = self._weights_of_batch(lesson), []
        if self.mask is not None:
            mask = lesson.entry(self.mask)
            if lesson.student.logits is not None:  # a head of its own may do without
                self._check_mask(mask, lesson.student.logits)
            left_out.append(left_out_by(mask))
        if self.ignore_index is not None and not self.is_soft(lesson.target):
            left_out.append(lesson.target == self.ignore_index)
        for places in left_out:
            if weights is None:
                weights = torch.ones_like(places, dtype=torch.float32)
            if weights.shape == places.shape:  # or else the loss says so
                weights = weights.masked_fill(places, 0)
        return weights

    def _check_mask(self, mask: Tensor, logits: Tensor) -> None:
        places = self.counted_shape(logits)
        if list(mask.shape) != places:
            raise ArgumentError(
                "mask",
                f"mask must name an entry of shape {tuple(places)}, one number a place, as the "
                f"predictions are {tuple(logits.shape)} with class_dim={self.class_dim}, got "
                f"{self.mask!r}, which is {tuple(mask.shape)}",
            )

    def counted_shape(self, predictions: Tensor) -> list[int]:
        """Return the shape of what has one entry a place."""
        return place_shape(predictions, self.class_dim)

    def _weights_of_batch(self, lesson: Lesson) -> Tensor | None:
        """Return the weights that came with a batch; those of samples are those of their places."""
        weight, places = lesson.weight, list(lesson.target.shape)
        if self.is_soft(lesson.target):
            places = place_shape(lesson.target, self.class_dim)
        if weight is None or list(weight.shape) != places[: weight.dim()]:
            return weight
        return weight.view(*weight.shape, *[1] * (len(places) - weight.dim())).expand(places)

    def count(self, lesson: Lesson) -> Tensor:
        """Return the sum of the weights of places, or their number."""
        weights, target = self.counting(lesson), lesson.target
        if weights is not None:
            return weights.sum()
        classes = target.shape[self.class_dim] if self.is_soft(target) else 1
        return torch.full((), target.numel() // classes, device=target.device)

    def is_soft(self, target: Tensor) -> bool:
        """Whether a target has an entry for every class of a place, and not one for the place."""
        return target.is_floating_point() and target.dim() > 1

    def right(self, logits: Tensor, lesson: Lesson) -> tuple[Tensor, Tensor] | None:
        """Return the number of places that are classified correctly, and that of those judged.

        These have a label and count. None if the targets are no classes.
        """
        judged = self.judged(lesson)
        predicted = logits.argmax(dim=self.class_dim)
        if judged is None or predicted.shape != judged.shape:
            return None
        return ((predicted == lesson.target) & judged).sum(), judged.sum()

    def judged(self, lesson: Lesson) -> Tensor | None:
        """Return where a prediction can be right or wrong, of the targets' shape."""
        if not are_classes(lesson.target):
            return None
        judged = lesson.target >= 0
        told = lesson.weight is not None or self.mask is not None
        if told or (self.ignore_index is not None and self.ignore_index >= 0):
            weights = self.counting(lesson)
            if weights is not None and weights.shape == judged.shape:
                judged = judged & (weights > 0)
        return judged

    def sums(self, lesson: Lesson) -> Tensor:
        """Return sums over the places of a batch, from which :meth:`rate` makes the measure."""
        rated = self.right(lesson.student_logits, lesson)
        if rated is None:
            shapes = describe(lesson.target), describe(lesson.student_logits)
            raise ArgumentError(
                "validation",
                "the labels of validation must be classes, one a place, for an accuracy, got "
                f"{shapes[0]}, where predictions are {shapes[1]}",
            )
        return torch.stack(rated).to(widest(lesson.student_logits))

    def rate(self, sums: Tensor) -> float:
        """Return the share of predictions that are right, in [0, 1]."""
        right, judged = sums.tolist()
        if judged == 0:
            raise ArgumentError("validation", "validation holds no label that counts")
        return right / judged

    def check_labels(self, lesson: Lesson, source: str = "train") -> None:
        """Require class indices, one a place, in ``[0, K)`` where there is a label that counts.

        Of places without one, the target is −1 or ``ignore_index``, unless every sample must have
        one; the places that a mask or a weight leaves out may have any. Probabilities, of the
        logits' shape, will do as well where the term learns from them.
        """
        logits, target = lesson.student_logits, lesson.target
        name = f"the labels of {source}"
        check_predictions("the student's logits", logits, self.class_dim)
        soft = self.takes_probabilities and target.is_floating_point()
        if soft and target.shape == logits.shape:
            rows = place_rows(target, self.class_dim)
            check_probabilities(name, counted_only(rows, self._rows(lesson), 1 / rows.shape[1]))
            return
        classes = logits.shape[self.class_dim]
        places = place_shape(logits, self.class_dim)
        if target.dtype != torch.int64 or list(target.shape) != places:
            or_soft = f", or probabilities {tuple(logits.shape)}" * self.takes_probabilities
            raise ArgumentError(
                source,
                f"{name} must be torch.int64 of shape {tuple(places)}{or_soft}, got "
                f"{target.dtype} of shape {tuple(target.shape)}",
            )
        if not readable(target) or target.numel() == 0 or _lie_in(target, classes):
            return
        counted = counted_only(target.flatten(), self._rows(lesson))
        if not _lie_in(counted, classes):
            none = f" or be {self.ignore_index} where there is none,"
            raise ArgumentError(
                source,
                f"{name} must lie in [0, {classes}),{none * (self.ignore_index is not None)} got "
                f"values from {int(counted.min())} to {int(counted.max())}",
            )

    def _rows(self, lesson: Lesson) -> Tensor | None:
        weights = self.counting(lesson)
        return None if weights is None else weights.flatten()


def _lie_in(target: Tensor, classes: int) -> bool:
    lowest, highest = torch.stack(target.aminmax()).tolist()
    return 0 <= lowest <= highest < classes


class EntryTerm(PredictionTerm):
    """A term on predictions of which every entry is a place: a label of many, or a quantity.

    Args:
        ignore_index: The target of entries that do not count, such as −1 for a label that is not
            known.
        mask: As for every :class:`PredictionTerm`, of the predictions' shape.
    """

    def __init__(self, *, ignore_index: int | None = None, mask: str | None = None):
        super().__init__(ignore_index=ignore_index, mask=mask)

    def is_soft(self, target: Tensor) -> bool:
        return False

    def counted_shape(self, predictions: Tensor) -> list[int]:
        return list(predictions.shape)

    def right(self, logits: Tensor, lesson: Lesson) -> tuple[Tensor, Tensor] | None:
        return None

    def judged(self, lesson: Lesson) -> Tensor | None:
        return None

    def check_labels(self, lesson: Lesson, source: str = "train") -> None:
        """Require a target of the predictions' shape."""
        target, predictions = lesson.target, lesson.student_logits
        if are_classes(target) and target.shape == predictions.shape[:-1]:
            raise ArgumentError(
                "objective",
                f"{self!r} needs a label for every entry of the predictions, "
                f"{tuple(predictions.shape)}, and the labels of {source} are classes, "
                f"{tuple(target.shape)}: learn from those by CrossEntropy()",
            )
        check_entries(f"the labels of {source}", target, "the student's predictions", predictions)


def check_entries(name: str, target: Tensor, what: str, predictions: Tensor) -> None:
    """Require a number for every entry of predictions: broadcasting would compare all with all."""
    check_floating(what, predictions)
    check_tensor(name, target)
    check_same_device(name, target, what, predictions)
    if target.shape != predictions.shape or predictions.dim() == 0:
        raise ArgumentError(
            name,
            f"{name} must have the shape (N, …) of {what}, {tuple(predictions.shape)}, got "
            f"{tuple(target.shape)}",
        )
    if predictions.numel() == 0:
        raise ArgumentError(what, f"{what} must hold at least one entry, got {tuple(target.shape)}")
    if target.dtype not in (*INTEGERS, *FLOATS):
        raise ArgumentError(
            name,
            f"{name} must be bool, integer or floating point of at least 16 bits, got "
            f"{target.dtype}",
        )


def judge_of(objective: Objective) -> PredictionTerm:
    """Return the term that knows when a prediction is right: one on labels before any other."""
    terms = [term.at_places for _, term in objective.parts() if term.at_places is not None]
    on_labels = [term for term in terms if term.mean_over == "labels"]
    judge = next(iter([*on_labels, *terms]), None)
    return judge if isinstance(judge, PredictionTerm) else PredictionTerm()
