"""What a claim is: the slide's statement, an experiment that measures it, and a verdict."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from kdcourse.estimate import Estimate, estimate

Measurements = Mapping[str, float]
Measured = Iterable[tuple[str, float | nn.Module]]  # names and values; of a net, its accuracy
HOLDS, NOT_SEEN, REVERSED = "holds", "not seen at this scale", "reversed"
REPORTED = "reported"
POINTS, NATS = "percentage points", "nats"  # units


@dataclass(frozen=True)
class Effect:
    """A paired difference that the claim says is above zero.

    Attributes:
        label: What is compared, in words.
        more: The measurement that should be larger.
        less: The one that should be smaller; zero if None.
        unit: Of the difference; empty for a number without one.
    """

    label: str
    more: str
    less: str | None = None
    unit: str = POINTS

    def of(self, measurements: Measurements) -> float:
        """Return the difference for one seed."""
        return measurements[self.more] - (measurements[self.less] if self.less else 0.0)


@dataclass(frozen=True)
class Bound:
    """A deviation from an identity that no seed may exceed: the claim is exact, not statistical.

    Attributes:
        label: What is equal, in words.
        deviation: The measurement of the deviation.
        most: Rounding error allowed.
    """

    label: str
    deviation: str
    most: float


@dataclass(frozen=True)
class Claim:
    """One claim of the lecture as a measurement.

    Attributes:
        id: Short name.
        statement: What the lecture, or a paper, says.
        notebook: Number of the notebook that shows it, such as ``"5a"``.
        measure: The experiment: names and values of what is measured in a
            :class:`kdcourse.course.claims.experiment.Lab`; accuracies and shares in percent. A net
            stands for its accuracy.
        effects: What should be above zero, in every seed's paired difference.
        bounds: What should be equal, for an exact claim.
        reason: A sentence on why the verdict is what it is.
        settings: What a measurement depends on beside the seed.
        toy: The settings that differ in a small run; it has few images and epochs anyway.
        search: Whether it chooses settings: on validation data, with seeds of its own.
        asked: By what it is measured together with others; by its id if nothing is said.
    """

    id: str
    statement: str
    notebook: str
    measure: Callable[[Any], Measured]
    effects: tuple[Effect, ...] = ()
    bounds: tuple[Bound, ...] = ()
    reason: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    toy: Mapping[str, Any] = field(default_factory=dict)
    search: bool = False
    asked: str = ""

    def estimates(self, runs: Mapping[int, Measurements]) -> list[Estimate]:
        """Return mean and interval of every effect over the measured seeds."""
        return [
            estimate(effect.label, [effect.of(run) for run in runs.values()])
            for effect in self.effects
        ]

    def verdict(self, runs: Mapping[int, Measurements]) -> str:
        """Say whether the claim holds: every interval above zero, every identity within rounding.

        ``reversed`` if any interval lies below zero or an identity fails, ``not seen at this
        scale`` if an interval holds zero, ``reported`` for measurements without a claim.
        """
        estimates = self.estimates(runs)
        # "not <=" and "not >": NaN fulfils nothing, nor does the infinite interval of one seed.
        broken = any(not run[b.deviation] <= b.most for b in self.bounds for run in runs.values())
        if broken or any(e.high < 0 for e in estimates):
            return REVERSED
        if not self.effects and not self.bounds:
            return REPORTED
        return NOT_SEEN if any(not e.low > 0 for e in estimates) else HOLDS


CLAIMS: dict[str, Claim] = {}


def known(ids: Iterable[str]) -> list[str]:
    """Return the ids of claims, each once; all claims, by notebook, if there are none.

    Raises:
        ValueError: There is no such claim.
    """
    chosen = list(dict.fromkeys(ids)) or sorted(CLAIMS, key=lambda id: CLAIMS[id].notebook)
    for id in chosen:
        if id not in CLAIMS:
            raise ValueError(f"no claim {id!r}; there are {', '.join(CLAIMS)}")
    return chosen


def shown_in(number: str) -> list[str]:
    """Return the ids of the claims that a notebook shows."""
    return [id for id, claim in CLAIMS.items() if claim.notebook == number]


def claims_of(notebook: str) -> Callable[..., Callable]:
    """Return the decorator that registers an experiment as a claim of a notebook (:class:`Claim`).

    The name of the experiment is the claim's id, and its docstring the statement. Effects and
    bounds come first, the other attributes by name.
    """

    def claim(*parts: Effect | Bound, **attributes: Any) -> Callable:
        effects = tuple(part for part in parts if isinstance(part, Effect))
        bounds = tuple(part for part in parts if isinstance(part, Bound))

        def register(measure: Any) -> Any:
            id = measure.__name__.replace("_", "-")
            statement = " ".join(measure.__doc__.split())
            if id in CLAIMS:
                raise ValueError(f"two claims are named {id!r}")
            CLAIMS[id] = Claim(id, statement, notebook, measure, effects, bounds, **attributes)
            return measure

        return register

    return claim
