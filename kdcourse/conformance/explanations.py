"""What a loss computes that is not a multiple of ours: what else it is a multiple of, in words."""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.conformance.calling import LossCall, call_of
from kdcourse.conformance.convention import (
    GROWN,
    fitted,
    gradient_ratio,
    measured,
    value_of,
    value_ratio,
)
from kdcourse.conformance.factor import EXACT
from kdcourse.conformance.kinds import LossKind, losses_of_ours
from kdcourse.errors import ExplainedError
from kdcourse.many_classes import DIVERGENCES

Part = Callable[[Tensor, Tensor], Tensor]
Idea = tuple[str, LossCall, LossCall]  # in words; what is then a multiple of what
NEAR = 0.02  # how far off a loss may be that is ours but for an epsilon


def explanation(call: LossCall, reference: LossCall, kind: LossKind) -> str:
    """Say what a loss computes that has no constant factor to ours."""
    ours, values = reference.name, [value_of(call, *kind.draw(seed), 2.0) for seed in range(3)]
    finite = all(value is not None and math.isfinite(value) for value in values)
    for words, one, other in ideas(call, reference, kind):
        both = measured(one), measured(other)
        factor = fitted(value_ratio(*both), kind, one, other)
        if factor is None and "KL" in words:  # up to what the student cannot change
            factor = fitted(gradient_ratio(*both), kind, one, other)
        if factor is not None:
            times = "" if factor.is_one else f", times {factor}"
            return words + times + "; its value is not finite" * (not finite)
    if not finite:
        return "it is not finite, for inputs as they occur"
    ratio = value_ratio(measured(call), measured(reference))
    if (here := ratio(kind, 2.0)) is None:
        return f"it is not a multiple of {ours}" + _nearly(call, reference, kind)
    others = (kind.sized(**{x: grown(size)}) for x, size in kind.sizes.items() for grown in GROWN)
    there = next((other for other in others if ratio(other, 2.0) is None), None)
    elsewhere = "at other temperatures" if there is None else f"of it for {there.student}"
    times = ours if abs(here - 1) < EXACT else f"{here:.4g} · {ours}"
    return f"it is {times} for inputs of the shape {kind.student}, but not a multiple {elsewhere}"


def ideas(call: LossCall, reference: LossCall, kind: LossKind) -> Iterator[Idea]:
    """Yield what could be meant, the likeliest first."""
    if kind.letters[1] == "K" and not kind.probabilities:
        yield from _of_parts(call, _clipped())
        yield from _of_temperatures(call, reference)
        yield from _of_inputs(call, reference)
        yield from _of_parts(call, (*PARTS.items(), *_differences()))
    yield from _of_values(call, reference)
    for words, other in _ours(call):
        yield f"it is our {words}", call, other
        if not call.told:
            swapped = replace(call, swapped=not call.swapped)
            yield f"with the teacher first it is our {words}", swapped, other


SHOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda z: z,
    "probabilities": lambda z: z.softmax(1),
    "log-probabilities": lambda z: z.log_softmax(1),
}


def _of_inputs(call: LossCall, reference: LossCall) -> Iterator[Idea]:
    """It takes softened predictions of one or both nets, and not their logits."""
    for own, theirs in itertools.product(SHOWN, SHOWN):
        if (own, theirs) == ("logits", "logits"):
            continue

        def softened(s: Tensor, t: Tensor, tau: float, a: str = own, b: str = theirs) -> Tensor:
            return call(SHOWN[a](s / tau), SHOWN[b](t / tau), tau)

        pair = f"the student's {own} and the teacher's {theirs}"
        shown = f"{own} of both nets" if own == theirs else pair
        yield f"it expects {shown}, softened by τ", _made(call, softened), reference


def _of_temperatures(call: LossCall, reference: LossCall) -> Iterator[Idea]:
    """The temperature is left out somewhere, or goes in the wrong way; or twice into a softmax."""

    def powers(s: Tensor, t: Tensor, tau: float, own: int, theirs: int) -> Tensor:
        return reference(s / tau**own, t / tau**theirs, 1.0)

    for words, own, theirs in (
        ("it takes no notice of τ", 0, 0),
        ("it softens the teacher's logits only", 0, 1),
        ("it softens the student's logits only", 1, 0),
        ("it multiplies the logits by τ", -1, -1),
    ):
        yield words, call, _made(call, partial(powers, own=own, theirs=theirs))
    twice = "it takes probabilities for logits: a softmax is applied twice"
    yield twice, call, _made(call, lambda s, t, tau: reference(s.softmax(1), t.softmax(1), tau))
    softened = _made(
        call, lambda s, t, tau: reference((s / tau).softmax(1), (t / tau).softmax(1), 1.0)
    )
    yield twice, call, softened


def _of_parts(call: LossCall, parts: Iterable[tuple[str, Part]]) -> Iterator[Idea]:
    """KL and differences of what is no log-softmax and no softmax."""

    def softened(s: Tensor, t: Tensor, tau: float, part: Part) -> Tensor:
        return part(s / tau, t / tau)

    for words, part in parts:
        yield words, call, _made(call, partial(softened, part=part))


PARTS: dict[str, Part] = {  # of logits that are divided by τ
    "it is KL with a softmax over the samples instead of the classes": (
        lambda s, t: F.kl_div(s.log_softmax(0), t.softmax(0), reduction="batchmean")
    ),
    "it is KL of the student's raw logits: its log_softmax is missing": (
        lambda s, t: F.kl_div(s, t.softmax(1), reduction="batchmean")
    ),
    "it is KL of the teacher's raw logits: its softmax is missing": (
        lambda s, t: -(t * s.log_softmax(1)).sum(1).mean()
    ),
    "it is KL of both nets' raw logits": lambda s, t: -(t * s).sum(1).mean(),
    "it is KL with the student's probabilities where their logarithms belong": (
        lambda s, t: F.kl_div(s.softmax(1), t.softmax(1), reduction="batchmean")
    ),
    "it is KL with the teacher's log-probabilities where its probabilities belong": (
        lambda s, t: -(t.log_softmax(1) * s.log_softmax(1)).sum(1).mean()
    ),
}


def _clipped() -> Iterator[tuple[str, Part]]:
    def kl(s: Tensor, t: Tensor, low: float) -> Tensor:
        p, q = t.clamp(low, 1), s.clamp(low, 1)
        return (p * (p / q).log()).sum(1).mean()

    for low in (1e-7, 1e-8, 1e-6):
        words = f"it is KL of raw logits, clipped to [{low:g}, 1] as if they were probabilities"
        yield words, partial(kl, low=low)


def _differences() -> Iterator[tuple[str, Part]]:
    def difference(s: Tensor, t: Tensor, what: str, power: int) -> Tensor:
        return (SHOWN[what](s) - SHOWN[what](t)).abs().pow(power).sum(1).mean()

    for what, (word, power) in itertools.product(SHOWN, (("squared", 2), ("absolute", 1))):
        words = f"it is the {word} difference of {what}, not KL"
        yield words, partial(difference, what=what, power=power)


def _of_values(call: LossCall, reference: LossCall) -> Iterator[Idea]:
    """A root or a square is taken of the whole, or of each sample's part."""

    def whole(s: Tensor, t: Tensor, tau: float, power: float) -> Tensor:
        return reference(s, t, tau) ** power

    def each(s: Tensor, t: Tensor, tau: float, power: float) -> Tensor:
        rows = zip(s.split(1), t.split(1), strict=True)
        return torch.stack([reference(*row, temperature=tau) ** power for row in rows]).mean()

    for words, power in (("square root", 0.5), ("square", 2)):
        yield f"it is the {words} of ours", call, _made(call, partial(whole, power=power))
        one = f"it is the mean of the {words} of ours at each sample"
        yield one, call, _made(call, partial(each, power=power))


def _ours(call: LossCall) -> Iterator[tuple[str, LossCall]]:
    """Yield all losses of ours, with each of their choices."""
    for name, function in losses_of_ours().items():
        try:
            plain = call_of(function)
        except ExplainedError:  # it needs more
            continue
        for parameter in inspect.signature(function).parameters.values():
            choices: tuple = ()
            if parameter.name == "divergence":
                choices = DIVERGENCES
            elif isinstance(parameter.default, bool) and parameter.name != "class_token":
                choices = (parameter.default, not parameter.default)
            for value in choices:
                written = f"{name}({parameter.name}={value!r})"
                if parameter.name == "divergence" and value == "reverse":
                    written = f"KL(S‖T), with student and teacher swapped: {written}"
                chosen = call_of(partial(function, **{parameter.name: value}))
                yield written, chosen
        yield name, plain


def _made(call: LossCall, function: Callable[[Tensor, Tensor, float], Tensor]) -> LossCall:
    """Return a loss that takes a temperature as another one does."""

    def loss(student: Tensor, teacher: Tensor, temperature: float = call.temperature) -> Tensor:  # type: ignore[assignment]
        tau = 1.0 if isinstance(temperature, str) else temperature
        return function(student, teacher, tau)

    made = LossCall("loss", loss, "", temperature="temperature")
    return made if call.takes_temperature else replace(made, temperature=call.temperature)


def _nearly(call: LossCall, reference: LossCall, kind: LossKind) -> str:
    """Say whether it is ours but for something small."""
    ratios = [
        one / other
        for seed in range(4)
        for one, other in [
            [value_of(x, *kind.draw(seed), 2.0) or math.nan for x in (call, reference)]
        ]
        if other
    ]
    middle = sum(ratios) / len(ratios)
    apart = max(abs(ratio / middle - 1) for ratio in ratios)
    if not apart <= NEAR:
        return ""
    about = f"within {100 * apart:.1g} % of {middle:.3g} times it"
    return f", but {about}: is an epsilon added, or something clamped?"
