"""Relations between tokens, by queries, keys or values."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.methods.attention_relation import AttentionRelation, attention_relation_loss
from kdcourse.objective import Lesson, Outputs


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(3, 5, 4, seed=1), draw(3, 5, 6, seed=2)  # N, T, D
COUNTED = [[True] * 5, [False, True, True, False, True], [True, False, False, False, False]]
MASK = torch.tensor(COUNTED)

LOSSES = {
    "one head": lambda s, t: attention_relation_loss(s, t, 1),
    "two heads": lambda s, t: attention_relation_loss(s, t, 2),
    "masked": lambda s, t: attention_relation_loss(s, t, 2, torch.tensor(COUNTED, device=s.device)),
    "channels first": lambda s, t: attention_relation_loss(s.mT, t.mT, 2, channel_dim=1),
}
SETTINGS = {"one head": (1, None), "masked": (2, MASK)}  # the others have two heads and no mask
every_loss = pytest.mark.parametrize("name", LOSSES)


def example(name):
    """Student and teacher of a loss, here and for the tests of every loss."""
    return STUDENT, TEACHER


def naive_relations(vectors, heads, counted):
    """Attention of one sample by the definition, ``relations[head][token][other]``."""
    width, relations = vectors.shape[1] // heads, []
    for a in range(heads):
        part = vectors[:, a * width : (a + 1) * width].tolist()
        rows = {}
        for t in counted:
            scores = {
                u: math.fsum(x * y for x, y in zip(part[t], part[u], strict=True)) / width**0.5
                for u in counted
            }
            total = math.fsum(math.exp(score) for score in scores.values())
            rows[t] = {u: math.exp(score) / total for u, score in scores.items()}
        relations.append(rows)
    return relations


def naive_loss(student, teacher, heads, mask):
    values = []
    for n, (own, theirs) in enumerate(zip(student, teacher, strict=True)):
        counted = [t for t in range(len(own)) if mask is None or mask[n, t]]
        pair = naive_relations(own, heads, counted), naive_relations(theirs, heads, counted)
        for s, t in zip(*pair, strict=True):
            values += [
                math.fsum(p * math.log(p / s[i][j]) for j, p in row.items()) for i, row in t.items()
            ]
    return math.fsum(values) / len(values)


@every_loss
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("scale", [0.5, 1, 3])
def test_equals_the_naive_definition(name, dtype, rel, scale):
    s, t = (scale * z.to(dtype) for z in example(name))
    value = LOSSES[name](s, t)
    assert value.shape == ()
    assert value.dtype == dtype
    expected = naive_loss(s.double(), t.double(), *SETTINGS.get(name, (2, None)))
    assert value.item() == pytest.approx(expected, rel=rel)


@every_loss
def test_zero_at_equality_and_above_zero_elsewhere(name):
    t = example(name)[1]
    assert LOSSES[name](t, t).item() == 0
    assert LOSSES[name](*example(name)) > 1e-3


@pytest.mark.parametrize("mask", [None, MASK])
def test_where_a_student_has_arrived_rounding_takes_nothing_below_zero(mask):
    values = []
    for seed in range(30):
        teacher = draw(3, 5, 8, seed=seed).float()
        student = teacher + 1e-6 * draw(3, 5, 8, seed=seed + 1).float()
        values.append(attention_relation_loss(student, teacher, 2, mask).item())
    assert min(values) >= 0
    assert max(values) < 1e-6


def test_rotating_the_vectors_of_a_head_changes_nothing_and_scaling_does():
    rotation = torch.linalg.qr(draw(2, 2, seed=3)).Q
    rotated = torch.cat([STUDENT[:, :, :2] @ rotation, STUDENT[:, :, 2:]], dim=2)
    expected = attention_relation_loss(STUDENT, TEACHER, 2)
    torch.testing.assert_close(attention_relation_loss(rotated, TEACHER, 2), expected)
    assert abs(attention_relation_loss(2 * STUDENT, TEACHER, 2) - expected) > 1e-3


def test_what_the_mask_leaves_out_does_not_count_and_learns_nothing():
    s = STUDENT.clone().requires_grad_()
    value = attention_relation_loss(s, TEACHER, 2, MASK.long())
    value.backward()
    other = torch.where(MASK[:, :, None], STUDENT, 100.0)
    assert torch.equal(attention_relation_loss(other, TEACHER, 2, MASK), value)
    assert not s.grad[~MASK].any()
    assert s.grad[:2][MASK[:2]].all(dim=1).all()


def test_the_mean_is_that_over_all_positions_that_count():
    each = [
        attention_relation_loss(s[None, m], t[None, m], 2)
        for s, t, m in zip(STUDENT, TEACHER, MASK, strict=True)
    ]
    expected = sum(v * m.sum() for v, m in zip(each, MASK, strict=True)) / MASK.sum()
    torch.testing.assert_close(attention_relation_loss(STUDENT, TEACHER, 2, MASK), expected)


@pytest.mark.parametrize("counted", [torch.zeros(3, 5), MASK * torch.tensor([[1], [0], [1]])])
def test_samples_of_padding_alone_are_no_fault(counted):
    s = STUDENT.clone().requires_grad_()
    value = attention_relation_loss(s, TEACHER, 2, counted.bool())
    value.backward()
    assert value.isfinite()
    assert value.item() == 0 or counted.any()
    assert s.grad.isfinite().all()


@pytest.mark.parametrize("held", [math.nan, math.inf])
def test_what_the_mask_leaves_out_may_hold_anything(held):
    student = STUDENT.masked_fill(~MASK[:, :, None], held).requires_grad_()
    teacher = TEACHER.masked_fill(~MASK[:, :, None], held)
    loss = attention_relation_loss(student, teacher, 2, MASK)
    own = STUDENT.clone().requires_grad_()
    expected = attention_relation_loss(own, TEACHER, 2, MASK)
    (found,), (wanted,) = (torch.autograd.grad(*one) for one in ((loss, student), (expected, own)))
    torch.testing.assert_close((loss, found), (expected, wanted))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("mask", [None, MASK])
def test_large_vectors_stay_finite(dtype, mask):
    s, t = ((1e4 * z.tanh()).to(dtype).requires_grad_() for z in (STUDENT, TEACHER))
    value = attention_relation_loss(s, t, 2, mask)
    value.backward()
    assert value.isfinite()
    assert s.grad.isfinite().all()


def test_an_image_is_as_many_tokens():
    value = attention_relation_loss(
        STUDENT[:, :4].mT.unflatten(2, (2, 2)), TEACHER[:, :4], 2, channel_dim=(1, -1)
    )
    torch.testing.assert_close(value, attention_relation_loss(STUDENT[:, :4], TEACHER[:, :4], 2))


# The term.


def lesson(own, theirs):
    shown = [Outputs(features={"q": one, "k": 2 * one.flip(1)}) for one in (own, theirs)]
    return Lesson(shown[0], torch.zeros(len(own), dtype=torch.int64), shown[1])


def test_the_term_sums_over_layers():
    value = AttentionRelation(["q", ("k", "q")], heads=2).loss(lesson(STUDENT, TEACHER))
    other = attention_relation_loss(2 * STUDENT.flip(1), TEACHER, 2)
    torch.testing.assert_close(value, attention_relation_loss(STUDENT, TEACHER, 2) + other)


@pytest.mark.parametrize("channel_dim", [-1, 1, (1, -1)])
def test_queries_keys_and_values_may_come_joined(channel_dim):
    own, theirs = draw(3, 5, 12, seed=1), draw(3, 5, 6, seed=2)
    parts = zip(own.split(4, dim=2), theirs.split(2, dim=2), strict=True)
    expected = sum(attention_relation_loss(*pair, 2) for pair in parts)
    first, second = (channel_dim, channel_dim) if isinstance(channel_dim, int) else channel_dim
    shown = lesson(own.mT if first == 1 else own, theirs.mT if second == 1 else theirs)
    term = AttentionRelation(["q"], 2, joined=True, channel_dim=channel_dim)
    torch.testing.assert_close(term.loss(shown), expected)


def test_the_term_finds_its_mask_in_the_inputs():
    shown = replace(lesson(STUDENT, TEACHER), inputs={"attention_mask": MASK.long()})
    term = AttentionRelation(["q"], heads=2, mask="attention_mask")
    expected = attention_relation_loss(STUDENT, TEACHER, 2, MASK)
    torch.testing.assert_close(term.loss(shown), expected)
    assert term.count(shown) == MASK.sum()
    assert repr(term).endswith("mask='attention_mask')")
    with pytest.raises(ArgumentError, match="mask must name an entry of the inputs"):
        term.loss(lesson(STUDENT, TEACHER))


# Bad input.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attention_relation_loss(STUDENT, TEACHER), "heads must divide .*student_vectors"),
        (lambda: attention_relation_loss(STUDENT, TEACHER, 4), "heads must divide .*teacher_vec"),
        (lambda: attention_relation_loss(STUDENT, TEACHER[:, 1:], 2), "same tokens .* 5 and 4"),
        (lambda: attention_relation_loss(STUDENT, TEACHER[1:], 2), "same samples, got 3 and 2"),
        (lambda: attention_relation_loss(STUDENT[0], TEACHER, 2), "student_vectors must have sh"),
        (lambda: attention_relation_loss(STUDENT, TEACHER, 2, MASK[1:]), "mask must hold True"),
        (lambda: attention_relation_loss(STUDENT, TEACHER, 2, MASK.float()), "mask must hold"),
        (lambda: attention_relation_loss(STUDENT, TEACHER, 2, 2 * MASK.long()), "mask must hold"),
        (lambda: attention_relation_loss(STUDENT, TEACHER, 2, [1]), "mask must be a dense"),
        (lambda: attention_relation_loss(STUDENT, TEACHER, 2, channel_dim=2), "channel_dim must"),
        (lambda: AttentionRelation(["q"], channel_dim=(1, 0)), "channel_dim must be 1"),
        (lambda: AttentionRelation(["q"], 0), "heads must be a positive"),
        (
            lambda: AttentionRelation(["q"], 1, joined=True).loss(lesson(STUDENT, TEACHER)),
            r"joined needs layers .* got \(3, 5, 4\)",
        ),
    ],
)
def test_bad_calls_are_named(call, message):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        call()


# Against the attention that torch computes.


def test_a_head_attends_as_torchs_attention_does():
    """Where queries and keys are the vectors, and the values tell tokens apart."""
    vectors = STUDENT.unflatten(2, (2, 2)).transpose(1, 2)
    tokens = torch.eye(5).double().expand(3, 2, 5, 5)
    relations = nn.functional.scaled_dot_product_attention(vectors, vectors, tokens)
    uniform = torch.zeros_like(TEACHER)
    entropy = -(relations * relations.log()).sum(dim=3).mean()
    cross = attention_relation_loss(uniform[:, :, :4], STUDENT, 2)  # KL to uniform
    torch.testing.assert_close(cross, math.log(5) - entropy)
