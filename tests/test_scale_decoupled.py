"""Logits of parts of an image, by definition; grids, sizes and what is complementary."""

import math
from functools import partial

import pytest
import torch
from test_logit import naive_forward
from test_predictions import drawn, value_and_gradient
from torch.nn import functional as F
from toys import net, train

from kdcourse.errors import ArgumentError
from kdcourse.logit import kd_loss
from kdcourse.methods.scale_decoupled import ScaleDecoupledKD, scale_decoupled_loss
from kdcourse.objective import Lesson, Outputs

N, K = 3, 5
STUDENT, TEACHER = drawn(N, K, 8, 8), drawn(N, K, 4, 4, seed=1)
LOSSES = {
    "plain": scale_decoupled_loss,
    "one grid": partial(scale_decoupled_loss, scales=[3], beta=0.5),
    "hot": lambda s, t: scale_decoupled_loss(s, t, 40.0, scales=(2,)),
}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


# The definition for one sample, in Python's own floats: of maps whose size the grids divide.


def cells(logits, scale):
    size = len(logits[0]) // scale
    for row in range(scale):
        for column in range(scale):
            rows, columns = (range(at * size, (at + 1) * size) for at in (row, column))
            yield [math.fsum(one[i][j] for i in rows for j in columns) / size**2 for one in logits]


def likeliest(logits):
    return max(range(len(logits)), key=logits.__getitem__)


def naive(s, t, tau, scales, beta):
    total, (whole,) = 0.0, cells(t, 1)
    for scale in scales:
        for own, theirs in zip(cells(s, scale), cells(t, scale), strict=True):
            weight = 1.0 if likeliest(theirs) == likeliest(whole) else beta
            total += weight * naive_forward(own, theirs, tau)
    return total


@pytest.mark.parametrize("scales", [(1, 2, 4), [2], (4, 1)])
@pytest.mark.parametrize("beta", [2.0, 0.0])
def test_equals_the_definition(scales, beta):
    pairs = zip(STUDENT.tolist(), TEACHER.tolist(), strict=True)
    expected = math.fsum(naive(s, t, 3.0, scales, beta) for s, t in pairs) / N
    value = scale_decoupled_loss(STUDENT, TEACHER, 3.0, scales=scales, beta=beta)
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_one_cell_is_kd_of_a_net_that_averages_over_positions():
    own, theirs = (z.mean(dim=(2, 3)) for z in (STUDENT, TEACHER))
    value = scale_decoupled_loss(STUDENT, TEACHER, scales=(1,), beta=7.0)
    torch.testing.assert_close(value, kd_loss(own, theirs, 4.0))


def test_sequences_and_volumes_have_cells_too():
    for shape, count in (((N, K, 8), 1 + 2 + 4), ((N, K, 4, 4, 4), 1 + 8 + 64)):
        s, t = drawn(*shape), drawn(N, K, *[1] * (len(shape) - 2), seed=1).expand(shape)
        constant = s.flatten(2).mean(2).view(t.shape[:2] + (1,) * (len(shape) - 2)).expand(shape)
        value = scale_decoupled_loss(constant, t, beta=3.0)  # all cells are alike, and consistent
        kd = kd_loss(*(z.flatten(2)[..., 0] for z in (constant, t)), 4.0)
        torch.testing.assert_close(value, count * kd)


def test_where_cells_are_smaller_than_positions_they_repeat():
    small = scale_decoupled_loss(STUDENT[..., :2, :2], TEACHER[..., :2, :2], scales=(4,))
    value = scale_decoupled_loss(STUDENT[..., :2, :2], TEACHER[..., :2, :2], scales=(2,))
    torch.testing.assert_close(small, 4 * value)


def test_a_student_that_has_arrived_has_neither_loss_nor_gradient():
    value, gradient = value_and_gradient(scale_decoupled_loss, TEACHER, TEACHER)
    assert value == 0
    assert gradient.abs().max() < 1e-15


def test_against_the_authors_convention():
    """A mean over cells; complementary is where the teacher is right in one of both only."""

    def theirs(target, beta=2.0):
        rows = []
        for z in (STUDENT, TEACHER):
            fine = F.adaptive_avg_pool2d(z, 4)
            grids = [F.adaptive_avg_pool2d(fine, m).flatten(2) for m in (1, 2, 4)]
            rows.append(torch.cat(grids, dim=2).permute(2, 0, 1))
        q, p = (rows[0] / 4).log_softmax(2), (rows[1] / 4).softmax(2)
        each = 16 * F.kl_div(q, p, reduction="none").sum(2)
        right = rows[1].argmax(2) == target
        return torch.where(right == right[:1], each, beta * each).mean()

    whole = TEACHER.mean(dim=(2, 3)).argmax(1)
    ours = scale_decoupled_loss(STUDENT, TEACHER)
    torch.testing.assert_close(21 * theirs(whole), ours)  # of a teacher that is right
    wrong = 21 * theirs((whole + 1) % K)
    assert wrong < ours  # of one that is wrong, what is wrong in another way is consistent
    consistent = scale_decoupled_loss(STUDENT, TEACHER, beta=1.0)
    torch.testing.assert_close(21 * theirs(whole, 1.0), consistent)


def test_the_term_is_trained():
    term = ScaleDecoupledKD("stage3|classifier", scales=(1, 2))
    student = net()
    history = train(student, term, teacher=net(4, seed=2), epochs=8)
    assert history["scale_decoupled_kd"][-1] < history["scale_decoupled_kd"][0]
    shown = [Outputs(features={"map": z}) for z in (STUDENT, TEACHER)]
    value = ScaleDecoupledKD("map").loss(Lesson(shown[0], torch.arange(N), shown[1]))
    assert value == scale_decoupled_loss(STUDENT, TEACHER)


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="student_logits must have shape"):
        scale_decoupled_loss(STUDENT.mean(dim=(2, 3)), TEACHER)
    with pytest.raises(ArgumentError, match="must have the same classes, and positions"):
        scale_decoupled_loss(STUDENT[:, :4], TEACHER)
    for scales in ((), [0], 2):
        with pytest.raises(ArgumentError, match="scales must be"):
            scale_decoupled_loss(STUDENT, TEACHER, scales=scales)
    with pytest.raises(ArgumentError, match="beta must be finite and lie in"):
        ScaleDecoupledKD("map", beta=-1.0)
