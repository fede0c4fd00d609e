import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torchdistill.losses import mid_level

from kdcourse import feature
from kdcourse.feature import FeatureHint
from kdcourse.objective import Lesson, Outputs

SHAPE = (4, 5, 3, 4)  # N, C, H, W


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


STUDENT, TEACHER = draw(*SHAPE, seed=1), draw(4, 2, 3, 4, seed=2)
GRADIENT, TEACHERS_GRADIENT = draw(4, 2, 6, 6, seed=3), draw(4, 2, 6, 6, seed=4)


def tokens(features):
    """Lay an image out as tokens (N, T, C)."""
    return features.flatten(2).mT if hasattr(features, "mT") else features


LOSSES = {
    "attention": lambda s, t, **k: feature.attention_transfer_loss(s, t, **k),
    "attention, squared": lambda s, t, **k: feature.attention_transfer_loss(
        s, t, squared=True, **k
    ),
    "attention, power 1": lambda s, t: feature.attention_transfer_loss(s, t, 1),
    "attention, power 3.5": lambda s, t: feature.attention_transfer_loss(s, t, 3.5),
    "attention, tokens": lambda s, t: feature.attention_transfer_loss(
        tokens(s), tokens(t), channel_dim=-1
    ),
    "saliency": feature.saliency_loss,
}
ATTENTION = [name for name in LOSSES if name != "saliency"]
every_loss = pytest.mark.parametrize("name", LOSSES)


def example(name):
    """Student and teacher of a loss, here and for the tests of every loss."""
    return (GRADIENT, TEACHERS_GRADIENT) if name == "saliency" else (STUDENT, TEACHER)


# Naive definitions, one number at a time, in Python's own floats.


def unit(values):
    norm = math.sqrt(math.fsum(v * v for v in values))
    return [v / norm if norm else 0.0 for v in values]


def naive_map(features, power):
    channels, height, width = features.shape
    return unit(
        [
            math.fsum(abs(float(features[c, h, w])) ** power for c in range(channels)) / channels
            for h in range(height)
            for w in range(width)
        ]
    )


def naive_loss(name, s, t):
    power = {"attention, power 1": 1, "attention, power 3.5": 3.5}.get(name, 2)
    norms, squares = [], []
    for a, b in zip(s, t, strict=True):
        if name == "saliency":
            u, v = unit(a.flatten().tolist()), unit(b.flatten().tolist())
        else:
            u, v = naive_map(a, power), naive_map(b, power)
        square = [(x - y) ** 2 for x, y in zip(u, v, strict=True)]
        norms.append(math.sqrt(math.fsum(square)))
        squares += square
    values = squares if name == "attention, squared" else norms
    return math.fsum(values) / len(values)


def with_duplicates(z):
    z = z.clone()
    z[2] = z[0]
    return z


CASES = {
    "plain": lambda z: z,
    "after ReLU": lambda z: z.relu(),
    "at an offset of 1000": lambda z: z + 1000,
    "duplicates": with_duplicates,
    "large": lambda z: 1e4 * z,
    "small": lambda z: 1e-5 * z,
}


@every_loss
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_equals_the_naive_definition(name, case, dtype, rel):
    s, t = (CASES[case](z.to(dtype)) for z in example(name))
    value = LOSSES[name](s, t)
    assert value.shape == ()
    assert value.dtype == dtype
    assert value.item() == pytest.approx(naive_loss(name, s.double(), t.double()), rel=rel)


@pytest.mark.parametrize("power", [0.5, 1, 2, 4])
def test_attention_map_equals_its_definition(power):
    maps = feature.attention_map(STUDENT, power)
    assert maps.shape == (4, 12)
    for n, features in enumerate(STUDENT):
        assert maps[n].tolist() == pytest.approx(naive_map(features, power), rel=1e-9)
    assert torch.allclose(maps.norm(dim=1), torch.ones(4).double())
    assert torch.autograd.gradcheck(
        lambda z: feature.attention_map(z, power), STUDENT.clone().requires_grad_()
    )


def benchmark_map(features, power):
    """The map without absolute values: values of opposite sign cancel where the power is odd."""
    channels, height, width = features.shape
    return unit(
        [
            math.fsum(float(features[c, h, w]) ** power for c in range(channels)) / channels
            for h in range(height)
            for w in range(width)
        ]
    )


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_sign_of_a_feature_does_not_count_though_it_does_in_the_benchmarks_code(power):
    for n, (signed, relu) in enumerate(zip(STUDENT, STUDENT.relu(), strict=True)):
        ours, behind_relu = (
            feature.attention_map(z, power)[n].tolist() for z in (STUDENT, STUDENT.relu())
        )
        assert behind_relu == pytest.approx(benchmark_map(relu, power), rel=1e-12)
        assert min(ours) >= 0
        if power == 2:
            assert ours == pytest.approx(benchmark_map(signed, power), rel=1e-12)
        else:
            assert min(benchmark_map(signed, power)) < 0


def test_a_larger_power_attends_more_to_the_strongest():
    sharpness = [feature.attention_map(STUDENT, p).amax(dim=1).mean() for p in (1, 2, 4, 8)]
    assert sharpness == sorted(sharpness)


@every_loss
def test_zero_at_equality_and_above_zero_elsewhere(name):
    t = example(name)[1]
    s = t.clone().requires_grad_()
    value = LOSSES[name](s, t)
    assert value.item() == 0
    assert torch.autograd.grad(value, s)[0].isfinite().all()
    assert LOSSES[name](*example(name)) > 1e-3


@every_loss
def test_scale_does_not_matter(name):
    s, t = example(name)
    expected = LOSSES[name](s, t).item()
    assert LOSSES[name](7 * s, t / 3).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ATTENTION)
def test_the_order_of_channels_and_their_signs_do_not_matter(name):
    expected = LOSSES[name](STUDENT, TEACHER).item()
    assert LOSSES[name](-STUDENT.flip(1), TEACHER).item() == pytest.approx(expected, rel=1e-12)


def test_the_two_conventions_are_related_by_the_size_of_the_map():
    s, t = STUDENT[:1], TEACHER[:1]
    norm, squared = LOSSES["attention"](s, t), LOSSES["attention, squared"](s, t)
    assert squared.item() == pytest.approx(norm.item() ** 2 / 12, rel=1e-12)


@pytest.mark.parametrize(
    ("student", "teacher", "size"),
    [((6, 8), (3, 4), (3, 4)), ((3, 4), (6, 8), (3, 4)), ((6, 4), (3, 8), (3, 4))],
)
@pytest.mark.parametrize("squared", [False, True])
def test_the_larger_map_is_pooled_to_the_smaller(student, teacher, size, squared):
    s, t = draw(2, 5, *student, seed=1), draw(2, 3, *teacher, seed=2)
    pooled = [F.adaptive_avg_pool2d(z, size) for z in (s, t)]
    value = feature.attention_transfer_loss(s, t, squared=squared)
    expected = feature.attention_transfer_loss(*pooled, squared=squared)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


# Degenerate input.


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0, 6e4])
def test_zero_and_large_input_in_half_precision(name, dtype, scale):
    s, t = (z.tanh().to(dtype) * scale for z in example(name))
    for teacher in (t, torch.zeros_like(t)):
        z = s.clone().requires_grad_()
        value = LOSSES[name](z, teacher)
        value.backward()
        assert value.isfinite()
        assert z.grad.isfinite().all()


@pytest.mark.parametrize("power", [0.5, 1, 2, 3])
def test_a_zero_map_is_zeros_beside_others_that_are_not(power):
    s = STUDENT.float().clone()
    s[1] = 0
    s[2] *= 1e4
    s.requires_grad_()
    maps = feature.attention_map(s, power)
    assert torch.equal(maps[1], torch.zeros(12))
    assert maps[2].norm().item() == pytest.approx(1)
    (maps @ torch.arange(12.0)).sum().backward()
    assert s.grad.isfinite().all()


def test_what_tells_positions_apart_is_not_lost_at_a_large_offset():
    s, t = ((z + 1e5).float() for z in (STUDENT, TEACHER))
    value = feature.attention_transfer_loss(s, t, 1).item()
    expected = naive_loss("attention, power 1", s.double(), t.double())
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 2.0**40])  # a gradient scaler's, times a large weight
@every_loss
def test_zeros_get_no_gradient_and_leave_that_of_others_as_it_is(name, scale):
    student, teacher = (z.float() for z in example(name))
    student[1] = 0
    s, rest = student.clone().requires_grad_(), student[[0, 2, 3]].requires_grad_()
    (scale * LOSSES[name](s, teacher)).backward()
    (0.75 * scale * LOSSES[name](rest, teacher[[0, 2, 3]])).backward()
    assert torch.equal(s.grad[1], torch.zeros_like(s.grad[1]))
    assert torch.allclose(s.grad[[0, 2, 3]], rest.grad, rtol=1e-4, atol=1e-6 * scale)


def test_a_student_that_says_nothing_gets_finite_gradients_through_its_saliency():
    student = net()
    nn.init.zeros_(student[-1].weight)
    gradient = feature.input_gradient(student, INPUTS, TARGET, create_graph=True)
    assert gradient.abs().max() == 0
    (2.0**40 * feature.saliency_loss(gradient, torch.ones_like(gradient))).backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in student.parameters())


def test_tiny_gradients_of_a_sure_teacher_still_count():
    tiny = (1e-30 * TEACHERS_GRADIENT).float()
    expected = feature.saliency_loss(GRADIENT, TEACHERS_GRADIENT).item()
    value = feature.saliency_loss(GRADIENT.float(), tiny)
    assert value.item() == pytest.approx(expected, rel=1e-5)


# Hints.


def test_hint_is_a_projection_and_the_mean_squared_error():
    hint = feature.Hint(5, 2).double()
    value = hint(STUDENT, TEACHER)
    weight, bias = hint.projection.weight[:, :, 0, 0], hint.projection.bias
    projected = torch.einsum("nchw,dc->ndhw", STUDENT, weight) + bias[None, :, None, None]
    assert value.item() == pytest.approx((projected - TEACHER).square().mean().item(), rel=1e-12)


def test_hint_trains_student_and_projection_but_not_the_teacher():
    hint = feature.Hint(5, 2).double()
    s, t = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    hint(s, t).backward()
    assert t.grad is None
    assert s.grad.abs().max() > 0
    assert all(p.grad.abs().max() > 0 for p in hint.parameters())
    assert torch.autograd.gradcheck(lambda z: hint(z, TEACHER), s)


@pytest.mark.parametrize(
    ("student", "kernel", "teacher"),
    [((7, 7), 4, (4, 4)), ((7, 7), 1, (4, 4)), ((4, 4), 1, (7, 7)), ((6, 8), (3, 1), (4, 8))],
)
def test_hints_of_other_sizes(student, kernel, teacher):
    hint = feature.Hint(5, 3, kernel_size=kernel).double()
    s, t = draw(2, 5, *student, seed=1).requires_grad_(), draw(2, 3, *teacher, seed=2)
    assert hint.project(s, teacher).shape == (2, 3, *teacher)
    assert torch.autograd.gradcheck(lambda z: hint(z, t), s)


def test_fitnets_kernel_gives_the_teachers_size_without_interpolation():
    hint = feature.Hint(5, 3, kernel_size=7 - 4 + 1)
    s, t = draw(2, 5, 7, 7, dtype=torch.float32), draw(2, 3, 4, 4, dtype=torch.float32)
    assert torch.equal(hint.project(s, (4, 4)), hint.projection(s))
    assert hint(s, t).item() == pytest.approx(F.mse_loss(hint.projection(s), t).item())


@pytest.mark.parametrize(
    ("size", "weights"),
    [  # between centres of pixels; where it shrinks, by a triangle as wide as two new pixels
        (4, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]),
        (1, [[0.5, 0.5]]),
    ],
)
def test_other_sizes_are_bridged_by_interpolation(size, weights):
    hint = feature.Hint(1, 1).double()
    nn.init.ones_(hint.projection.weight)
    nn.init.zeros_(hint.projection.bias)
    features, by = draw(1, 1, 2, 2), torch.tensor(weights, dtype=torch.float64)
    expected = by @ features[0, 0] @ by.T
    torch.testing.assert_close(hint.project(features, (size, size))[0, 0], expected)


def test_shrinking_looks_at_all_pixels():
    hint = feature.Hint(1, 1).double()
    by = torch.tensor([[3, 3, 1, 0], [0, 1, 3, 3]], dtype=torch.float64) / 7
    features = draw(1, 1, 4, 4)
    projected = hint.projection(features)[0, 0]
    torch.testing.assert_close(hint.project(features, (2, 2))[0, 0], by @ projected @ by.T)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "kernel"),
    [
        ((2, 7, 7), (3, 4, 4), {}, (4, 4)),
        ((2, 7, 5), (3, 4, 4), {}, (4, 2)),
        ((2, 3, 7), (3, 4, 6), {}, (1, 2)),
        ((2, 4, 4), (3, 4, 4), {}, (1, 1)),
        ((2, 4, 4), (3, 7, 7), {}, (1, 1)),
        ((2, 7, 7), (3, 4, 4), {"kernel_size": 3}, (3, 3)),
        ((5, 4, 4), (6, 2, 2), {"nonlinearity": "relu"}, (3, 3)),
        ((5, 4, 4), (6, 2, 2), {"nonlinearity": "norm-relu"}, (3, 3)),
    ],
    ids=str,
)
def test_a_hint_that_sizes_itself_takes_fitnets_kernel(student, teacher, options, kernel):
    own, theirs = draw(4, *student, dtype=torch.float32), draw(4, *teacher, dtype=torch.float32)
    shown = (Outputs(features={"x": features}) for features in (own, theirs))
    lesson, term = Lesson(next(shown), TARGET, next(shown)), FeatureHint("x", **options)
    assert not term.prepared
    term.prepare(lesson, seed=5)
    assert term.prepared
    convolution, named = term.hint.projection, FeatureHint("x", seed=5, **options)
    named.prepare(lesson, seed=6)
    assert torch.equal(named.hint.projection.weight, convolution.weight)
    assert convolution.weight.shape == (teacher[0], student[0], *kernel)
    projected = convolution(own)
    if "nonlinearity" in options:
        if options["nonlinearity"] == "norm-relu":
            projected = F.batch_norm(projected, None, None, training=True)
        projected = projected.relu()
    projected = F.interpolate(projected, teacher[1:], mode="bilinear", antialias=True)
    expected = (projected - theirs).square().mean()
    assert term.loss(lesson).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"kernel_size": 0}, "kernel_size"), ({"nonlinearity": "tanh"}, "nonlinearity")],
)
def test_bad_settings_of_a_hint_are_named(options, name):
    with pytest.raises(ValueError, match=name):
        FeatureHint("x", **options)


def test_a_hint_learns_a_linear_map():
    torch.manual_seed(0)
    hint, mixed = feature.Hint(5, 2).double(), torch.einsum("nchw,dc->ndhw", STUDENT, draw(2, 5))
    optimizer = torch.optim.LBFGS(hint.parameters(), max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = hint(STUDENT, mixed)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert hint(STUDENT, mixed).item() < 1e-6


def test_a_nonlinearity_applies_to_the_projection():
    hint = feature.Hint(5, 2, nonlinearity=nn.ReLU()).double()
    assert hint.project(STUDENT, (3, 4)).min() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_hint_under_autocast_and_from_a_half_precision_teacher(dtype):
    hint = feature.Hint(5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        value = hint(STUDENT.float(), TEACHER.to(dtype))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(hint(STUDENT.float(), TEACHER.float()).item(), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_hint_computes_half_precision_features_in_float32(dtype):
    hint, s = feature.Hint(5, 2), STUDENT.to(dtype).requires_grad_()
    value = hint(s, TEACHER.to(dtype))
    assert value.dtype == torch.float32
    expected = hint(s.detach().float(), TEACHER.to(dtype).float()).item()
    assert value.item() == pytest.approx(expected, rel=1e-6)
    value.backward()
    assert s.grad.dtype == dtype
    assert s.grad.isfinite().all()


@pytest.mark.parametrize(
    ("bad", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, ValueError), (True, TypeError), (None, TypeError)],
)
def test_bad_channels_are_named(bad, error):
    with pytest.raises(error, match="student_channels must be a positive integer"):
        feature.Hint(bad, 3)
    with pytest.raises(error, match="teacher_channels must be a positive integer"):
        feature.Hint(3, bad)


def test_a_kernel_may_be_as_large_as_the_map():
    hint = feature.Hint(5, 2, kernel_size=(3, 4)).double()
    assert torch.equal(hint.project(STUDENT, (1, 1)), hint.projection(STUDENT))
    assert hint(STUDENT, TEACHER[:, :, :1, :1]).isfinite()


def test_features_that_do_not_fit_a_hint_are_named():
    hint = feature.Hint(5, 2, kernel_size=4).double()
    with pytest.raises(ValueError, match="student_features must be at least as large as the kern"):
        hint(STUDENT, TEACHER)
    hint = feature.Hint(5, 2).double()
    with pytest.raises(ValueError, match="student_features must have 5 channels, got 2"):
        hint(TEACHER, TEACHER)
    with pytest.raises(ValueError, match="teacher_features must have 2 channels, got 5"):
        hint(STUDENT, STUDENT)
    with pytest.raises(ValueError, match="same samples, got 4 and 3"):
        hint(STUDENT, TEACHER[:3])


# Saliency.

TARGET = torch.tensor([0, 2, 1, 0])


def net(activation=nn.Tanh, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), activation(), nn.Linear(8, 3)).double()


INPUTS = draw(4, 1, 3, 4, seed=5)


def test_input_gradient_equals_finite_differences():
    model, found = net(), feature.input_gradient(net(), INPUTS, TARGET)
    assert found.shape == INPUTS.shape
    step = 1e-6
    for n, place in [(0, (0, 0, 0)), (1, (0, 2, 3)), (3, (0, 1, 2))]:
        up, down = INPUTS.clone(), INPUTS.clone()
        up[n][place] += step
        down[n][place] -= step
        log_p = [model(x).log_softmax(1)[n, TARGET[n]].item() for x in (up, down)]
        assert found[n][place].item() == pytest.approx((log_p[0] - log_p[1]) / (2 * step), rel=1e-6)


def test_a_gradient_keeps_its_graph_only_if_asked_to():
    for create_graph in (False, True):
        inputs, options = INPUTS.clone().requires_grad_(), {"create_graph": create_graph}
        found = feature.prediction_gradient(net()(inputs), inputs, TARGET, **options)
        assert torch.equal(found, feature.input_gradient(net(), INPUTS, TARGET))
        assert found.requires_grad is create_graph
    inputs = INPUTS.clone().requires_grad_()
    assert not feature.prediction_gradient(net()(inputs), inputs, TARGET).requires_grad


def test_input_gradient_leaves_weights_inputs_and_modes_alone():
    model, inputs = net().train(), INPUTS.clone()
    with torch.no_grad():  # as a teacher is asked
        gradient = feature.input_gradient(model, inputs, TARGET)
    assert not gradient.requires_grad
    assert not inputs.requires_grad
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Softplus, nn.ReLU])
def test_matching_saliency_moves_the_student_as_its_gradient_says(activation):
    model, taught = net(activation), feature.input_gradient(net(seed=1), INPUTS, TARGET)
    weight = model[1].weight

    def loss():
        gradient = feature.input_gradient(model, INPUTS, TARGET, create_graph=True)
        return feature.saliency_loss(gradient, taught)

    (gradient,) = torch.autograd.grad(loss(), weight)
    for place in [(0, 0), (3, 5), (7, 11)]:
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[place] += step
            values.append(loss().item())
            with torch.no_grad():
                weight[place] -= step
        expected = (values[0] - values[1]) / 2e-6
        assert gradient[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_the_second_derivative_of_a_relu_net_without_softmax_is_zero():
    model = net(nn.ReLU)
    inputs = INPUTS.clone().requires_grad_()
    (first,) = torch.autograd.grad(model(inputs)[:, 0].sum(), inputs, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), inputs, allow_unused=True)
    assert second is None or second.abs().max() == 0
    gradient = feature.input_gradient(model, inputs, TARGET, create_graph=True)
    assert gradient.requires_grad  # through the weights


def test_no_graph_is_built_through_the_teacher():
    teacher = net(seed=1).requires_grad_(True)
    taught = feature.input_gradient(teacher, INPUTS, TARGET)
    student = feature.input_gradient(net(), INPUTS, TARGET, create_graph=True)
    feature.saliency_loss(student, taught).backward()
    assert taught.grad_fn is None
    assert all(p.grad is None for p in teacher.parameters())


def test_saliency_loss_takes_any_shape_behind_the_samples():
    expected = feature.saliency_loss(GRADIENT, TEACHERS_GRADIENT)
    flat = feature.saliency_loss(GRADIENT.flatten(1), TEACHERS_GRADIENT.flatten(1))
    assert torch.equal(flat, expected)


def test_saliency_loss_is_between_zero_and_two():
    assert feature.saliency_loss(GRADIENT, GRADIENT) == 0
    assert feature.saliency_loss(GRADIENT, -GRADIENT).item() == pytest.approx(2)


@pytest.mark.parametrize(
    ("target", "error"),
    [(TARGET + 1, ValueError), (TARGET[:2], ValueError), (TARGET.float(), ValueError)],
)
def test_bad_targets_are_named(target, error):
    with pytest.raises(error, match="target must"):
        feature.input_gradient(net(), INPUTS, target)


# Second opinions.


@pytest.mark.parametrize(("mode", "squared"), [("paper", False), ("code", True)])
def test_agrees_with_torchdistill(mode, squared):
    pairs = {"p": {name: {"io": "output", "path": "x"} for name in ("teacher", "student")}}
    other = mid_level.ATLoss(pairs, mode)
    theirs = other({"x": {"output": STUDENT}}, {"x": {"output": TEACHER}}).item()
    ours = feature.attention_transfer_loss(STUDENT, TEACHER, squared=squared).item()
    assert ours == pytest.approx(theirs, rel=1e-9)


# Precision, devices, transformations.


# Bad input.


@pytest.mark.parametrize("name", ["attention", "attention, squared"])
@given(shape=st.lists(st.integers(0, 3), max_size=6).map(tuple), first=st.booleans())
def test_wrong_dimensions_and_empty_features_are_named(name, shape, first):
    if 3 <= len(shape) <= 5 and min(shape) > 0:
        shape = (0, *shape[1:])
    bad = torch.zeros(shape)
    side = "student_features" if first else "teacher_features"
    with pytest.raises(ValueError, match=rf"{side} must have shape \(N, C, H, W\)"):
        LOSSES[name](*((bad, TEACHER) if first else (STUDENT, bad)))
    with pytest.raises(ValueError, match=r"features must have shape \(N, C, H, W\)"):
        feature.attention_map(bad)


@given(samples=st.integers(1, 6), other=st.integers(1, 6))
def test_batches_that_differ_are_named(samples, other):
    if samples == other:
        other += 1
    with pytest.raises(ValueError, match=f"same samples, got {samples} and {other}"):
        feature.attention_transfer_loss(torch.zeros(samples, 2, 3, 3), torch.zeros(other, 1, 3, 3))


@given(shape=st.lists(st.integers(0, 3), max_size=4).map(tuple))
def test_gradients_of_different_shapes_are_named(shape):
    with pytest.raises(ValueError, match="student_gradient"):
        feature.saliency_loss(torch.zeros(shape), TEACHERS_GRADIENT)


@pytest.mark.parametrize("shape", [(4,), (0, 2), (2, 0)])
def test_gradients_of_nothing_are_named(shape):
    for pair, name in (
        ((torch.zeros(shape), GRADIENT), "student_gradient"),
        ((GRADIENT, torch.zeros(shape)), "teacher_gradient"),
    ):
        with pytest.raises(ValueError, match=f"^{name} must have shape .* and not be empty"):
            feature.saliency_loss(*pair)


@every_loss
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_are_named(name, dtype):
    s, t = example(name)
    with pytest.raises(ValueError, match=r"student_\w+ must be floating point"):
        LOSSES[name](s.to(dtype), t)
    with pytest.raises(ValueError, match=r"teacher_\w+ must be floating point"):
        LOSSES[name](s, t.to(dtype))


@every_loss
def test_what_is_no_tensor_is_a_type_error(name):
    s, t = example(name)
    with pytest.raises(TypeError, match="student_"):
        LOSSES[name](None, t)
    with pytest.raises(TypeError, match="teacher_"):
        LOSSES[name](s, [1.0])


@given(
    power=st.one_of(st.floats(max_value=0), st.sampled_from([math.inf, math.nan])),
)
def test_bad_powers_are_named(power):
    with pytest.raises(ValueError, match="power must be finite and lie in"):
        feature.attention_map(STUDENT, power)
    with pytest.raises(ValueError, match="power must be finite and lie in"):
        feature.attention_transfer_loss(STUDENT, TEACHER, power)
