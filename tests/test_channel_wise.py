"""Where each channel is active."""

import math

import pytest
import torch
from toys import net, train

from kdcourse.errors import ArgumentError
from kdcourse.feature import Hint
from kdcourse.methods.channel_wise import ChannelWise, channel_wise_loss
from kdcourse.objective import Lesson, Outputs

LOSSES = {"channel-wise": channel_wise_loss}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(3, 2, 2, 3, seed=1), 2 * draw(3, 2, 2, 3, seed=2)


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


def naive(student, teacher, temperature):
    """One channel after the other, by the definition of KL."""
    total, channels = 0.0, [*zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True)]
    for s, t in channels:
        p, q = ([math.exp(a / temperature) for a in x.flatten().tolist()] for x in (t, s))
        p, q = ([a / math.fsum(x) for a in x] for x in (p, q))
        total += math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(channels)


@pytest.mark.parametrize("temperature", [1, 4])
def test_equals_the_definition(temperature):
    value = channel_wise_loss(STUDENT, TEACHER, temperature)
    assert value.item() == pytest.approx(naive(STUDENT, TEACHER, temperature), rel=1e-12)


def test_equals_the_authors_form():
    """The sum of all rows, divided by channels and samples."""
    rows = [(x.reshape(-1, 6) / 4).log_softmax(dim=1) for x in (TEACHER, STUDENT)]
    theirs = (rows[0].exp() * (rows[0] - rows[1])).sum() * 4**2 / (2 * 3)
    torch.testing.assert_close(channel_wise_loss(STUDENT, TEACHER), theirs)


def test_what_is_added_to_a_channel_changes_nothing():
    shifted = STUDENT + draw(3, 2, 1, 1)
    torch.testing.assert_close(
        channel_wise_loss(shifted, TEACHER), channel_wise_loss(STUDENT, TEACHER)
    )
    assert channel_wise_loss(TEACHER + 1, TEACHER).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (STUDENT[:, :1], TEACHER, "same shape"),
        (STUDENT[..., :2], TEACHER, "same shape"),
        (STUDENT[..., :1, :1], TEACHER[..., :1, :1], "at least two positions"),
        (STUDENT[:, 0, 0], TEACHER[:, 0, 0], "at least two positions"),
        (STUDENT[:2], TEACHER, "same number of samples|samples"),
    ],
)
def test_what_does_not_fit_is_refused(student, teacher, message):
    with pytest.raises(ArgumentError, match=message):
        channel_wise_loss(student, teacher)


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-12, 1e12, float("nan")])
def test_the_term_refuses_the_temperatures_that_the_loss_refuses(temperature):
    for call in (lambda t: channel_wise_loss(STUDENT, TEACHER, t), lambda t: ChannelWise("a", t)):
        with pytest.raises(ArgumentError, match=r"temperature must be (a )?finite"):
            call(temperature)


def lesson(student, teacher):
    shown = [Outputs(features={"maps": x}) for x in (student, teacher)]
    return Lesson(shown[0], torch.zeros(len(student), dtype=torch.int64), shown[1])


def test_the_term_needs_no_projection_where_the_channels_agree():
    term = ChannelWise("maps")
    assert term.loss(lesson(STUDENT, TEACHER)) == channel_wise_loss(STUDENT, TEACHER)
    assert list(term.parameters()) == []
    small = torch.nn.functional.avg_pool2d(STUDENT, (1, 3))
    assert term.loss(lesson(small, TEACHER)).isfinite()


def test_the_term_projects_where_they_differ_or_as_it_is_told():
    term = ChannelWise("maps", temperature=2, seed=3)
    wide = draw(3, 5, 2, 3)
    value = term.loss(lesson(STUDENT, wide))
    projected = term.hint.projection(STUDENT)
    torch.testing.assert_close(value, channel_wise_loss(projected, wide, 2))
    assert sum(weight.numel() for weight in term.parameters()) == 2 * 5 + 5
    given = ChannelWise("maps", hint=Hint(2, 2).double())
    assert len(list(given.parameters())) == 2
    assert given.loss(lesson(STUDENT, TEACHER)) != channel_wise_loss(STUDENT, TEACHER)


def test_tokens_are_taken_with_their_channels_last():
    tokens = [x.flatten(2).mT for x in (STUDENT, TEACHER)]
    value = ChannelWise("maps", channel_dim=-1).loss(lesson(*tokens))
    torch.testing.assert_close(value, channel_wise_loss(STUDENT, TEACHER))


def test_a_student_learns_by_it():
    history = train(net(), ChannelWise("stage2"), teacher=net(4, seed=2), epochs=3)
    values = history["channel_wise"]
    assert values[-1] < values[0]


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        (Hint(3, 8), "student_features must have 3 channels, got 4"),
        (Hint(4, 7), "teacher_features must have 7 channels, got 8"),
        (Hint(4, 8, kernel_size=7), "student_features must be at least as large as the kernel"),
        (Hint(4, 8, dimensions=1), "student_features must have positions in 1 dimension"),
    ],
)
def test_a_hint_that_does_not_fit_is_refused_by_what_does_not(hint, told):
    features = [Outputs(features={"map": torch.zeros(2, c, 3, 3)}) for c in (4, 8)]
    lesson = Lesson(features[0], torch.zeros(2, dtype=torch.int64), features[1])
    with pytest.raises(ArgumentError, match=told):
        ChannelWise("map", hint=hint).loss(lesson)
