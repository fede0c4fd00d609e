"""How good a language model is, and what it writes.

Two things are to be told apart. Whether a model foresees what people write: its nats on held-out
texts (*coverage*). And whether it writes what people would: the nats of a better model on its
texts (*quality*), which are low for a model that always writes one good text, so that the share of
distinct words is to be seen beside them (*diversity*).
"""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.batch import call
from kdcourse.checks import check_module, check_positive, check_same_shape
from kdcourse.errors import ArgumentError
from kdcourse.language.vocabulary import NO_TOKEN, check_token_rows
from kdcourse.modes import evaluation_mode
from kdcourse.signatures import check_is


def nats_per_token(
    model: nn.Module, inputs: Tensor, target: Tensor, *, batch_size: int = 250
) -> float:
    """Return a model's mean cross-entropy over the tokens of some texts.

    Args:
        model: From tokens ``(N, T)`` to logits ``(N, T, V)``.
        inputs, target: ``(N, T)``, as :func:`kdcourse.language.lessons` makes them; places whose
            target is −1 do not count.
        batch_size: Texts per forward pass.
    """
    return float(_nats(model, inputs, target, batch_size)[target != NO_TOKEN].mean())


def nats_by_place(
    model: nn.Module, inputs: Tensor, target: Tensor, *, batch_size: int = 250
) -> Tensor:
    """Return a model's mean cross-entropy ``(T',)`` over the first, second … tokens that count.

    Args:
        model, inputs, target, batch_size: As for :func:`nats_per_token`.
    """
    nats, counted = _nats(model, inputs, target, batch_size), target != NO_TOKEN
    place = counted.cumsum(dim=1)[counted] - 1
    total = nats.new_zeros(int(place.max()) + 1).index_add(0, place, nats[counted])
    return total / place.bincount()


def distinct(texts: Sequence[str], n: int = 1) -> float:
    """Return the share of n words in a row in some texts that occur there for the first time.

    Args:
        texts: Texts whose words are parted by spaces.
        n: How many words in a row.

    Returns:
        A share in [0, 1]: 1 where nothing is said twice. Fewer texts repeat less: compare equal
        numbers.

    Source: Li et al. 2016 (arXiv 1510.03055), section 5.2: distinct-1, distinct-2.
    """
    check_is("texts", texts, Sequence[str])
    check_positive(n=n)
    words = [text.split() for text in texts]
    grams = [*chain.from_iterable(zip(*(one[k:] for k in range(n)), strict=False) for one in words)]
    if not grams:
        raise ArgumentError("texts", f"texts must have at least {n} word(s) in a row")
    return len(set(grams)) / len(grams)


@torch.no_grad()
def _nats(model: nn.Module, inputs: Tensor, target: Tensor, batch_size: int) -> Tensor:
    """Return the cross-entropy ``(N, T)``, zero where the target is −1."""
    check_module("model", model)
    check_token_rows("inputs", inputs)
    check_token_rows("target", target)
    check_same_shape("target", target, "inputs", inputs)
    check_positive(batch_size=batch_size)
    if not bool((target != NO_TOKEN).any()):
        raise ArgumentError("target", "target must have at least one token that counts")
    with evaluation_mode(model):
        return torch.cat(
            [
                F.cross_entropy(
                    call(model, some, "model").movedim(-1, 1),
                    wanted,
                    ignore_index=NO_TOKEN,
                    reduction="none",
                )
                for some, wanted in zip(
                    inputs.split(batch_size), target.split(batch_size), strict=True
                )
            ]
        )
