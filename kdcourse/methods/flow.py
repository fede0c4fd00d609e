r"""Which properties? — how a net gets from one layer to the next: the flow of its solution (FSP).

The teacher's features are steps on its way from question to answer. A student is not asked for the
steps, but for how one follows from the other: which channels of two layers are active at the same
places. That needs no weights, only as many channels as the teacher has in the layers compared. Of
the methods that ask for less than the features themselves, factor transfer is left out: its
factors come from a paraphraser, which has to be trained on the teacher's features first, without
the student, so it is not a loss between two nets.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_choice, check_same_samples
from kdcourse.errors import ArgumentError
from kdcourse.grid import both_sides, channels_first, pooled
from kdcourse.map_term import MapTerm
from kdcourse.objective import Layer, Lesson
from kdcourse.precision import at_least_float32, in_one_precision, inner_products
from kdcourse.signatures import check_is

MAXIMA = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


def _maxima(features: Tensor, size: list[int]) -> Tensor:
    """Take maxima of neighbouring positions, down to a grid of some size."""
    return MAXIMA[len(size)](features, size)


POOLING = {"max": _maxima, "average": pooled}


def flow_loss(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    *,
    pooling: str = "max",
    channel_dim: int | tuple[int, int] = 1,
    class_token: bool | tuple[bool, bool] = False,
) -> Tensor:
    r"""Squared distance between the flow matrices of student and teacher, of consecutive layers.

    .. math:: \frac1N \sum_n \sum_l \left\| G_l^{T(n)} - G_l^{S(n)} \right\|_F^2, \quad
              G_l = \frac{1}{HW} \sum_{h, w} A_{l, hw}\, A_{l+1, hw}^\top

    with the channels of a layer at a position as a vector :math:`A_{hw}`. Where the sizes of
    the two layers differ, the larger is pooled to the smaller. Those of student and teacher may
    differ as they like, since positions are summed over.

    Args:
        student_features: Features of at least two layers, in their order, each ``(N, C, H, W)``,
            ``(N, C, T)`` or ``(N, C, D, H, W)``, or vectors ``(N, C)``, which have one position. In
            a ResNet, the first and the last layer of a stage.
        teacher_features: Those of the teacher, as many, with as many channels each; receives no
            gradient.
        pooling: ``"max"``, as in the paper, or ``"average"``.
        channel_dim, class_token: As in :func:`kdcourse.feature.attention_transfer_loss`.

    Returns:
        Scalar ≥ 0, that grows with the squared number of channels.

    Source: Yim et al., "A Gift from Knowledge Distillation" (CVPR 2017), eq. 1 and 2 with all
    λ = 1; there it is a stage of its own, before the student learns its task
    (:func:`kdcourse.training.fit_in_stages`). The benchmark by Tian et al. 2020 (arXiv 1910.10699)
    takes the mean over a matrix, 1/(C·C') of this, and average-pools.
    """
    check_choice("pooling", pooling, tuple(POOLING))
    sides = both_sides(channel_dim, class_token)
    student = _layers("student_features", student_features, *sides[0])
    teacher = [one.detach() for one in _layers("teacher_features", teacher_features, *sides[1])]
    if len(student) != len(teacher):
        raise ArgumentError(
            "student_features",
            "student_features and teacher_features must hold as many layers, got "
            f"{len(student)} and {len(teacher)}",
        )
    for own, theirs in zip(student, teacher, strict=True):
        check_same_samples("student_features", own, "teacher_features", theirs)
        if own.shape[1] != theirs.shape[1]:
            raise ArgumentError(
                "student_features",
                "student_features and teacher_features must have the same number of channels in "
                f"each layer, got {own.shape[1]} and {theirs.shape[1]}",
            )
    flows = (
        in_one_precision(_flow(*own, pooling), _flow(*theirs, pooling))
        for own, theirs in zip(pairwise(student), pairwise(teacher), strict=True)
    )
    first, *others = (F.mse_loss(*both, reduction="sum") / len(both[0]) for both in flows)
    return sum(others, start=first)


def _layers(
    name: str, features: Sequence[Tensor], channel_dim: int, class_token: bool
) -> list[Tensor]:
    """Check the features of a net, and lay them out as ``(N, C, …)``."""
    if not isinstance(features, (tuple, list)):
        check_is(name, features, Sequence[Tensor])
    if len(features) < 2:
        raise ArgumentError(name, f"{name} must hold at least two layers, got {len(features)}")
    layers = [
        at_least_float32(channels_first(name, one, channel_dim, class_token, vectors=True))
        for one in features
    ]
    for one in layers[1:]:
        check_same_samples(name, layers[0], name, one)
        if one.dim() != layers[0].dim():
            shapes = ", ".join(str(tuple(layer.shape)) for layer in features)
            raise ArgumentError(
                name, f"{name} must have positions in as many dimensions, got {shapes}"
            )
    return layers


def _flow(first: Tensor, second: Tensor, pooling: str) -> Tensor:
    """Return the flow matrices ``(N, C, C')`` between two layers of one net."""
    size = [*map(min, first.shape[2:], second.shape[2:])]
    pool = POOLING[pooling]
    one, other = (
        (layer if [*layer.shape[2:]] == size else pool(layer, size)).flatten(2)
        for layer in (first, second)
    )
    return inner_products(one, other) / one.shape[2]


class Flow(MapTerm):
    """How a net gets from one layer to the next: :func:`flow_loss`.

    >>> Flow(["stage1", "stage2", "stage3"])
    >>> Flow(["layer1.0", "layer1.1"]) + Flow(["layer2.0", "layer2.1"])    # in each stage

    Args:
        layers: Names of at least two layers in their order, or pairs of names.
        pooling: How the larger of two layers is brought to the size of the other one: ``"max"``, or
            ``"average"``, as in the benchmark.
        channel_dim: As of every :class:`MapTerm <kdcourse.map_term.MapTerm>`.
        class_token: As of every :class:`MapTerm <kdcourse.map_term.MapTerm>`.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        pooling: str = "max",
        channel_dim: int | tuple[int, int] = 1,
        class_token: bool | tuple[bool, bool] = False,
    ):
        super().__init__(layers, channel_dim=channel_dim, class_token=class_token)
        if len(layers) < 2:
            raise ArgumentError("layers", f"layers must name at least two, got {layers!r}")
        check_choice("pooling", pooling, tuple(POOLING))
        self.pooling = pooling

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the sum of the squared distances between flow matrices."""
        student, teacher = zip(*self.shown(lesson), strict=True)
        return flow_loss(
            student,
            teacher,
            pooling=self.pooling,
            channel_dim=self.channel_dim,
            class_token=self.class_token,
        )
