r"""A student that starts from its teacher: from some of its layers, or from what matters most.

>>> student = every_other_layer(teacher, 2)              # of the same width
>>> student = narrowed(student, 48, batches)             # and then a narrower one
>>> fit(student, batches, LogitKD(1.0, class_dim=-1, ignore_index=-1), teacher=teacher)

How much a channel, a head or a neuron matters is read off its activations on a few batches. In text
b, let :math:`a_{bt}` be its activation at token t. Its importance is

.. math:: \sqrt{\sum_b \Big(\frac{1}{T_b} \sum_t |a_{bt}|\Big)^2},

of a channel summed over all layer norms, of a head with the norm of what it reads in place of
:math:`|a_{bt}|`. Tokens behind a text's last target do not count: no prediction depends on them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse.batch import Given, call, read_batch, seen_of, views_of
from kdcourse.checks import check_integer
from kdcourse.errors import ArgumentError
from kdcourse.models import LanguageModel, StagedNet, capture
from kdcourse.models._attention import Attention, Block
from kdcourse.modes import evaluation_mode
from kdcourse.precision import at_least_float32
from kdcourse.signatures import checked
from kdcourse.teachers.compressed import fold

EVERY = slice(None)


@checked
def every_other_layer(teacher: StagedNet, depth: int | None = None) -> StagedNet:
    """Return a copy of a transformer with fewer blocks; all else stays.

    Of L blocks, numbered from 0, those that are kept are as far apart as can be, the first and the
    last among them: number i of l is the teacher's :math:`i (L - 1) / (l - 1)`, rounded. A single
    one is the first.

    Args:
        teacher: A :func:`language_model <kdcourse.models.language_model>` or
            :func:`vision_transformer <kdcourse.models.vision_transformer>`, which stays as it is.
        depth: Number l of blocks; half of them by default.

    Returns:
        A model of the teacher's class, all of whose weights can be trained.

    Source: Sanh et al. 2019 (arXiv 1910.01108), section 3: one layer out of two.
    """
    last = len(_blocks(teacher)) - 1
    depth = -(-teacher.stages // 2) if depth is None else depth
    check_integer("depth", depth, 1, teacher.stages)
    student = _fresh(teacher)
    blocks, gaps = _blocks(student), max(depth - 1, 1)
    for number in range(teacher.stages):
        if number < depth:
            setattr(student, f"stage{number + 1}", blocks[_nearest(number * last, gaps)])
        else:
            delattr(student, f"stage{number + 1}")
    student.stages = depth
    return student


@checked
def narrowed(
    teacher: LanguageModel,
    width: int,
    batches: Iterable[Given],
    *,
    heads: int | None = None,
    hidden: int | None = None,
) -> LanguageModel:
    """Return a narrower copy: the most important channels, heads and neurons, with their weights.

    Channels are the same in all layers; heads, which keep their size, and neurons are chosen in
    each block. Nothing is rescaled: a student that is much narrower has to learn before it is good
    at anything.

    Args:
        teacher: A language model, which stays as it is.
        width: Number of channels of a token.
        batches: ``(inputs, target)``, as for :func:`kdcourse.training.fit`, on all of which
            activations are measured; some hundred texts will do.
        heads: Number of heads of each attention, by default in proportion to the width.
        hidden: Number of hidden neurons of each block, by default in proportion to the width.

    Returns:
        A model all of whose weights can be trained.

    Source: Muralidharan et al. 2024 (arXiv 2407.14679), sections 2.2 and 2.3, without what is added
    to the remaining heads there; neurons are measured behind their nonlinearity, as in NVIDIA's
    Model Optimizer.
    """
    block, before = _blocks(teacher)[0], teacher.classifier.in_features
    check_integer("width", width, 1, before)
    most_heads, most_hidden = block.attention.heads, block.mlp[1].out_features
    heads = max(_nearest(most_heads * width, before), 1) if heads is None else heads
    hidden = max(_nearest(most_hidden * width, before), 1) if hidden is None else hidden
    check_integer("heads", heads, 1, most_heads)
    check_integer("hidden", hidden, 1, most_hidden)
    channels, of_heads, of_neurons = _importance(teacher, batches)
    kept, student = _best(channels, width), _fresh(teacher)
    student.stem.tokens = _embedding(student.stem.tokens.weight[:, kept])
    student.stem.positions = nn.Parameter(student.stem.positions[:, kept].detach())
    for block, head, neuron in zip(_blocks(student), of_heads, of_neurons, strict=True):
        _narrow(block, kept, _best(head, heads), _best(neuron, hidden))
    _keep(student.embedding, kept)
    _keep(student.classifier, EVERY, kept)
    return student


def _fresh(teacher: nn.Module) -> Any:
    """Return a copy with ordinary weights, that can all be trained."""
    return fold(teacher).train().requires_grad_()


def _blocks(net: StagedNet) -> list[Any]:
    blocks = [getattr(net, f"stage{number + 1}") for number in range(net.stages)]
    if not all(isinstance(block, Block) for block in blocks):
        raise ArgumentError(
            "teacher",
            f"teacher must be a transformer, all of whose stages are alike, got a "
            f"{type(net).__name__} with a {type(blocks[0]).__name__}",
        )
    return blocks


def _nearest(part: int, whole: int) -> int:
    """Return the integer nearest to a quotient; of two, the larger one."""
    return (2 * part + whole) // (2 * whole)


def _best(importance: Tensor, count: int) -> Tensor:
    """Return the numbers of the most important, in their order; of equals, the first."""
    return importance.argsort(descending=True, stable=True)[:count].sort().values


def _narrow(block: Any, channels: Tensor, heads: Tensor, neurons: Tensor) -> None:
    """Let a block go on with these channels, heads and hidden neurons."""
    attention, (norm, grow, _, shrink) = block.attention, block.mlp
    vectors = torch.arange(attention.vectors.out_features, device=heads.device)
    vectors = vectors.view(3, attention.heads, -1)[:, heads]
    _keep(attention.norm, channels)
    _keep(attention.vectors, vectors.flatten(), channels)
    _keep(attention.projection, channels, vectors[0].flatten())
    attention.heads = len(heads)
    _keep(norm, channels)
    _keep(grow, neurons, channels)
    _keep(shrink, channels, neurons)


def _keep(layer: Any, rows: Tensor | slice, columns: Tensor | None = None) -> None:
    """Keep some outputs of a linear layer, and some of its inputs; or some channels of a norm."""
    weight = layer.weight.detach()[rows]
    if columns is None:
        layer.normalized_shape = (len(weight),)
    else:
        weight = weight[:, columns]
        layer.out_features, layer.in_features = weight.shape
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(layer.bias.detach()[rows])


def _embedding(weight: Tensor) -> nn.Embedding:
    return nn.Embedding.from_pretrained(weight.detach(), freeze=False)


@torch.no_grad()
def _importance(
    teacher: LanguageModel, batches: Iterable[Given]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the importance of channels, and of each block's heads and hidden neurons."""
    blocks = [f"stage{number + 1}" for number in range(teacher.stages)]
    norms = [f"{block}.{norm}" for block in blocks for norm in ("attention.norm", "mlp.0")]
    norms.append("embedding")
    neurons = [f"{block}.mlp.2" for block in blocks]
    read = [f"{block}.attention.{part}" for block in blocks for part in ("matrix", "vectors")]
    sums: dict[str, Tensor] = {}
    learned = False
    place = next(teacher.parameters()).device
    with evaluation_mode(teacher), capture(teacher, [*norms, *neurons, *read]) as shown:
        for batch in batches:
            tokens, share = (one.to(place) for one in _tokens(batch))
            learned = learned or bool(share.any())
            call(teacher, tokens, "teacher")
            seen = {name: shown[name] for name in [*norms, *neurons]}
            for block in blocks:
                seen[block] = _read(getattr(teacher, block).attention, shown, block)
            for name, one in seen.items():
                means = (at_least_float32(one).abs() * share[:, :, None]).sum(dim=1)
                sums[name] = sums.get(name, 0) + means.square().sum(dim=0)
    if not sums:
        raise ArgumentError("batches", "batches must hold at least one batch")
    if not learned:
        raise ArgumentError("batches", "batches must hold a target somewhere, got none")
    scores = {name: one.sqrt() for name, one in sums.items()}
    channels = torch.stack([scores[name] for name in norms]).sum(dim=0)
    return channels, [scores[one] for one in blocks], [scores[one] for one in neurons]


def _tokens(batch: object) -> tuple[Tensor, Tensor]:
    """Return a batch's tokens and the share of each in its text, ``(N, T)``: 0 where it is over."""
    inputs, target = read_batch(batch, "batches")
    tokens, _ = seen_of(views_of(inputs).student)
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.shape != target.shape:
        raise ArgumentError(
            "batches", "batches must hold tokens (N, T), and a target for each of them"
        )
    behind = (target >= 0).flip(1).cumsum(dim=1).flip(1)  # the targets that a token may help with
    counts = (behind > 0).float()
    return tokens, counts / counts.sum(dim=1, keepdim=True).clamp(min=1)


def _read(attention: Attention, shown: dict[str, Tensor], block: str) -> Tensor:
    """Return the norm of what each head reads from the values, ``(N, T, heads)``."""
    matrix, vectors = (shown[f"{block}.attention.{part}"] for part in ("matrix", "vectors"))
    values = vectors.unflatten(2, (3, attention.heads, -1))[:, :, 2].transpose(1, 2)
    return (matrix @ values).norm(dim=3).transpose(1, 2)
