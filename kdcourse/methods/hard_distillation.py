r"""Which properties? — decisions: the teacher's answer as a label, as DeiT learns.

Softened predictions say what else a sample looks like. Hard distillation says nothing of that: what
the teacher finds most likely is one more label, perhaps that of what an augmentation has left in
the picture. A transformer can learn it with a token and a head of its own, beside those that learn
the labels:

>>> student = timm.create_model("deit_tiny_distilled_patch16_224")
>>> student.set_distilled_training()    # in training, its logits are the class token's alone
>>> objective = 0.5 * CrossEntropy(0.1) + 0.5 * HardDistillation(layer="head_dist")
"""

from torch import Tensor
from torch.nn import functional as F

from kdcourse.errors import ArgumentError
from kdcourse.objective import Lesson
from kdcourse.precision import at_least_float32
from kdcourse.prediction_term import PredictionTerm
from kdcourse.predictions import both_at_places, place_mean
from kdcourse.signatures import check_is


def hard_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy with the class that the teacher finds most likely.

    .. math:: -\frac1N \sum_n \log p_S^{(n, y_n)}, \quad y_n = \arg\max_k z_T^{(n, k)}

    It is the limit of :func:`kdcourse.logit.kd_cross_entropy` for a teacher of temperature → 0, and
    has no temperature. Of several largest logits, one is taken.

    Args:
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        teacher_logits: Of the same shape; receives no gradient. Probabilities will do as well.
        class_dim, mask, weight: As in :func:`kdcourse.logit.kd_loss`.

    Returns:
        Scalar ≥ 0 in nats; zero if nothing counts.

    Source: Touvron et al. 2021 (arXiv 2012.12877), eq. 3, whose objective is half this and half the
    cross-entropy with the labels. There the labels are smoothed by 0.1, the teacher's are not.
    """
    student, teacher, weights = both_at_places(
        student_logits, teacher_logits, class_dim, mask=mask, weight=weight
    )
    largest, label = teacher.max(dim=1)
    each = F.cross_entropy(at_least_float32(student), label, reduction="none")
    return place_mean(each + 0.0 * largest, weights)  # NaN in the teacher is not hidden


class HardDistillation(PredictionTerm):
    """The teacher's decision as a label: :func:`hard_distillation_loss`.

    A closed teacher, which shows probabilities only, will do.

    Args:
        layer: Name of the student's layer whose outputs are compared with the teacher's, in place
            of its logits: the head of a distillation token, such as ``"head_dist"`` of timm's
            distilled transformers.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.
    """

    layer: str | None = None  # in the repr only where it is set

    def __init__(
        self,
        *,
        layer: str | None = None,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_is("layer", layer, str | None)
        if layer is not None:
            self.layer = layer

    @property
    def student_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """The head of the distillation token, if one is named."""
        return () if self.layer is None else (self.layer,)

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the cross-entropy with the teacher's decisions."""
        shown = lesson.taught
        taught = shown.probabilities if shown.logits is None else shown.logits
        if taught is None:
            raise ArgumentError("teacher", "this term needs a teacher's predictions: it shows none")
        own = lesson.student_logits if self.layer is None else lesson.student.features[self.layer]
        return hard_distillation_loss(
            own, taught, class_dim=self.class_dim, weight=self.counting(lesson)
        )
