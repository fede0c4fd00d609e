"""Blocks of residual nets, each with its shortcut."""

from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.checks import check_choice, check_number, check_positive
from kdcourse.models._parts import conv3, conv_norm_relu
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
    """``relu(x + conv(relu(conv(x))))``, with batch norm after each convolution (He 2015)."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int = 1, shortcut: str = "projection"
    ):
        super().__init__()
        check_positive(channels_in=channels_in, channels_out=channels_out, stride=stride)
        check_choice("shortcut", shortcut, ("projection", "pad"))
        self.residual = nn.Sequential(
            *conv_norm_relu(channels_in, channels_out, stride),
            conv3(channels_out, channels_out),
            nn.BatchNorm2d(channels_out),
        )
        if stride == 1 and channels_in == channels_out:
            self.shortcut: nn.Module = nn.Identity()
        elif shortcut == "pad":
            self.shortcut = PadShortcut(channels_in, channels_out, stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``."""
        return F.relu(self.shortcut(features) + self.residual(features))


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
            conv3(channels_out, channels_out),
        )
        same = stride == 1 and channels_in == channels_out
        self.shortcut: nn.Module | None = (
            None if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``."""
        active = self.activate(features)
        kept = features if self.shortcut is None else self.shortcut(active)
        return kept + self.residual(active)
