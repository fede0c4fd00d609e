"""How many test images are classified correctly, at once or among the k likeliest classes."""

from dataclasses import dataclass

from torch import Tensor

from kdcourse.checks import check_integer, check_matrix, check_target, check_values
from kdcourse.evaluation.resampling import Interval, Resamples
from kdcourse.metrics import check_numbers
from kdcourse.signatures import checked


@dataclass(frozen=True)
class Accuracy:
    """Shares of the test images, in [0, 1].

    Attributes:
        top_1: Those whose class is the likeliest.
        top_k: Those whose class is among the k likeliest.
        k: This k: 5, or one less than there are classes.
        minus_teacher: ``top_1`` less that of the teacher, on the same images.
        minus_baseline: ``top_1`` less that of the student that the others are compared with.
    """

    top_1: Interval
    top_k: Interval
    k: int
    minus_teacher: Interval | None = None
    minus_baseline: Interval | None = None


def check_answers(logits: Tensor, target: Tensor | None = None, name: str = "logits") -> None:
    """Require logits ``(N, K)`` that can be read, and where there is a target, a class for each."""
    check_matrix(name, logits)
    check_values(name, logits)
    check_numbers(name, name, logits)
    if target is not None:
        check_target(target, *logits.shape)
        check_values("target", target)


@checked
def in_top(logits: Tensor, target: Tensor, k: int = 1) -> Tensor:
    """Say of which samples the class is among the k likeliest, ``(N,)`` of True and False.

    Args:
        logits: Predictions ``(N, K)``; of equal ones, the first class counts as likelier.
        target: Class indices ``(N,)``.
        k: Number of classes, at most K.
    """
    check_answers(logits, target)
    check_integer("k", k, 1, logits.shape[1])
    likeliest = logits.argsort(dim=1, descending=True, stable=True)[:, :k]
    return (likeliest == target.to(logits.device)[:, None]).any(dim=1)


def accuracy_of(
    logits: Tensor,
    target: Tensor,
    resamples: Resamples,
    teacher: Tensor | None = None,
    baseline: Tensor | None = None,
) -> Accuracy:
    """Measure accuracy and its differences to other nets, given all their logits ``(N, K)``."""
    k = min(5, logits.shape[1] - 1)
    right = in_top(logits, target).double()

    def minus(other: Tensor | None) -> Interval | None:
        return None if other is None else resamples.interval(right - in_top(other, target).double())

    return Accuracy(
        resamples.interval(right),
        resamples.interval(in_top(logits, target, k)),
        k,
        minus(teacher),
        minus(baseline),
    )
