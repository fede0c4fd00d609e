"""A small vision transformer."""

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from kdcourse.checks import check_positive
from kdcourse.errors import ArgumentError
from kdcourse.models._attention import Block
from kdcourse.models._parts import started
from kdcourse.models.initial import seeded
from kdcourse.models.staged_net import StagedNet
from kdcourse.signatures import checked

PATCH, GRID = 4, 7  # pixels of a patch, patches of an image of 28 x 28 pixels, in each direction
SPREAD = 0.02  # deviation of the initial positions and class token


@checked
def vision_transformer(
    width: int,
    depth: int,
    heads: int,
    *,
    channels: int = 1,
    classes: int = 10,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> StagedNet:
    """Build a vision transformer for small images, which it sees as patches of 4 × 4 pixels.

    Layers to capture: ``stem``, ``stage1``, ``stage2`` …, one for each block (tokens ``(N, T, C)``,
    of which the first is the class token), ``embedding`` (the class token's, ``(N, D)``) and
    ``classifier`` (logits, ``(N, K)``); in a block ``stage1.attention.matrix``, the attention of
    every token (first) to every other, ``(N, heads, T, T)``. Terms on tokens are told where the
    channels are: ``FeatureHint("stage2", channel_dim=-1, class_token=True)``.

    Images may be of any height and width of whole patches; the positions that were learned for
    28 × 28 pixels are interpolated.

    Args:
        width: Number of channels of a token, a multiple of the heads.
        depth: Number of blocks.
        heads: Number of heads of each attention.
        channels: Number of channels of the images.
        classes: Number of classes K.
        seed: Seed of the initial weights; without one, torch's global generator draws them.
        initialization: As for :func:`plain`; the one convolution makes tokens of patches.

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), section 3.1, with an MLP that is twice, not
    four times, as wide as a token, and no dropout.
    """
    check_positive(width=width, depth=depth, heads=heads, channels=channels, classes=classes)
    if width % heads:
        raise ArgumentError("width", f"width must be a multiple of heads, got {width} and {heads}")
    with seeded(seed):
        blocks = [Block(width, heads) for _ in range(depth)]
        head = nn.Linear(width, classes)
        net = StagedNet(_Tokens(channels, width), blocks, _ClassToken(width), head)
        return started(net, initialization)


class _Tokens(nn.Module):
    """A token for the whole image, and one for each patch, with its position."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.patches = nn.Conv2d(channels, width, PATCH, PATCH)
        self.positions = nn.Parameter(SPREAD * torch.randn(1, width, GRID, GRID))
        self.class_token = nn.Parameter(SPREAD * torch.randn(1, 1, width))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        tokens = (patches + _resized(self.positions, patches)).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)


@fx.wrap  # whether the sizes differ is known once it runs
def _resized(positions: Tensor, patches: Tensor) -> Tensor:
    if positions.shape[2:] == patches.shape[2:]:
        return positions
    return F.interpolate(positions, patches.shape[2:], mode="bilinear")


class _ClassToken(nn.LayerNorm):
    """The class token, normalised."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens[:, 0])
