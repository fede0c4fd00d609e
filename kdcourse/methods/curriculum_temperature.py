r"""Which properties? — logits at a temperature that is learned: curriculum temperature (CTKD).

The student moves its logits so that it differs less from its teacher; the temperature is moved so
that they differ more, at first hardly, then in earnest. What is hard for the student changes as it
learns, and so does the temperature.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.checks import check_floating, check_number, check_same_device
from kdcourse.errors import ArgumentError
from kdcourse.objective import Gradual, Lesson
from kdcourse.precision import HOTTEST, at_least_float32, dtype_for, not_below_zero
from kdcourse.prediction_term import PredictionTerm
from kdcourse.predictions import both_at_places, check_not_negative, kl_of_rows, place_mean


def curriculum_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    level: Tensor,
    strength: float | Tensor = 1.0,
    *,
    lowest: float = 1.0,
    span: float = 20.0,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""KD at a temperature whose gradient is reversed: who learns it makes the loss larger.

    .. math:: \tau^2 \cdot \frac1N \sum_n KL\left(\sigma(z_T^{(n)} / \tau) \,\|\,
              \sigma(z_S^{(n)} / \tau)\right), \quad
              \tau = \tau_{init} + \tau_{range} \cdot \frac{1}{1 + e^{-\theta}}

    As a value it is that of :func:`kdcourse.logit.kd_loss`, and so is the student's gradient. The
    level θ receives −λ times its own, with τ² and both softened predictions as functions of it.

    Args:
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        teacher_logits: Of the same shape; receives no gradient.
        level: θ, a scalar.
        strength: λ, a number ≥ 0, or a scalar on the device of the logits.
        lowest: τ_init, from 10⁻⁹ on.
        span: τ_range, ≥ 0; τ is at most 10⁶.
        class_dim, mask, weight: As in :func:`kdcourse.logit.kd_loss`.

    Returns:
        Scalar ≥ 0 in nats; zero if nothing counts.

    Source: Li et al. 2023 (arXiv 2211.16231): the minimax game, eq. 3 and 8, and the range of τ,
    with one temperature for all samples (Global-T). There it is a sum over samples; the authors'
    code takes this mean.
    """
    _check_range(lowest, span)
    student, teacher, weights = both_at_places(
        student_logits, teacher_logits, class_dim, mask=mask, weight=weight
    )
    _check_scalar("level", level, student_logits)
    if isinstance(strength, Tensor):
        _check_scalar("strength", strength, student_logits)
        check_not_negative("strength", strength)
    else:
        check_number("strength", strength, 0.0)
    dtype = dtype_for(student, lowest + span)
    reversed_level = level.detach() - strength * (level - level.detach())
    temperature = lowest + span * torch.sigmoid(reversed_level.to(dtype))
    inverse = 1 / temperature
    log_p_student, log_p_teacher = (
        F.log_softmax(z.to(dtype) * inverse, dim=1) for z in (student, teacher)
    )
    loss = place_mean(kl_of_rows(log_p_teacher, log_p_student), weights)
    loss = not_below_zero(loss)
    return (loss * temperature.square()).to(at_least_float32(student_logits).dtype)


class CTKD(Gradual, PredictionTerm):
    r"""KD at a temperature that is learned against the student: :func:`curriculum_kd_loss`.

    The level θ is a weight of the term, trained by the student's optimiser, which decays it as any
    other weight. The strength rises as :math:`\lambda = \tfrac12 (1 - \cos(\pi \min(t / T, 1)))`
    in the t-th step. How steps are counted says :class:`kdcourse.objective.Gradual`.

    Args:
        lowest: τ_init.
        span: τ_range.
        level: θ at the beginning; 1 makes it τ = 15.6.
        epochs: T as a number of epochs; training tells how long one is.
        steps: T in place of ``epochs``.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.

    Source: Li et al. 2023 (arXiv 2211.16231), eq. 11 for λ, which there has one value an epoch:
    that of this one at the epoch's end. θ begins at 1 in the authors' code.
    """

    needs_logits = True

    def __init__(
        self,
        lowest: float = 1.0,
        span: float = 20.0,
        *,
        level: float = 1.0,
        epochs: int = 10,
        steps: int | None = None,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        _check_range(lowest, span)
        check_number("level", level)
        self.lowest = lowest
        self.span = span
        self.level = nn.Parameter(torch.full((), float(level)))
        self.count_to(steps, epochs if steps is None else None)

    @property
    def temperature(self) -> Tensor:
        """The present temperature, a scalar without gradient."""
        return self.lowest + self.span * torch.sigmoid(self.level.detach())

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence between teacher and student at the present temperature."""
        return curriculum_kd_loss(
            lesson.student_logits,
            lesson.teacher_logits,
            self.level,
            (1 - torch.cos(math.pi * self.progress(lesson))) / 2,
            lowest=self.lowest,
            span=self.span,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
        )


def _check_scalar(name: str, scalar: Tensor, logits: Tensor) -> None:
    check_floating(name, scalar)
    check_same_device(name, scalar, "student_logits", logits)
    if scalar.dim() != 0:
        raise ArgumentError(name, f"{name} must be a scalar, got {tuple(scalar.shape)}")


def _check_range(lowest: float, span: float) -> None:
    check_number("lowest", lowest, 1e-9)
    check_number("span", span, 0.0)
    check_number("lowest + span", lowest + span, high=HOTTEST)
