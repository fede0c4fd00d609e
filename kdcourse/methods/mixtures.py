r"""Which properties? — predictions, compared with a mixture of both.

KL has no bound where the student rules out what its teacher finds possible, and a language model
has thousands of words that are all but ruled out. A mixture of both predictions rules out nothing
that either of them allows, so the divergence from it is bounded. The *skewed* KL of DistiLLM uses
this, and so does the *generalised Jensen–Shannon divergence* (JSD) of GKD, which goes from one
direction of KL to the other.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_flag, check_number, check_temperature
from kdcourse.objective import Lesson
from kdcourse.precision import HOTTEST, at_least_float32, dtype_for, not_below_zero
from kdcourse.prediction_term import PredictionTerm
from kdcourse.predictions import both_at_places, expected_of_rows, place_mean


def generalized_jsd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 0.5,
    temperature: float = 1.0,
    *,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Generalised Jensen–Shannon divergence, with β of the teacher in the mixture.

    .. math:: \tau^2 \cdot \frac1N \sum_n \big( \beta\, KL(p_T \| m) + (1 - \beta)\, KL(p_S \| m)
              \big), \quad m = \beta\, p_T + (1 - \beta)\, p_S

    For β → 0 it becomes β times the forward KL(T‖S), for β → 1 it becomes 1 − β times the reverse
    KL(S‖T): the weight has to grow as the loss shrinks. With β = ½ it is the divergence
    ``"jensen-shannon"`` of :func:`kdcourse.logit.kd_loss`.

    Args:
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        teacher_logits: Of the same shape; receives no gradient.
        beta: β in (0, 1).
        temperature: τ, for both, from 10⁻⁹ to 10⁶.
        class_dim, mask, weight: As in :func:`kdcourse.logit.kd_loss`.

    Returns:
        Scalar ≥ 0 in nats, at most τ² times the entropy of (β, 1 − β); zero if nothing counts.

    Source: Agarwal et al. 2024 (arXiv 2306.13649), section 2, there without temperature. The
    implementation in TRL divides both logits by τ, but has no factor τ², and takes KL itself, not a
    limit, for β = 0 and β = 1.
    """
    check_number("beta", beta, 0.0, 1.0, open_low=True, open_high=True)
    student, teacher, weights = _softened(
        student_logits, teacher_logits, temperature, class_dim, mask=mask, weight=weight
    )
    log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    p, q = log_p.exp(), log_q.exp()
    mixture = _log_mixture(p, q, beta)
    own, theirs = expected_of_rows(q, log_q - mixture), expected_of_rows(p, log_p - mixture)
    return _mean(beta * theirs + (1 - beta) * own, weights, temperature, student_logits)


def skewed_kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    alpha: float = 0.1,
    temperature: float = 1.0,
    *,
    reverse: bool = False,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""KL from a mixture with a little of the prediction itself: skewed KL.

    .. math:: \tau^2 \cdot \frac1N \sum_n KL\big(p_T \,\|\, \alpha\, p_T + (1 - \alpha)\, p_S\big)

    or, if it is reversed, :math:`KL(p_S \,\|\, \alpha\, p_S + (1 - \alpha)\, p_T)`. With α = 0 it
    is KL. Where the two predictions are close, it is :math:`(1 - \alpha)^2` times that.

    Args:
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        teacher_logits: Of the same shape; receives no gradient.
        alpha: α in [0, 1).
        temperature: τ, for both, from 10⁻⁹ to 10⁶.
        reverse: Whether to take the KL of the student's prediction.
        class_dim, mask, weight: As in :func:`kdcourse.logit.kd_loss`.

    Returns:
        Scalar ≥ 0 in nats, at most −τ² log α; zero if nothing counts.

    Source: Ko et al. 2024 (arXiv 2402.03898), section 3.1, there without temperature, with α = 0.1.
    The authors' code has the same means over tokens; its form that is not reversed is larger by the
    teacher's entropy, which the student cannot change.
    """
    check_number("alpha", alpha, 0.0, 1.0, open_high=True)
    check_flag("reverse", reverse)
    student, teacher, weights = _softened(
        student_logits, teacher_logits, temperature, class_dim, mask=mask, weight=weight
    )
    first, second = (student, teacher) if reverse else (teacher, student)
    p, log_p = F.softmax(first, dim=1), F.log_softmax(first, dim=1)
    if alpha:
        mixture = _log_mixture(p, F.softmax(second, dim=1), alpha)
    else:
        mixture = F.log_softmax(second, dim=1)
    return _mean(expected_of_rows(p, log_p - mixture), weights, temperature, student_logits)


def _softened(
    student: Tensor, teacher: Tensor, temperature: float, class_dim: int, **counting: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the logits of both nets over the temperature, ``(P, K)``, and weights."""
    check_temperature(temperature, high=HOTTEST)
    student, teacher, weights = both_at_places(student, teacher, class_dim, **counting)
    dtype = dtype_for(student, temperature)
    student, teacher = student.to(dtype), teacher.to(dtype)
    if temperature != 1:  # two passes less, of few
        student, teacher = student / temperature, teacher / temperature
    return student, teacher, weights


def _log_mixture(p: Tensor, q: Tensor, share: float) -> Tensor:
    """Return the logarithm of a mixture with this share of the first."""
    least = torch.finfo(p.dtype).tiny  # what is smaller does not count
    return torch.lerp(q, p, share).add_(least).log()


def _mean(each: Tensor, weights: Tensor | None, temperature: float, logits: Tensor) -> Tensor:
    loss = place_mean(each, weights)
    loss = not_below_zero(loss)
    return (loss * temperature**2).to(at_least_float32(logits).dtype)


class GeneralizedJSD(PredictionTerm):
    """Generalised Jensen–Shannon divergence: :func:`generalized_jsd_loss`.

    Args:
        beta: As of the loss.
        temperature: As of the loss.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.
    """

    needs_logits = True

    def __init__(
        self,
        beta: float = 0.5,
        temperature: float = 1.0,
        *,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_number("beta", beta, 0.0, 1.0, open_low=True, open_high=True)
        check_temperature(temperature, high=HOTTEST)
        self.beta, self.temperature = beta, temperature

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence of both predictions from their mixture."""
        return generalized_jsd_loss(
            lesson.student_logits,
            lesson.teacher_logits,
            self.beta,
            self.temperature,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
        )


class SkewedKL(PredictionTerm):
    """KL from a mixture: :func:`skewed_kl_loss`.

    Args:
        alpha: As of the loss.
        temperature: As of the loss.
        reverse: As of the loss.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.
    """

    needs_logits = True

    def __init__(
        self,
        alpha: float = 0.1,
        temperature: float = 1.0,
        *,
        reverse: bool = False,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_number("alpha", alpha, 0.0, 1.0, open_high=True)
        check_temperature(temperature, high=HOTTEST)
        check_flag("reverse", reverse)
        self.alpha, self.temperature, self.reverse = alpha, temperature, reverse

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence from the mixture."""
        return skewed_kl_loss(
            lesson.student_logits,
            lesson.teacher_logits,
            self.alpha,
            self.temperature,
            reverse=self.reverse,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
        )
