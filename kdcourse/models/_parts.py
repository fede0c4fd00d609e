"""What the convolutional nets are put together from."""

from collections.abc import Callable

from torch import nn

from kdcourse.checks import check_choice, check_positive
from kdcourse.models.conv_net import ConvNet
from kdcourse.models.initial import seeded

Block = Callable[[int, int, int], nn.Module]


def conv3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def conv_norm_relu(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        conv3(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


def stages_of(block: Block, before: int, width: int, blocks: int) -> list[nn.Sequential]:
    """Build three stages of ``blocks`` blocks, as wide as ``width`` times 1, 2 and 4."""
    stages = []
    for wide, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        layers = [block(before, wide, stride)]  # the only one to change channels and size
        layers += [block(wide, wide, 1) for _ in range(blocks - 1)]
        stages.append(nn.Sequential(*layers))
        before = wide
    return stages


def conv_net(
    block: Block,
    width: int,
    depth: int,
    channels: int,
    classes: int,
    seed: int | None,
    initialization: str,
    stem_stride: int = 2,
) -> ConvNet:
    check_positive(width=width, depth=depth, channels=channels, classes=classes)
    with seeded(seed):
        stem = conv_norm_relu(channels, width, stem_stride)
        stages = stages_of(block, width, width, depth)
        return started(ConvNet(stem, stages, nn.Linear(4 * width, classes)), initialization)


def started(net: ConvNet, initialization: str) -> ConvNet:
    """Let a net start from the weights it was made with, or its convolutions from He's."""
    check_choice("initialization", initialization, ("pytorch", "he"))
    if initialization == "he":
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
