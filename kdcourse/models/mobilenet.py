"""MobileNetV2 in the form that the distillation literature gives it for CIFAR."""

from functools import partial

from torch import nn

from kdcourse.checks import check_positive
from kdcourse.models._parts import blocks_of, conv_norm_relu, started
from kdcourse.models.blocks import InvertedResidual
from kdcourse.models.initial import seeded
from kdcourse.models.staged_net import ConvNet
from kdcourse.signatures import checked

# By stage: expansion, width, number of blocks and stride; the paper's, at half its widths.
STAGES = (
    ((1, 8, 1, 1), (6, 12, 2, 1)),
    ((6, 16, 3, 2),),
    ((6, 32, 4, 2), (6, 48, 3, 1)),
    ((6, 80, 3, 2), (6, 160, 1, 1)),
)
STEM, LAST = 16, 1280


@checked
def mobilenetv2(
    *,
    channels: int = 3,
    classes: int = 100,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build MobileNetV2 of half the width, for small images.

    Layers to capture: ``stage1`` to ``stage4`` are made of its blocks, ``stage5`` is the 1×1
    convolution before the mean. The arguments are those of :func:`plain`.

    Source: Sandler et al. 2018 (arXiv 1801.04381), table 2, and the authors' code of Tian et al.
    2020 (arXiv 1910.10699), in which the second stage has stride 1, the first block has its 1×1
    convolution in spite of an expansion by 1, ReLU has no upper bound, and there is no dropout.
    """
    check_positive(channels=channels, classes=classes)
    with seeded(seed):
        stem, before, stages = conv_norm_relu(channels, STEM, 2), STEM, []
        for rows in STAGES:
            layers: list[nn.Module] = []
            for expansion, width, count, stride in rows:
                block = partial(InvertedResidual, expansion=expansion)
                layers += blocks_of(block, before, width, count, stride)
                before = width
            stages.append(nn.Sequential(*layers))
        stages.append(conv_norm_relu(before, LAST, kernel=1))
        return started(ConvNet(stem, stages, nn.Linear(LAST, classes)), initialization)
