"""Nets by their short names."""

import re
from collections.abc import Callable

from kdcourse.errors import ArgumentError
from kdcourse.models.conv_net import ConvNet
from kdcourse.models.course import plain, residual
from kdcourse.models.resnets import resnet, wide_resnet
from kdcourse.signatures import checked

_FAMILIES: dict[str, Callable[..., ConvNet]] = {
    r"plain(\d+)": plain,
    r"res(\d+)": residual,
    r"resnet(\d+)": resnet,
    r"wrn-(\d+)-(\d+)": wide_resnet,
}


@checked
def by_name(
    name: str,
    *,
    channels: int = 1,
    classes: int = 10,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build a model from its short name: ``plain8``, ``res16``, ``resnet20`` or ``wrn-16-2``.

    Args:
        name: Family and size: the width of ``plain`` and ``res``, the depth of ``resnet``, the
            depth and the widening of ``wrn``.
        channels, classes, seed, initialization: As for :func:`plain`.
    """
    for pattern, build in _FAMILIES.items():
        if found := re.fullmatch(pattern, name, re.ASCII):
            return build(
                *map(int, found.groups()),
                channels=channels,
                classes=classes,
                seed=seed,
                initialization=initialization,
            )
    raise ArgumentError(
        "name",
        f"unknown model {name!r}; name must be plain<width>, res<width>, resnet<depth> or "
        "wrn-<depth>-<widen>, such as plain8, res16, resnet20, wrn-16-2",
    )
