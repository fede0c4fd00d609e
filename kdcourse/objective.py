"""The lecture's formula as code: ``min_f L(f) + λ · dist(f, f_large)``.

>>> objective = CrossEntropy() + 4.0 * LogitKD(temperature=4)

A *term* is one ``L`` or one ``dist``: a thin module around a loss function, called with what
student and teacher showed on one batch. Each stands in the file of its loss. Terms add and scale to
an *objective*, which names and logs every term it is made of.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse.batch import Inputs, count_labels
from kdcourse.checks import check_number, check_positive
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.signatures import checked, describe

MEANS = ("samples", "labels", "places", "batch")  # what a loss may be a mean over
Layer = str | tuple[str, str]  # its name in both nets, or the student's and the teacher's


@dataclass
class Outputs:
    """What a model showed on one batch.

    Attributes:
        logits: ``(N, K)``, or of another shape with K classes in one dimension; None where the
            model keeps them to itself.
        probabilities: Of the same shape, at temperature 1, from teachers that show nothing else.
        top_k: The largest of these (:class:`kdcourse.methods.top_k.TopK`), from teachers of whom
            nothing else was recorded.
        features: The outputs of the layers that were asked for, by name.
        input_gradient: The gradient of the target's log-probability with respect to the inputs,
            where it was asked for.
    """

    logits: Tensor | None = None
    probabilities: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    input_gradient: Tensor | None = None
    top_k: Any = None

    def map(self, function: Callable[[Any], Any]) -> "Outputs":
        """Return what a function makes of each of them."""
        return Outputs(**{one.name: function(getattr(self, one.name)) for one in fields(self)})


@dataclass
class Lesson:
    """One batch as a term sees it.

    Attributes:
        student: What the student showed; its logits are always there.
        target: Class indices, of the logits' shape without their classes: ``(N,)``, ``(N, T)``,
            ``(N, H, W)``; −1 where there is no label. Or what else the terms learn from.
        teacher: What the teacher showed; None in training without a teacher.
        again: Whether the same batch was judged before, beside another teacher.
        inputs: What the student was called with.
        weight: How much each place counts, ≥ 0, where the batch came with weights.
        teacher_inputs: What the teacher was called with, or will be.
    """

    student: Outputs
    target: Tensor
    teacher: Outputs | None = None
    again: bool = False
    inputs: Inputs = None
    weight: Tensor | None = None
    teacher_inputs: Inputs = None

    @property
    def taught(self) -> Outputs:
        """What the teacher showed, or an error that there is none."""
        if self.teacher is None:
            raise ArgumentError(
                "teacher", "this term compares the student with a teacher, and there is none"
            )
        return self.teacher

    @property
    def student_logits(self) -> Tensor:
        """The student's logits ``(N, K)``."""
        assert self.student.logits is not None
        return self.student.logits

    @property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits ``(N, K)``, or an error that it shows none."""
        if self.taught.logits is None:
            raise ArgumentError(
                "teacher", "this term needs the teacher's logits, and the teacher shows none"
            )
        return self.taught.logits

    def entry(self, name: str) -> Tensor:
        """Return what the inputs, a dictionary, hold under a name, such as a mask."""
        if not isinstance(self.inputs, Mapping) or name not in self.inputs:
            held = (
                f"a dictionary with {', '.join(map(repr, self.inputs))}"
                if isinstance(self.inputs, Mapping)
                else describe(self.inputs)
            )
            raise ArgumentError(
                "mask", f"mask must name an entry of the inputs, got {name!r}, and they are {held}"
            )
        found = self.inputs[name]
        if not isinstance(found, Tensor):
            raise ArgumentError(
                "mask",
                f"mask must name a tensor among the inputs, got {name!r}, which is "
                f"{describe(found)}",
            )
        return found


@checked
class Objective(nn.Module):
    """A weighted sum of terms; a term is an objective with one part.

    A term that is added twice is one term, with the sum of both weights: some count how often they
    are asked.
    """

    def __init__(self, parts: Iterable[tuple[float, "Term"]]):
        super().__init__()
        parts = list(parts)
        if not parts:
            raise ArgumentError("parts", "an objective needs at least one term")
        weights: dict[Term, float] = {}
        for weight, term in parts:
            check_number("the weight of one of the parts", weight, 0.0)
            weights[term] = weights.get(term, 0) + weight
        self.weights = list(weights.values())
        self.terms = nn.ModuleList(weights)
        self.names = _distinct([term.name for term in weights])

    def parts(self) -> list[tuple[float, "Term"]]:
        """List ``(weight, term)``."""
        return list(zip(self.weights, self.terms, strict=True))  # type: ignore[arg-type]

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares the student with a teacher."""
        return any(term.needs_teacher for _, term in self.parts())

    @property
    def needs_input_gradient(self) -> bool:
        """Whether any term looks at the gradients of the predictions with respect to the inputs."""
        return any(term.needs_input_gradient for _, term in self.parts())

    @property
    def student_layers(self) -> tuple[str, ...]:
        """Names of the student's layers that the terms look at."""
        return _all(term.student_layers for _, term in self.parts())

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """Names of the teacher's layers that the terms look at."""
        return _all(term.teacher_layers for _, term in self.parts())

    @property
    def prepared(self) -> bool:
        """Whether every term has found out what it needs to know of the two nets."""
        return all(term.prepared for _, term in self.parts())

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Let terms size the weights they have, and count their epochs; the others do nothing.

        Args:
            lesson: A few samples as both nets show them.
            seed: Seed of weights whose term has none of its own.
            steps_an_epoch: How often an epoch asks the objective; None where nobody knows.
        """
        for _, term in self.parts():
            if not term.prepared:
                term.prepare(lesson, seed=seed, steps_an_epoch=steps_an_epoch)

    def begin(self) -> None:
        """Say, at the start of a training, if an earlier one has left its traces in the terms."""
        terms = [one for one in self.modules() if isinstance(one, Term)]
        if any(term._begun and term.state_dict() for term in terms):
            warnings.warn(
                f"{self!r} was trained before, or a term of it: its terms go on with the weights "
                "and counts that they have; make new terms for a training of its own",
                stacklevel=2,
            )
        for term in terms:
            term._begun = True

    def forward(
        self, lesson: Lesson, shares: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and every term's own value, unweighted and detached.

        Args:
            lesson: A batch, or a part of one.
            shares: Factors by which the values of parts add up to that of the whole, by the names
                of the terms.
        """
        values = self.values(lesson, shares)
        return self.weighted(values), {name: value.detach() for name, value in values.items()}

    def values(
        self, lesson: Lesson, shares: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return every term's own value, unweighted; the arguments are those of a call."""
        values = {}
        for name, (_, term) in zip(self.names, self.parts(), strict=True):
            value = term.loss(lesson)
            if not isinstance(value, Tensor) or value.dim() != 0:
                raise ArgumentTypeError(
                    "objective",
                    f"the loss of {type(term).__name__} must be a scalar tensor, got "
                    f"{describe(value)}",
                )
            values[name] = value if shares is None else value * shares[name]
        return values

    def weighted(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the terms' values."""
        first, *others = (
            w * values[name] for w, name in zip(self.weights, self.names, strict=True)
        )
        return sum(others, start=first)

    def __add__(self, other: "Objective") -> "Objective":
        if isinstance(other, type) and issubclass(other, Objective):
            raise ArgumentTypeError(
                "objective", f"{other.__name__} is a class: call it, {other.__name__}()"
            )
        if not isinstance(other, Objective):
            return NotImplemented
        return Objective(self.parts() + other.parts())

    def __radd__(self, other: object) -> "Objective":
        if isinstance(other, type):
            return self + other  # type: ignore[operator]
        return self if other == 0 else NotImplemented  # 0 is where sum() begins

    def __mul__(self, factor: float) -> "Objective":
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        check_number("the factor of a term", factor, 0.0)
        return Objective((float(factor) * weight, term) for weight, term in self.parts())

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return " + ".join(f"{weight:g} * {term!r}" for weight, term in self.parts())


class Term(Objective):
    """One part of an objective: a thin module around a loss function.

    A subclass defines :meth:`loss`, and sets those of the attributes below that differ.

    Attributes:
        needs_teacher: Whether the term compares the student with a teacher.
        needs_logits: Whether it needs the teacher's logits, so that probabilities will not do.
        needs_input_gradient: Whether it looks at the gradients of the predictions with respect to
            the inputs.
        needs_labels: Whether every sample must have a label.
        least: The fewest samples that the term can compare.
        mean_over: What the loss is a mean over: ``"samples"``, ``"labels"`` (the samples, or
            places, that have one), ``"places"`` that count
            (:class:`kdcourse.prediction_term.PredictionTerm`), or ``"batch"`` if it compares
            samples and sees those of all processes.
        student_layers: Names of the student's layers to capture.
        teacher_layers: Names of the teacher's layers to capture.
        prepared: Whether the term knows what it needs to know of the two nets.
    """

    needs_teacher: bool = True
    needs_logits: bool = False
    needs_input_gradient: bool = False
    needs_labels: bool = False
    least: int = 1
    mean_over: str = "samples"
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()
    prepared: bool = True
    _begun = False  # whether a training has begun with it
    _unsaid = frozenset(("training", "weights", "names", "prepared"))  # in the repr

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
        return [(1.0, self)]

    @property
    def at_places(self) -> "Term | None":
        """The term on predictions that this is, or is around, which knows their places."""
        return None

    def count(self, lesson: Lesson) -> Tensor:
        """Return what the loss of a batch, or of a part of one, is a mean over, as a number.

        By it, the values of parts add up to that of the whole. It is asked for before either net
        is: of the lesson, ``inputs``, ``target`` and ``weight`` are there.
        """
        target = lesson.target
        if self.mean_over == "labels":
            return count_labels(target)
        return torch.full((), len(target), device=target.device)

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the scalar to minimise."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(lesson)")

    def __repr__(self) -> str:
        said = {k: v for k, v in vars(self).items() if k[0] != "_" and k not in self._unsaid}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in said.items())})"


@checked
class LayerTerm(Term):
    """A term that compares layers, by their names.

    Args:
        layers: Names of layers, of any model (:func:`kdcourse.models.capture`); where a name
            differs between the two nets, the student's and the teacher's as a pair.
    """

    def __init__(self, layers: Sequence[Layer]):
        super().__init__()
        if isinstance(layers, str) or not layers:
            raise ArgumentError(
                "layers", f"layers must be a list of at least one name or pair, got {layers!r}"
            )
        pairs = [(pair, pair) if isinstance(pair, str) else tuple(pair) for pair in layers]
        for pair in pairs:
            if len(pair) != 2 or not all(isinstance(name, str) for name in pair):
                raise ArgumentError("layers", f"a pair of layers must be two names, got {pair!r}")
        self.student_layers = tuple(student for student, _ in pairs)
        self.teacher_layers = tuple(teacher for _, teacher in pairs)

    def shown(self, lesson: Lesson) -> list[tuple[Tensor, Tensor]]:
        """Return the student's and the teacher's features of every pair of layers."""
        student, teacher = lesson.student.features, lesson.taught.features
        names = zip(self.student_layers, self.teacher_layers, strict=True)
        return [(student[own], teacher[theirs]) for own, theirs in names]

    def compared(self, lesson: Lesson, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Sum a loss of student's and teacher's features over the pairs of layers."""
        first, *others = (loss(*pair) for pair in self.shown(lesson))
        return sum(others, start=first)


class Gradual(Term):
    """A term that changes in the course of its first T steps.

    The steps taken so far are part of ``state_dict()``, so that a resumed training goes on where it
    stopped. With ``accumulate``, every part of a batch counts as a step; several teachers of one
    student, asked about one batch, make one step together.
    """

    def count_to(self, steps: int | None, epochs: int | None) -> None:
        """Begin to count, up to T steps, or to the end of so many epochs."""
        if (steps is None) == (epochs is None):
            raise ArgumentError(
                "steps", f"give either steps or epochs, got steps={steps} and epochs={epochs}"
            )
        check_positive(**({"steps": steps} if epochs is None else {"epochs": epochs}))
        self.steps, self.epochs = steps, epochs
        self._unsaid = self._unsaid | {"epochs" if epochs is None else "steps"}
        self.prepared = steps is not None
        self.taken: Tensor = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Turn epochs into steps."""
        if self.epochs is not None and steps_an_epoch is not None:
            self.steps = self.epochs * steps_an_epoch
        self.prepared = self.steps is not None

    def progress(self, lesson: Lesson) -> Tensor:
        """Count a step of training, and return t / T in the t-th one, at most 1."""
        if self.steps is None:
            raise ArgumentError(
                "steps", f"{self!r} does not know how long an epoch is: give it steps"
            )
        taken = self.taken + (self.training and not lesson.again)
        if torch.compiler.is_compiling():
            self.taken = taken  # a compiled backward pass reads the old one again
        else:
            self.taken.copy_(taken)  # a step may be replayed
        return (taken / self.steps).clamp(max=1)


@checked
class Around(Term):
    """A term around another one, which it shows a batch in another way, or weights.

    Args:
        term: Any term.
    """

    def __init__(self, term: Term):
        super().__init__()
        self.term = term
        for need in Term.__annotations__:
            setattr(self, need, getattr(term, need))

    @property
    def at_places(self) -> Term | None:
        return self.term.at_places

    def count(self, lesson: Lesson) -> Tensor:
        return self.term.count(lesson)

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Prepare the term."""
        Objective.prepare(self.term, lesson, seed=seed, steps_an_epoch=steps_an_epoch)
        self.prepared = self.term.prepared


@checked
class WarmUp(Around, Gradual):
    r"""A term times :math:`\min(t / T, 1)` in its t-th step: it counts little at first.

    >>> objective = CrossEntropy() + WarmUp(DecoupledKD(), epochs=20)

    How steps are counted says :class:`Gradual`.

    Args:
        term: Any term.
        steps: T, at least 1.
        epochs: In place of ``steps``, T as a number of epochs; training tells how long one is.
    """

    def __init__(self, term: Term, steps: int | None = None, *, epochs: int | None = None):
        super().__init__(term)
        self.count_to(steps, epochs)
        self.prepared = term.prepared and steps is not None

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Prepare the term, and turn epochs into steps."""
        Gradual.prepare(self, lesson, steps_an_epoch=steps_an_epoch)
        super().prepare(lesson, seed=seed, steps_an_epoch=steps_an_epoch)
        self.prepared = self.term.prepared and self.steps is not None

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the term's loss, as far as it counts by now."""
        return self.progress(lesson) * self.term.loss(lesson)

    def __repr__(self) -> str:
        length = f"steps={self.steps}" if self.epochs is None else f"epochs={self.epochs}"
        return f"WarmUp({self.term!r}, {length})"


def _all(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in names for name in group))


def _distinct(names: list[str]) -> list[str]:
    """Number the terms that occur more than once: kd, kd_2, kd_3."""
    return [
        name if names[:i].count(name) == 0 else f"{name}_{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]
