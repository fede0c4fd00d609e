"""The residual nets of the literature for CIFAR."""

from functools import partial

from torch import nn

from kdcourse.checks import check_number, check_positive
from kdcourse.errors import ArgumentError
from kdcourse.models._parts import conv3, conv_net, stages_of, started
from kdcourse.models.blocks import ResidualBlock, WideBlock
from kdcourse.models.conv_net import ConvNet
from kdcourse.models.initial import seeded
from kdcourse.signatures import checked


@checked
def resnet(
    depth: int,
    *,
    channels: int = 3,
    classes: int = 100,
    shortcut: str = "projection",
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build a CIFAR ResNet of depth 6n + 2 (8, 14, 20, 32, 44, 56, 110).

    Args:
        depth: Number of layers with weights.
        shortcut: ``"projection"``, as in the distillation literature, or ``"pad"``, the
            parameter-free shortcut of the original paper.
        channels, classes, seed, initialization: As for :func:`plain`.

    Source: He et al. 2015 (arXiv 1512.03385), section 4.2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ArgumentError(
            "depth", f"depth of a CIFAR ResNet must be 6n + 2 (8, 14, 20, …), got {depth}"
        )
    block = partial(ResidualBlock, shortcut=shortcut)
    blocks = (depth - 2) // 6
    return conv_net(block, 16, blocks, channels, classes, seed, initialization, stem_stride=1)


@checked
def wide_resnet(
    depth: int,
    widen: int,
    *,
    channels: int = 3,
    classes: int = 100,
    dropout: float = 0.0,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build WRN-``depth``-``widen``, a wide residual net of depth 6n + 4 (16, 22, 28, 40).

    Args:
        depth: Number of convolutions.
        widen: Factor by which the widths 16, 32, 64 are multiplied.
        dropout: Probability of dropping an activation inside each block.
        channels, classes, seed, initialization: As for :func:`plain`.

    Source: Zagoruyko, Komodakis 2016 (arXiv 1605.07146).
    """
    check_positive(widen=widen, channels=channels, classes=classes)
    if depth < 10 or (depth - 4) % 6:
        raise ArgumentError(
            "depth", f"depth of a wide ResNet must be 6n + 4 (16, 22, 28, …), got {depth}"
        )
    check_number("dropout", dropout, 0.0, 1.0)

    width = 16 * widen
    with seeded(seed):
        stages = stages_of(partial(WideBlock, dropout=dropout), 16, width, (depth - 4) // 6)
        stages[-1].extend([nn.BatchNorm2d(4 * width), nn.ReLU()])
        net = ConvNet(conv3(channels, 16), stages, nn.Linear(4 * width, classes))
        return started(net, initialization)
