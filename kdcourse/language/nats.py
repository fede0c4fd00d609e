"""How well a language model foretells texts."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse import processes
from kdcourse.checks import check_tensor
from kdcourse.errors import ArgumentError
from kdcourse.language.vocabulary import NO_TOKEN
from kdcourse.metrics import Samples, answered
from kdcourse.precision import at_least_float32


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
        if target is None:
            raise ArgumentError("samples", "samples must have targets, got inputs alone")
        measure.update(logits.movedim(-1, 1), target)
    return _mean(measure.sums)


def _mean(sums: Tensor) -> float:
    nats, tokens = sums.tolist()
    if tokens == 0:
        raise ArgumentError("target", "target must have a token somewhere, got none")
    return nats / tokens
