r"""Which properties? — predictions made of every stage, for a teacher of any architecture: OFA-KD.

What a convolutional net and a transformer hold in hidden layers is not comparable; what they
predict is. So stages of the student predict, too, through exits of their own, and the teacher's
answer is all that they are compared with. A teacher of another kind is right about the label in its
own way: where it is sure of it, that counts more.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.checks import check_number
from kdcourse.errors import ArgumentError
from kdcourse.grid import channels_first, check_channel_dim, check_channels, interpolated
from kdcourse.models import seeded
from kdcourse.objective import Lesson
from kdcourse.precision import at_least_float32
from kdcourse.prediction_term import PredictionTerm
from kdcourse.predictions import (
    both_at_places,
    expected_of_rows,
    place_mean,
    place_shape,
    place_target,
)
from kdcourse.signatures import checked


def ofa_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    gamma: float = 1.5,
    *,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Cross-entropy by label and teacher, with the target class enhanced: the OFA loss.

    .. math:: -\frac1N \sum_n \left( \left(1 + p_T^{(y)}\right)^{\gamma} \log p_S^{(y)}
              + \sum_{k \ne y} p_T^{(k)} \log p_S^{(k)} \right)

    With γ = 1 it is the cross-entropy of the label plus that of the teacher's prediction. A larger
    γ adds to the weight of the label, the more the surer of it the teacher is: nothing where
    :math:`p_T^{(y)} = 0`, and :math:`2^\gamma - 2` where it is 1.

    Args:
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        teacher_logits: Of the same shape; receives no gradient.
        target: int64 class indices, of the logits' shape without ``class_dim``.
        gamma: γ ≥ 1.
        class_dim, mask, weight, ignore_index: As in :func:`kdcourse.logit.decoupled_kd_loss`.

    Returns:
        Scalar ≥ 0 in nats; zero if nothing counts.

    Source: Hao et al. 2023 (arXiv 2310.19444), section 3.3. The authors' code leaves the label's
    own cross-entropy out of it, and raises all probabilities: class k has the weight
    :math:`(p_T^{(k)} + 1_{k = y})^\gamma - 1_{k = y}`. With γ = 1 it is this less the cross-entropy
    of the label. It divides both logits by a temperature, which is 1 by default.
    """
    check_number("gamma", gamma, 1.0)
    student, teacher, weights = both_at_places(
        student_logits,
        teacher_logits,
        class_dim,
        mask=mask,
        weight=weight,
        target=target,
        ignore_index=ignore_index,
    )
    target = place_target(target, student_logits, class_dim, weights)[:, None]
    log_p_student = F.log_softmax(at_least_float32(student), dim=1)
    p_teacher = F.softmax(at_least_float32(teacher), dim=1)
    enhanced = (1 + p_teacher.gather(1, target)) ** gamma
    each = -expected_of_rows(p_teacher.scatter(1, target, enhanced), log_p_student)
    return place_mean(each, weights)


@checked
class OneForAll(PredictionTerm):
    """What the student and exits from its layers predict, by :func:`ofa_loss`, summed over them.

    An exit is a linear map from a layer's channels to the classes. Where there is one prediction a
    sample, it is made of the mean over positions. Where there are several, each position makes its
    own, and another number of them is bridged by interpolation. The exits' weights fit what the
    student shows on the first batch, are learned with it and thrown away afterwards.

    Args:
        layers: Names of the student's layers, of any shape with channels.
        gamma: As of the loss; the same for all exits.
        channel_dim: Where the layers' channels are: 1, or −1 as in tokens ``(N, T, C)``.
        seed: Seed of the exits' weights; that of the training by default.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`. Without the last two, every place must have
            a label.

    Source: Hao et al. 2023 (arXiv 2310.19444), section 3.2. The authors' exits are deeper:
    depthwise separable convolutions with stride, or merged patches and transformer blocks, which go
    on to the size of the last stage. They take four stages, and γ = 1.5 in their example.
    """

    needs_logits = True

    def __init__(
        self,
        layers: Sequence[str],
        gamma: float = 1.5,
        *,
        channel_dim: int = 1,
        seed: int | None = None,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        if not layers:
            raise ArgumentError("layers", "layers must be a list of at least one name")
        check_number("gamma", gamma, 1.0)
        check_channel_dim(channel_dim)
        self.student_layers = tuple(layers)
        self.gamma = gamma
        self._channel_dim, self._seed = channel_dim, seed
        self.exits = nn.ModuleList()
        self.prepared = False

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Whether every sample must have a label: where nothing says that some do not count."""
        return self.ignore_index is None and self.mask is None

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Make an exit for every layer, from its channels to the classes."""
        features, logits = self._features(lesson), lesson.student_logits
        classes = logits.shape[self.class_dim]
        with seeded(seed if self._seed is None else self._seed):
            self.exits = nn.ModuleList(nn.Linear(one.shape[1], classes) for one in features)
        self.exits.to(logits.device, at_least_float32(logits).dtype)
        self.prepared = True

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the sum of the losses of the student's prediction and those of the exits."""
        if not self.prepared:
            self.prepare(lesson)
        counted = self.counting(lesson)

        def loss(logits: Tensor) -> Tensor:
            return ofa_loss(
                logits,
                lesson.teacher_logits,
                lesson.target,
                self.gamma,
                class_dim=self.class_dim,
                weight=counted,
            )

        exits = map(loss, self._predictions(lesson))
        return sum(exits, start=loss(lesson.student_logits))

    def _predictions(self, lesson: Lesson) -> list[Tensor]:
        """Return what the exits predict, each of the shape of the student's logits."""
        pairs = list(zip(self.exits, self._features(lesson), strict=True))
        for name, (leave, features) in zip(self.student_layers, pairs, strict=True):
            check_channels(name, features, leave.in_features)  # type: ignore[arg-type]
        places = place_shape(lesson.student_logits, self.class_dim)[1:]
        if not places:
            return [leave(features.flatten(2).mean(dim=2)) for leave, features in pairs]
        found = [leave(features.movedim(1, -1)).movedim(-1, 1) for leave, features in pairs]
        return [interpolated(logits, places).movedim(1, self.class_dim) for logits in found]

    def _features(self, lesson: Lesson) -> list[Tensor]:
        """Return the layers' outputs as ``(N, C, …)``, in the precision of the exits."""
        places = place_shape(lesson.student_logits, self.class_dim)[1:]
        found = []
        for name in self.student_layers:
            features = lesson.student.features[name]
            features = channels_first(name, features, self._channel_dim, vectors=True)
            if places and len(places) != features.dim() - 2:
                raise ArgumentError(
                    "layers",
                    "layers must have positions in as many dimensions as the predictions, got "
                    f"{name} {tuple(features.shape)}, channels first, and {len(places)}",
                )
            found.append(at_least_float32(features))
        return found
