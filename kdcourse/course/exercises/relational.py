"""Checks of the exercises of notebook 4, relational distillation."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kdcourse import metrics, relational
from kdcourse.course.claims.feature import WEIGHTS
from kdcourse.course.exercises.exercise import exercise
from kdcourse.homework import expect


@exercise
def psi(answer: Sequence[float]) -> str:
    """The normalised distances of three samples at 0, 1 and 3."""
    assert isinstance(answer, Sequence), "give a list of three numbers"
    assert len(answer) == 3, f"three numbers are asked for, but you gave {len(answer)}"
    squared = "is the mean over all N² pairs, each sample with itself included?"
    for pair, found, right in zip(("1, 2", "1, 3", "2, 3"), answer, (0.5, 1.5, 1.0), strict=True):
        mistakes = {squared: 1.5 * right, "this is not yet divided by the mean": 2 * right}
        expect.value(found, right, f"ψ({pair})", mistakes)
    return "Their mean is 1, whatever the scale of the embedding."


@exercise
def change(answer: Callable[[Tensor], Tensor]) -> str:
    """A mirror image: no rotation, scale or offset, and the same to both losses."""
    z = expect.normal(0, 12, 2)
    changed = expect.tensor(answer(z.clone()), z.shape).float()
    for loss in (relational.rkd_distance_loss, relational.rkd_angle_loss):
        assert loss(changed, z) < 1e-6, f"{loss.__name__} sees the change"
    centred = [(points - points.mean(dim=0)).double() for points in (z, changed)]
    turn = torch.linalg.det(centred[0].T @ centred[1])  # its sign is that of the best rotation
    assert turn < 0, "a rotation, a scale and an offset can produce this"
    return "Left and right are no relation either: distances and angles know nothing of them."


@exercise
def shared_neighbours(answer: Callable[[Tensor, Tensor, int], float]) -> str:
    """The share of the k nearest neighbours that two embeddings have in common."""
    student, teacher = expect.normal(0, 40, 3), expect.normal(1, 40, 8)
    teacher[:, :3] += 2 * student
    for k in (1, 5):
        pairs = zip(metrics.nearest(student, k), metrics.nearest(teacher, k), strict=True)
        common = sum(len(set(own.tolist()) & set(theirs.tolist())) for own, theirs in pairs)
        mistakes = {"is the count divided by k?": common / 40}
        expect.value(answer(student, teacher, k), common / (40 * k), f"for k = {k}", mistakes)
    expect.value(answer(student, student, 3), 1.0, "for two equal embeddings")
    return "No axis is compared with any other, so the two widths may differ."


@exercise
def best(answer: Mapping[str, float]) -> str:
    """The weight of each family that the stored search found best on validation data."""
    assert isinstance(answer, Mapping), "give a dictionary from family to weight"
    assert answer.keys() == WEIGHTS.keys(), f"its keys should be {', '.join(WEIGHTS)}"
    for family, weight in WEIGHTS.items():
        expect.value(answer[family], weight, f"the best weight for {family}")
    return "The test set had no say in this: that is what makes the comparison below a fair one."
