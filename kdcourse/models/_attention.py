"""What transformers are put together from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LayerCache:
    """Keys and values of the tokens that one layer has seen, so that none is looked at again."""

    def __init__(self, length: int):
        self.length, self.used = length, 0
        self.kept: list[Tensor] = []  # keys and values, (N, heads, length, D) each

    def extended(self, new: Sequence[Tensor]) -> list[Tensor]:
        """Keep keys and values of further tokens, and return those of all so far."""
        first, self.used = self.used, self.used + new[0].shape[2]
        if not self.kept:
            self.kept = [one.new_zeros(*one.shape[:2], self.length, one.shape[3]) for one in new]
        for kept, one in zip(self.kept, new, strict=True):
            kept[:, :, first : self.used] = one
        return [kept[:, :, : self.used] for kept in self.kept]

    def reorder(self, rows: Tensor) -> None:
        """Let each row go on from another one, by its number."""
        self.kept = [kept.index_select(0, rows) for kept in self.kept]


class Attention(nn.Module):
    """Self-attention, written out: fused kernels hide the matrix, and have no second derivative.

    If it is causal, no token sees a later one.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm = nn.LayerNorm(width)
        self.vectors = nn.Linear(width, 3 * width)  # queries, keys and values
        self.matrix = nn.Softmax(dim=-1)
        self.projection = nn.Linear(width, width)

    def forward(self, tokens: Tensor, cache: LayerCache | None = None) -> Tensor:
        vectors = self.vectors(self.norm(tokens)).unflatten(2, (3, self.heads, -1))
        queries, keys, values = vectors.permute(2, 0, 3, 1, 4)  # each (N, heads, T, D)
        if cache is not None:
            keys, values = cache.extended([keys, values])
        alike = queries / queries.shape[-1] ** 0.5 @ keys.transpose(2, 3)
        if self.causal:
            own, seen = alike.shape[2:]
            later = torch.ones(own, seen, dtype=torch.bool, device=alike.device)
            later = later.triu(seen - own + 1)
            alike = alike.masked_fill(later, torch.finfo(alike.dtype).min)
        return self.projection((self.matrix(alike) @ values).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention between tokens, and a change of each alone, both added to what was there."""

    def __init__(self, width: int, heads: int, *, causal: bool = False, widening: int = 2):
        super().__init__()
        self.attention = Attention(width, heads, causal=causal)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, widening * width),
            nn.GELU(),
            nn.Linear(widening * width, width),
        )

    def forward(self, tokens: Tensor, cache: LayerCache | None = None) -> Tensor:
        tokens = tokens + self.attention(tokens, cache)
        return tokens + self.mlp(tokens)
