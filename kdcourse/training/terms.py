"""The terms of the lecture: each a thin module around one loss function.

>>> objective = CrossEntropy() + 3.0 * LogitKD(temperature=4) + AttentionTransfer(["stage1"])

A term that looks at layers takes their names (see :func:`kdcourse.models.capture`); where a name
differs between the two models, the student's and the teacher's as a pair.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse import feature, logit, processes, relational
from kdcourse.checks import check_choice, check_number, check_positive, check_temperature
from kdcourse.training.objective import Lesson, Term
from kdcourse.training.teacher import Outputs

Layer = str | tuple[str, str]
Loss = Callable[[Tensor, Tensor], Tensor]


class CrossEntropy(Term):
    """``L(f)``: cross-entropy with the labels, optionally smoothed.

    Samples without a label (target −1) do not count; a batch without any label costs nothing.
    """

    needs_teacher = False
    mean_over = "labels"

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        check_number("label_smoothing", label_smoothing, 0.0, 1.0, open_high=True)
        self.label_smoothing = label_smoothing

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the mean cross-entropy over the labelled samples of the batch."""
        loss = nn.functional.cross_entropy(
            student_logits(lesson),
            lesson.target,
            ignore_index=-1,
            label_smoothing=self.label_smoothing,
        )
        return torch.where((lesson.target >= 0).any(), loss, torch.zeros_like(loss))


class LogitKD(Term):
    """``dist(f, f_large)`` on softened predictions: :func:`kdcourse.logit.kd_loss`.

    From a closed teacher, which shows probabilities only, the loss is taken from those
    (:func:`kdcourse.logit.kd_loss_from_probabilities`; forward divergence only).

    Args:
        temperature, divergence, scale: as in :func:`kdcourse.logit.kd_loss`.
        rows: compute so many samples at a time, to save memory where there are very many classes
            (:func:`kdcourse.logit.in_chunks`); all at once by default.
    """

    rows: int | None = None  # in the repr only where it is set

    def __init__(
        self,
        temperature: float = 4.0,
        *,
        divergence: str = "forward",
        scale: bool = True,
        rows: int | None = None,
    ):
        super().__init__()
        check_temperature(temperature)
        check_choice("divergence", divergence, logit.DIVERGENCES)
        self.temperature = temperature
        self.divergence = divergence
        self.scale = scale
        if rows is not None:
            check_positive(rows=rows)
            self.rows = rows

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence between teacher and student."""
        teacher = shown_by_teacher(lesson)
        if teacher.logits is not None:
            return self._of(logit.kd_loss, lesson, teacher.logits, divergence=self.divergence)
        if self.divergence != "forward" or teacher.probabilities is None:
            raise ValueError(f"a teacher without logits cannot teach by {self!r}")
        return self._of(logit.kd_loss_from_probabilities, lesson, teacher.probabilities)

    def _of(
        self, loss: Callable[..., Tensor], lesson: Lesson, taught: Tensor, **options: Any
    ) -> Tensor:
        """Return a loss of the student's logits and of what the teacher predicts."""
        if self.rows is not None:
            loss = partial(logit.in_chunks, loss, rows=self.rows)
        settings = {"temperature": self.temperature, "scale": self.scale, **options}
        return loss(student_logits(lesson), taught, **settings)


class DecoupledKD(Term):
    """Decoupled KD: :func:`kdcourse.logit.decoupled_kd_loss`."""

    needs_labels = True

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


class _LayerTerm(Term):
    """A term that compares layers, by pairs of names (student's, teacher's)."""

    def __init__(self, layers: Sequence[Layer]):
        super().__init__()
        if isinstance(layers, str) or not layers:
            raise ValueError(f"layers must be a list of at least one name or pair, got {layers!r}")
        pairs = [(pair, pair) if isinstance(pair, str) else tuple(pair) for pair in layers]
        for pair in pairs:
            if len(pair) != 2 or not all(isinstance(name, str) for name in pair):
                raise ValueError(f"a pair of layers must be two names, got {pair!r}")
        self.student_layers = tuple(student for student, _ in pairs)
        self.teacher_layers = tuple(teacher for _, teacher in pairs)

    def compared(self, lesson: Lesson, loss: Loss) -> Tensor:
        """Sum a loss of student's and teacher's features over the pairs of layers."""
        student, teacher = lesson.student.features, shown_by_teacher(lesson).features
        values = [
            loss(student[one], teacher[other])
            for one, other in zip(self.student_layers, self.teacher_layers, strict=True)
        ]
        return sum(values[1:], start=values[0])


class AttentionTransfer(_LayerTerm):
    """Attention maps, summed over layers: :func:`kdcourse.feature.attention_transfer_loss`.

    Args:
        layers: names of layers with features ``(N, C, H, W)``, or pairs of names.
        power: of the attention map.
        squared: the authors' mean square in place of the lecture's norm.
    """

    def __init__(self, layers: Sequence[Layer], power: float = 2, *, squared: bool = False):
        super().__init__(layers)
        check_number("power", power, 0.0, open_low=True)
        self.power = power
        self.squared = squared

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the sum of the distances between attention maps."""
        return self.compared(
            lesson,
            lambda student, teacher: feature.attention_transfer_loss(
                student, teacher, self.power, squared=self.squared
            ),
        )


class FeatureHint(_LayerTerm):
    """A hidden layer of the teacher, reached by a learned projection: :class:`feature.Hint`.

    Args:
        layer: the guided layer of the student and the hint layer of the teacher.
        hint: the projection between them; its weights are trained with the student.
    """

    def __init__(self, layer: Layer, hint: feature.Hint):
        super().__init__([layer])
        self.hint = hint

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the mean squared error between projected student and teacher."""
        return self.compared(lesson, self.hint)


class Saliency(Term):
    """Input gradients of the true class's prediction: :func:`kdcourse.feature.saliency_loss`.

    Costs a second backward pass through the student and one through the teacher.
    """

    needs_input_gradient = True
    needs_labels = True

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the distance between the normalised input gradients."""
        student, teacher = lesson.student.input_gradient, shown_by_teacher(lesson).input_gradient
        assert student is not None
        if teacher is None:
            raise ValueError("this term needs the teacher's input gradient, and it shows none")
        return feature.saliency_loss(student, teacher)


class _RelationTerm(_LayerTerm):
    """A term on relations between the samples of a batch.

    Args:
        layers: names of layers, or pairs of names; what they put out is flattened to ``(N, D)``.
    """

    mean_over = "batch"
    relation: Loss
    least: int  # so many samples hold one relation

    def __init__(self, layers: Sequence[Layer] = ("embedding",)):
        super().__init__(layers)

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the loss of the relations, summed over layers."""
        return self.compared(lesson, self.of_layer)

    def of_layer(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one layer: 0 for an epoch's last batch that holds no relation."""
        if processes.total_samples(student) < self.least:
            return 0.0 * student.sum()
        return self.relation(student.flatten(1), teacher.flatten(1))


class RKDDistance(_RelationTerm):
    """Distances between samples: :func:`kdcourse.relational.rkd_distance_loss`."""

    relation = staticmethod(relational.rkd_distance_loss)
    least = 2


class RKDAngle(_RelationTerm):
    """Angles of triples of samples: :func:`kdcourse.relational.rkd_angle_loss`."""

    relation = staticmethod(relational.rkd_angle_loss)
    least = 3


class SimilarityPreserving(_LayerTerm):
    """Which samples look alike: :func:`kdcourse.relational.similarity_preserving_loss`.

    Args:
        layers: names of layers, or pairs of names.
    """

    mean_over = "batch"

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the loss of the similarity matrices, summed over layers."""
        return self.compared(lesson, relational.similarity_preserving_loss)


def student_logits(lesson: Lesson) -> Tensor:
    """Return the student's logits ``(N, K)``."""
    assert lesson.student.logits is not None
    return lesson.student.logits


def teacher_logits(lesson: Lesson) -> Tensor:
    """Return the teacher's logits ``(N, K)``, or say that it shows none."""
    logits = shown_by_teacher(lesson).logits
    if logits is None:
        raise ValueError("this term needs the teacher's logits, and the teacher shows none")
    return logits


def shown_by_teacher(lesson: Lesson) -> Outputs:
    """Return what the teacher showed, or say that there is none."""
    if lesson.teacher is None:
        raise ValueError("this term compares the student with a teacher, and there is none")
    return lesson.teacher
