"""Terms on relations between samples: those of all processes, each with one embedding."""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from kdcourse.checks import check_matrix, check_same_samples
from kdcourse.errors import ArgumentError
from kdcourse.objective import Layer, LayerTerm, Lesson
from kdcourse.precision import at_least_float32, in_one_precision
from kdcourse.processes import all_pairs

CHUNK = {"cpu": 2**16, "other": 2**25}  # cosines at a time: few enough for a processor's cache


class RelationTerm(LayerTerm):
    """A term on relations between the samples of a batch."""

    mean_over = "batch"

    def __init__(self, layers: Sequence[Layer] = ("embedding",)):
        super().__init__(layers)

    def related(self, lesson: Lesson, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Sum a loss of the embeddings of all samples over the layers.

        It is 0 for an epoch's last batch, if that holds too few samples for a relation.
        """

        def of_layer(student: Tensor, teacher: Tensor) -> Tensor:
            student, teacher = both_embeddings(student.flatten(1), teacher.flatten(1))
            return 0.0 * student.sum() if len(student) < self.least else loss(student, teacher)

        return self.compared(lesson, of_layer)


def both_embeddings(
    student: Tensor, teacher: Tensor, *, least: int = 0, what: str = "embeddings"
) -> tuple[Tensor, Tensor]:
    """Check both, gather the samples of all processes, and cut the teacher off."""
    own, theirs = f"student_{what}", f"teacher_{what}"
    check_matrix(own, student, "D")
    check_matrix(theirs, teacher, "D")
    check_same_samples(own, student, theirs, teacher)
    student, teacher = all_pairs(student, teacher)
    if len(student) < least:
        raise ArgumentError(own, f"{own} must hold at least {least} samples, got {len(student)}")
    student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
    return in_one_precision(student, teacher)


def chunks(embeddings: Tensor, cosines: int) -> Iterator[slice]:
    """Yield the samples of ``(N, …)`` a few at a time, of which each has so many cosines."""
    at_once = max(1, CHUNK.get(embeddings.device.type, CHUNK["other"]) // cosines)
    for start in range(0, len(embeddings), at_once):
        yield slice(start, start + at_once)
