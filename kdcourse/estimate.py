"""What independent measurements say together: a mean, and how certain it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Estimate:
    """Mean and 95 % confidence interval over seeds (Student's t)."""

    label: str
    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        digits = 2 if max(abs(self.low), abs(self.high)) >= 1 else 3  # losses are small
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def estimate(label: str, values: Sequence[float]) -> Estimate:
    """Return mean and 95 % confidence interval (Student's t) of independent values.

    The interval is ``mean ± t · s / √n``, with the sample deviation ``s`` and the 97.5 % quantile
    ``t`` of Student's distribution with ``n − 1`` degrees of freedom. Of one value it is infinite.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(label, mean, -math.inf, math.inf, len(values))
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    margin = float(stdtrit(len(values) - 1, 0.975) * error)
    return Estimate(label, mean, mean - margin, mean + margin, len(values))
