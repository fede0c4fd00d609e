"""An embedding, but for a rotation."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdcourse.errors import ArgumentError
from kdcourse.methods.orthogonal import OrthogonalProjection, vkd_loss
from kdcourse.objective import Lesson, Outputs

N = 6


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(N, 3, seed=1), draw(N, 5, seed=2)
PROJECTED = STUDENT @ torch.linalg.qr(draw(5, 3)).Q.T
LOSSES = {"vkd": vkd_loss}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return PROJECTED, TEACHER


def naive(s, t):
    total = 0.0
    for z, taught in zip(s.tolist(), t.tolist(), strict=True):
        mean = math.fsum(taught) / len(taught)
        variance = math.fsum((v - mean) ** 2 for v in taught) / len(taught)
        for x, v in zip(z, taught, strict=True):
            off = abs(x - (v - mean) / math.sqrt(variance + 1e-5))
            total += off**2 / 2 if off < 1 else off - 0.5
    return total / t.numel()


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_equals_the_definition(scale):
    value = vkd_loss(scale * PROJECTED, TEACHER)
    assert value.item() == pytest.approx(naive(scale * PROJECTED, TEACHER), rel=1e-12)


def test_the_teachers_scale_and_offset_do_not_matter_but_the_students_do():
    value = vkd_loss(PROJECTED, TEACHER)
    moved = vkd_loss(PROJECTED, 1e3 * TEACHER + draw(N, 1))
    torch.testing.assert_close(moved, value, rtol=1e-4, atol=0)
    assert vkd_loss(2 * PROJECTED, TEACHER) != value
    assert vkd_loss(F.layer_norm(TEACHER, (5,)), TEACHER) == 0


def test_teacher_features_that_are_constant_are_zeros():
    value = vkd_loss(PROJECTED, torch.full_like(TEACHER, 7.0))
    torch.testing.assert_close(value, F.smooth_l1_loss(PROJECTED, torch.zeros_like(PROJECTED)))


# The term.


def lesson(student=STUDENT, teacher=TEACHER, name="embedding"):
    shown = [Outputs(features={name: z}) for z in (student, teacher)]
    return Lesson(shown[0], torch.zeros(len(student), dtype=torch.int64), shown[1])


def prepared(student=STUDENT, teacher=TEACHER, **options):
    term = OrthogonalProjection(**options)
    term.prepare(lesson(student, teacher))
    return term


@pytest.mark.parametrize("widths", [(3, 5), (5, 3), (4, 4), (1, 6), (6, 1)], ids=str)
def test_the_projection_stays_orthogonal_however_it_is_trained(widths):
    s, t = (draw(N, width, seed=width) for width in widths)
    term = prepared(s, t)
    optimizer = torch.optim.SGD(term.parameters(), 3.0, momentum=0.9, weight_decay=0.1)
    before = term.projection().detach()
    for _ in range(10):
        optimizer.zero_grad()
        term.loss(lesson(s, t)).backward()
        optimizer.step()
    projection = term.projection().detach()
    assert projection.shape == widths[::-1]
    gram = projection.T @ projection if widths[1] >= widths[0] else projection @ projection.T
    torch.testing.assert_close(gram, torch.eye(min(widths)).double())
    assert min(widths) == max(widths) == 1 or not torch.allclose(projection, before)


def test_it_keeps_distances_where_the_teacher_is_wider():
    projected = STUDENT @ prepared().projection().T
    torch.testing.assert_close(torch.pdist(projected), torch.pdist(STUDENT))


def test_what_a_narrower_teacher_cannot_hold_is_not_compared():
    student, teacher = draw(N, 5, seed=3), draw(N, 3, seed=4)
    term = prepared(student, teacher)
    hidden = torch.linalg.svd(term.projection()).Vh[3:]  # D − D' directions
    moved = student + draw(N, 2) @ hidden
    found, expected = (term.loss(lesson(z, teacher)) for z in (moved, student))
    torch.testing.assert_close(found, expected)


def test_it_learns_a_rotation():
    teacher = F.layer_norm(draw(64, 4), (4,))
    student = teacher @ torch.linalg.qr(draw(4, 4, seed=5)).Q
    term = prepared(student, teacher)
    if torch.det(term.projection()) * torch.det(torch.linalg.lstsq(student, teacher).solution) < 0:
        with torch.no_grad():
            term.free[:, 0] *= -1  # rotations do not become reflections
    optimizer = torch.optim.LBFGS(term.parameters(), max_iter=200)

    def closure():
        optimizer.zero_grad()
        loss = term.loss(lesson(student, teacher))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert term.loss(lesson(student, teacher)) < 1e-6


def test_gradients_of_the_free_matrix_are_right_and_its_scale_does_not_matter():
    term = prepared()

    def loss(free):
        return torch.func.functional_call(_Loss(term), {"term.free": free}, ())

    free = draw(5, 3, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(loss, free)
    torch.testing.assert_close(loss(7 * free), loss(free))


class _Loss(nn.Module):
    def __init__(self, term):
        super().__init__()
        self.term = term

    def forward(self):
        return self.term.loss(lesson())


def test_against_the_authors_convention():
    """A linear layer with an orthogonal weight, between the mean token and the mean pixel."""
    tokens, image = draw(N, 4, 3, seed=5), draw(N, 5, 2, 2, seed=6)
    term = prepared(tokens, image, channel_dim=(-1, 1))
    projected = F.linear(tokens.mean(dim=1), term.projection())
    theirs = F.smooth_l1_loss(projected, F.layer_norm(image.mean(dim=(2, 3)), (5,)))
    torch.testing.assert_close(term.loss(lesson(tokens, image)), theirs)
    without = prepared(tokens, image, channel_dim=(-1, 1), class_token=(True, False))
    found, expected = without.loss(lesson(tokens, image)), term.loss(lesson(tokens[:, 1:], image))
    torch.testing.assert_close(found, expected)


def test_its_weights_follow_from_a_seed():
    terms = [OrthogonalProjection() for _ in range(3)] + [OrthogonalProjection(seed=1)]
    for seed, term in zip((1, 1, 2, 3), terms, strict=True):
        term.prepare(lesson(), seed=seed)
    first, same, other, named = (term.projection() for term in terms)
    assert torch.equal(first, same)
    assert torch.equal(first, named)
    assert not torch.equal(first, other)


def test_it_runs_on_every_device(device):
    own, theirs = STUDENT.float().to(device), TEACHER.float().to(device)
    term = prepared(own, theirs)
    term.loss(lesson(own, theirs)).backward()
    assert term.free.grad.device.type == device.type


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="must have the same shape"):
        vkd_loss(STUDENT, TEACHER)
    with pytest.raises(ArgumentError, match="student_features must have shape"):
        OrthogonalProjection().loss(lesson(STUDENT[:, 0]))
