"""The lecture's formula as code: ``min_f L(f) + λ · dist(f, f_large)``.

>>> objective = CrossEntropy() + 4.0 * LogitKD(temperature=4)

A *term* is one ``L`` or one ``dist``. Terms add and scale to an *objective*, which names and logs
every term it is made of. The terms of the lecture are in :mod:`kdcourse.training.terms`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real

from torch import Tensor, nn

from kdcourse.checks import check_number
from kdcourse.training.teacher import Outputs


@dataclass
class Lesson:
    """One batch as a term sees it.

    Attributes:
        student: what the student showed; its logits are always there.
        target: ``(N,)`` class indices.
        teacher: what the teacher showed; None in training without a teacher.
    """

    student: Outputs
    target: Tensor
    teacher: Outputs | None = None


class Objective(nn.Module):
    """A weighted sum of terms; terms are objectives with one part."""

    def __init__(self, parts: Iterable[tuple[float, "Term"]]):
        super().__init__()
        parts = list(parts)
        if not parts:
            raise ValueError("an objective needs at least one term")
        self.weights = [weight for weight, _ in parts]
        self.terms = nn.ModuleList(term for _, term in parts)
        self.names = _distinct([term.name for _, term in parts])

    def parts(self) -> list[tuple[float, "Term"]]:
        """List ``(weight, term)``."""
        return list(zip(self.weights, self.terms, strict=True))  # type: ignore[arg-type]

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares the student with a teacher."""
        return any(term.needs_teacher for _, term in self.parts())

    @property
    def needs_input_gradient(self) -> bool:
        """Whether any term looks at the gradients of the predictions by the inputs."""
        return any(term.needs_input_gradient for _, term in self.parts())

    @property
    def student_layers(self) -> tuple[str, ...]:
        """Names of the student's layers that the terms look at."""
        return _all(term.student_layers for _, term in self.parts())

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """Names of the teacher's layers that the terms look at."""
        return _all(term.teacher_layers for _, term in self.parts())

    def forward(
        self, lesson: Lesson, shares: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and every term's own value, unweighted and detached.

        Args:
            lesson: a batch, or a part of one.
            shares: factors by which the values of parts add up to that of the whole, for each of
                the :attr:`Term.mean_over`.
        """
        total, values = None, {}
        for name, (weight, term) in zip(self.names, self.parts(), strict=True):
            value = term.loss(lesson)
            if shares is not None:
                value = value * shares[term.mean_over]
            values[name] = value.detach()
            total = weight * value if total is None else total + weight * value
        assert total is not None
        return total, values

    def __add__(self, other: "Objective") -> "Objective":
        if not isinstance(other, Objective):
            return NotImplemented
        return Objective(self.parts() + other.parts())

    def __mul__(self, factor: float) -> "Objective":
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        check_number("the factor of a term", factor)
        return Objective((float(factor) * weight, term) for weight, term in self.parts())

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return " + ".join(f"{weight:g} * {term!r}" for weight, term in self.parts())


class Term(Objective):
    """One part of an objective: a thin module around a loss function.

    A subclass sets the attributes below and defines :meth:`loss`.

    Attributes:
        needs_teacher: whether the term compares with a teacher.
        needs_input_gradient: whether it looks at the gradients of the predictions by the inputs.
        needs_labels: whether every sample must have a label.
        mean_over: what the loss is a mean over: ``"samples"``, ``"labels"`` (samples that have
            one), or ``"batch"``, if it compares samples and sees those of all processes.
        student_layers: layers of the student to capture, by name.
        teacher_layers: layers of the teacher to capture.
    """

    needs_teacher: bool = True
    needs_input_gradient: bool = False
    needs_labels: bool = False
    mean_over: str = "samples"
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weights = [1.0]
        self.names = [self.name]

    @property
    def name(self) -> str:
        """Name in the history: the class name in snake case."""
        starts = r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"  # LogitKD, RKDAngle
        return re.sub(starts, "_", type(self).__name__).lower()

    def parts(self) -> list[tuple[float, "Term"]]:
        """List the term itself, with weight 1."""
        return [(1.0, self)]

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the scalar to minimise."""
        raise NotImplementedError

    def __repr__(self) -> str:
        settings = ", ".join(
            f"{k}={v!r}"
            for k, v in vars(self).items()
            if not k.startswith("_") and k not in ("training", "weights", "names")
        )
        return f"{type(self).__name__}({settings})"


def _all(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in names for name in group))


def _distinct(names: list[str]) -> list[str]:
    """Number the terms that occur more than once: kd, kd_2, kd_3."""
    return [
        name if names[:i].count(name) == 0 else f"{name}_{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]
