r"""Which properties? — where each channel is active.

Every channel of a feature map, or of the logits of a dense prediction, is read as a distribution
over positions; the student matches those of its teacher: channel-wise distillation (CWD).
"""

from torch import Tensor

from kdcourse.checks import check_floating, check_same_samples, check_temperature
from kdcourse.errors import ArgumentError
from kdcourse.feature import FeatureHint, Hint
from kdcourse.grid import both_sides, interpolated, on_one_grid
from kdcourse.logit import kd_loss
from kdcourse.objective import Layer, Lesson
from kdcourse.precision import HOTTEST, at_least_float32
from kdcourse.signatures import checked


def channel_wise_loss(
    student_features: Tensor, teacher_features: Tensor, temperature: float = 4.0
) -> Tensor:
    r"""Match where each channel is active, by KL over positions.

    .. math:: \frac{\tau^2}{N C} \sum_{n, c} \mathrm{KL}\!\left(\sigma(A^T_{nc} / \tau) \,\|\,
              \sigma(A^S_{nc} / \tau)\right)

    with the softmax σ over the positions of a channel. What is added to a channel as a whole
    changes nothing. A position where the teacher is active counts most: the background hardly does.

    Args:
        student_features: ``(N, C, …)`` with at least two positions.
        teacher_features: Of the same shape; receives no gradient.
        temperature: The temperature τ > 0; a higher one looks at more of the map.

    Returns:
        Scalar ≥ 0 in nats, times τ².

    Source: Shu et al. 2021 (arXiv 2011.13256), eq. 5 and 6. In the authors' code, too, it is the
    mean over samples and channels; they take τ = 4, with a weight of 3 for logits and 50 for
    features.
    """
    names = "student_features", "teacher_features"
    for name, features in zip(names, (student_features, teacher_features), strict=True):
        check_floating(name, features)
        if features.dim() < 3 or features.shape[2:].numel() < 2 or features.numel() == 0:
            raise ArgumentError(
                name,
                f"{name} must have shape (N, C, …) with at least two positions, got "
                f"{tuple(features.shape)}",
            )
    check_same_samples(names[0], student_features, names[1], teacher_features)
    if student_features.shape != teacher_features.shape:
        raise ArgumentError(
            names[0],
            f"{names[0]} and {names[1]} must have the same shape, got "
            f"{tuple(student_features.shape)} and {tuple(teacher_features.shape)}",
        )
    check_temperature(temperature, high=HOTTEST)
    student, teacher = (f.flatten(2).flatten(0, 1) for f in (student_features, teacher_features))
    return kd_loss(student, teacher, temperature)


@checked
class ChannelWise(FeatureHint):
    """Where the channels of a layer are active: :func:`channel_wise_loss`.

    Where the two nets differ in their channels, a learned 1×1 convolution maps the student's to the
    teacher's; where they differ in size, the student's map is interpolated.

    >>> ChannelWise("stage2")
    >>> ChannelWise("classifier")    # the logits (N, K, H, W) of a dense prediction

    Args:
        layer: Name of a layer in both nets, or of the student's and the teacher's as a pair.
        temperature: The temperature τ of :func:`channel_wise_loss`.
        hint: The projection, if it is not for the term to make one.
        seed: Seed of the projection's weights; that of the training by default.
        channel_dim: As of :class:`kdcourse.feature.Hint`.
        class_token: As of :class:`kdcourse.feature.Hint`.

    Source: Shu et al. 2021 (arXiv 2011.13256), section 3.2.
    """

    def __init__(
        self,
        layer: Layer,
        temperature: float = 4.0,
        *,
        hint: Hint | None = None,
        seed: int | None = None,
        channel_dim: int | tuple[int, int] = 1,
        class_token: bool | tuple[bool, bool] = False,
    ):
        super().__init__(
            layer, hint, kernel_size=1, seed=seed, channel_dim=channel_dim, class_token=class_token
        )
        check_temperature(temperature, high=HOTTEST)
        self.temperature = temperature

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Make a projection where the two nets differ in their channels."""
        student, teacher = self._maps(lesson)
        if student.shape[1] != teacher.shape[1]:
            super().prepare(lesson, seed=seed, steps_an_epoch=steps_an_epoch)
        self.prepared = True

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence of what the channels' activity is over positions."""
        if not self.prepared:
            self.prepare(lesson)
        student, teacher = self._maps(lesson)
        if self.hint is None:
            student = interpolated(at_least_float32(student), teacher.shape[2:])
        else:
            self.hint.check(student, teacher)
            student = self.hint.project(student, teacher.shape[2:])
        return channel_wise_loss(student, teacher, self.temperature)

    def _maps(self, lesson: Lesson) -> tuple[Tensor, Tensor]:
        ((student, teacher),) = self.shown(lesson)
        return on_one_grid(student, teacher, both_sides(self._channel_dim, self._class_token))
