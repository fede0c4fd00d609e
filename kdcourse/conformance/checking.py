"""Whether a loss of anybody's conforms to one of ours, and how it differs."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdcourse.conformance.calling import LossCall, call_of
from kdcourse.conformance.convention import REFUSALS, convention_of, value_of
from kdcourse.conformance.kinds import LossKind, kind_of, loss_of_ours
from kdcourse.conformance.properties import PROPERTIES
from kdcourse.conformance.report import ConformanceReport
from kdcourse.conformance.trial import Observation, Trial, nearly_equal
from kdcourse.errors import ArgumentError, ExplainedError
from kdcourse.signatures import checked

CALLS = 8  # with one input, which tell what is random
BUILT_IN = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 16.0, 20.0)


@checked
def check(
    loss: Any,
    like: Callable | str = "kd",
    *,
    example: tuple[Tensor, Tensor] | None = None,
    teacher_first: bool | None = None,
    imports: str = "",
) -> ConformanceReport:
    """Find out whether a loss conforms to one of ours: which convention it follows, what breaks.

    >>> print(kdcourse.check(my_kd_loss))

    The factor between the two is measured as a function of N, K, τ and other sizes. A loss that is
    a multiple of ours conforms: that is a convention, which is stated. So do the properties that
    ours is measured to have; where one does not hold, the smallest input that was found shows it.

    Args:
        loss: A function of the student's and the teacher's output, which may take a temperature
            (``temperature``, ``tau``, ``temp``, ``T``) and a ``mask``; a module; a term of ours;
            or the class of such, which is made anew for every temperature. One that takes no
            temperature is checked at the one it was made with, at one that is built in, if it is a
            multiple of ours there, or at 1. It must say the same of the same input.
        like: The loss of ours, or its name, with ``_loss`` or without: ``"kd"``,
            ``"attention_transfer"``, ``"rkd_distance"``. Labels are given to a loss only where ours
            takes a ``target``, too.
        example: What student and teacher show, as an example of the shapes; by default, the first
            argument of ``like`` tells.
        teacher_first: Whether the loss takes the teacher's output first. By default, the names of
            its arguments tell; if they do not, whether only the second one receives a gradient.
        imports: The line of a program that brings the loss, for the programs of the report. It is
            found where the loss is a function or a class of a module.

    Returns:
        A report to be printed, with ``passed``, ``factor`` and ``findings``.

    Raises:
        ArgumentError: The loss cannot be called so; the message says what to do.
    """
    ours = loss_of_ours(like) if isinstance(like, str) else like
    kind = kind_of(ours, example)
    reference = call_of(ours, labels=True)
    try:
        reference(*kind.draw())
    except ExplainedError as error:
        blamed = "like" if example is None else "example"
        raise ArgumentError(blamed, f"{blamed} does not fit {reference.name}: {error}") from error
    imports = imports or _imports(loss)
    name = imports.rpartition(" ")[2] or "loss"
    call = call_of(
        loss,
        labels=reference.labels is not None,
        teacher_first=teacher_first,
        name=name,
        imports=imports,
    )
    call = _with_student_first(_tried(call, kind), kind)
    call = _at_its_temperature(call, reference, kind)
    convention = convention_of(call, reference, kind)
    trial = Trial(call, reference, kind, convention)
    findings = tuple(_findings(trial))
    return ConformanceReport(call.name, reference.name, kind, convention, findings, _notes(trial))


def assert_conforms(loss: Any, like: Callable | str = "kd", **options: Any) -> None:
    """Require of a loss, in a test, that it conforms to one of ours, perhaps up to a factor.

    Args:
        loss, like, options: As for :func:`check`.

    Raises:
        AssertionError: It does not; the message is the report.
    """
    report = check(loss, like, **options)
    assert report.passed, f"\n{report}"


def _findings(trial: Trial) -> Iterator[Observation]:
    """Look for every property, or for the first one only where the loss has no values at all."""
    value = value_of(trial.call, *trial.kind.draw(), trial.temperature)
    first, *others = PROPERTIES
    yield first(trial)
    for look in others if value is not None and math.isfinite(value) else ():
        yield look(trial)


def _imports(loss: Any) -> str:
    module, name = getattr(loss, "__module__", None), getattr(loss, "__qualname__", "")
    plain = name.isidentifier() and module not in (None, "__main__", "builtins")
    return f"from {module} import {name}" if plain else ""


def _tried(call: LossCall, kind: LossKind) -> LossCall:
    """Require that the loss can be called with what the kind shows, and always says the same."""
    inputs, others, refused = kind.draw(0), kind.draw(1), None
    for dtype in (torch.float64, torch.float32):
        student, teacher = (one.to(dtype) for one in inputs)
        try:
            values = []
            for _ in range(CALLS):
                values.append(call.number(student, teacher))
                call.number(others[0].to(dtype), others[1].to(dtype))  # which it may remember
        except REFUSALS as error:
            refused = error
            continue
        low, high = min(values), max(values)
        if nearly_equal(low, high) or math.isnan(low + high):
            return call if dtype == torch.float64 else _in_single(call)
        raise ArgumentError(
            "loss",
            f"loss must say the same of the same input, and says from {low:.4g} to {high:.4g}: "
            "does it draw random numbers, remember, or need eval()? Wrap it into a function that "
            "seeds it, or makes it anew",
        )
    shapes = " and ".join(str(tuple(one.shape)) for one in inputs)
    raise ArgumentError(
        "loss",
        f"loss cannot be called with {shapes}, as ours is ({type(refused).__name__}: {refused}): "
        "wrap it into a function of (student, teacher, temperature), or give an example=(student, "
        "teacher) of other shapes",
    ) from refused


def _in_single(call: LossCall) -> LossCall:
    """Spare a loss numbers in float64, as one whose own weights are in float32."""

    def function(*nets: Tensor, **more: Any) -> Any:
        return call.function(*(x.float() if x.dtype == torch.float64 else x for x in nets), **more)

    return replace(call, function=function)


def _with_student_first(call: LossCall, kind: LossKind) -> LossCall:
    """Where no name tells, take for the student what alone receives a gradient."""
    if call.told:
        return call
    student, teacher = (one.float().requires_grad_() for one in kind.draw())
    value = call(student, teacher)
    if not value.requires_grad:
        return call
    first, second = (
        grad is not None and bool(grad.any())
        for grad in torch.autograd.grad(value, (student, teacher), allow_unused=True)
    )
    return replace(call, swapped=second and not first, told=first != second)


def _at_its_temperature(call: LossCall, reference: LossCall, kind: LossKind) -> LossCall:
    """Where a loss takes no temperature, find the one that is built in, at which it is ours."""
    if call.takes_temperature or not reference.takes_temperature:
        return call
    tried = (replace(call, temperature=tau) for tau in (float(call.temperature), *BUILT_IN))
    found = (one for one in tried if convention_of(one, reference, kind).factor is not None)
    return next(found, call)


def _notes(trial: Trial) -> tuple[str, ...]:
    call, notes = trial.call, []
    if trial.reference.takes_temperature and not call.takes_temperature:
        tau = float(call.temperature)
        notes.append(f"it takes no temperature, and was checked at τ = {tau:g}")
    if not call.told:
        notes.append("nothing says which argument is the teacher's: the second was taken for it")
    elif call.swapped:
        notes.append("its first argument is the teacher's")
    return tuple(notes)
