"""Which numbers an experiment gives: so stored measurements are bound to what the code does.

Every claim is run small (toy settings, seed 0, 200 images to judge by). Its fingerprint holds

- the *trace*: of all that was seen on the way (what nets predict or embed, training losses,
  attention maps, gradients, curvatures) the root mean square and a fixed projection. A change of
  any loss, scheme or step of the training moves them, however little was learned;
- what was *measured*.

Two fingerprints are of the same code if no number deviates by more than ``TOLERANCE`` of its size.
Shares count images, and an image on the edge may fall to the other side on another processor: one
measurement in ten may be off by up to ``FLIP`` points, where there is a trace beside it.

*How the tolerance was found.* All toys were run on an AMD EPYC with ATen's kernels for AVX2 and for
no vector unit (``ATEN_CPU_CAPABILITY``), with oneDNN's for AVX2 and for SSE 4.1
(``ONEDNN_MAX_CPU_ISA``), on one thread and two; and on an Intel Xeon with AVX-512, Python 3.12 and
torch 2.11. No share moved, and in most claims no number of a trace by more than 3e-5. The
largest deviations were 1e-3 in ``quantized``, where a weight may be rounded the other way, and 8e-4
in ``hint-stages`` and ``saliency``, whose gradients have kinks: ``NOISE``. Faults in the library
(``tests/test_claims.py`` has many of them) move a number by ten times that and more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdcourse.course.claims.claim import Claim
from kdcourse.course.claims.experiment import Lab
from kdcourse.training.device import one_thread

NOISE = 1e-3  # the most that a number deviates between processors, as far as was found
TOLERANCE = 5 * NOISE
FLIP = 5.0  # percentage points
ROUNDING = 1e-6  # smaller numbers are compared as if they were of this size


@dataclass(frozen=True)
class Fingerprint:
    """The numbers of a claim's toy run.

    Attributes:
        measured: What it measured.
        trace: Root mean square and projection of everything it saw.
    """

    measured: Mapping[str, float]
    trace: Sequence[Sequence[float]]

    @classmethod
    def of(cls, claim: Claim) -> "Fingerprint":
        """Run a claim's experiment small."""
        lab = Lab(claim, seed=0, toy=True)
        with one_thread():
            return cls(lab.measure(), lab.trace)

    def deviation(self, other: "Fingerprint") -> float:
        """Return by how much the worst number deviates from the other's, relative to its size.

        Infinite where the two do not hold the same numbers, or some are not finite.
        """
        if self.measured.keys() != other.measured.keys() or len(self.trace) != len(other.trace):
            return math.inf
        seen = [_apart(here, there) for here, there in zip(self.trace, other.trace, strict=True)]
        pairs = [([value], [other.measured[name]]) for name, value in self.measured.items()]
        pairs.sort(key=lambda pair: _apart(*pair))
        if seen:
            certain = len(pairs) * 9 // 10
            on_edge = pairs[certain:]
            pairs = pairs[:certain] + [(a, b) for a, b in on_edge if not abs(a[0] - b[0]) <= FLIP]
        return max(seen + [_apart(*pair) for pair in pairs], default=0.0)


def _apart(numbers: Sequence[float], others: Sequence[float]) -> float:
    """Return the largest difference, relative to the largest of the numbers."""
    if not all(map(math.isfinite, (*numbers, *others))):
        return math.inf
    size = max(*map(abs, numbers), *map(abs, others), ROUNDING)
    return max(abs(a - b) for a, b in zip(numbers, others, strict=True)) / size
