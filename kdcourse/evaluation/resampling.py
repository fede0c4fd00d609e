r"""How certain a measurement on N test images is: the bootstrap over images.

N images are drawn from the N test images with replacement, many times, and measured each time: the
middle 95 % of what comes out are the interval. It says what other test images of the same kind
might have shown of *these* nets. It does not cover what other seeds of training would have changed;
for that, train several (:func:`kdcourse.estimate.estimate`).

All measurements share the same draws. So the interval of a difference between two nets is that of
paired images, which is narrower than two separate intervals suggest.

Source: Efron 1979 (Annals of Statistics 7), Efron and Tibshirani 1993, chapters 6, 10 and 13.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcourse.checks import check_integer, check_positive
from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.signatures import checked

FEW = 10  # images; of fewer, a bootstrap takes chance for certain
TOGETHER = 100  # draws at a time, which bounds the memory


@dataclass(frozen=True)
class Interval:
    """A measured value, and its 95 % interval."""

    value: float
    low: float
    high: float


@checked
class Resamples:
    """The draws of a bootstrap over images.

    Args:
        samples: Number N of images.
        count: Number B of draws.
        seed: Seed of the draws.
    """

    def __init__(self, samples: int, count: int = 2000, seed: int = 0):
        check_positive(samples=samples)
        check_integer("count", count, 2)
        generator, times = replay(seed), []
        for start in range(0, count, TOGETHER):
            rows = min(TOGETHER, count - start)
            drawn = torch.randint(samples, (rows, samples), generator=generator)
            found = torch.zeros(rows, samples, dtype=torch.int16)
            times.append(found.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.int16)))
        self.times = torch.cat(times)  # (B, N): how often each draw holds each image

    @checked
    def means(self, values: Tensor) -> Tensor:
        """Return the means in every draw, ``(B,)`` or ``(B, M)``, of values ``(N,)`` or ``(N, M)``.

        Raises:
            ArgumentError: There are not N values.
        """
        samples = self.times.shape[1]
        if values.dim() not in (1, 2) or len(values) != samples:
            raise ArgumentError(
                "values",
                f"values must be those of {samples} images, got a tensor of shape "
                f"{tuple(values.shape)}",
            )
        values = values.double().cpu()
        return torch.cat([part.double() @ values for part in self.times.split(TOGETHER)]) / samples

    def interval(self, values: Tensor) -> Interval:
        """Return the mean of values ``(N,)`` with its percentile interval."""
        low, high = middle(self.means(values))
        return Interval(float(values.double().mean()), low, high)


def middle(found: Tensor) -> tuple[float, float]:
    """Return the ends of the middle 95 % of what was found in the draws ``(B,)``."""
    ends = torch.tensor([0.025, 0.975], dtype=found.dtype)
    low, high = torch.quantile(found, ends).tolist()
    return low, high
