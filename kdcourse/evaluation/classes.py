"""Who pays for a gain? Accuracy class by class, against another net on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kdcourse.evaluation.accuracy import in_top
from kdcourse.evaluation.resampling import FEW, Interval, Resamples


@dataclass(frozen=True)
class ClassChange:
    """How well the images of one class are classified by two nets.

    Attributes:
        name: The name of the class.
        samples: Number of test images of it.
        accuracy: Share that the net classifies correctly (its recall), in [0, 1].
        other: The same of the net it is compared with.
        difference: The first less the second, on the same images.
    """

    name: str
    samples: int
    accuracy: float
    other: float
    difference: Interval

    @property
    def direction(self) -> int:
        """1 for a gain and −1 for a loss that the images tell from chance, else 0."""
        if self.samples < FEW:
            return 0
        return (self.difference.low > 0) - (self.difference.high < 0)


def class_changes(
    logits: Tensor, others: Tensor, target: Tensor, names: Sequence[str], count: int, seed: int
) -> tuple[ClassChange, ...]:
    """Compare the logits ``(N, K)`` of two nets on each class of which there is a test image.

    Every class has a bootstrap of ``count`` draws over its own images.
    """
    right, other = (in_top(one, target).double() for one in (logits, others))
    found = []
    for label, name in enumerate(names):
        own = target == label
        if not bool(own.any()):
            continue
        resamples = Resamples(int(own.sum()), count, seed)
        difference = resamples.interval(right[own] - other[own])
        means = float(right[own].mean()), float(other[own].mean())
        found.append(ClassChange(name, int(own.sum()), *means, difference))
    return tuple(found)
