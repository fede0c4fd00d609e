"""Teachers by name: ``res16``, ``resnet56`` with weights, ``ensemble(…)``, ``closed(…)``, …."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from kdcourse import models, teachers
from kdcourse.teachers import shipped
from kdcourse.train.arguments import Maker, make, signature
from kdcourse.train.expression import Call, one, unknown

MOMENTA: dict[str, Maker] = {
    "mean-teacher": teachers.mean_teacher_momentum,
    "cosine": teachers.cosine_momentum,
}


class WeightsError(ValueError):
    """Weights of a teacher that are missing, or of another net."""


class TeacherMaker:
    """Makes teachers from expressions.

    Args:
        weights: files with the weights of the nets, in the order of their names. Where none are
            left, the name of a teacher that ships with the course means that one.
        student: whom a ``momentum`` teacher follows.
        steps: of training, for a momentum with a schedule.
        like: channels and classes of the data.
        load: read the weights; without, nets stay untrained.
        need: every net must have weights.
    """

    def __init__(
        self,
        weights: Sequence[Path],
        student: nn.Module,
        steps: int,
        like: dict[str, int],
        *,
        load: bool = True,
        need: bool = True,
    ):
        self.left = list(weights)
        self.student, self.steps, self.like = student, steps, like
        self.load, self.need = load, need
        self.special = {
            "ensemble": self._ensemble,
            "closed": self._closed,
            "momentum": self._momentum,
        }

    def __call__(self, text: str) -> nn.Module:
        """Make the teacher of one expression.

        Raises:
            WeightsError: files are missing, left over, or hold the weights of other nets.
            ValueError: an expression that makes no teacher.
        """
        made = self._made(one(text))
        if self.left:
            files = ", ".join(map(str, self.left))
            raise WeightsError(f"no net in {text!r} is left for {files}")
        return made

    def _made(self, call: Any) -> nn.Module:
        if not isinstance(call, Call):
            raise ValueError(f"{call!r} is no teacher")
        if call.name in self.special:
            return self.special[call.name](call)
        if not call.bare:
            known = ", ".join(self.special)
            raise ValueError(
                f"{call.name} at character {call.place} takes no arguments; those that do: {known}"
            )
        if call.name in shipped.RECIPES and not self.left:
            return self._shipped(call.name)
        try:
            model = models.by_name(call.name, **self.like)
        except ValueError as error:
            others = ", ".join([*shipped.RECIPES, *self.special])
            raise ValueError(f"{error}; other teachers are {others}") from None
        if not self.left and not self.need:
            return model.eval()
        if not self.left:
            raise WeightsError(
                f"needed for {call.name}: a safetensors file, such as the student.safetensors of "
                "an earlier run"
            )
        path = self.left.pop(0)
        if self.load:
            load_weights(model, path)
        return model.eval()

    def _shipped(self, name: str) -> nn.Module:
        model = teachers.pretrained(name)
        channels = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
        if channels != self.like["channels"]:
            raise ValueError(
                f"{name} was trained on images of {channels} channel(s), these have "
                f"{self.like['channels']}"
            )
        return model

    def _ensemble(self, call: Call) -> nn.Module:
        members = [folded(self._made(member)) for member in call.positional]
        return make(teachers.Ensemble, replace(call, positional=()), {"members": members})

    def _closed(self, call: Call) -> nn.Module:
        if not call.positional:
            raise ValueError(f"closed at character {call.place} needs a model: closed(resnet56)")
        rest = replace(call, positional=call.positional[1:])
        model = folded(self._made(call.positional[0]))
        return make(teachers.ClosedTeacher, rest, {"model": model})

    def _momentum(self, call: Call) -> nn.Module:
        call = replace(
            call,
            positional=tuple(map(self._schedule, call.positional)),
            named={name: self._schedule(value) for name, value in call.named.items()},
        )
        return make(teachers.MomentumTeacher, call, {"student": self.student})

    def _schedule(self, value: Any) -> Any:
        """Return the schedule that a call stands for; a number stays one."""
        if not isinstance(value, Call):
            return value
        if value.name not in MOMENTA:
            raise unknown("momentum", value.name, MOMENTA, value.place)
        given = {"steps": self.steps} if value.name == "cosine" else {}
        return make(MOMENTA[value.name], value, given)


def folded(model: nn.Module) -> nn.Module:
    """Make a faster teacher of a net whose hidden layers nobody asks for."""
    return model if isinstance(model, teachers.Teacher) else teachers.FoldedTeacher(model)


def described() -> dict[str, str]:
    """Describe every kind of teacher by its name, for ``--help``."""
    momenta = [f"{name}{signature(maker, ['steps'])}" for name, maker in MOMENTA.items()]
    combine = signature(teachers.Ensemble, ["members"]).lstrip("(")
    limits = signature(teachers.ClosedTeacher, ["model"]).lstrip("(")
    return {
        "NET": " (resnet56, …), with --teacher-weights FILE",
        **dict.fromkeys(shipped.RECIPES, ""),
        "ensemble": f"(TEACHER, …, {combine}",
        "closed": f"(TEACHER, {limits}",
        "momentum": f"{signature(teachers.MomentumTeacher, ['student'])}, or "
        + ", ".join(f"momentum({momentum})" for momentum in momenta),
    }


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a model's weights from a safetensors file.

    Raises:
        WeightsError: no such file, or the weights of another net.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        name = next(n for n in {**expected, **found} if expected.get(n) != found.get(n))
        raise WeightsError(
            f"{path} holds the weights of another net: its {name} is "
            f"{found.get(name, 'missing')}, expected {expected.get(name, 'none')}"
        )
    model.load_state_dict(state)
