"""Blocks of residual nets, each with its shortcut."""

from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.checks import check_choice, check_number, check_positive
from kdcourse.models._parts import conv, conv_norm, conv_norm_relu
from kdcourse.signatures import checked


@checked
class PadShortcut(nn.Module):
    """The parameter-free shortcut of the CIFAR ResNets: subsample, and pad channels with zeros."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        check_positive(channels_in=channels_in, channels_out=channels_out, stride=stride)
        self.extra = channels_out - channels_in
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``."""
        half = self.extra // 2
        kept = features[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, half, self.extra - half))


@checked
class ResidualBlock(nn.Module):
    """``relu(x + conv(relu(conv(x))))``, with batch norm after each convolution (He 2015).

    With a ``bottleneck``, there are three convolutions: 1×1 to a quarter of the channels, 3×3,
    and 1×1 to all of them. The layer ``sum`` shows what goes into the last ReLU.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int = 1,
        shortcut: str = "projection",
        bottleneck: bool = False,
    ):
        super().__init__()
        check_positive(channels_in=channels_in, channels_out=channels_out, stride=stride)
        check_choice("shortcut", shortcut, ("projection", "pad"))
        if bottleneck:
            narrow = max(channels_out // 4, 1)
            self.residual = nn.Sequential(
                *conv_norm_relu(channels_in, narrow, kernel=1),
                *conv_norm_relu(narrow, narrow, stride),
                *conv_norm(narrow, channels_out, kernel=1),
            )
        else:
            self.residual = nn.Sequential(
                *conv_norm_relu(channels_in, channels_out, stride),
                *conv_norm(channels_out, channels_out),
            )
        if stride == 1 and channels_in == channels_out:
            self.shortcut: nn.Module = nn.Identity()
        elif shortcut == "pad":
            self.shortcut = PadShortcut(channels_in, channels_out, stride)
        else:
            self.shortcut = conv_norm(channels_in, channels_out, stride, kernel=1)
        self.sum = nn.Identity()  # has no weights, but a name

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``."""
        return F.relu(self.sum(self.shortcut(features) + self.residual(features)))


@checked
class WideBlock(nn.Module):
    """Pre-activation block of the wide ResNets: batch norm and ReLU before each convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, dropout: float = 0.0):
        super().__init__()
        check_positive(channels_in=channels_in, channels_out=channels_out, stride=stride)
        check_number("dropout", dropout, 0.0, 1.0)
        self.activate = nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU())
        self.residual = nn.Sequential(
            *conv_norm_relu(channels_in, channels_out, stride),
            nn.Dropout(dropout),
            conv(channels_out, channels_out),
        )
        same = stride == 1 and channels_in == channels_out
        self.shortcut: nn.Module | None = (
            None if same else conv(channels_in, channels_out, stride, kernel=1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``."""
        active = self.activate(features)
        kept = features if self.shortcut is None else self.shortcut(active)
        return kept + self.residual(active)


@checked
class InvertedResidual(nn.Module):
    """Block of the MobileNets: 1×1 to more channels, 3×3 on each alone, 1×1 to few, without ReLU.

    Where shapes allow, the input is added.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, expansion: int = 6):
        super().__init__()
        check_positive(channels_in=channels_in, channels_out=channels_out, stride=stride)
        check_positive(expansion=expansion)
        wide = expansion * channels_in
        self.residual = nn.Sequential(
            *conv_norm_relu(channels_in, wide, kernel=1),
            *conv_norm_relu(wide, wide, stride, groups=wide),
            *conv_norm(wide, channels_out, kernel=1),
        )
        self.adds = stride == 1 and channels_in == channels_out

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``."""
        changed = self.residual(features)
        return features + changed if self.adds else changed
