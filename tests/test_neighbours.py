"""Who is likely to be whose neighbour."""

import math

import pytest
import torch

from kdcourse import relation_term
from kdcourse.course.bench.compare import peak_memory
from kdcourse.errors import ArgumentError
from kdcourse.methods.neighbours import Neighbours, neighbour_loss
from kdcourse.objective import Lesson, Outputs

N = 6
LOSSES = {"neighbours": neighbour_loss}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(N, 4, seed=1), draw(N, 3, seed=2)


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


def cosine(u, v):
    inner, *squares = (
        math.fsum(a * b for a, b in zip(one, other, strict=True))
        for one, other in ((u, v), (u, u), (v, v))
    )
    return inner / math.sqrt(squares[0] * squares[1]) if all(squares) else 0.0


def naive_picks(z):
    picks = []
    for i in range(len(z)):
        alike = {j: (1 + cosine(z[i], z[j])) / 2 for j in range(len(z)) if j != i}
        picks.append({j: k / math.fsum(alike.values()) for j, k in alike.items()})
    return picks


def naive(s, t):
    total = 0.0
    for q, p in zip(naive_picks(s.tolist()), naive_picks(t.tolist()), strict=True):
        total += math.fsum(p[j] * math.log(p[j] / q[j]) for j in p)
    return total / len(s)


@pytest.mark.parametrize("samples", [2, 3, N])
def test_equals_the_definition(samples):
    value = neighbour_loss(STUDENT[:samples], TEACHER[:samples])
    assert value.item() == pytest.approx(naive(STUDENT[:samples], TEACHER[:samples]), abs=1e-12)


def test_it_is_zero_at_the_teacher_and_for_what_only_scales_and_rotates():
    rotation = torch.linalg.qr(draw(3, 3)).Q
    assert neighbour_loss(TEACHER, TEACHER).item() == pytest.approx(0, abs=1e-12)
    turned = 3 * TEACHER @ rotation
    torch.testing.assert_close(neighbour_loss(STUDENT, turned), neighbour_loss(STUDENT, TEACHER))
    assert neighbour_loss(TEACHER + 1, TEACHER) > 1e-3


def test_where_a_rotated_student_has_arrived_rounding_takes_nothing_below_zero():
    values = []
    for seed in range(30):
        teacher = draw(N, 8, seed=seed).float()
        rotation = torch.linalg.qr(draw(8, 8, seed=seed).float()).Q
        values.append(neighbour_loss(teacher @ rotation, teacher).item())
    assert min(values) >= 0
    assert max(values) < 1e-6


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_tiny_and_huge_embeddings_are_compared_as_any_other(scale):
    s = (scale * STUDENT).float().requires_grad_()
    value = neighbour_loss(s, (TEACHER / scale).float())
    (gradient,) = torch.autograd.grad(value, s)
    assert value.item() == pytest.approx(naive(STUDENT, TEACHER), rel=1e-5)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_that_are_zero_or_opposite_are_no_fault(dtype):
    s = STUDENT.to(dtype).clone()
    s[0], s[2] = 0.0, -2 * s[1]
    s.requires_grad_()
    value = neighbour_loss(s, TEACHER.to(dtype))
    (gradient,) = torch.autograd.grad(value, s)
    assert value.isfinite()
    assert gradient.isfinite().all()
    pair = neighbour_loss(s[1:3], TEACHER[:2].to(dtype))  # each can only pick the other
    assert pair.item() == pytest.approx(0, abs=1e-6)


def test_two_samples_that_can_only_pick_each_other_get_no_gradient():
    s = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.1]], requires_grad=True)
    neighbour_loss(s, TEACHER[:2].float()).backward()
    assert not s.grad.any()


def test_against_the_authors_convention():
    """Over all N² pairs, a sample with itself included, and their mean."""
    s, t = (z / z.norm(dim=1, keepdim=True) for z in (STUDENT, TEACHER))
    p, q = (((1 + z @ z.T) / 2) for z in (t, s))
    p, q = (k / k.sum(dim=1, keepdim=True) for k in (p, q))
    theirs = (p * (p / q).log()).mean()
    for k in (p, q):
        k.fill_diagonal_(0)
    p, q = (k / k.sum(dim=1, keepdim=True) for k in (p, q))
    ours = torch.where(p > 0, p * (p / q).log(), 0.0).sum() / N
    torch.testing.assert_close(neighbour_loss(STUDENT, TEACHER), ours)
    assert abs(theirs * N - ours) > 1e-4  # they are no multiples of each other


def test_the_term_compares_a_layer_and_a_last_batch_of_one_sample_costs_nothing():
    shown = [Outputs(features={"embedding": z}) for z in (STUDENT, TEACHER)]
    target = torch.zeros(N, dtype=torch.int64)
    value = Neighbours().loss(Lesson(shown[0], target, shown[1]))
    assert value == neighbour_loss(STUDENT, TEACHER)
    few = [Outputs(features={"embedding": z[:1]}) for z in (STUDENT, TEACHER)]
    assert Neighbours().loss(Lesson(few[0], target[:1], few[1])) == 0


def plain(s, t):
    """The same, of all pairs at once, for autograd."""
    log_picks = []
    for z in (s, t):
        unit = z / z.norm(dim=1, keepdim=True).clamp_min(1e-300)
        k = (1 + unit @ unit.T).clamp_min(2e-7)
        log_picks.append((k / (k.sum(dim=1, keepdim=True) - k.diagonal()[:, None])).log())
    log_q, log_p = log_picks
    return (log_p.exp() * (log_p - log_q)).fill_diagonal_(0).sum() / len(s)


@pytest.mark.parametrize("cosines", [1, 4 * N, 10**6])
def test_value_and_gradient_are_those_of_all_pairs_at_once_whatever_is_taken_at_a_time(
    cosines, monkeypatch
):
    monkeypatch.setitem(relation_term.CHUNK, "cpu", cosines)
    student = STUDENT.clone()
    student[3] = -2 * student[1]  # one is least alike, and sends the other no gradient
    found = []
    for loss in (neighbour_loss, plain):
        s = student.clone().requires_grad_()
        value = loss(s, TEACHER)
        found.append((value, *torch.autograd.grad(value, s)))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_many_samples_take_the_memory_of_their_embeddings():
    samples = [draw(2000, 16, seed=seed).float() for seed in (1, 2)]

    def step():
        neighbour_loss(samples[0].detach().requires_grad_(), samples[1]).backward()

    assert peak_memory(step) < 2000 * 2000 * 4 / 4  # a quarter of one matrix of cosines


def test_one_sample_is_no_relation():
    with pytest.raises(ArgumentError, match="student_embeddings must hold at least 2 samples"):
        neighbour_loss(STUDENT[:1], TEACHER[:1])
