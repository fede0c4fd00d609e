"""Terms on feature maps: layers with positions, of which those of both nets are compared."""

from collections.abc import Sequence

from torch import Tensor

from kdcourse.errors import ArgumentError
from kdcourse.grid import at_the_smaller_size, both_sides, on_one_grid
from kdcourse.objective import Layer, LayerTerm
from kdcourse.precision import at_least_float32


class MapTerm(LayerTerm):
    """A term on layers with positions, ``(N, C, H, W)`` or as :mod:`kdcourse.grid` says.

    Args:
        layers: Names of layers, or pairs of names.
        channel_dim: −1 where the channels come last, as in tokens ``(N, T, C)``; or a pair, the
            student's and the teacher's.
        class_token: Whether the first token stands for the whole, and is left out; or a pair.
    """

    # In the repr only where they are set.
    channel_dim: int | tuple[int, int] = 1
    class_token: bool | tuple[bool, bool] = False

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        channel_dim: int | tuple[int, int] = 1,
        class_token: bool | tuple[bool, bool] = False,
    ):
        super().__init__(layers)
        both_sides(channel_dim, class_token)  # checks them
        if channel_dim != 1:
            self.channel_dim = channel_dim
        if class_token is not False:
            self.class_token = class_token


def both_maps(
    student_features: Tensor,
    teacher_features: Tensor,
    channel_dim: int | tuple[int, int],
    class_token: bool | tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Check both, pool the larger to the size of the smaller, and cut the teacher off."""
    sides = both_sides(channel_dim, class_token)
    student, teacher = on_one_grid(student_features, teacher_features, sides)
    student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
    student, teacher = at_the_smaller_size(student, teacher)
    if student.shape[2:].numel() == 1:
        raise ArgumentError(
            "student_features",
            "student_features must have more than one position (N, C, H, W), got "
            f"{tuple(student_features.shape)} and {tuple(teacher_features.shape)}: a map of one "
            "position is the same for all",
        )
    return student, teacher
