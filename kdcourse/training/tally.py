"""Sums over an epoch, kept on the device: no step waits for a number."""

import torch
from torch import Tensor

from kdcourse import processes
from kdcourse.precision import widest

ACCURACY = "train_accuracy"  # counts samples with a label only


class Tally:
    """Adds up what every step measures, weighted by the samples that it is a mean over.

    Attributes:
        counts: The samples so far, the labels, and the predictions that can be right or wrong.
        sums: For each set of names that steps have measured together, the sums of their values.
    """

    def __init__(self, device: torch.device):
        self.counts = torch.zeros(3, dtype=widest(torch.empty(0, device=device)), device=device)
        self.sums: dict[tuple[str, ...], Tensor] = {}

    def clear(self) -> None:
        """Begin anew, in the same memory: a captured step adds to it."""
        for one in (self.counts, *self.sums.values()):
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
        self.counts += torch.stack([samples, labels, judged])
        weights = [judged if name.endswith(ACCURACY) else samples for name in values]
        weighted = torch.stack(list(values.values())) * torch.stack(weights)
        names = tuple(values)
        if names not in self.sums:
            self.sums[names] = torch.zeros_like(weighted)
        self.sums[names] += weighted

    def totals(self) -> tuple[list[float], dict[str, float]]:
        """Return the counts, and the sum of every value, of all processes."""
        names = [name for group in self.sums for name in group]
        mine = torch.cat([one.to(widest(one)) for one in (self.counts, *self.sums.values())])
        whole = processes.total(mine).tolist()
        sums: dict[str, float] = {}
        for name, value in zip(names, whole[3:], strict=True):
            sums[name] = sums.get(name, 0.0) + value
        return whole[:3], sums
