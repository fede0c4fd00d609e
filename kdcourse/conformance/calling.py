"""How a loss is called, whoever wrote it: arguments of any order and name, modules, terms."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.objective import Lesson, Objective, Outputs
from kdcourse.signatures import describe

TEMPERATURES = ("temperature", "tau", "temp", "t", "τ")
LABELS = ("target", "targets", "label", "labels", "y")
LAYER = "layer"  # what terms of ours are told to compare
Parameters = list[inspect.Parameter]


@dataclass(frozen=True)
class LossCall:
    """A loss as a function of student, teacher, temperature and mask.

    Attributes:
        name: What it is called.
        function: Called with student, teacher, and what else it takes by name.
        written: How it is called in a program, with ``{student}``, ``{teacher}``, ``{more}``, and
            ``{temperature}`` where it is made anew for each.
        temperature: The name of the argument, or the only temperature that it is computed at.
        mask: The name of the argument, if there is one.
        labels: The name of the argument, if it is to be given.
        imports: The line of a program that brings it.
        swapped: Whether the teacher comes first.
        told: Whether the names of the arguments, or the caller, say so.
    """

    name: str
    function: Callable[..., Any]
    written: str
    temperature: str | float = 1.0
    mask: str | None = None
    labels: str | None = None
    imports: str = ""
    swapped: bool = False
    told: bool = True

    @property
    def takes_temperature(self) -> bool:
        """Whether it can be computed at any temperature."""
        return isinstance(self.temperature, str)

    def returned(
        self, student: Tensor, teacher: Tensor, temperature: float = 1.0, mask: Tensor | None = None
    ) -> Any:
        """Return what the loss returns."""
        more: dict[str, Any] = {}
        if isinstance(self.temperature, str):
            more[self.temperature] = temperature
        if self.labels:
            more[self.labels] = teacher.detach().argmax(1)
        if mask is not None and self.mask:
            more[self.mask] = mask
        nets = (teacher, student) if self.swapped else (student, teacher)
        return self.function(*nets, **more)

    def __call__(
        self, student: Tensor, teacher: Tensor, temperature: float = 1.0, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss as a scalar: a mean over samples of what it returns for each."""
        # Of copies, for it may change them.
        value = self.returned(student.clone(), teacher.clone(), temperature, mask)
        if not isinstance(value, Tensor):
            raise TypeError(f"it must return a tensor, got {type(value).__name__}")
        return value.flatten(1).sum(1).mean() if value.dim() > 1 else value.mean()

    def number(
        self, student: Tensor, teacher: Tensor, temperature: float = 1.0, mask: Tensor | None = None
    ) -> float:
        """Return the loss as a number of Python's."""
        return float(self(student, teacher, temperature, mask).detach())

    def shown(
        self,
        student: str = "student",
        teacher: str = "teacher",
        temperature: float = 1.0,
        mask: str = "",
    ) -> str:
        """Return the call as it is written in a program."""
        tau, more = f"{temperature:g}", ""
        if self.takes_temperature and "{temperature}" not in self.written:
            more = f", {self.temperature}={tau}"
        more += f", {self.labels}={teacher}.argmax(1)" if self.labels else ""
        more += f", {self.mask}={mask}" if mask and self.mask else ""
        first, second = (teacher, student) if self.swapped else (student, teacher)
        return self.written.format(student=first, teacher=second, temperature=tau, more=more)


def call_of(
    loss: Any,
    *,
    labels: bool = False,
    teacher_first: bool | None = None,
    name: str = "loss",
    imports: str = "",
) -> LossCall:
    """Find out how a loss is called.

    Args:
        loss: A function, module, term, or a class whose constructor takes a temperature.
        labels: Whether labels may be given, as to the loss that it is compared with.
        teacher_first: Whether the teacher is the first argument; by default, names tell.
        name: What an object is called that has no name.
        imports: The line of a program that brings it.

    Raises:
        ArgumentError: It needs more than both nets' outputs, a temperature and perhaps labels.
        ArgumentTypeError: It cannot be called.
    """
    if not callable(loss):
        raise ArgumentTypeError("loss", f"loss must be a callable, got {describe(loss)}")
    named = _name(loss, name)
    own = named if inspect.isroutine(loss) or isinstance(loss, type) else name
    if isinstance(loss, type):
        return _of_class(loss, named, labels, teacher_first, imports)
    if isinstance(loss, Objective):
        fixed = next((_own_temperature(term) for _, term in loss.parts()), 1.0)
        written = f"{own}.loss(lesson({{student}}, {{teacher}}))"
        return LossCall(named, partial(_of_term, loss), written, fixed, imports=imports)
    called = loss.forward if isinstance(loss, nn.Module) else loss
    call = _by_signature(_parameters(called), LossCall(named, loss, "", imports=imports), labels)
    call = replace(call, written=f"{own}({{student}}, {{teacher}}{{more}})")
    if not call.takes_temperature:
        call = replace(call, temperature=_own_temperature(loss))
    return call if teacher_first is None else replace(call, swapped=teacher_first, told=True)


def _of_class(
    kind: type, name: str, labels: bool, teacher_first: bool | None, imports: str
) -> LossCall:
    parameters = _parameters(kind) or []
    temperature = next((p.name for p in parameters if p.name.lower() in TEMPERATURES), None)
    needed = [p.name for p in _needed(parameters)]
    given: dict[str, Any] = {}
    if issubclass(kind, Objective):
        given |= {name: [LAYER] for name in needed if name == "layers"}
        given |= {name: LAYER for name in needed if name == "layer"}
    if others := set(needed) - {temperature, *given}:
        raise ArgumentError(
            "loss", f"loss is a class that needs {', '.join(sorted(others))}: make one of it"
        )

    def made(tau: float = 1.0) -> Any:
        return kind(**given, **({temperature: tau} if temperature else {}))

    one = call_of(made(), labels=labels, teacher_first=teacher_first, imports=imports)
    if temperature is None or one.takes_temperature:
        return replace(one, name=name, written=one.written.replace("loss", f"{name}()", 1))

    def function(student: Tensor, teacher: Tensor, **more: Any) -> Any:
        tau = more.pop(temperature)
        inner = call_of(made(tau), labels=labels, teacher_first=teacher_first)
        return inner.function(student, teacher, **more)

    written = f"{name}({temperature}={{temperature}})({{student}}, {{teacher}}{{more}})"
    made_anew = replace(one, name=name, function=function, written=written)
    return replace(made_anew, temperature=temperature)


def _of_term(term: Objective, student: Tensor, teacher: Tensor) -> Tensor:
    """Call a term of ours with a lesson: both nets show these logits, and a layer like them."""
    labels = teacher.detach().flatten(1).argmax(1)
    target = labels % (student.shape[1] if student.dim() > 1 else 1)

    def shown(one: Tensor, layers: tuple[str, ...]) -> Outputs:
        return Outputs(logits=one, features=dict.fromkeys((LAYER, *layers), one))

    lesson = Lesson(
        shown(student, term.student_layers), target, shown(teacher, term.teacher_layers)
    )
    return term(lesson)[0]


def _by_signature(parameters: Parameters | None, call: LossCall, labels: bool) -> LossCall:
    """Find both nets, a temperature, a mask and labels among the parameters of a loss."""
    if parameters is None:  # some of C do not tell
        return replace(call, told=False)
    positional = [p for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD]
    starred = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(positional) < 2 and not starred:
        raise ArgumentError(
            "loss",
            f"loss must take the student's and the teacher's output, takes {_all(positional)}",
        )
    nets, rest = positional[:2], parameters[2:]
    teachers = [p for p in parameters if _role(p.name.lower()) == "teacher"]
    late = [p for p in teachers if p.name.lower() not in (*TEMPERATURES, *LABELS)]
    if late and not {*map(id, teachers)} & {*map(id, nets)}:
        raise ArgumentError(
            "loss",
            f"loss takes {_all(nets)} before {_all(late)}: wrap it into a function of (student, "
            "teacher, temperature)",
        )
    temperature = next((p for p in rest if p.name.lower() in TEMPERATURES), None)
    if temperature is not None and temperature.kind is temperature.POSITIONAL_ONLY:
        call = replace(call, function=_by_position(call.function, temperature.name))
    targets = [p for p in rest if p.name.lower() in LABELS]
    wanted = [p for p in targets if p.default is p.empty]
    if wanted and not labels:
        raise ArgumentError(
            "loss",
            f"loss needs labels ({_all(wanted)}), which the loss it is compared with has not: wrap "
            "it into a function of (student, teacher, temperature) that leaves the cross-entropy "
            "with the labels out, such as by its weight, and passes none on",
        )
    if needed := [p for p in _needed(rest) if p not in (temperature, *targets)]:
        raise ArgumentError(
            "loss",
            f"loss needs {_all(needed)}, too: wrap it into a function of (student, teacher, "
            "temperature)",
        )
    swapped = _teacher_first([p.name for p in nets])
    return replace(
        call,
        temperature=temperature.name if temperature else 1.0,
        mask=next((p.name for p in rest if "mask" in p.name.lower()), None),
        labels=targets[0].name if targets and labels else None,
        swapped=bool(swapped),
        told=swapped is not None,
    )


def _by_position(function: Callable, name: str) -> Callable:
    return lambda student, teacher, **more: function(student, teacher, more.pop(name), **more)


def _teacher_first(names: list[str]) -> bool | None:
    """Whether names say that the teacher comes first; None if they say nothing."""
    roles = [_role(name.lower()) for name in names]
    if roles in (["student", "teacher"], ["student", ""], ["", "teacher"]):
        return False
    return True if "teacher" in roles[:1] or "student" in roles[1:] else None


def _role(name: str) -> str:
    words = name.replace("-", "_").split("_")
    if "student" in name or {"s", "stu", "student"} & {*words} or name in ("input", "y_pred"):
        return "student"
    if "teacher" in name or {"t", "tea"} & {*words} or name in ("target", "y_true"):
        return "teacher"
    return ""


def _own_temperature(loss: Any) -> float:
    """Return the temperature of a module that was made with one, or 1."""
    held = getattr(loss, "__dict__", {})
    values = {name.lower().strip("_"): value for name, value in held.items()}
    found = (values[name] for name in TEMPERATURES if isinstance(values.get(name), (int, float)))
    return float(next(found, 1.0))


def _parameters(function: Callable) -> Parameters | None:
    try:
        return list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return None


def _needed(parameters: Parameters) -> Parameters:
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p for p in parameters if p.default is p.empty and p.kind not in starred]


def _name(loss: Any, name: str) -> str:
    if isinstance(loss, partial):
        options = ", ".join(f"{key}={value!r}" for key, value in loss.keywords.items())
        return f"{_name(loss.func, name)}({options})"
    found = getattr(loss, "__name__", type(loss).__name__)
    return found if found.isidentifier() and found != "function" else name


def _all(parameters: Parameters) -> str:
    return ", ".join(p.name for p in parameters) or "nothing"
