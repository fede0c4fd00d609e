"""What the convolutional nets are put together from."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from kdcourse.checks import check_choice, check_positive
from kdcourse.models.initial import seeded
from kdcourse.models.staged_net import ConvNet

Block = Callable[[int, int, int], nn.Module]
Net = TypeVar("Net", bound=nn.Module)


def conv(
    channels_in: int,
    channels_out: int,
    stride: int = 1,
    *,
    kernel: int = 3,
    groups: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """Make a convolution that keeps the size, or divides it by its stride."""
    padding = kernel // 2
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=bias)


def conv_norm(channels_in: int, channels_out: int, stride: int = 1, **kind: Any) -> nn.Sequential:
    """Make a convolution and a batch norm."""
    return nn.Sequential(
        conv(channels_in, channels_out, stride, **kind), nn.BatchNorm2d(channels_out)
    )


def conv_norm_relu(
    channels_in: int, channels_out: int, stride: int = 1, **kind: Any
) -> nn.Sequential:
    """Make a convolution, a batch norm and a ReLU."""
    return conv_norm(channels_in, channels_out, stride, **kind).append(nn.ReLU())


def blocks_of(block: Block, before: int, width: int, count: int, stride: int) -> list[nn.Module]:
    """Make blocks of one width, of which the first alone changes channels and size."""
    return [block(before, width, stride), *(block(width, width, 1) for _ in range(count - 1))]


def stages_of(block: Block, before: int, width: int, counts: Sequence[int]) -> list[nn.Sequential]:
    """Make a stage for each count of blocks, each twice as wide, and half as large, as the last."""
    stages = []
    for number, count in enumerate(counts):
        wide, stride = width * 2**number, 2 if number else 1
        stages.append(nn.Sequential(*blocks_of(block, before, wide, count, stride)))
        before = wide
    return stages


def conv_net(
    block: Block,
    width: int,
    counts: Sequence[int],
    channels: int,
    classes: int,
    seed: int | None,
    initialization: str,
    *,
    stem_width: int | None = None,
    stem_stride: int = 1,
) -> ConvNet:
    """Make a net from one kind of blocks; its stem is as wide as the first stage, or as told."""
    check_positive(width=width, channels=channels, classes=classes)
    before = stem_width or width
    with seeded(seed):
        stem = conv_norm_relu(channels, before, stem_stride)
        stages = stages_of(block, before, width, counts)
        head = nn.Linear(width * 2 ** (len(counts) - 1), classes)
        return started(ConvNet(stem, stages, head), initialization)


def started(net: Net, initialization: str) -> Net:
    """Let a net start from the weights it was made with, or its convolutions from He's."""
    check_choice("initialization", initialization, ("pytorch", "he"))
    if initialization == "he":
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return net
