"""Predictions at places: tokens and pixels, masks and weights, in every loss on predictions."""

import math
from contextlib import suppress
from functools import partial
from itertools import product

import pytest
import test_hard_distillation
import test_logit as by_hand
import test_transformed_teacher
import torch
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version
from torch.nn import functional as F

from kdcourse import logit
from kdcourse.data import replay
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.methods.hard_distillation import hard_distillation_loss
from kdcourse.methods.transformed_teacher import ttm_loss
from kdcourse.predictions import counted_only, place_mean, place_rows, place_weights

K = 5
TAU = 2.0
SHAPES = {
    "samples": ((6, K), 1),
    "tokens": ((3, 4, K), -1),
    "tokens, classes first": ((3, K, 4), 1),
    "pixels": ((2, K, 2, 3), 1),
    "pixels, classes last": ((2, 2, 3, K), 3),
}
DTYPE = torch.float64


def drawn(*shape, seed=0):
    return 3 * torch.randn(shape, generator=replay(seed), dtype=DTYPE)


# Every loss as a function of student, teacher and target, with class_dim, mask and weight.


def of_probabilities(s, t, y, class_dim=1, **options):
    p = logit.softmax(t, class_dim=class_dim)
    return logit.kd_loss_from_probabilities(s, p, TAU, class_dim=class_dim, **options)


def standardized(s, t, y, class_dim=1, mask=None, weight=None):
    given = [one != 0 for one in (mask, weight) if one is not None]
    counted = torch.stack(given).all(dim=0) if given else None
    s, t = (logit.standardize(z, class_dim=class_dim, mask=counted) for z in (s, t))
    return logit.kd_loss(s, t, TAU, class_dim=class_dim, mask=mask, weight=weight)


def linear(s, t, y, class_dim=1, **options):
    """Hidden states that are logits: the projections are the identity."""
    s, t = (z.movedim(class_dim, -1) for z in (s, t))
    one, other = (torch.eye(K, dtype=s.dtype, device=s.device) for _ in range(2))
    return logit.linear_kd_loss(s, one, t, other, TAU, rows=4, **options)


def kd(divergence):
    return lambda s, t, y, **k: logit.kd_loss(s, t, TAU, divergence=divergence, **k)


def kd_in_chunks(divergence):
    loss = partial(logit.kd_loss, divergence=divergence)
    return lambda s, t, y, **k: logit.in_chunks(loss, s, t, rows=4, temperature=TAU, **k)


EVERY = {
    **{name: (kd(name), getattr(by_hand, f"naive_{name}")) for name in ("forward", "reverse")},
    "jensen-shannon": (kd("jensen-shannon"), by_hand.naive_jensen_shannon),
    "cross-entropy": (
        lambda s, t, y, **k: logit.kd_cross_entropy(s, t, TAU, **k),
        by_hand.naive_cross_entropy,
    ),
    "probabilities": (of_probabilities, by_hand.naive_forward),
    "decoupled": (
        lambda s, t, y, **k: logit.decoupled_kd_loss(s, t, y, temperature=TAU, **k),
        by_hand.naive_decoupled,
    ),
    "standardized": (standardized, "standardized"),
    "forward in chunks": (kd_in_chunks("forward"), by_hand.naive_forward),
    "reverse in chunks": (kd_in_chunks("reverse"), by_hand.naive_reverse),
    "jensen-shannon in chunks": (kd_in_chunks("jensen-shannon"), by_hand.naive_jensen_shannon),
    "decoupled in chunks": (
        lambda s, t, y, **k: logit.in_chunks(
            *(logit.decoupled_kd_loss, s, t, y), rows=4, temperature=TAU, **k
        ),
        by_hand.naive_decoupled,
    ),
    "linear": (linear, by_hand.naive_forward),
    "hard": (
        lambda s, t, y, **k: hard_distillation_loss(s, t, **k),
        test_hard_distillation.naive,
    ),
    "transformed": (
        lambda s, t, y, **k: ttm_loss(s, t, TAU, **k),
        test_transformed_teacher.naive,
    ),
    "transformed, weighted": (
        lambda s, t, y, **k: ttm_loss(s, t, TAU, weighted=True, **k),
        test_transformed_teacher.naive_weighted,
    ),
}
every_loss = pytest.mark.parametrize("name", EVERY)


def loss_of(name):
    return EVERY[name][0]


def example_of(shape, class_dim):
    """Student, teacher, target, mask and weight; some weights are zero, and all differ."""
    places = list(shape)
    del places[class_dim]
    target = torch.randint(K, places, generator=replay(2))
    mask = torch.rand(places, generator=replay(3)) < 0.6
    weight = torch.rand(places, generator=replay(4), dtype=DTYPE)
    weight = weight.masked_fill(weight < 0.2, 0)
    assert 0 < mask.sum() < mask.numel()
    return drawn(*shape), drawn(*shape, seed=1), target, mask, weight


def naive(definition, student, teacher, target, class_dim, mask=None, weight=None):
    """The definition: a loop over places."""
    total = weights = 0.0
    for index in product(*map(range, target.shape)):
        at = list(index)
        at.insert(class_dim % student.dim(), slice(None))
        s, t = (z[tuple(at)].tolist() for z in (student, teacher))
        w = 1.0 if weight is None else weight[index].item()
        w = w if mask is None or mask[index] else 0.0
        if w == 0:
            continue
        if definition is by_hand.naive_decoupled:
            value = definition(s, t, TAU, target[index].item())
        elif definition == "standardized":
            value = by_hand.naive_forward(*map(by_hand.naive_standardize, (s, t)), TAU)
        else:
            value = definition(s, t, TAU)
        total, weights = total + w * value, weights + w
    return total / weights


def value_and_gradient(loss, student, *others, **options):
    student = student.clone().requires_grad_()
    value = loss(student, *others, **options)
    return value.detach(), torch.autograd.grad(value, student)[0]


@every_loss
@pytest.mark.parametrize(("shape", "class_dim"), SHAPES.values(), ids=SHAPES)
def test_equals_a_loop_over_places(name, shape, class_dim):
    loss, definition = EVERY[name]
    *inputs, mask, weight = example_of(shape, class_dim)
    for counting in ({}, {"mask": mask}, {"weight": weight}, {"mask": mask, "weight": weight}):
        expected = naive(definition, *inputs, class_dim, **counting)
        value = loss(*inputs, class_dim=class_dim, **counting)
        assert value.shape == ()
        assert value.item() == pytest.approx(expected, rel=1e-9), list(counting)


@every_loss
@pytest.mark.parametrize("shape", ["samples", "tokens", "pixels"])
def test_gradient_is_right(name, shape):
    shape, class_dim = SHAPES[shape]
    s, t, y, mask, weight = example_of(shape, class_dim)
    loss = partial(loss_of(name), class_dim=class_dim, mask=mask, weight=weight)
    assert torch.autograd.gradcheck(lambda z: loss(z, t, y), s.requires_grad_())


@every_loss
@pytest.mark.parametrize("left_out_by", ["mask", "weight"])
@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf, 1e300])
def test_what_does_not_count_may_hold_anything(name, left_out_by, padding):
    s, t, y, mask, _ = example_of(*SHAPES["tokens"])
    loss = partial(loss_of(name), class_dim=-1, **{left_out_by: mask.double()})
    expected = value_and_gradient(loss, s, t, y)
    out = ~mask[..., None]
    s, t = s.masked_fill(out, padding), t.masked_fill(out, padding)
    found = value_and_gradient(loss, s, t, y.masked_fill(~mask, -100))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    assert found[1][~mask].abs().max() == 0
    assert found[1][mask].abs().min() > 0


@every_loss
def test_weights_of_what_is_masked_may_be_anything_too(name):
    s, t, y, mask, weight = example_of(*SHAPES["tokens"])
    loss = partial(loss_of(name), s, t, y, class_dim=-1)
    expected = loss(mask=mask, weight=weight)
    if name == "standardized":  # whose mask is made of both, by the test
        weight = weight.masked_fill(~mask, 7.0)
    else:
        weight = weight.masked_fill(~mask, math.nan)
    torch.testing.assert_close(loss(mask=mask, weight=weight), expected)


@every_loss
@pytest.mark.parametrize("counting", ["mask", "weight"])
def test_where_nothing_counts_loss_and_gradient_are_zero(name, counting):
    s, t, y, mask, _ = example_of(*SHAPES["tokens"])
    nothing = {counting: torch.zeros_like(mask, dtype=DTYPE)}
    for padding in (0.0, math.nan):
        s, t = torch.full_like(s, padding), torch.full_like(t, padding)
        value, gradient = value_and_gradient(loss_of(name), s, t, y, class_dim=-1, **nothing)
        assert value == 0
        assert gradient.abs().max() == 0


@every_loss
def test_nan_at_a_place_that_counts_is_not_hidden(name):
    s, t, y, mask, _ = example_of(*SHAPES["tokens"])
    mask[1, 2] = True
    for broken in (s, t):
        kept, broken[1, 2, 3] = broken[1, 2, 3].item(), math.nan
        with suppress(ArgumentError):  # NaN is no probability
            assert loss_of(name)(s, t, y, class_dim=-1, mask=mask).isnan()
        broken[1, 2, 3] = kept


# Properties.


@every_loss
@given(seed=st.integers(0, 99))
def test_the_order_of_places_does_not_matter(name, seed):
    s, t, y, mask, weight = example_of(*SHAPES["samples"])
    value = loss_of(name)(s, t, y, mask=mask, weight=weight)
    order = torch.randperm(len(y), generator=replay(seed))
    s, t, y, mask, weight = (z[order] for z in (s, t, y, mask, weight))
    torch.testing.assert_close(loss_of(name)(s, t, y, mask=mask, weight=weight), value)


@every_loss
@given(factor=st.floats(1e-20, 1e20))
def test_only_ratios_of_weights_matter(name, factor):
    s, t, y, _, weight = example_of(*SHAPES["tokens"])
    loss = partial(loss_of(name), class_dim=-1)
    found = value_and_gradient(loss, s, t, y, weight=factor * weight)
    expected = value_and_gradient(loss, s, t, y, weight=weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@every_loss
@given(times=st.lists(st.integers(0, 3), min_size=6, max_size=6).filter(any))
def test_a_weight_of_k_is_the_place_k_times(name, times):
    s, t, y, _, _ = example_of(*SHAPES["samples"])
    times = torch.tensor(times)
    value = loss_of(name)(s, t, y, weight=times)
    repeated = (z.repeat_interleave(times, dim=0) for z in (s, t, y))
    torch.testing.assert_close(loss_of(name)(*repeated), value)


@every_loss
def test_all_layouts_say_the_same(name):
    s, t, y, mask, weight = example_of(*SHAPES["tokens"])
    loss = loss_of(name)
    value, gradient = value_and_gradient(loss, s, t, y, class_dim=-1, mask=mask, weight=weight)
    first = [z.movedim(-1, 1) for z in (s, t)]
    flat = [z.flatten(0, 1) for z in (s, t, y, mask, weight)]
    found = value_and_gradient(loss, *first, y, class_dim=1, mask=mask, weight=weight)
    torch.testing.assert_close(found, (value, gradient.movedim(-1, 1)))
    found = value_and_gradient(loss, *flat[:3], mask=flat[3], weight=flat[4])
    torch.testing.assert_close(found, (value, gradient.flatten(0, 1)))


@every_loss
def test_a_mask_says_the_same_in_every_dtype(name):
    s, t, y, mask, _ = example_of(*SHAPES["tokens"])
    loss = partial(loss_of(name), s, t, y, class_dim=-1)
    expected = loss(mask=mask)
    for dtype in (torch.int64, torch.uint8, torch.float32, torch.bfloat16):
        assert loss(mask=mask.to(dtype)) == expected


def test_the_mean_is_one_over_the_batch_and_not_of_means():
    """The classic fault: parts that count 5 and 1 places, each with a mean of its own."""
    s, t, *_ = example_of((2, 5, K), -1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    each = [
        logit.kd_loss(s[n : n + 1], t[n : n + 1], class_dim=-1, mask=mask[n : n + 1])
        for n in (0, 1)
    ]
    whole = logit.kd_loss(s, t, class_dim=-1, mask=mask)
    torch.testing.assert_close(whole, (5 * each[0] + each[1]) / 6)
    chunked = logit.in_chunks(logit.kd_loss, s, t, rows=5, class_dim=-1, mask=mask)
    torch.testing.assert_close(chunked, whole)


# ignore_index, and second opinions.


@pytest.mark.parametrize("loss", ["decoupled", "decoupled in chunks"])
@pytest.mark.parametrize("ignored", [-100, -1, 2])
def test_ignored_targets_are_masked(loss, ignored):
    s, t, y, mask, weight = example_of(*SHAPES["pixels"])
    y = y.masked_fill(~mask, ignored)
    found, expected = (
        loss_of(loss)(s, t, y, weight=weight, **options)
        for options in ({"ignore_index": ignored}, {"mask": y != ignored})
    )
    torch.testing.assert_close(found, expected)
    s[:, :, 0, 0], y[:, 0, 0] = math.nan, ignored
    assert loss_of(loss)(s, t, y, ignore_index=ignored).isfinite()


@pytest.mark.parametrize(("shape", "class_dim"), [((6, K), 1), ((2, K, 2, 3), 1)])
def test_a_certain_teacher_is_cross_entropy_of_torch_with_ignored_targets(shape, class_dim):
    s, _, y, mask, _ = example_of(shape, class_dim)
    certain = 1e4 * F.one_hot(y, K).movedim(-1, class_dim).double()
    found = value_and_gradient(
        *(logit.kd_cross_entropy, s, certain, 1.0), class_dim=class_dim, mask=mask
    )
    ignoring = partial(F.cross_entropy, ignore_index=-100)
    expected = value_and_gradient(ignoring, s, y.masked_fill(~mask, -100))
    torch.testing.assert_close(found, expected)


def test_agrees_with_torchs_kl_of_the_places_that_are_selected():
    s, t, _, mask, _ = example_of(*SHAPES["tokens"])
    log_p, p = (s[mask] / TAU).log_softmax(1), (t[mask] / TAU).softmax(1)
    expected = TAU**2 * F.kl_div(log_p, p, reduction="batchmean")
    found = logit.kd_loss(s, t, TAU, class_dim=-1, mask=mask)
    torch.testing.assert_close(found, expected)


def test_softmax_and_standardize_along_any_dimension():
    for shape, class_dim in SHAPES.values():
        z = drawn(*shape)
        torch.testing.assert_close(
            logit.softmax(z, TAU, class_dim=class_dim), (z / TAU).softmax(class_dim)
        )
        mean, deviation = (
            z.mean(class_dim, keepdim=True),
            z.std(class_dim, keepdim=True, correction=0),
        )
        expected = (z - mean) / deviation / TAU
        torch.testing.assert_close(logit.standardize(z, TAU, class_dim=class_dim), expected)


# The mechanism, as terms use it.


def test_rows_weights_and_their_mean_make_any_loss():
    s, _, y, mask, weight = example_of(*SHAPES["pixels"])
    y = y.masked_fill(~mask, -1)
    weights = place_weights(s, weight=weight, target=y, ignore_index=-1)
    rows, target = (counted_only(z, weights) for z in (place_rows(s), y.flatten()))
    found = place_mean(F.cross_entropy(rows, target, reduction="none"), weights)
    each = F.cross_entropy(s, y, ignore_index=-1, reduction="none") * weight
    torch.testing.assert_close(found, each.sum() / (weight * mask).sum())


def test_classes_that_come_last_are_not_copied():
    tokens = drawn(3, 4, K)
    assert place_rows(tokens, -1).data_ptr() == tokens.data_ptr()
    matrix = drawn(6, K)
    assert place_rows(matrix) is matrix
    assert place_weights(matrix) is None
    assert counted_only(matrix, None) is matrix


def test_weights_get_no_gradient():
    s, t, _, _, weight = example_of(*SHAPES["samples"])
    weight.requires_grad_()
    logit.kd_loss(s.requires_grad_(), t, weight=weight).backward()
    assert weight.grad is None


@pytest.mark.parametrize("divergence", logit.DIVERGENCES)
def test_float16_in_chunks_keeps_its_precision_where_one_place_of_many_counts(divergence):
    s, t = (drawn(4096, K, seed=seed) for seed in (0, 1))
    weight = torch.zeros(4096)
    weight[7] = 1e4
    options = {"weight": weight, "divergence": divergence}
    chunked = partial(logit.in_chunks, logit.kd_loss, rows=1000)
    _, found = value_and_gradient(chunked, s.half(), t.half(), **options)
    _, expected = value_and_gradient(logit.kd_loss, s.half(), t.half(), **options)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-5)


# For the tests of every loss.

COUNTED = [[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 1, 1]]
TARGETS = [[0, 4, -1, 2], [1, -1, -1, 3], [-1, 2, 2, 0]]


def with_mask(loss):
    return lambda s, t: loss(s, t, class_dim=-1, mask=torch.tensor(COUNTED, device=s.device))


LOSSES = {
    "tokens": with_mask(logit.kd_loss),
    "reversed": with_mask(partial(logit.kd_loss, divergence="reverse")),
    "weighed": lambda s, t: logit.kd_loss(
        *(s, t), class_dim=1, weight=torch.ones(3, K, device=s.device).cumsum(0)
    ),
    "standardized": lambda s, t: with_mask(logit.kd_loss)(
        *(with_mask(lambda z, _, **k: logit.standardize(z, **k))(z, z) for z in (s, t))
    ),
    "ignored": lambda s, t: logit.decoupled_kd_loss(
        *(s, t, torch.tensor(TARGETS, device=s.device)), class_dim=-1, ignore_index=-1
    ),
}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return drawn(3, 4, K), drawn(3, 4, K, seed=1)


CHUNKED = ["forward in chunks", "decoupled in chunks", "linear"]  # which vmap does not reach


@pytest.mark.parametrize("name", ["forward in chunks", "linear"])
def test_chunks_compile_in_one_graph(name):
    if name == "forward in chunks" and Version(torch.__version__) < Version("2.7"):
        pytest.skip("compiling, this torch cannot look into a partial")
    torch.compiler.reset()
    s, t, y, mask, weight = example_of(*SHAPES["tokens"])
    loss = partial(loss_of(name), class_dim=-1, mask=mask, weight=weight)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = value_and_gradient(compiled, s, t, y)
    torch.testing.assert_close(found, value_and_gradient(loss, s, t, y))


@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_in_half_precision_and_on_every_device_there_is(name, device):
    s, t, y, mask, weight = example_of(*SHAPES["tokens"])
    s, t, y, mask, weight = (z.to(device) for z in (s.half(), t.half(), y, mask, weight))
    expected = value_and_gradient(loss_of(name), s.float(), t.float(), y, class_dim=-1, mask=mask)
    s, t = (z.masked_fill(~mask[..., None], math.nan) for z in (s, t))
    value, gradient = value_and_gradient(loss_of(name), s, t, y, class_dim=-1, mask=mask)
    assert (value.dtype, gradient.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close((value, gradient.float()), expected, rtol=1e-2, atol=1e-3)


# Bad input.

S, T, Y, MASK, WEIGHT = example_of(*SHAPES["tokens"])
CALLS = {
    **{name: partial(loss_of(name), S, T, Y) for name in EVERY if name != "standardized"},
    "standardize": partial(logit.standardize, S),
    "softmax": partial(logit.softmax, S),
}
BAD = {
    "mask": [
        (MASK[0], r"have shape \(3, 4\), one entry a place"),
        (MASK[..., None], r"have shape \(3, 4\).* got \(3, 4, 1\)"),
        (MASK.to(torch.complex64), "be bool, integer or floating point"),
        (MASK * 2, "hold 0 and 1 only"),
        (torch.where(MASK, 0.0, -math.inf), "hold 0 and 1 only"),
        (MASK.tolist(), "be a dense torch.Tensor"),
        (MASK.to("meta"), "be on the same device"),
    ],
    "weight": [
        (WEIGHT.T, r"have shape \(3, 4\)"),
        (WEIGHT.flatten(), r"have shape \(3, 4\)"),
        (-WEIGHT, "be ≥ 0 and finite, got from -0.8"),
        (WEIGHT * math.nan, "be ≥ 0 and finite"),
        (WEIGHT + math.inf, "be ≥ 0 and finite"),
        (WEIGHT.to(torch.complex64), "be bool, integer or floating"),
        (0.5, "be a dense torch.Tensor"),
    ],
    "class_dim": [
        (3, "be an integer from -2 to 2, got 3"),
        (-3, "be an integer from -2 to 2, got -3"),
        (0, "not be 0, the samples, where .* is"),
        *((value, "be an integer") for value in (1.0, "1", None, True)),
    ],
}
WITHOUT = {"softmax": {"mask", "weight"}, "standardize": {"weight"}, "linear": {"class_dim"}}


@pytest.mark.parametrize("argument", BAD)
@pytest.mark.parametrize("name", CALLS)
def test_bad_arguments_are_named(name, argument):
    if argument in WITHOUT.get(name, ()):
        with pytest.raises(TypeError, match=argument):
            getattr(logit, name, logit.linear_kd_loss)(S, **{argument: None})
        return
    for value, words in BAD[argument]:
        with pytest.raises((ArgumentError, ArgumentTypeError), match=f"^{argument} .*{words}"):
            CALLS[name](**{"class_dim": -1, argument: value})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: logit.kd_loss(S[..., :1], T[..., :1], class_dim=-1),
            "student_logits must have at",
        ),
        (lambda: logit.kd_loss(S[:, :0], T, class_dim=-1), "student_logits must hold at least one"),
        (lambda: logit.kd_loss(S.long(), T, class_dim=-1), "student_logits must be floating point"),
        (
            lambda: logit.kd_loss(S, T[:, 1:], class_dim=-1),
            "student_logits and teacher_logits must",
        ),
        (lambda: logit.decoupled_kd_loss(S, T, Y[0]), r"target must have shape \(3, 5\)"),
        (
            lambda: logit.decoupled_kd_loss(S, T, Y - 1, class_dim=-1, ignore_index=-100),
            r"target must lie in \[0, 5\)",
        ),
        (
            lambda: logit.decoupled_kd_loss(S, T, Y, class_dim=-1, ignore_index=0.5),
            "ignore_index must be an integer",
        ),
        (
            lambda: logit.kd_loss_from_probabilities(S, T.softmax(1), class_dim=-1),
            "each row of teacher_probabilities must sum to one",
        ),
        (
            lambda: logit.in_chunks(F.cross_entropy, S[:, 0], Y[:, 0], ignore_index=-1),
            "loss must take mask, where ignore_index is given",
        ),
        (
            lambda: logit.in_chunks(F.cross_entropy, S[:, 0], Y[:, 0], weight=torch.ones(K)),
            "loss must take mask, where weight is given",
        ),
        (
            lambda: logit.in_chunks(logit.kd_loss, S, T, class_dim=-1, ignore_index=-1),
            "loss must take ignore_index",
        ),
        (
            lambda: logit.in_chunks(logit.decoupled_kd_loss, S, T, Y[:, 1:], class_dim=-1),
            r"others must have shape \(3, 4\)",
        ),
        (
            lambda: logit.linear_kd_loss(S, torch.eye(K).double(), T[:, 1:], torch.eye(K).double()),
            r"student_hidden and teacher_hidden must hold the same places, got \(3, 4\) and",
        ),
    ],
)
def test_other_bad_calls_are_named(call, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        call()
