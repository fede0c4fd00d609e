r"""Is a net right as often as it is sure? Calibration, before and after temperature scaling.

The images are sorted into bins by the net's confidence, the probability of the class it names. In a
calibrated net, of the images with a confidence of about 0.8, it is right on 80 %. The expected
calibration error adds up how far it is off,

.. math:: ECE = \sum_b \frac{n_b}{N} \left|acc_b - conf_b\right|.

Dividing all logits by one temperature, which changes no answer, often suffices to repair it. The
temperature is fitted on validation images: on the test images, it would be fitted to what is to be
measured.

Source: Guo et al. 2017 (arXiv 1706.04599), equations 2, 3 and 9; Naeini et al. 2015.
"""

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_positive
from kdcourse.evaluation.accuracy import check_answers, in_top
from kdcourse.evaluation.resampling import Interval, Resamples, middle
from kdcourse.signatures import checked

BINS = 15


@dataclass(frozen=True)
class Bin:
    """The images of which a net is about equally sure.

    Attributes:
        low, high: The confidences c of the bin, low < c ≤ high.
        samples: Number of images.
        confidence: Their mean confidence, 0 where there is none.
        accuracy: Share of them that is classified correctly, 0 where there is none.
    """

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """How well a net knows how sure it may be, on the test images.

    Attributes:
        error: The expected calibration error (ECE), in [0, 1].
        loss: The mean negative log likelihood of the labels, in nats.
        bins: The reliability diagram.
    """

    error: Interval
    loss: Interval
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Calibration:
    """Reliability as the net comes, and after temperature scaling.

    Attributes:
        plain: As it comes.
        temperature: The temperature of the lowest loss on validation images; None without these.
        scaled: With logits divided by the temperature.
    """

    plain: Reliability
    temperature: float | None = None
    scaled: Reliability | None = None


@checked
def reliability_bins(logits: Tensor, target: Tensor, bins: int = BINS) -> tuple[Bin, ...]:
    """Sort samples into bins of equal width by confidence: the reliability diagram.

    Args:
        logits: Predictions ``(N, K)``.
        target: Class indices ``(N,)``.
        bins: Number of bins.
    """
    confidence, right, index = _sorted(logits, target, bins)
    samples = torch.bincount(index, minlength=bins)
    sure = torch.bincount(index, confidence, minlength=bins) / samples.clamp_min(1)
    found = torch.bincount(index, right, minlength=bins) / samples.clamp_min(1)
    rows = zip(samples.tolist(), sure.tolist(), found.tolist(), strict=True)
    return tuple(Bin(n / bins, (n + 1) / bins, *row) for n, row in enumerate(rows))


@checked
def expected_calibration_error(logits: Tensor, target: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error, in [0, 1].

    Args:
        logits: Predictions ``(N, K)``.
        target: Class indices ``(N,)``.
        bins: Number of bins of equal width.
    """
    return float(_gaps(logits, target, bins).mean(dim=0).abs().sum())


@checked
def fit_temperature(logits: Tensor, target: Tensor) -> float:
    r"""Return the temperature :math:`\tau` at which labels are likeliest by the logits over it.

    The negative log likelihood is convex in :math:`1/\tau`, so that a search by one number finds
    the only minimum; :math:`\tau` is sought from 0.01 to 100.

    Args:
        logits: Predictions ``(N, K)`` of validation images, not of those that measure.
        target: Class indices ``(N,)``.
    """
    check_answers(logits, target)
    logits, target = logits.double().cpu(), target.cpu()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_temperature), target))

    ends = math.log(0.01), math.log(100)
    return math.exp(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6}).x)


def reliability_of(logits: Tensor, target: Tensor, resamples: Resamples) -> Reliability:
    """Measure the reliability of logits ``(N, K)`` with intervals."""
    loss = F.cross_entropy(logits.double(), target, reduction="none")
    error = expected_calibration_error(logits, target)
    # Noise in the bins makes every ECE too large, and that of a draw once more: the basic bootstrap
    # interval, which reflects the draws about the estimate, takes that off.
    low, high = middle(resamples.means(_gaps(logits, target, BINS)).abs().sum(dim=1))
    basic = Interval(error, max(2 * error - high, 0.0), max(2 * error - low, 0.0))
    return Reliability(basic, resamples.interval(loss), reliability_bins(logits, target))


def calibration_of(
    logits: Tensor, target: Tensor, resamples: Resamples, temperature: float | None
) -> Calibration:
    """Measure the calibration on the test images, and with logits over a known temperature."""
    plain = reliability_of(logits, target, resamples)
    if temperature is None:
        return Calibration(plain)
    scaled = reliability_of(logits / temperature, target, resamples)
    return Calibration(plain, temperature, scaled)


def _sorted(logits: Tensor, target: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the confidence of each sample, whether it is right, and its bin."""
    check_answers(logits, target)
    check_positive(bins=bins)
    confidence = F.softmax(logits.double(), dim=1).amax(dim=1).cpu()
    right = in_top(logits, target).double().cpu()
    return confidence, right, ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)


def _gaps(logits: Tensor, target: Tensor, bins: int) -> Tensor:
    """Return accuracy less confidence of each sample, in the column of its bin, ``(N, bins)``."""
    confidence, right, index = _sorted(logits, target, bins)
    return F.one_hot(index, bins).double() * (right - confidence)[:, None]
