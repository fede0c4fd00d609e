"""Nets by their short names."""

import re
from collections.abc import Callable
from functools import partial

from kdcourse.errors import ArgumentError
from kdcourse.models.course import plain, residual
from kdcourse.models.language_model import LanguageModel, language_model
from kdcourse.models.mobilenet import mobilenetv2
from kdcourse.models.resnets import resnet, resnet50, wide_resnet
from kdcourse.models.staged_net import StagedNet
from kdcourse.models.vgg import vgg
from kdcourse.models.vision_transformer import vision_transformer
from kdcourse.signatures import checked

HEADS = 4  # of a language model


def _lm(
    depth: int, width: int, *, classes: int, seed: int | None, **of_images: object
) -> LanguageModel:
    return language_model(width, depth, HEADS, classes, seed=seed)


_FAMILIES: dict[str, Callable[..., StagedNet]] = {
    r"plain(\d+)": plain,
    r"res(\d+)": residual,
    r"resnet50": resnet50,
    r"resnet(\d+)": resnet,
    r"resnet(\d+)x(\d+)": lambda depth, widen, **rest: resnet(depth, widen=widen, **rest),
    r"wrn-(\d+)-(\d+)": wide_resnet,
    r"vgg(\d+)": vgg,
    r"mobilenetv2": mobilenetv2,
    r"vit-small": partial(vision_transformer, 32, 3, 2),
    r"lm-(\d+)x(\d+)": _lm,
}


@checked
def by_name(
    name: str,
    *,
    channels: int = 1,
    classes: int = 10,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> StagedNet:
    """Build a model from its short name, such as ``plain8``, ``res16`` or ``wrn-16-2``.

    Args:
        name: Family and size: the width of ``plain`` and ``res``; the depth of ``resnet`` and
            ``vgg``; the depth and the widening of ``wrn-16-2`` and ``resnet8x4``. ``resnet50``
            (:func:`resnet50`), ``mobilenetv2`` and ``vit-small``, a :func:`vision_transformer` of
            three blocks, 32 channels and two heads, are of one size. ``lm-2x48`` is a
            :func:`language_model` of two blocks, 48 channels and four heads, whose vocabulary
            has ``classes`` tokens; ``channels`` and ``initialization`` say nothing about it.
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
        f"unknown model {name!r}; name must be plain<width>, res<width>, resnet<depth>, "
        "resnet<depth>x<widen>, wrn-<depth>-<widen>, vgg<depth>, mobilenetv2, vit-small or "
        "lm-<depth>x<width>, such as plain8, res16, resnet20, resnet8x4, wrn-16-2, lm-2x48",
    )
