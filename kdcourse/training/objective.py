"""The lecture's formula as code: ``min_f L(f) + λ · dist(f, f_large)``.

>>> objective = CrossEntropy() + 4.0 * LogitKD(temperature=4)

A *term* is one ``L`` or one ``dist``. Terms add and scale to an *objective*, which names and logs
every term it is made of.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real

from torch import Tensor, nn

from kdcourse import logit
from kdcourse.checks import check_choice, check_number, check_temperature
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
    def student_layers(self) -> tuple[str, ...]:
        """Names of the student's layers that the terms look at."""
        return _all(term.student_layers for _, term in self.parts())

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """Names of the teacher's layers that the terms look at."""
        return _all(term.teacher_layers for _, term in self.parts())

    def forward(self, lesson: Lesson) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and every term's own value, unweighted and detached."""
        total, values = None, {}
        for name, (weight, term) in zip(self.names, self.parts(), strict=True):
            value = term.loss(lesson)
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
        student_layers: layers of the student to capture, by name.
        teacher_layers: layers of the teacher to capture.
    """

    needs_teacher: bool = True
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weights = [1.0]
        self.names = [self.name]

    @property
    def name(self) -> str:
        """Name in the history: the class name in snake case."""
        letters = type(self).__name__
        return "".join(
            "_" + c.lower() if c.isupper() and i and not letters[i - 1].isupper() else c.lower()
            for i, c in enumerate(letters)
        )

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


class CrossEntropy(Term):
    """``L(f)``: cross-entropy with the labels, optionally smoothed."""

    needs_teacher = False

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        check_number("label_smoothing", label_smoothing, 0.0, 1.0, open_high=True)
        self.label_smoothing = label_smoothing

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the mean cross-entropy over the batch."""
        return nn.functional.cross_entropy(
            student_logits(lesson), lesson.target, label_smoothing=self.label_smoothing
        )


class LogitKD(Term):
    """``dist(f, f_large)`` on softened predictions: :func:`kdcourse.logit.kd_loss`.

    From a closed teacher, which shows probabilities only, the loss is taken from those
    (:func:`kdcourse.logit.kd_loss_from_probabilities`; forward divergence only).
    """

    def __init__(
        self, temperature: float = 4.0, *, divergence: str = "forward", scale: bool = True
    ):
        super().__init__()
        check_temperature(temperature)
        check_choice("divergence", divergence, logit.DIVERGENCES)
        self.temperature = temperature
        self.divergence = divergence
        self.scale = scale

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence between teacher and student."""
        teacher = _teacher(lesson)
        student = student_logits(lesson)
        if teacher.logits is not None:
            return logit.kd_loss(
                student,
                teacher.logits,
                self.temperature,
                divergence=self.divergence,
                scale=self.scale,
            )
        if self.divergence != "forward" or teacher.probabilities is None:
            raise ValueError(f"a teacher without logits cannot teach by {self!r}")
        return logit.kd_loss_from_probabilities(
            student, teacher.probabilities, self.temperature, scale=self.scale
        )


class DecoupledKD(Term):
    """Decoupled KD: :func:`kdcourse.logit.decoupled_kd_loss`."""

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0):
        super().__init__()
        check_number("alpha", alpha, 0.0)
        check_number("beta", beta, 0.0)
        check_temperature(temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the weighted sum of target and non-target divergence."""
        return logit.decoupled_kd_loss(
            student_logits(lesson),
            teacher_logits(lesson),
            lesson.target,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )


class StandardizedKD(Term):
    """KD on z-scored logits: ``kd_loss`` of ``standardize``, both of :mod:`kdcourse.logit`."""

    def __init__(self, temperature: float = 2.0):
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence between the standardised predictions."""
        student = logit.standardize(student_logits(lesson))
        teacher = logit.standardize(teacher_logits(lesson))
        return logit.kd_loss(student, teacher, self.temperature)


def student_logits(lesson: Lesson) -> Tensor:
    """Return the student's logits ``(N, K)``."""
    assert lesson.student.logits is not None
    return lesson.student.logits


def teacher_logits(lesson: Lesson) -> Tensor:
    """Return the teacher's logits ``(N, K)``, or say that it shows none."""
    logits = _teacher(lesson).logits
    if logits is None:
        raise ValueError("this term needs the teacher's logits, and the teacher shows none")
    return logits


def _teacher(lesson: Lesson) -> Outputs:
    if lesson.teacher is None:
        raise ValueError("this term compares the student with a teacher, and there is none")
    return lesson.teacher


def _all(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in names for name in group))


def _distinct(names: list[str]) -> list[str]:
    """Number the terms that occur more than once: kd, kd_2, kd_3."""
    return [
        name if names[:i].count(name) == 0 else f"{name}_{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]
