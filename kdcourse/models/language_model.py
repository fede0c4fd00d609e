"""A small language model."""

import torch
from torch import Tensor, nn

from kdcourse.checks import check_positive
from kdcourse.errors import ArgumentError
from kdcourse.models._attention import Block, LayerCache
from kdcourse.models.initial import seeded
from kdcourse.models.staged_net import StagedNet
from kdcourse.precision import readable
from kdcourse.signatures import checked

SPREAD = 0.02  # deviation of the initial embeddings of tokens and positions


class Cache(list[LayerCache]):
    """What every layer of a language model keeps of the tokens it has seen."""

    @property
    def used(self) -> int:
        """The number of tokens seen so far."""
        return self[0].used

    def reorder(self, rows: Tensor) -> None:
        """Let each row go on from another one, by its number."""
        for layer in self:
            layer.reorder(rows)


class LanguageModel(StagedNet):
    """A decoder: from tokens ``(N, T)`` to the logits of each next one, ``(N, T, V)``.

    Layers to capture: ``stem``, ``stage1``, ``stage2`` …, one for each block, and ``embedding``
    (all ``(N, T, C)``), ``classifier`` (logits), and in a block ``stage1.attention.vectors``
    (queries, keys and values side by side) and ``stage1.attention.matrix`` (``(N, heads, T, T)``).
    """

    length: int  # the longest text

    def cache(self) -> Cache:
        """Return an empty cache, with which tokens can be shown one after the other."""
        return Cache(LayerCache(self.length) for _ in range(self.stages))

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Return logits of what follows each token; with a cache, those are the tokens not seen."""
        seen = 0 if cache is None else cache.used
        if tokens.dim() != 2 or seen + tokens.shape[1] > self.length:
            raise ArgumentError(
                "tokens",
                f"tokens must have shape (N, T) with at most {self.length} in all, got "
                f"{tuple(tokens.shape)}" + f" behind {seen}" * bool(seen),
            )
        self._check_known(tokens)
        features = self.stem(tokens, seen)
        for number in range(self.stages):
            stage = getattr(self, f"stage{number + 1}")
            features = stage(features, None if cache is None else cache[number])
        return self.classifier(self.embedding(features))

    def _check_known(self, tokens: Tensor) -> None:
        """Require tokens of the vocabulary, where they can be read; −1 is none."""
        if tokens.numel() and readable(tokens):
            known: int = self.stem.tokens.num_embeddings  # type: ignore[assignment, union-attr]
            lowest, highest = torch.stack(tokens.aminmax()).tolist()
            if not 0 <= lowest <= highest < known:
                raise ArgumentError(
                    "tokens",
                    f"tokens must lie in [0, {known}), got from {lowest} to {highest}: behind its "
                    "end a text goes on with it, as in lessons",
                )


@checked
def language_model(
    width: int,
    depth: int,
    heads: int,
    vocabulary: int,
    *,
    length: int = 80,
    seed: int | None = None,
) -> LanguageModel:
    """Build a small GPT: a decoder of pre-norm blocks with learned positions.

    Args:
        width: Number of channels of a token, a multiple of the heads.
        depth: Number of blocks.
        heads: Number of heads of each attention.
        vocabulary: Number V of tokens.
        length: Tokens of the longest text.
        seed: Seed of the initial weights; without one, torch's global generator draws them.

    Source: Radford et al. 2019, *Language Models are Unsupervised Multitask Learners*, section 2.3,
    without dropout; the output projection has weights of its own.
    """
    check_positive(width=width, depth=depth, heads=heads, vocabulary=vocabulary, length=length)
    if width % heads:
        raise ArgumentError("width", f"width must be a multiple of heads, got {width} and {heads}")
    with seeded(seed):
        blocks = [Block(width, heads, causal=True, widening=4) for _ in range(depth)]
        head = nn.Linear(width, vocabulary)
        net = LanguageModel(_Tokens(vocabulary, length, width), blocks, nn.LayerNorm(width), head)
    net.length = length
    return net


class _Tokens(nn.Module):
    """The embedding of each token, and of its position."""

    def __init__(self, vocabulary: int, length: int, width: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(SPREAD * torch.randn(length, width))
        nn.init.normal_(self.tokens.weight, std=SPREAD)

    def forward(self, tokens: Tensor, seen: int = 0) -> Tensor:
        positions: Tensor = self.positions
        return self.tokens(tokens) + positions[seen : seen + tokens.shape[1]]
