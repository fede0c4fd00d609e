"""The direction of an embedding, and that it is long."""

import copy
import math

import pytest
import torch
from torch import nn
from toys import images, net, train, weights

from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.methods.norm_and_direction import (
    NormAndDirection,
    class_means,
    norm_and_direction_loss,
)
from kdcourse.metrics import embed
from kdcourse.objective import Lesson, Outputs


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CLASSES = [0, 2, 1, 2, 0, 2]
TARGET = torch.tensor(CLASSES)
LENGTHS = torch.tensor([0.1, 10, 0.5, 2, 3, 0.2]).double()[:, None]  # shorter and longer ones
STUDENT, TEACHER, MEANS = LENGTHS * draw(6, 4, seed=1), draw(6, 4, seed=2), draw(3, 4, seed=3)
LOSSES = {
    "norm and direction": lambda s, t: norm_and_direction_loss(
        s, t, -t[:3].flip(1), torch.tensor(CLASSES, device=s.device)
    )
}


def example(name):
    """Student and teacher of the loss, for the tests of every loss."""
    return STUDENT, TEACHER


def naive_loss(student, teacher, means, target):
    values = []
    for s, t, k in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        c = means[k].tolist()
        along = math.fsum(a * b for a, b in zip(s, c, strict=True)) / (math.hypot(*c) or 1)
        values.append(1 - along / max(math.hypot(*s), math.hypot(*t)))
    return math.fsum(values) / len(values)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1, 1e15, 1e25])
def test_equals_the_naive_definition(dtype, rel, scale):
    s, t, means = (scale * z.to(dtype) for z in (STUDENT, TEACHER, MEANS))
    value = norm_and_direction_loss(s, t, means, TARGET)
    assert value.shape == ()
    assert value.dtype == dtype
    expected = naive_loss(s.double(), t.double(), means.double(), TARGET)
    assert value.item() == pytest.approx(expected, rel=rel)


def test_where_the_student_is_longer_it_is_one_minus_the_cosine():
    s = 100 * STUDENT
    cosine = torch.cosine_similarity(s, MEANS[TARGET])
    value = norm_and_direction_loss(s, TEACHER, MEANS, TARGET)
    torch.testing.assert_close(value, (1 - cosine).mean())
    torch.testing.assert_close(norm_and_direction_loss(7 * s, TEACHER, 3 * MEANS, TARGET), value)


def test_the_range():
    along = 5 * MEANS[TARGET] / MEANS[TARGET].norm(dim=1, keepdim=True)
    lengths = torch.tensor([4.0, 5.0, 6.0]).repeat(2).double()[:, None] / 5
    for sign, best in ((1, 0), (-1, 2)):
        value = norm_and_direction_loss(sign * along, lengths * along, MEANS, TARGET).item()
        lost = 2 * (1 - 5 / 6) / 6  # as two of six teachers are longer
        assert value == pytest.approx(best + sign * lost)


def test_where_a_student_has_arrived_rounding_takes_nothing_below_zero():
    values = []
    for seed in range(30):
        means = draw(3, 8, seed=seed).float()
        values.append(norm_and_direction_loss(means, means, means, torch.arange(3)).item())
    assert min(values) >= 0
    assert max(values) < 1e-6


def test_an_embedding_of_zero_learns_its_direction_and_beside_one_nothing():
    s = torch.zeros_like(STUDENT).requires_grad_()
    t = TEACHER.clone()
    t[0] = 0
    value = norm_and_direction_loss(s, t, MEANS, TARGET)
    value.backward()
    assert value == 1
    assert not s.grad[0].any()
    expected = -MEANS[TARGET] / MEANS[TARGET].norm(dim=1, keepdim=True) / t.norm(dim=1)[:, None] / 6
    torch.testing.assert_close(s.grad[1:], expected[1:])


def test_a_class_without_a_mean_has_no_direction():
    s = STUDENT.clone().requires_grad_()
    means = MEANS.clone()
    means[2] = 0
    value = norm_and_direction_loss(s, TEACHER, means, TARGET)
    value.backward()
    assert value.item() == pytest.approx(naive_loss(STUDENT, TEACHER, means, TARGET))
    assert not s.grad[TARGET == 2].any()
    assert s.grad[TARGET != 2].any(dim=1).all()


# Class means.


def test_class_means_are_those_and_zero_where_there_is_nothing():
    means = class_means(TEACHER, TARGET, 5)
    for k in range(5):
        rows = [row for row, label in zip(TEACHER, CLASSES, strict=True) if label == k]
        expected = torch.stack(rows).mean(dim=0) if rows else torch.zeros(4).double()
        torch.testing.assert_close(means[k], expected)
    assert class_means(TEACHER.half(), TARGET, 3).dtype == torch.float32


def test_half_precision_embeddings_of_many_samples_are_added_up_in_full():
    rows, target = torch.full((70_000, 1), 1.001), torch.zeros(70_000, dtype=torch.int64)
    assert class_means(rows, target, 1).item() == pytest.approx(1.001, rel=1e-6)
    assert class_means(rows.half(), target, 1).item() == rows[0].half().item()


# The term.


def lesson(own=STUDENT, theirs=TEACHER, target=TARGET, **more):
    shown = [Outputs(logits=draw(len(z), 3), features={"embedding": z}) for z in (own, theirs)]
    return Lesson(shown[0], target, shown[1], **more)


def test_means_that_are_told_are_taken():
    term = NormAndDirection(means=MEANS)
    for _ in range(2):
        expected = norm_and_direction_loss(STUDENT, TEACHER, MEANS, TARGET)
        assert term.loss(lesson()) == expected
    assert torch.equal(term.state_dict()["means"], MEANS)
    assert list(term.parameters()) == []


def test_means_are_gathered_in_training_from_all_batches_so_far():
    term, parts = NormAndDirection(), (slice(0, 2), slice(2, 6))
    for part, seen in zip(parts, (slice(0, 2), slice(0, 6)), strict=True):
        batch = lesson(STUDENT[part], TEACHER[part], TARGET[part])
        means = class_means(TEACHER[seen], TARGET[seen], 3)
        expected = norm_and_direction_loss(STUDENT[part], TEACHER[part], means, TARGET[part])
        torch.testing.assert_close(term.loss(batch), expected)
    before = term.means.clone()
    term.eval().loss(lesson())
    assert torch.equal(term.means, before)


def test_compiled_it_gathers_the_same():
    torch.compiler.reset()
    term = NormAndDirection()
    term.prepare(lesson())
    other = copy.deepcopy(term)
    compiled = torch.compile(other.loss, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(lesson()), term.loss(lesson()))
    torch.testing.assert_close(other.means, term.means)


def test_other_widths_are_bridged_by_a_linear_map_that_learns():
    term = NormAndDirection(means=MEANS, seed=3)
    own = draw(6, 7, seed=4)
    term.prepare(lesson(own), seed=5)
    assert term.projection.weight.shape == (4, 7)
    expected = norm_and_direction_loss(term.projection(own), TEACHER, MEANS, TARGET)
    value = term.loss(lesson(own))
    assert value == expected
    value.backward()
    assert all(p.grad.any() for p in term.parameters())
    given = nn.Sequential(nn.BatchNorm1d(7), nn.Linear(7, 4)).double()
    assert NormAndDirection(means=MEANS, projection=given).loss(lesson(own)).isfinite()


def test_it_is_trained_with_means_of_the_whole_set():
    teacher, data = net(4, seed=2), images()
    means = class_means(embed(teacher, data), data.target, len(data.classes))
    for objective in (NormAndDirection(means=means), NormAndDirection()):
        history = train(net(), objective, train=data, teacher=teacher, epochs=8)
        assert history["norm_and_direction"][-1] < history["norm_and_direction"][0]


def test_captured_steps_gather_as_plain_ones_do(replaying):
    results = []
    for wanted in (True, False):
        student, term = net().double(), NormAndDirection()
        options = {"device": replaying.device, "capture": wanted, "epochs": 3}
        train(student, term, train=images(), teacher=net(4, seed=2).double(), **options)
        results.append({**weights(student), **weights(term)})
    assert replaying.graphs == 1
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: norm_and_direction_loss(STUDENT, TEACHER[:, :3], MEANS, TARGET), "the same shape"),
        (
            lambda: norm_and_direction_loss(STUDENT, TEACHER, MEANS[:, :3], TARGET),
            "class_means must be as wide as teacher_embeddings, 4",
        ),
        (
            lambda: norm_and_direction_loss(STUDENT, TEACHER, MEANS, TARGET + 1),
            r"target must lie in \[0, 3\)",
        ),
        (lambda: class_means(TEACHER, TARGET, 2), r"target must lie in \[0, 2\)"),
        (lambda: NormAndDirection().loss(lesson(target=TARGET - 1)), "target must lie in"),
        (lambda: NormAndDirection().loss(lesson(again=True)), "class means of one teacher, and"),
        (lambda: NormAndDirection(means=MEANS[0]), r"means must have shape \(N, D\)"),
    ],
)
def test_bad_input_is_named(call, told):
    with pytest.raises(ArgumentError, match=told):
        call()


def test_means_must_be_a_tensor():
    with pytest.raises(ArgumentTypeError, match=r"means must be a dense torch\.Tensor or None"):
        NormAndDirection(means=[[1.0]])


def test_a_projection_with_batch_norm_refuses_a_last_batch_of_one_sample_in_words():
    projection = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 16))
    objective = NormAndDirection(projection=projection)
    with pytest.raises(ArgumentError, match=r"holds a single sample.*drop_last=True") as told:
        train(net(), objective, train=images(65), teacher=net(4, seed=2))
    assert told.value.argument == "batch_size"
    again = NormAndDirection(projection=projection)
    train(net(), again, train=images(65), teacher=net(4, seed=2), drop_last=True)
