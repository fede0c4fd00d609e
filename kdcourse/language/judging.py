"""How good a language model is, and what it writes.

Two things must be told apart. Whether a model foresees what people write: its nats on held-out
texts (*coverage*). And whether it writes what people would: the nats of a better model on its
texts (*quality*), which are low for a model that always writes one good text, so that the share of
distinct words has to be reported with them (*diversity*). A misspelt word is distinct from all
others: of models that misspell, compare words that exist.
"""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse import processes
from kdcourse.checks import check_positive, check_tensor
from kdcourse.errors import ArgumentError
from kdcourse.language.vocabulary import NO_TOKEN
from kdcourse.metrics import Samples, answered
from kdcourse.precision import at_least_float32
from kdcourse.signatures import check_is


class Nats:
    r"""Mean of :math:`-\log p` over the tokens that have a target, in nats; at best zero.

    >>> fit(model, batches, objective, validation=lessons, metrics={"nats": Nats()})
    """

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.sums = torch.zeros(2)  # of nats, and of tokens

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Take a batch: logits ``(N, V, T)`` and targets ``(N, T)``, −1 where there is none."""
        check_tensor("predictions", predictions)
        check_tensor("target", target)
        if predictions.dim() != 3 or target.shape != predictions[:, 0].shape:
            raise ArgumentError(
                "predictions",
                "predictions must have shape (N, V, T) and target (N, T), got "
                f"{tuple(predictions.shape)} and {tuple(target.shape)}",
            )
        logits, target = at_least_float32(predictions), target.to(predictions.device)
        nats = F.cross_entropy(logits, target, ignore_index=NO_TOKEN, reduction="sum")
        added = torch.stack([nats, (target != NO_TOKEN).sum().to(nats.dtype)])
        self.sums = self.sums.to(added) + added

    def compute(self) -> float:
        """Return the mean over all batches, of all processes."""
        return _mean(processes.total(self.sums))


def nats_per_token(model: nn.Module, samples: Samples) -> float:
    r"""Mean of :math:`-\log p` over the tokens that have a target, in nats.

    Args:
        model: From tokens ``(N, T)`` to logits ``(N, T, V)``.
        samples: As for :func:`kdcourse.metrics.predict`, such as a pair that
            :meth:`kdcourse.language.Texts.lessons` returns.
    """
    measure = Nats()
    for logits, _, target in answered(model, samples):
        measure.update(logits.movedim(-1, 1), _wanted(target))
    return _mean(measure.sums)


def nats_by_place(model: nn.Module, samples: Samples) -> Tensor:
    r"""Mean of :math:`-\log p` over the first, second … tokens that have a target, in nats.

    Args:
        model, samples: As for :func:`nats_per_token`.

    Returns:
        ``(T,)``, T the most targets that a text has.
    """
    sums = torch.zeros(2, 0, dtype=torch.float64)  # of nats, and of tokens
    for logits, _, target in answered(model, samples):
        target = _wanted(target).to(logits.device)
        counted = target != NO_TOKEN
        places = counted.cumsum(dim=1)[counted] - 1
        nats = F.cross_entropy(at_least_float32(logits[counted]), target[counted], reduction="none")
        both = torch.stack([nats, torch.ones_like(nats)]).double().cpu()
        more = int(counted.sum(dim=1).max()) - sums.shape[1]
        sums = F.pad(sums, (0, max(more, 0))).index_add(1, places.cpu(), both)
    if sums.shape[1] == 0:
        raise ArgumentError("target", "target must have a token somewhere, got none")
    return (sums[0] / sums[1]).float()


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


def _wanted(target: Tensor | None) -> Tensor:
    if target is None:
        raise ArgumentError("samples", "samples must have targets, got inputs alone")
    return target


def _mean(sums: Tensor) -> float:
    nats, tokens = sums.tolist()
    if tokens == 0:
        raise ArgumentError("target", "target must have a token somewhere, got none")
    return nats / tokens
