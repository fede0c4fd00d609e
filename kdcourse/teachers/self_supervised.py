r"""Self-distillation without labels, in the style of DINO: a student follows its own average.

Two augmented views of each image; the student has to predict from one what the momentum teacher
says of the other, over K outputs that mean nothing beforehand:

.. math:: -\sum_k p_T^{(k)} \log p_S^{(k)}, \qquad
          p_T = softmax((z_T - c)/\tau_T), \quad p_S = softmax(z_S/\tau_S)

Saying the same of every image would do, in one of two ways: one output for all, or all outputs
alike. *Centring* (c, the running mean of the teacher's logits) prevents the first and furthers the
second, *sharpening* (τ_T < τ_S) the other way round. Their :func:`spread` tells which one happened.

>>> teacher = self_distill(model, images, augment=augment)  # features without a label

Source: Caron et al. 2021 (arXiv 2104.14294), section 3.
"""

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.checks import (
    check_integer,
    check_matrix,
    check_number,
    check_positive,
    check_probabilities,
    check_same_shape,
    check_temperature,
    check_values,
)
from kdcourse.data import Augmentation, Images
from kdcourse.errors import ArgumentError
from kdcourse.logit import softmax
from kdcourse.models import capture, seeded
from kdcourse.objective import Lesson, Objective, Term
from kdcourse.precision import at_least_float32
from kdcourse.processes import all_samples
from kdcourse.signatures import checked
from kdcourse.teachers.momentum import MomentumTeacher, cosine_momentum
from kdcourse.tips import CrossedViews
from kdcourse.training.epochs import Epochs
from kdcourse.training.fit import fit
from kdcourse.training.knobs import Knobs, MakeOptimizer, takes_knobs
from kdcourse.training.schedules import one_cycle

EPOCHS = 20


@checked
class SelfDistillation(Term):
    """Cross-entropy with the centred, sharpened predictions of a teacher.

    Computed, and the centre kept, in float32 at least, in float64 where the nets are.

    Args:
        outputs: The number of outputs K; by default, as many as the nets show on the first batch.
        student_temperature: τ_S > 0.
        teacher_temperature: τ_T > 0; sharpens where it is lower than τ_S.
        centre_momentum: The momentum of the running mean c, in [0, 1]; 1 leaves it at zero, so that
            nothing is centred.
    """

    needs_logits = True

    def __init__(
        self,
        outputs: int | None = None,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        centre_momentum: float = 0.9,
    ):
        super().__init__()
        if outputs is not None:
            check_integer("outputs", outputs, 2)
        check_temperature(student_temperature, "student_temperature")
        check_temperature(teacher_temperature, "teacher_temperature")
        check_number("centre_momentum", centre_momentum, 0.0, 1.0)
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.centre_momentum = centre_momentum
        self.centre: Tensor = nn.Buffer(torch.zeros(outputs or 1))
        self.prepared = outputs is not None

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Make the centre as wide as the outputs."""
        self.centre = self._wide_centre(lesson).new_zeros(lesson.student_logits.shape[1])
        self.prepared = True

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the mean cross-entropy, and move the centre."""
        shown = lesson.student_logits, lesson.teacher_logits
        check_matrix("student_logits", shown[0])
        check_same_shape("student_logits", shown[0], "teacher_logits", shown[1])
        if not self.prepared:
            self.prepare(lesson)
        if len(self.centre) != lesson.student_logits.shape[1]:
            raise ArgumentError(
                "outputs",
                f"outputs must be the number of the nets' outputs, {lesson.student_logits.shape[1]}"
                f", got {len(self.centre)}",
            )
        taught = at_least_float32(lesson.teacher_logits.detach())
        p = self.sharpened(taught)
        if self.training and not lesson.again:
            centre = self._wide_centre(lesson)
            mean = all_samples(taught).mean(dim=0).to(centre.dtype)
            self.centre = centre.lerp_(mean, 1 - self.centre_momentum)  # in place, for a replay
        student = at_least_float32(lesson.student_logits)
        log_p = (student / self.student_temperature).log_softmax(dim=1)
        return -(p * log_p).sum(dim=1).mean()

    def sharpened(self, logits: Tensor) -> Tensor:
        """Return what a teacher's logits ``(N, K)`` say, centred and sharpened."""
        centred = at_least_float32(logits) - self.centre.to(logits.device)
        return softmax(centred, self.teacher_temperature)

    def _wide_centre(self, lesson: Lesson) -> Tensor:
        """Return the centre, no less precise than what the teacher shows, or float32."""
        shown = at_least_float32(lesson.teacher_logits)
        return self.centre.to(torch.promote_types(self.centre.dtype, shown.dtype))


@dataclass(frozen=True)
class Spread:
    """How much predictions over K outputs depend on the image, in nats.

    Attributes:
        entropy: The mean entropy of a prediction: log K if it is uniform.
        mean_entropy: The entropy of the mean prediction: 0 if it is always the same output.
        outputs: The number of outputs K.
    """

    entropy: float
    mean_entropy: float
    outputs: int

    @property
    def information(self) -> float:
        """What a prediction tells about which image it is: 0 if all get the same."""
        return self.mean_entropy - self.entropy

    @property
    def share(self) -> float:
        """The information in units of the largest possible, log K."""
        return self.information / math.log(self.outputs)

    @property
    def collapse(self) -> str:
        """``"uniform"``, ``"one output"``, or ``"none"`` where the share is above 5 %."""
        if self.share > 0.05:
            return "none"
        return "uniform" if self.entropy > math.log(self.outputs) / 2 else "one output"


def spread(probabilities: Tensor) -> Spread:
    """Measure whether predictions ``(N, K)`` have collapsed."""
    check_matrix("probabilities", probabilities)
    check_values("probabilities", probabilities)
    check_probabilities("probabilities", probabilities)
    p = probabilities.double()
    mean = p.mean(dim=0)
    entropy = -torch.xlogy(p, p).sum(dim=1).mean()
    return Spread(float(entropy), float(-torch.xlogy(mean, mean).sum()), p.shape[1])


@checked
class ProjectionHead(nn.Module):
    """Two layers, then K outputs that are cosines with K prototypes.

    Args:
        width: Length D of the embedding.
        outputs: The number of outputs K.
        hidden: Width of the hidden layer.
        bottleneck: Length of the vector that is compared with the prototypes.
    """

    def __init__(self, width: int, outputs: int = 64, hidden: int = 256, bottleneck: int = 64):
        super().__init__()
        check_positive(width=width, outputs=outputs, hidden=hidden, bottleneck=bottleneck)
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.randn(outputs, bottleneck))

    def forward(self, embedding: Tensor) -> Tensor:
        """Map ``(N, D)`` to ``(N, K)``, in [−1, 1]."""
        projected = F.normalize(self.layers(embedding), dim=1)
        return projected @ F.normalize(self.prototypes, dim=1).T


@checked
def with_head(
    model: nn.Module, layer: str = "classifier", *, seed: int = 0, **sizes: int
) -> nn.Module:
    """Return a copy of a model with a projection head in place of its classifier.

    The head gets the classifier's device and dtype.

    Args:
        model: Any module; stays as it is.
        layer: Name of its classifier, an ``nn.Linear``.
        seed: Seed of the head's initial weights.
        sizes: ``outputs``, ``hidden`` and ``bottleneck`` of the :class:`ProjectionHead`.
    """
    with capture(model, [layer]):  # which looks for it
        pass
    copied = copy.deepcopy(model)
    classifier = copied.get_submodule(layer)
    if not isinstance(classifier, nn.Linear):
        kind = type(classifier).__name__
        raise ArgumentError("layer", f"layer {layer!r} must be an nn.Linear, got {kind}")
    with seeded(seed):
        head = ProjectionHead(classifier.in_features, **sizes).to(classifier.weight)
    parent, _, name = layer.rpartition(".")
    setattr(copied.get_submodule(parent), name, head)
    return copied


@takes_knobs
@checked
def self_distill(
    model: nn.Module,
    images: Images,
    *,
    augment: Augmentation,
    dist: Objective | None = None,
    momentum: float = 0.95,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 0.001,
    optimizer: MakeOptimizer | None = None,
    seed: int = 0,
    **knobs: Any,
) -> nn.Module:
    """Train a model without labels, on two views of every image and by its own moving average.

    Args:
        model: A module with an ``nn.Linear`` named ``classifier``; stays as it is.
        images: The images; labels, if there are any, are not looked at.
        augment: Makes the views.
        dist: The loss; by default one whose centre moves fast, as these runs are short.
        momentum: The momentum of the average at first; it rises to 1 along half a cosine.
        epochs: The number of passes through the images; by default 20, unless there are ``steps``.
        steps: In their place, the number of batches.
        batch_size: Images per batch, each with two views.
        learning_rate: The peak of AdamW's one-cycle schedule; another optimizer has its own.
        optimizer: AdamW by default.
        seed: Seed of the head's weights, the order and the views.
        knobs: The other options of :func:`kdcourse.training.fit`.

    Returns:
        The average: a copy of the model with a :class:`ProjectionHead` as its classifier.
    """
    if epochs is None and steps is None:
        epochs = EPOCHS
    lasting: dict[str, Any] = {"epochs": epochs, "steps": steps}
    chosen = Knobs(batch_size=batch_size, **lasting, **knobs)
    check_number("momentum", momentum, 0.0, 1.0)
    check_number("learning_rate", learning_rate, 0.0)
    if chosen.views is not None:
        raise ArgumentError("views", "views must be left out here: augment makes them")
    student = with_head(model, seed=seed)
    source = Epochs(images, images.device, chosen)
    teacher = MomentumTeacher(student, cosine_momentum(momentum, steps=source.steps))
    fit(
        student,
        images.unlabelled(),
        SelfDistillation(centre_momentum=0.5) if dist is None else dist,
        teacher=teacher,
        views=CrossedViews(augment),
        **lasting,
        batch_size=batch_size,
        optimizer=optimizer or partial(torch.optim.AdamW, lr=learning_rate, weight_decay=1e-4),
        seed=seed,
        **{"scheduler": one_cycle, **knobs},
    )
    for own, followed in zip(teacher.model.parameters(), student.parameters(), strict=True):
        own.requires_grad_(followed.requires_grad)
    return teacher.model
