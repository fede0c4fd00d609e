"""Contrastive representation distillation, and its memory."""

import copy
import math

import pytest
import scipy.special
import torch
from toys import net, same, train, weights

from kdcourse.errors import ArgumentError
from kdcourse.methods.contrastive import CRD, contrastive_loss, random_normalizer
from kdcourse.objective import Lesson, Outputs
from kdcourse.training import CrossEntropy, constant

N, M, D = 4, 6, 5


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(N, D, seed=1), draw(N, D, seed=2)
OWN, THEIRS = draw(M, D, seed=3), draw(M, D, seed=4)
EXCLUDED = torch.arange(N * M).view(N, M) % 3 == 0


def from_memory(student, teacher):
    return contrastive_loss(student, teacher, student_negatives=OWN, teacher_negatives=THEIRS)


LOSSES = {"contrastive": contrastive_loss}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


def cosine(u, v):
    inner, *squares = (
        math.fsum(a * b for a, b in zip(one, other, strict=True))
        for one, other in ((u, v), (u, u), (v, v))
    )
    return inner / math.sqrt(squares[0] * squares[1])


def belongs(u, v, noise, temperature):
    e = math.exp(cosine(u, v) / temperature)
    return e / (e + noise)


def naive(student, teacher, own, theirs, excluded, temperature=0.07, z=1.0):
    """One pair after the other, by the definition of h."""
    student, teacher, own, theirs = (x.tolist() for x in (student, teacher, own, theirs))
    total = 0.0
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        kept = [j for j in range(len(own)) if not excluded[i][j]]
        noise = len(kept) * z
        total -= 2 * math.log(belongs(s, t, noise, temperature))
        total -= math.fsum(math.log1p(-belongs(s, theirs[j], noise, temperature)) for j in kept)
        total -= math.fsum(math.log1p(-belongs(t, own[j], noise, temperature)) for j in kept)
    return total / len(student)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("z", [1.0, 2.2])
def test_equals_the_definition(temperature, z):
    chosen = {"temperature": temperature, "normalizer": z}
    negatives = {"student_negatives": OWN, "teacher_negatives": THEIRS}
    value = contrastive_loss(STUDENT, TEACHER, **negatives, excluded=EXCLUDED, **chosen)
    expected = naive(STUDENT, TEACHER, OWN, THEIRS, EXCLUDED.tolist(), temperature, z)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    value = contrastive_loss(STUDENT, TEACHER, **negatives, **chosen)
    expected = naive(STUDENT, TEACHER, OWN, THEIRS, [[False] * M] * N, temperature, z)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_without_a_memory_the_others_of_the_batch_are_the_negatives():
    itself = [[i == j for j in range(N)] for i in range(N)]
    expected = naive(STUDENT, TEACHER, STUDENT, TEACHER, itself)
    assert contrastive_loss(STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-12)
    more = torch.zeros(N, N, dtype=torch.bool)
    more[0, 1] = itself[0][1] = True
    value = contrastive_loss(STUDENT, TEACHER, excluded=more)
    assert value.item() == pytest.approx(naive(STUDENT, TEACHER, STUDENT, TEACHER, itself))


def test_equals_the_authors_form_where_their_memory_holds_the_present_embedding():
    """A gathered copy of every negative for every sample, Z for all pairs, M / n for the noise."""
    size, temperature, z = 50, 0.07, 2.2
    units = [x / x.norm(dim=1, keepdim=True) for x in (STUDENT, TEACHER, OWN, THEIRS)]
    student, teacher, own, theirs = units
    total = 0.0
    for anchors, positives, negatives in ((teacher, student, own), (student, teacher, theirs)):
        pairs = torch.cat([positives[:, None], negatives.expand(N, -1, -1)], dim=1)
        out = torch.bmm(pairs, anchors[:, :, None])[..., 0].div(temperature).exp() / (z * size)
        noise = M / size
        right = (out[:, 0] / (out[:, 0] + noise)).log()
        others = (noise / (out[:, 1:] + noise)).log()
        total = total - (right.sum() + others.sum()) / N
    value = contrastive_loss(
        STUDENT, TEACHER, student_negatives=OWN, teacher_negatives=THEIRS, normalizer=z
    )
    torch.testing.assert_close(value, total, rtol=1e-12, atol=0)


def test_it_sees_directions_alone_and_falls_where_pairs_are_found():
    torch.testing.assert_close(from_memory(3 * STUDENT, TEACHER), from_memory(STUDENT, TEACHER))
    assert from_memory(STUDENT, STUDENT) < from_memory(STUDENT, TEACHER)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_that_is_to_be_told_from_none_costs_and_learns_nothing(dtype):
    """With M = 0, h is 1."""
    memory = {"student_negatives": OWN.to(dtype), "teacher_negatives": THEIRS.to(dtype)}
    excluded = torch.arange(N)[:, None].expand(N, M) > 0  # of all but the first sample
    student = STUDENT.to(dtype, copy=True).requires_grad_()
    value = contrastive_loss(student, TEACHER.to(dtype), **memory, excluded=excluded)
    alone = contrastive_loss(student[:1], TEACHER[:1].to(dtype), **memory)
    torch.testing.assert_close(N * value, alone)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient[0].any()
    assert not gradient[1:].any()
    lonely = contrastive_loss(student[:1], TEACHER[:1].to(dtype))
    assert lonely == 0
    assert not torch.autograd.grad(lonely, student)[0].any()


@pytest.mark.parametrize("width", [2, 3, 16, 128])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 4.0])
def test_the_mean_over_random_directions(width, temperature):
    expected = scipy.special.hyp0f1(width / 2, 1 / (2 * temperature) ** 2)
    assert random_normalizer(width, temperature) == pytest.approx(expected, rel=1e-12)
    ends = torch.randn(400_000, width, generator=torch.Generator().manual_seed(0))
    if temperature >= 0.5:  # where a sample of it is precise
        cosines = ends[:, 0] / ends.norm(dim=1)
        assert (cosines / temperature).exp().mean().item() == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("temperature", [1e-4, 1e-300])
def test_a_temperature_for_which_no_number_is_large_enough(temperature):
    with pytest.raises(ArgumentError, match="temperature must be larger"):
        random_normalizer(8, temperature)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"student_negatives": OWN}, "go together"),
        ({"student_negatives": OWN, "teacher_negatives": THEIRS[:2]}, "shape"),
        ({"student_negatives": OWN[:, :2], "teacher_negatives": THEIRS}, "width 5"),
        ({"excluded": EXCLUDED}, r"excluded must be torch.bool of shape \(4, 4\)"),
        ({"temperature": 0}, "temperature"),
        ({"normalizer": 0}, "normalizer"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ArgumentError, match=message):
        contrastive_loss(STUDENT, TEACHER, **given)


# --- the term and its memory


def lesson(student, teacher, target):
    shown = (Outputs(features={"embedding": z}) for z in (student, teacher))
    own, theirs = shown
    return Lesson(own, target, theirs)


def test_the_memory_keeps_the_newest_samples_of_both_nets():
    term = CRD(width=3, memory=10)
    first = lesson(STUDENT, draw(N, 7, seed=5), torch.arange(N))
    term.prepare(first)
    term.double()
    noise = term.student_memory.clone()
    term.loss(first)
    assert term.labels.tolist() == [*range(N), *[-1] * 6]
    own = term.student_head(STUDENT)
    torch.testing.assert_close(term.student_memory[:N], own / own.norm(dim=1, keepdim=True))
    assert torch.equal(term.student_memory[N:], noise[:6])
    for number in range(3):
        term.loss(lesson(STUDENT + number, draw(N, 7, seed=number), torch.full((N,), number)))
    assert term.labels.tolist() == [2] * 4 + [1] * 4 + [0] * 2


def test_it_is_the_loss_of_what_the_memory_held_before():
    term = CRD(width=3, memory=10)
    given = lesson(STUDENT, draw(N, 7, seed=5), torch.tensor([0, 1, 0, -1]))
    term.prepare(given)
    term.double()
    term.loss(given)
    before = copy.deepcopy(term)
    value = term.loss(given)
    expected = contrastive_loss(
        term.student_head(STUDENT),
        term.teacher_head(given.teacher.features["embedding"]),
        student_negatives=before.student_memory,
        teacher_negatives=before.teacher_memory,
        excluded=torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
        .bool()
        .repeat(1, 3)[:, :10]
        & (before.labels >= 0),
        normalizer=random_normalizer(3, 0.07),
    )
    torch.testing.assert_close(value, expected)


def test_a_judgement_alone_and_a_second_teacher_leave_no_trace():
    term = CRD(memory=8)
    given = lesson(STUDENT.float(), TEACHER.float(), torch.arange(N))
    term.prepare(given)
    before = weights(term)
    again = copy.copy(given)
    again.again = True
    term.loss(again)
    term.eval().loss(given)
    assert same(weights(term), before)


def test_a_batch_larger_than_the_memory():
    term = CRD(memory=3)
    given = lesson(STUDENT.float(), TEACHER.float(), torch.arange(N))
    assert term.loss(given).isfinite()
    assert term.labels.tolist() == [0, 1, 2]


def test_a_resumed_training_has_the_memory_of_the_first(tmp_path):
    def run(epochs, **more):
        student, objective = net(), CrossEntropy() + 0.8 * CRD(memory=64)
        knobs = {"epochs": epochs, "scheduler": constant}
        train(student, objective, teacher=net(4, seed=2), **knobs, **more)
        return weights(student) | weights(objective)

    whole, path = run(3), tmp_path / "run.pt"
    run(1, checkpoint=path)
    assert same(run(3, checkpoint=path), whole)
