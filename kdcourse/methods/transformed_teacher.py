r"""Which properties? — logits, only the teacher's softened: transformed teacher matching.

KD softens both predictions, and so compares the student with the teacher where neither is used.
Here the teacher's prediction alone is softened; the student is asked for it as it is.
"""

from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_flag, check_temperature
from kdcourse.objective import Lesson
from kdcourse.precision import HOTTEST, at_least_float32, not_below_zero
from kdcourse.prediction_term import PredictionTerm
from kdcourse.predictions import both_at_places, kl_of_rows, place_mean


def ttm_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    *,
    weighted: bool = False,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Transformed teacher matching (TTM): KL of the student from the softened teacher.

    .. math:: \frac1N \sum_n U_n \cdot KL\left(\hat p_T^{(n)} \,\|\, p_S^{(n)}\right), \quad
              \hat p_T^{(k)} = \frac{(p_T^{(k)})^{1/\tau}}{\sum_j (p_T^{(j)})^{1/\tau}}
              = \mathrm{softmax}(z_T / \tau)^{(k)}

    with :math:`U_n = 1`, or if it is weighted (WTTM) with the power sum
    :math:`U_n = \sum_k (p_T^{(n,k)})^{1/\tau}`. For τ > 1 that goes from 1, where the teacher is
    certain, to :math:`K^{1 - 1/\tau}`, where it knows nothing: what is smooth counts more.

    *What it adds to KD.* With the Rényi entropy :math:`H_{1/\tau}` of the student's prediction,

    .. math:: KL(\hat p_T \| p_S) = \tau \cdot KL(\hat p_T \| \hat p_S)
              - (\tau - 1)\, H_{1/\tau}(p_S) + \text{const}, \quad
              H_a(p) = \tfrac{1}{1 - a} \log \textstyle\sum_k (p^{(k)})^a

    so that a student is also asked not to be too certain. There is no factor τ²: the gradient with
    respect to a student logit, :math:`p_S - \hat p_T`, does not vanish for high τ.

    Args:
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        teacher_logits: Of the same shape; receives no gradient.
        temperature: τ of the teacher, from 10⁻⁹ to 10⁶.
        weighted: Whether each place counts as much as its power sum, on top of ``weight``; the mean
            is still that over all places that count.
        class_dim, mask, weight: As in :func:`kdcourse.logit.kd_loss`.

    Returns:
        Scalar ≥ 0 in nats; zero if nothing counts.

    Source: Zheng, Yang 2024 (arXiv 2402.11148), section 3, and section 4 for WTTM. The exponent 1/τ
    is the authors' γ; their code has the same means, without a factor.
    """
    check_temperature(temperature, high=HOTTEST)
    check_flag("weighted", weighted)
    student, teacher, weights = both_at_places(
        student_logits, teacher_logits, class_dim, mask=mask, weight=weight
    )
    teacher = at_least_float32(teacher)
    log_p_student = F.log_softmax(at_least_float32(student), dim=1)
    each = kl_of_rows(F.log_softmax(teacher / temperature, dim=1), log_p_student)
    if weighted:
        each = each * (F.log_softmax(teacher, dim=1) / temperature).exp().sum(dim=1)
    loss = place_mean(each, weights)
    return not_below_zero(loss)


class TTM(PredictionTerm):
    """Matching of a softened teacher: :func:`ttm_loss`, which explains the arguments.

    Args:
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.
    """

    needs_logits = True
    _by_power_sum = False

    def __init__(
        self,
        temperature: float = 4.0,
        *,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_temperature(temperature, high=HOTTEST)
        self.temperature = temperature

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence of the student from the softened teacher."""
        return ttm_loss(
            lesson.student_logits,
            lesson.teacher_logits,
            self.temperature,
            weighted=self._by_power_sum,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
        )


class WTTM(TTM):
    """:class:`TTM` in which a place counts as much as its power sum: :func:`ttm_loss`, weighted."""

    _by_power_sum = True
