"""What one batch shows to a doctor: numbers only, so that nothing of it is kept alive."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from kdcourse.doctor.findings import Finding


@dataclass(frozen=True)
class Gradients:
    """The gradients of the loss's terms with respect to the student's weights.

    Attributes:
        norms: The Euclidean norm of each weighted term's gradient, by the name of the term.
        cosines: The cosine between each and the gradient of the labels' term.
        labels: The name of that term; empty where there is none.
        samples: Some of the coordinates of each, of the first looks.
    """

    norms: Mapping[str, float]
    cosines: Mapping[str, float]
    labels: str = ""
    samples: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """What the nets say at the P places of a batch that count.

    Attributes:
        target: ``(P,)``, −1 where there is no label; None where the targets are no classes.
        student: The classes that the student names, ``(P,)``.
        teacher: Those that the teacher names; None where it shows no logits, or of other classes.
        scales: How far the logits of a place spread around their mean, of student and teacher.
        doubt: The teacher's probability off its first class, by temperature: ``(T,)``.
        temperature: The one at which the student learns from it; None where it does not.
        softmax: Which of both, ``"student"`` and ``"teacher"``, return probabilities, not logits.
    """

    target: Tensor | None
    student: Tensor
    teacher: Tensor | None = None
    scales: tuple[float, float] | None = None
    doubt: Tensor | None = None
    temperature: float | None = None
    softmax: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """What one batch shows. What could not be observed is None.

    Attributes:
        early: Whether this is one of the first batches, at which the student has learned nothing.
        in_train_mode: A part of the teacher that is in train mode; empty if none is.
        weights: A digest of the teacher's weights.
        statistics: One of its buffers.
        reached: Whether a gradient of the loss reaches the teacher's weights.
        likeness: How alike what both nets see is, 1 for the same up to brightness and contrast.
        said: What both say.
        gradients: Those of the terms.
        dead: By layer, the share of its units that say the same of every sample.
    """

    early: bool = False
    in_train_mode: str | None = None
    weights: Tensor | None = None
    statistics: Tensor | None = None
    reached: bool | None = None
    likeness: float | None = None
    said: Said | None = None
    gradients: Gradients | None = None
    dead: Mapping[str, float] = field(default_factory=dict)


Found = list[Finding] | None  # None where there was nothing to look at
Check = Callable[[Sequence[Look]], Found]


def remark_if(bad: bool, *words: str) -> list[Finding]:
    """Return a finding of these words if something is bad."""
    return [Finding(*words)] if bad else []
