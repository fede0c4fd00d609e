"""VGG in the form that the distillation literature gives it for CIFAR."""

from torch import nn

from kdcourse.checks import check_positive
from kdcourse.errors import ArgumentError
from kdcourse.models._parts import conv_norm_relu, started
from kdcourse.models.initial import seeded
from kdcourse.models.staged_net import ConvNet
from kdcourse.signatures import checked

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {  # of each width, by the depth
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


@checked
def vgg(
    depth: int,
    *,
    channels: int = 3,
    classes: int = 100,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build VGG with batch norm, and one linear layer behind the mean over all positions.

    Args:
        depth: 8, 11, 13, 16 or 19, with the three linear layers of the original.
        channels, classes, seed, initialization: As for :func:`plain`.

    Source: Simonyan, Zisserman 2015 (arXiv 1409.1556), table 1, and the code of Tian et al. 2020
    (arXiv 1910.10699): the last two stages are not separated by pooling, and depth 8 is theirs.
    """
    if depth not in CONVOLUTIONS:
        raise ArgumentError("depth", f"depth must be one of 8, 11, 13, 16, 19, got {depth}")
    check_positive(channels=channels, classes=classes)
    with seeded(seed):
        before = channels
        stages: list[nn.Module] = []
        for width, count in zip(WIDTHS, CONVOLUTIONS[depth], strict=True):
            pooled = 0 < len(stages) < len(WIDTHS) - 1
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if pooled else []
            for _ in range(count):
                layers += conv_norm_relu(before, width, bias=True)
                before = width
            stages.append(nn.Sequential(*layers))
        stem, *stages = stages
        return started(ConvNet(stem, stages, nn.Linear(before, classes)), initialization)
