"""Sums over an epoch, kept on the device: no step waits for a number."""

import torch
from torch import Tensor

from kdcourse import processes
from kdcourse.precision import widest

ACCURACY = "train_accuracy"  # counts samples with a label only
# What else every step adds: samples, labels, and predictions that can be right or wrong.
COUNTS = "of samples", "of labels", "of judged"


class Tally:
    """Adds up what every step measures, weighted by the samples that it is a mean over.

    Attributes:
        sums: For each set of names that steps have measured together, the counts so far, and
            behind them the sums of the values.
    """

    def __init__(self, device: torch.device):
        self.one = torch.ones((), device=device)
        self.sums: dict[tuple[str, ...], Tensor] = {}

    def clear(self) -> None:
        """Begin anew, in the same memory: a captured step adds to it."""
        for one in self.sums.values():
            one.zero_()

    def add(self, values: dict[str, Tensor], counted: Tensor) -> None:
        """Add what a step has measured.

        Args:
            values: Means over a batch, or what a process's share adds to them.
            counted: The numbers of samples of the whole batch, and of predictions in it that can be
                right or wrong, ``(2,)``.
        """
        samples, judged = counted
        rated = any(name.endswith(ACCURACY) for name in values)
        labels = judged if rated else samples  # of quantities, and probabilities, all have one
        weights = [judged if name.endswith(ACCURACY) else samples for name in values]
        each = torch.stack([*[self.one] * len(COUNTS), *values.values()])
        weighted = each * torch.stack([samples, labels, judged, *weights])
        names = tuple(values)
        if names not in self.sums:
            self.sums[names] = torch.zeros_like(weighted)
        self.sums[names] += weighted

    def totals(self) -> tuple[list[float], dict[str, float]]:
        """Return the counts, and the sum of every value, of all processes."""
        names = [name for group in self.sums for name in (*COUNTS, *group)]
        mine = torch.cat([one.to(widest(one)) for one in self.sums.values()])
        sums: dict[str, float] = {}
        for name, value in zip(names, processes.total(mine).tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + value
        return [sums.pop(name) for name in COUNTS], sums
