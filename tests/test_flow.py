"""How a net gets from one layer to the next: flow matrices."""

import math

import pytest
import torch
from torch.nn import functional as F

from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.methods.flow import Flow, flow_loss
from kdcourse.objective import Lesson, Outputs


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(z):
    """Three layers made of one: the second is smaller in height, the third in width."""
    return z, -z[:, :2, ::2], z[:, :1, :, ::3].flip(2)


STUDENT, TEACHER = draw(3, 4, 4, 6, seed=1), draw(3, 4, 4, 6, seed=2)  # N, C, H, W
LOSSES = {
    "images": lambda s, t: flow_loss(layers(s), layers(t)),
    "tokens": lambda s, t: flow_loss(
        [s.flatten(2).mT, s[:, :2].flatten(2).mT],
        [t.flatten(2), t[:, :2].flatten(2)],
        channel_dim=(-1, 1),
        class_token=False,
    ),
    "vectors": lambda s, t: flow_loss(
        [s[..., 0, 0], s[:, :2, 1, 0]], [t[..., 0, 0], t[:, :2, 1, 0]]
    ),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def example(name):
    """Student and teacher of a loss, here and for the tests of every loss."""
    return STUDENT, TEACHER


def naive_flow(first, second):
    """The matrix between features of one size, of one sample."""
    one, other = first.flatten(1).tolist(), second.flatten(1).tolist()
    return [
        [math.fsum(map(math.prod, zip(u, v, strict=True))) / len(u) for v in other] for u in one
    ]


def naive_pool(features, size):
    """Maxima of blocks of positions, whose numbers divide."""
    high, wide = (a // b for a, b in zip(features.shape[1:], size, strict=True))
    return torch.stack(
        [
            features[:, i * high : (i + 1) * high, j * wide : (j + 1) * wide].amax(dim=(1, 2))
            for i in range(size[0])
            for j in range(size[1])
        ],
        dim=1,
    ).unflatten(1, size)


def naive_loss(student, teacher):
    values = []
    for n in range(len(student[0])):
        for i in range(len(student) - 1):
            matrices = []
            for net in (student, teacher):
                pair = net[i][n], net[i + 1][n]
                size = [
                    min(a, b) for a, b in zip(pair[0].shape[1:], pair[1].shape[1:], strict=True)
                ]
                matrices.append(naive_flow(*(naive_pool(one, size) for one in pair)))
            values += [
                (a - b) ** 2
                for rows in zip(*matrices, strict=True)
                for a, b in zip(*rows, strict=True)
            ]
    return math.fsum(values) / len(student[0])


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("case", [lambda z: z, torch.relu, lambda z: 100 * z])
def test_equals_the_naive_definition(dtype, rel, case):
    s, t = (layers(case(z.to(dtype))) for z in (STUDENT, TEACHER))
    value = flow_loss(s, t)
    assert value.shape == ()
    assert value.dtype == dtype
    expected = naive_loss([one.double() for one in s], [one.double() for one in t])
    assert value.item() == pytest.approx(expected, rel=rel)


@every_loss
def test_zero_at_equality_and_above_zero_elsewhere(name):
    s, t = example(name)
    assert LOSSES[name](t, t) == 0
    assert LOSSES[name](s, t) > 1e-3


def test_against_the_benchmarks_convention():
    """The mean over a matrix, of features that are average-pooled."""
    s, t = ([z, z[:, :2, ::2].sin()] for z in (STUDENT, TEACHER))
    flows = []
    for first, second in (s, t):
        small = F.adaptive_avg_pool2d(first, second.shape[2:])
        flows.append((small[:, :, None] * second[:, None]).mean(dim=(3, 4)))
    theirs = F.mse_loss(*flows)
    torch.testing.assert_close(flow_loss(s, t, pooling="average"), 4 * 2 * theirs)
    assert flow_loss(s, t) > 1.1 * 4 * 2 * theirs


@pytest.mark.parametrize(
    "make",
    [
        lambda **kind: flow_loss([STUDENT] * 2, [TEACHER] * 2, **kind),
        lambda **kind: Flow(["a", "b"], **kind),
    ],
)
def test_another_pooling_is_refused(make):
    with pytest.raises(ArgumentError, match="pooling must be one of 'max', 'average', got 'mean'"):
        make(pooling="mean")


def test_where_something_is_does_not_matter_as_long_as_both_layers_move():
    moved = [one.flip(2).roll(1, dims=3) for one in (STUDENT, STUDENT.sin())]
    teacher = [TEACHER, TEACHER.sin()]
    expected = flow_loss([STUDENT, STUDENT.sin()], teacher)
    torch.testing.assert_close(flow_loss(moved, teacher), expected)
    assert abs(flow_loss([moved[0], STUDENT.sin()], teacher) - expected) > 1e-3


def test_student_and_teacher_may_have_other_sizes():
    t = [TEACHER, TEACHER.sin()]
    twice = [one.repeat(1, 1, 2, 3) for one in t]
    assert flow_loss(twice, t).item() == pytest.approx(0, abs=1e-12)
    tokens = [one.flatten(2).mT for one in t]
    with_class = [torch.cat([draw(3, 1, 4), one], dim=1) for one in tokens]
    options = {"channel_dim": -1, "class_token": (True, False)}
    assert flow_loss(with_class, tokens, **options).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 4, 4, 6, 2)])
def test_sequences_and_volumes_are_pooled_too(shape):
    s, t = draw(*shape, seed=1), draw(*shape, seed=2)
    small = [z.unflatten(2, (-1, 2)).amax(dim=3) for z in (s, t)]
    short = [z[:, :2, ::2] for z in (s, t)]
    torch.testing.assert_close(
        flow_loss([s, short[0]], [t, short[1]]),
        flow_loss([small[0], short[0]], [small[1], short[1]]),
    )


def test_the_term_adds_consecutive_layers():
    names = ["a", "b", "c"]
    shown = [Outputs(features=dict(zip(names, layers(z), strict=True))) for z in (STUDENT, TEACHER)]
    lesson = Lesson(shown[0], torch.zeros(3, dtype=torch.int64), shown[1])
    value = Flow(names).loss(lesson)
    torch.testing.assert_close(value, flow_loss(layers(STUDENT), layers(TEACHER)))
    parts = Flow(["a", "b"]).loss(lesson) + Flow(["b", "c"]).loss(lesson)
    torch.testing.assert_close(value, parts)


@pytest.mark.parametrize(
    ("student", "teacher", "told"),
    [
        ([STUDENT], [TEACHER], "student_features must hold at least two layers, got 1"),
        ([STUDENT] * 3, [TEACHER] * 2, "must hold as many layers, got 3 and 2"),
        ([STUDENT] * 2, [TEACHER, TEACHER[:, :3]], "same number of channels in each.*4 and 3"),
        ([STUDENT] * 2, [TEACHER[:2]] * 2, "same samples, got 3 and 2"),
        ([STUDENT] * 2, [TEACHER, TEACHER[:2]], "teacher_features.* same samples, got 3 and 2"),
        ([STUDENT, STUDENT[..., 0]], [TEACHER] * 2, "student_features must have positions in as"),
        ([STUDENT, STUDENT.long()], [TEACHER] * 2, "student_features must be floating point"),
        ([STUDENT] * 2, [TEACHER, TEACHER[:, :, :0]], "teacher_features must have shape"),
    ],
)
def test_bad_features_are_named(student, teacher, told):
    with pytest.raises(ArgumentError, match=told):
        flow_loss(student, teacher)


def test_one_layer_is_no_flow():
    with pytest.raises(ArgumentTypeError, match="student_features must be a list"):
        flow_loss(STUDENT, TEACHER)
    with pytest.raises(ArgumentError, match="layers must name at least two, got"):
        Flow(["stage1"])
