"""Features of any shape: tokens, sequences, images, volumes and vectors."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdcourse.errors import ArgumentError
from kdcourse.feature import (
    AttentionTransfer,
    FeatureHint,
    Hint,
    attention_map,
    attention_transfer_loss,
)
from kdcourse.grid import interpolated, pooled
from kdcourse.methods.channel_wise import ChannelWise
from kdcourse.methods.neuron_selectivity import NeuronSelectivity
from kdcourse.objective import Lesson, Outputs
from kdcourse.relational import SimilarityPreserving, similarity_preserving_loss


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGE, OTHER = draw(3, 4, 6, 6, seed=1), draw(3, 5, 3, 3, seed=2)  # (N, C, H, W)
TOKENS, FEWER = (image.flatten(2).mT for image in (IMAGE, OTHER))  # (N, T, C)


def with_class_token(tokens):
    return torch.cat([100 * torch.ones_like(tokens[:, :1]), tokens], dim=1)


# Attention.


@pytest.mark.parametrize("shape", [(7,), (6, 6), (2, 3, 4)])
@pytest.mark.parametrize("power", [1, 2])
def test_a_map_has_a_column_for_every_position(shape, power):
    features = draw(3, 4, *shape)
    mean = features.abs().pow(power).mean(dim=1).flatten(1)
    expected = F.normalize(mean, dim=1)
    torch.testing.assert_close(attention_map(features, power), expected)
    last = features.movedim(1, -1)
    torch.testing.assert_close(attention_map(last, power, channel_dim=-1), expected)


def test_a_map_of_tokens_is_that_of_their_image_and_leaves_the_class_token_out():
    expected = attention_map(IMAGE)
    torch.testing.assert_close(attention_map(TOKENS, channel_dim=-1), expected)
    found = attention_map(with_class_token(TOKENS), channel_dim=-1, class_token=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("own", "theirs", "layout"),
    [
        (TOKENS, FEWER, {"channel_dim": -1}),
        (IMAGE, FEWER, {"channel_dim": (1, -1)}),
        (TOKENS, OTHER, {"channel_dim": (-1, 1)}),
        (IMAGE.movedim(1, -1), FEWER, {"channel_dim": -1}),
        (
            *(with_class_token(tokens) for tokens in (TOKENS, FEWER)),
            {"channel_dim": -1, "class_token": True},
        ),
        (
            IMAGE,
            with_class_token(FEWER),
            {"channel_dim": (1, -1), "class_token": (False, True)},
        ),
    ],
    ids=["tokens", "cnn from vit", "vit from cnn", "channels last", "class tokens", "one of them"],
)
def test_tokens_of_other_numbers_lie_on_a_square_grid(own, theirs, layout):
    expected = attention_transfer_loss(IMAGE, OTHER)
    torch.testing.assert_close(attention_transfer_loss(own, theirs, **layout), expected)
    shown = [Outputs(features={"x": one}) for one in (own, theirs)]
    lesson = Lesson(shown[0], torch.zeros(3, dtype=torch.int64), shown[1])
    torch.testing.assert_close(AttentionTransfer(["x"], **layout).loss(lesson), expected)


def test_as_many_tokens_need_no_grid():
    expected = attention_transfer_loss(TOKENS[:, :7].mT, draw(3, 7, 2).mT)
    value = attention_transfer_loss(TOKENS[:, :7], draw(3, 7, 2), channel_dim=-1)
    torch.testing.assert_close(value, expected)


def averages(features, dim, size):
    """Means over parts as long as each other, as many as ``size``."""
    return features.unflatten(dim, (size, -1)).mean(dim + 1)


def test_sequences_are_averaged_to_the_smaller_length():
    s, t = draw(2, 3, 6, seed=1), draw(2, 4, 3, seed=2)
    expected = attention_transfer_loss(averages(s, 2, 3), t)
    torch.testing.assert_close(attention_transfer_loss(s, t), expected)


def test_volumes_are_averaged_to_the_smaller_size_in_each_dimension():
    s, t = draw(2, 3, 4, 6, 2, seed=1), draw(2, 4, 2, 3, 4, seed=2)
    expected = attention_transfer_loss(averages(averages(s, 2, 2), 3, 3), averages(t, 4, 2))
    torch.testing.assert_close(attention_transfer_loss(s, t), expected)


# Hints.


@pytest.mark.parametrize(
    ("own", "theirs", "layout"),
    [
        ((8, 4), (8, 6), {}),
        ((8, 5, 4), (8, 5, 6), {"channel_dim": -1}),
        ((8, 4, 5), (8, 5, 6), {"channel_dim": (1, -1)}),
        ((8, 2, 3, 4), (8, 2, 3, 6), {"channel_dim": -1}),
        ((8, 4, 2, 3, 2), (8, 6, 2, 3, 2), {}),
    ],
    ids=["vectors", "tokens", "sequence from tokens", "channels last", "volumes"],
)
def test_a_hint_projects_every_position_alike(own, theirs, layout):
    student, teacher = draw(*own, seed=1), draw(*theirs, seed=2)
    term = FeatureHint("x", seed=0, **layout)
    shown = [Outputs(features={"x": one}) for one in (student, teacher)]
    lesson = Lesson(shown[0], torch.zeros(8, dtype=torch.int64), shown[1])
    term.prepare(lesson)
    sides = layout.get("channel_dim", 1)
    sides = sides if isinstance(sides, tuple) else (sides, sides)
    rows = [
        one.movedim(side, -1).flatten(0, -2)
        for one, side in zip((student, teacher), sides, strict=True)
    ]
    weight, bias = term.hint.projection.weight.flatten(1), term.hint.projection.bias
    expected = (rows[0] @ weight.T + bias - rows[1]).square().mean()
    torch.testing.assert_close(term.loss(lesson), expected)
    assert torch.autograd.gradcheck(lambda z: term.hint(z, teacher), student.requires_grad_())


@pytest.mark.parametrize("nonlinearity", ["none", "relu", "norm-relu"])
@pytest.mark.parametrize("shape", [(5,), (2, 2), (2, 2, 2)])
def test_a_hint_has_a_norm_of_its_dimensions(nonlinearity, shape):
    term = FeatureHint("x", nonlinearity=nonlinearity)
    shown = [Outputs(features={"x": draw(4, 3, *shape, seed=seed)}) for seed in (1, 2)]
    lesson = Lesson(shown[0], torch.zeros(4, dtype=torch.int64), shown[1])
    assert term.loss(lesson).isfinite()


def test_a_hint_between_tokens_of_other_numbers_is_that_between_their_images():
    image = Hint(4, 5, kernel_size=4).double()
    tokens = Hint(4, 5, kernel_size=4, channel_dim=(1, -1), class_token=(False, True)).double()
    tokens.load_state_dict(image.state_dict())
    value = tokens(IMAGE, with_class_token(FEWER))
    torch.testing.assert_close(value, image(IMAGE, OTHER))


# Interpolation and averages.


@pytest.mark.parametrize("size", [(3,), (12,), (6,)])
def test_a_sequence_is_interpolated_as_an_image_of_equal_columns(size):
    sequence = draw(2, 3, 6)
    image = sequence[:, :, :, None].expand(-1, -1, -1, 4)
    expected = interpolated(image, (*size, 4))[..., 0]
    torch.testing.assert_close(interpolated(sequence, size), expected)


@pytest.mark.parametrize("size", [(4, 6, 5), (2, 3, 4), (8, 3, 5)])
def test_a_volume_is_interpolated_along_each_dimension(size):
    volume = draw(2, 3, 4, 6, 5)
    expected = volume
    for dim, length in enumerate(size, start=2):
        rows = expected.movedim(dim, -1)
        lines = interpolated(rows.flatten(0, -2)[:, None], (length,))[:, 0]
        expected = lines.unflatten(0, rows.shape[:-1]).movedim(-1, dim)
    torch.testing.assert_close(interpolated(volume, size), expected)


@pytest.mark.parametrize("shape", [(7,), (6, 4), (5, 2, 4)])
def test_a_constant_stays_and_gradients_are_right(shape):
    for bridge in (pooled, interpolated):
        size = tuple(length // 2 + 1 for length in shape)
        constant = bridge(torch.ones(2, 3, *shape).double(), size)
        torch.testing.assert_close(constant, torch.ones(2, 3, *size).double())
        features = draw(2, 2, *shape).requires_grad_()
        assert torch.autograd.gradcheck(lambda z, b=bridge, s=size: b(z, s), features)


# Relations between samples.


def test_a_sample_of_tokens_is_the_whole_sequence():
    flat = similarity_preserving_loss(TOKENS.flatten(1), FEWER.flatten(1))
    assert torch.equal(similarity_preserving_loss(TOKENS, FEWER), flat)
    shown = [Outputs(features={"x": one}) for one in (TOKENS, FEWER)]
    lesson = Lesson(shown[0], torch.zeros(3, dtype=torch.int64), shown[1])
    assert torch.equal(SimilarityPreserving(["x"]).loss(lesson), flat)


# Bad calls.


@pytest.mark.parametrize(
    ("own", "theirs", "layout", "message"),
    [
        (TOKENS[:, 1:], FEWER, {}, r"student_features must have T = g² tokens, .* got 35; leave a"),
        (TOKENS, with_class_token(FEWER), {}, "teacher_features must have T = g² .* got 10; leave"),
        (TOKENS, FEWER, {"class_token": True}, "student_features .* got 35$"),
        (TOKENS, FEWER[:2], {}, "same samples, got 3 and 2"),
        (TOKENS[0], FEWER, {}, r"student_features must have shape \(N, T, C\)"),
        (TOKENS, FEWER, {"channel_dim": (1, -1)}, "positions in as many dimensions"),
        (TOKENS, FEWER, {"channel_dim": 2}, "channel_dim must be 1 .* or -1 .*, got int 2"),
        (TOKENS, FEWER, {"channel_dim": (1, 0)}, "channel_dim must be 1"),
        (TOKENS, FEWER, {"channel_dim": (-1, -1, -1)}, "channel_dim must be 1"),
        (TOKENS, FEWER, {"channel_dim": True}, "channel_dim must be 1"),
        (TOKENS, FEWER, {"class_token": 1}, "class_token must be True or False"),
        (TOKENS, FEWER, {"class_token": (True, None)}, "class_token must be True or False"),
        (IMAGE, FEWER, {"channel_dim": (1, -1), "class_token": True}, "^class_token needs at lea"),
        (TOKENS[:, :1], FEWER, {"class_token": True}, "^class_token needs at least two tokens"),
        (TOKENS[:, :1], FEWER[:, :1], {}, "more than one position"),
    ],
)
def test_bad_calls_are_named(own, theirs, layout, message):
    with pytest.raises((ArgumentError, TypeError), match=message):
        attention_transfer_loss(own, theirs, **{"channel_dim": -1, **layout})


def test_a_vector_has_no_map():
    with pytest.raises(ArgumentError, match=r"student_features must have shape .* got \(3, 4\)"):
        attention_transfer_loss(IMAGE[:, :, 0, 0], OTHER[:, :, 0, 0])


def test_a_hint_of_other_dimensions_is_named():
    with pytest.raises(ArgumentError, match=r"student_features must have positions in 2 dim"):
        Hint(4, 5)(TOKENS[:, :9].mT, FEWER.mT)
    with pytest.raises(ArgumentError, match="kernel_size must have 1 dimensions, got 2"):
        Hint(4, 5, kernel_size=(2, 2), dimensions=1)
    with pytest.raises(ArgumentError, match="dimensions must be an integer from 1 to 3"):
        Hint(4, 5, dimensions=4)
    assert isinstance(Hint(4, 5, dimensions=3).projection, nn.Conv3d)


@pytest.mark.parametrize(
    "term",
    [
        AttentionTransfer(["block"]),
        NeuronSelectivity(["block"]),
        ChannelWise("block"),
        FeatureHint("block"),
    ],
    ids=lambda term: term.name,
)
def test_tokens_that_are_read_as_channels_are_told(term):
    def learn(student, teacher):
        own, theirs = (Outputs(features={"block": torch.randn(*one)}) for one in (student, teacher))
        lesson = Lesson(own, torch.zeros(2, dtype=torch.int64), theirs)
        if not term.prepared:
            term.prepare(lesson)
        return term.loss(lesson)

    with pytest.warns(UserWarning, match="set channel_dim=-1"):
        learn((2, 10, 4), (2, 10, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn((2, 10, 6), (2, 10, 6))  # as sequences with as many channels may
