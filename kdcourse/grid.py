"""Features of any shape: which dimension holds their channels, and how their positions lie.

``channel_dim`` tells. With 1 the channels come first: vectors ``(N, C)``, sequences ``(N, C, T)``,
images ``(N, C, H, W)`` and volumes ``(N, C, D, H, W)``. With −1 they come last, as in most
transformers: tokens ``(N, T, C)``, or images ``(N, H, W, C)``. Where the two nets differ, it is a
pair, the student's and the teacher's; so is ``class_token``.

Tokens are compared one by one. Where their numbers differ, or where those of one net meet an image,
they are patches of an image: T = g² of them are laid out as ``(N, C, g, g)``.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_flag, check_floating, check_same_samples
from kdcourse.errors import ArgumentError
from kdcourse.signatures import describe

Side = TypeVar("Side", int, bool)
POOL: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
SHAPES = {
    1: "(N, C, H, W), (N, C, T) or (N, C, D, H, W)",
    -1: "(N, T, C), (N, H, W, C) or (N, D, H, W, C)",
}


def check_channel_dim(channel_dim: int) -> None:
    """Require one of the two places where channels may be."""
    known = isinstance(channel_dim, Integral) and not isinstance(channel_dim, bool)
    if not known or channel_dim not in (1, -1):
        raise ArgumentError(
            "channel_dim",
            "channel_dim must be 1 (channels behind N) or -1 (channels last, as in tokens), or a "
            f"pair of them, the student's and the teacher's, got {describe(channel_dim)}",
        )


def both_sides(
    channel_dim: int | tuple[int, int], class_token: bool | tuple[bool, bool] = False
) -> list[tuple[int, bool]]:
    """Check where the channels of both nets are, and list it: the student's, the teacher's."""
    sides = list(zip(_pair(channel_dim), _pair(class_token), strict=True))
    for one, token in sides:
        check_channel_dim(one)
        check_flag("class_token", token)
    return sides


def _pair(value: Side | tuple[Side, Side]) -> tuple[Side, Side]:
    if isinstance(value, (tuple, list)):
        return tuple(value) if len(value) == 2 else (value, value)  # type: ignore[return-value]
    return value, value


def channels_first(
    name: str,
    features: Tensor,
    channel_dim: int,
    class_token: bool = False,
    *,
    vectors: bool = False,
) -> Tensor:
    """Check features, and lay them out as ``(N, C, …)``, without the class token.

    Args:
        name: What they are called.
        features: The features.
        channel_dim: Where their channels are.
        class_token: Whether the first token stands for the whole, and is left out.
        vectors: Whether vectors ``(N, C)`` will do: they have one position.
    """
    check_floating(name, features)
    if vectors and features.dim() == 2 and features.numel():
        features, channel_dim = features[:, :, None], 1
    if not 3 <= features.dim() <= 5 or features.numel() == 0:
        raise ArgumentError(
            name,
            f"{name} must have shape {SHAPES[channel_dim]} for channel_dim={channel_dim} and not "
            f"be empty, got {tuple(features.shape)}",
        )
    if class_token:
        if channel_dim != -1 or features.dim() != 3 or features.shape[1] < 2:
            raise ArgumentError(
                "class_token",
                "class_token needs at least two tokens (N, T, C) with channel_dim=-1, got "
                f"{name} {tuple(features.shape)} with channel_dim={channel_dim}",
            )
        features = features[:, 1:]
    return features if channel_dim == 1 else features.movedim(-1, 1)


def on_one_grid(
    student: Tensor, teacher: Tensor, sides: Sequence[tuple[int, bool]], *, vectors: bool = False
) -> tuple[Tensor, Tensor]:
    """Check features, and lay both nets' out on grids of as many dimensions, ``(N, C, …)``.

    Args:
        student: The student's features.
        teacher: The teacher's features.
        sides: Where the channels of both are, from :func:`both_sides`.
        vectors: Whether vectors ``(N, C)`` will do.
    """
    names = "student_features", "teacher_features"
    both = [
        channels_first(name, features, *side, vectors=vectors)
        for name, features, side in zip(names, (student, teacher), sides, strict=True)
    ]
    check_same_samples(names[0], student, names[1], teacher)
    _warn_of_tokens(student, teacher, sides)
    if both[0].shape[2:] != both[1].shape[2:]:
        for i, (name, (channel_dim, class_token)) in enumerate(zip(names, sides, strict=True)):
            if channel_dim == -1 and (student, teacher)[i].dim() == 3:
                both[i] = _square(name, both[i], class_token)
    own, theirs = both
    if own.dim() != theirs.dim():
        raise ArgumentError(
            names[0],
            f"{names[0]} and {names[1]} must have positions in as many dimensions, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        )
    return own, theirs


def _warn_of_tokens(student: Tensor, teacher: Tensor, sides: Sequence[tuple[int, bool]]) -> None:
    """Warn of two sequences ``(N, C, T)`` that agree in C alone, as tokens ``(N, T, C)`` would."""
    if student.dim() != 3 or teacher.dim() != 3 or any(one != 1 for one, _ in sides):
        return
    (_, *own), (_, *theirs) = student.shape, teacher.shape
    if own[0] == theirs[0] and own[1] != theirs[1] and not torch.compiler.is_compiling():
        warnings.warn(
            f"student_features {tuple(student.shape)} and teacher_features {tuple(teacher.shape)} "
            f"are read as {own[0]} channels at {own[1]} and {theirs[1]} positions: if they are "
            f"{own[0]} tokens, (N, T, C), set channel_dim=-1",
            stacklevel=4,
        )


def _square(name: str, tokens: Tensor, class_token: bool) -> Tensor:
    """Lay tokens ``(N, C, T)`` out as an image ``(N, C, g, g)``."""
    count = tokens.shape[2]
    side = math.isqrt(count)
    if side * side != count:
        told = "" if class_token else "; leave a class token out with class_token=True"
        raise ArgumentError(
            name,
            f"{name} must have T = g² tokens, which form a square grid, where the two nets' "
            f"positions differ, got {count}{told}",
        )
    return tokens.unflatten(2, (side, side))


def check_channels(name: str, features: Tensor, channels: int) -> None:
    """Require features ``(N, C, …)`` with the channels that a projection was made for."""
    if features.shape[1] != channels:
        raise ArgumentError(name, f"{name} must have {channels} channels, got {features.shape[1]}")


def pooled(features: Tensor, size: Sequence[int]) -> Tensor:
    """Average features ``(N, C, …)`` over neighbouring positions, down to a grid of some size."""
    return POOL[len(size)](features, tuple(size))


def at_the_smaller_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Pool the features of two nets ``(N, C, …)`` to the smaller size in every dimension."""
    if one.shape[2:] == other.shape[2:]:
        return one, other
    size = [*map(min, one.shape[2:], other.shape[2:])]
    return pooled(one, size), pooled(other, size)


def interpolated(features: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate features ``(N, C, …)`` linearly to another grid; shrinking looks at all of it."""
    if features.shape[2:] == tuple(size):
        return features
    if len(size) == 1:  # an image of one row
        return _bilinear(features[:, :, None], (1, *size))[:, :, 0]
    if len(size) == 3:  # along the depth, then in every slice
        channels, depth = features.shape[1], size[0]
        slices = _bilinear(features.flatten(3), (depth, features[0, 0, 0].numel()))
        slices = slices.unflatten(3, features.shape[3:]).flatten(1, 2)
        return _bilinear(slices, size[1:]).unflatten(1, (channels, depth))
    return _bilinear(features, size)


def _bilinear(images: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(images, tuple(size), mode="bilinear", align_corners=False, antialias=True)
