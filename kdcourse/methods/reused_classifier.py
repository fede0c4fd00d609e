r"""Which properties? — what the teacher's own classifier reads.

A student that is to predict as its teacher does need not learn a classifier: it learns features
that the teacher's classifier can read, and nothing else. Those are projected to the teacher's
width, and the teacher's classifier is the student's from then on: simple knowledge distillation
(SimKD).
"""

import copy
from collections import OrderedDict
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.checks import check_module, check_positive
from kdcourse.errors import ArgumentError
from kdcourse.grid import at_the_smaller_size, both_sides, on_one_grid
from kdcourse.map_term import MapTerm
from kdcourse.models import ConvNet, seeded
from kdcourse.objective import Layer, Lesson
from kdcourse.precision import at_least_float32, in_one_precision
from kdcourse.signatures import check_is, checked


def reuse_classifier(
    body: nn.Module,
    classifier: nn.Module,
    widths: tuple[int, int] | None = None,
    *,
    reduction: int = 2,
    seed: int | None = None,
) -> nn.Sequential:
    r"""Make a student of a body without a classifier, and of the teacher's classifier.

    >>> student = reuse_classifier(models.residual(8), models.residual(16))
    >>> fit(student, train, SimKD(("projection", "stage3")), teacher=teacher)
    >>> body = nn.Sequential(*[*resnet.children()][:-2])                   # of any other nets
    >>> student = reuse_classifier(body, nn.Sequential(pool, flatten, linear), widths=(512, 2048))

    Between the two is the paper's projection: convolutions 1×1, 3×3 and 1×1, each followed by batch
    norm and ReLU, which stay a part of the student.

    Args:
        body: A module that maps inputs to features ``(N, C, H, W)``, or one of our convolutional
            nets, whose stem and stages do.
        classifier: A module that maps the teacher's features ``(N, C', H', W')`` to logits, or one
            of our convolutional nets, whose last layers do. It is copied, and the copy does not
            learn: its weights are frozen, and it is in eval mode.
        widths: C and C', which two nets of ours tell.
        reduction: The inner convolutions have C' / reduction channels, at least one.
        seed: Seed of the projection's weights.

    Returns:
        A student with the layers ``body``, ``projection`` and ``classifier``.

    Source: Chen et al. 2022 (arXiv 2203.14001), section 3 and figure 3; r = 2 there, too.
    """
    check_module("body", body)
    check_module("classifier", classifier)
    if widths is None:
        widths = _widths(body, classifier)
    check_is("widths", widths, tuple[int, int])
    check_positive(reduction=reduction, **{"widths": min(widths)})
    if isinstance(body, ConvNet):
        body, _ = body.halves()
    if isinstance(classifier, ConvNet):
        _, classifier = classifier.halves()
    own, theirs = widths
    inner = max(1, theirs // reduction)
    sizes = ((own, inner, 1), (inner, inner, 3), (inner, theirs, 1))
    with seeded(seed):
        layers = [
            layer
            for before, after, size in sizes
            for layer in (
                nn.Conv2d(before, after, size, padding=size // 2, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            )
        ]
    parts = {
        "body": body,
        "projection": nn.Sequential(*layers),
        "classifier": copy.deepcopy(classifier).requires_grad_(False).eval(),
    }
    return nn.Sequential(OrderedDict(parts))


def _widths(body: nn.Module, classifier: nn.Module) -> tuple[int, int]:
    """Return how many channels the last stages of two convolutional nets of ours have."""
    if isinstance(body, ConvNet) and isinstance(classifier, ConvNet):
        return body.classifier.in_features, classifier.classifier.in_features
    kinds = f"{type(body).__name__} and {type(classifier).__name__}"
    raise ArgumentError("widths", f"widths must be told for body and classifier that are {kinds}")


def matched_features_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    *,
    channel_dim: int | tuple[int, int] = 1,
    class_token: bool | tuple[bool, bool] = False,
) -> Tensor:
    r"""Distance of features that are to be the same.

    .. math:: \frac{1}{N C H W} \left\| A_T - A_S \right\|_2^2

    Args:
        student_features: ``(N, C, H, W)``, or with positions in other dimensions, or ``(N, C)``.
        teacher_features: As many channels; receives no gradient. Where sizes differ, the larger
            features are average-pooled to the smaller size.
        channel_dim: −1 where the channels come last, as in tokens ``(N, T, C)``; or a pair, the
            student's and the teacher's.
        class_token: Whether the first token stands for the whole, and is left out; or a pair.

    Returns:
        Scalar ≥ 0.

    Source: Chen et al. 2022 (arXiv 2203.14001), section 3; there the sum over C, H and W, in the
    authors' code this mean. Where the student's map is the larger one, their code pools it before
    it is projected, also when the student predicts.
    """
    sides = both_sides(channel_dim, class_token)
    student, teacher = on_one_grid(student_features, teacher_features, sides, vectors=True)
    if student.shape[1] != teacher.shape[1]:
        raise ArgumentError(
            "student_features",
            "student_features and teacher_features must have as many channels, got "
            f"{tuple(student_features.shape)} and {tuple(teacher_features.shape)}",
        )
    student, teacher = at_the_smaller_size(at_least_float32(student), at_least_float32(teacher))
    return F.mse_loss(*in_one_precision(student, teacher.detach()))


@checked
class SimKD(MapTerm):
    """The features before the teacher's classifier: :func:`matched_features_loss`.

    For a student made by :func:`reuse_classifier`, which learns by this term alone.

    Args:
        layer: Name of the student's layer, ``"projection"``, and of the teacher's that its
            classifier reads, as a pair; or one name in both nets.
        channel_dim: −1 where the channels come last, as in tokens ``(N, T, C)``; or a pair, the
            student's and the teacher's.
        class_token: Whether the first token stands for the whole, and is left out; or a pair.

    Source: Chen et al. 2022 (arXiv 2203.14001), section 3.
    """

    def __init__(
        self,
        layer: Layer,
        *,
        channel_dim: int | tuple[int, int] = 1,
        class_token: bool | tuple[bool, bool] = False,
    ):
        super().__init__([layer], channel_dim=channel_dim, class_token=class_token)

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the mean squared difference of the features."""
        loss = partial(
            matched_features_loss, channel_dim=self.channel_dim, class_token=self.class_token
        )
        return self.compared(lesson, loss)
