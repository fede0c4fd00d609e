"""The course's small nets, of one family without and one with shortcuts."""

from kdcourse.checks import check_positive
from kdcourse.models._parts import conv_net, conv_norm_relu
from kdcourse.models.blocks import ResidualBlock
from kdcourse.models.staged_net import ConvNet
from kdcourse.signatures import checked


@checked
def plain(
    width: int,
    depth: int = 1,
    *,
    channels: int = 1,
    classes: int = 10,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build a plain convolutional net without shortcuts, the course's small student.

    Args:
        width: Number of channels of the first stage; the others have twice and four times as many.
        depth: Number of 3×3 convolutions per stage.
        channels: Number of channels of the images.
        classes: Number of classes K.
        seed: Seed of the initial weights; without one, torch's global generator draws them.
        initialization: ``"pytorch"`` leaves the initial weights to PyTorch, which draws those of a
            convolution with a deviation of 1/√(3·C·k²), for C channels of its input and a kernel of
            k × k pixels. ``"he"`` draws them as the literature's CIFAR nets do: normally, with a
            deviation of √(2/(C'·k²)) for C' channels of its output, which is √6 = 2.45 times as
            large where C = C'. Batch norm starts as the identity either way.

    Source: of ``"he"``, He et al. 2015 (arXiv 1502.01852), section 2.2, for the backward pass.
    """
    check_positive(depth=depth)
    counts = [depth] * 3
    return conv_net(
        conv_norm_relu, width, counts, channels, classes, seed, initialization, stem_stride=2
    )


@checked
def residual(
    width: int,
    depth: int = 1,
    *,
    channels: int = 1,
    classes: int = 10,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build the same net from residual blocks of two convolutions each, ``depth`` per stage.

    The arguments are those of :func:`plain`.
    """
    check_positive(depth=depth)
    counts = [depth] * 3
    return conv_net(
        ResidualBlock, width, counts, channels, classes, seed, initialization, stem_stride=2
    )
