"""The residual nets of the literature for CIFAR."""

from functools import partial

from torch import nn

from kdcourse.checks import check_number, check_positive
from kdcourse.errors import ArgumentError
from kdcourse.models._parts import conv, conv_net, stages_of, started
from kdcourse.models.blocks import ResidualBlock, WideBlock
from kdcourse.models.initial import seeded
from kdcourse.models.staged_net import ConvNet
from kdcourse.signatures import checked


@checked
def resnet(
    depth: int,
    *,
    channels: int = 3,
    classes: int = 100,
    widen: int = 1,
    shortcut: str = "projection",
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build a CIFAR ResNet of depth 6n + 2 (8, 14, 20, 32, 44, 56, 110).

    Args:
        depth: Number of layers with weights.
        widen: Factor by which the widths 16, 32, 64 are multiplied, as in the benchmark's
            ResNet-8×4 and 32×4, whose stem has 32 channels in place of 16.
        shortcut: ``"projection"``, as in the distillation literature, or ``"pad"``, the
            parameter-free shortcut of the original paper.
        channels, classes, seed, initialization: As for :func:`plain`.

    Source: He et al. 2015 (arXiv 1512.03385), section 4.2; of ``widen``, Tian et al. 2020 (arXiv
    1910.10699), appendix.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ArgumentError(
            "depth", f"depth of a CIFAR ResNet must be 6n + 2 (8, 14, 20, …), got {depth}"
        )
    check_positive(widen=widen)
    block = partial(ResidualBlock, shortcut=shortcut)
    stem_width = 16 * min(widen, 2)
    counts, options = [(depth - 2) // 6] * 3, (channels, classes, seed, initialization)
    return conv_net(block, 16 * widen, counts, *options, stem_width=stem_width)


@checked
def resnet50(
    *,
    channels: int = 3,
    classes: int = 100,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build ImageNet's ResNet-50 with a stem for small images: 3×3 pixels, stride 1, no pooling.

    It has four stages of 3, 4, 6 and 3 blocks with bottlenecks, unlike ``resnet(50)``, which has
    three stages of 8 blocks, and a thirtieth of the weights. The arguments are those of
    :func:`plain`.

    Source: He et al. 2015 (arXiv 1512.03385), table 1; with this stem, the distillation literature.
    """
    block = partial(ResidualBlock, bottleneck=True)
    options = channels, classes, seed, initialization
    return conv_net(block, 256, [3, 4, 6, 3], *options, stem_width=64)


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
        stages = stages_of(partial(WideBlock, dropout=dropout), 16, width, [(depth - 4) // 6] * 3)
        stages[-1].extend([nn.BatchNorm2d(4 * width), nn.ReLU()])
        net = ConvNet(conv(channels, 16), stages, nn.Linear(4 * width, classes))
        return started(net, initialization)
