import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torchdistill.losses import mid_level

from kdcourse import logit
from kdcourse.objective import Lesson, Outputs

N, K = 6, 5
LABELS = [0, 4, 2, 2, 1, 3]
TARGET = torch.tensor(LABELS)


def draw(*shape, seed=0, dtype=torch.float64, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


STUDENT, TEACHER = draw(N, K, seed=1), draw(N, K, seed=2)

# Every loss as a function of student and teacher logits (of any N; the target is cut to it).
LOSSES = {
    "forward": lambda s, t, **k: logit.kd_loss(s, t, **k),
    "reverse": lambda s, t, **k: logit.kd_loss(s, t, divergence="reverse", **k),
    "jensen-shannon": lambda s, t, **k: logit.kd_loss(s, t, divergence="jensen-shannon", **k),
    "cross-entropy": lambda s, t, **k: logit.kd_cross_entropy(s, t, **k),
    "probabilities": lambda s, t, **k: logit.kd_loss_from_probabilities(
        s,
        t.float().softmax(1) if t.dtype.itemsize == 2 else t.softmax(1),
        **{"temperature": 4, **k},
    ),
    "decoupled": lambda s, t, **k: logit.decoupled_kd_loss(
        s, t, torch.tensor(LABELS[: len(s)], device=s.device), **k
    ),
    "standardized": lambda s, t, **k: logit.kd_loss(
        logit.standardize(s), logit.standardize(t), **k
    ),
}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


DIVERGENCES = [name for name in LOSSES if name != "cross-entropy"]
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


# Naive definitions, one sample and one class at a time, in Python's own floats.


def naive_softmax(z, tau):
    total = sum(math.exp(v / tau) for v in z)
    return [math.exp(v / tau) / total for v in z]


def naive_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def naive_forward(s, t, tau):
    return tau**2 * naive_kl(naive_softmax(t, tau), naive_softmax(s, tau))


def naive_reverse(s, t, tau):
    return tau**2 * naive_kl(naive_softmax(s, tau), naive_softmax(t, tau))


def naive_jensen_shannon(s, t, tau):
    p, q = naive_softmax(t, tau), naive_softmax(s, tau)
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return tau**2 * (naive_kl(p, m) + naive_kl(q, m)) / 2


def naive_cross_entropy(s, t, tau):
    p, q = naive_softmax(t, tau), naive_softmax(s, tau)
    return -(tau**2) * sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def naive_decoupled(s, t, tau, target, alpha=1.0, beta=8.0):
    p, q = naive_softmax(t, tau), naive_softmax(s, tau)
    binary = naive_kl([p[target], 1 - p[target]], [q[target], 1 - q[target]])
    p_rest = [a / (1 - p[target]) for k, a in enumerate(p) if k != target]
    q_rest = [a / (1 - q[target]) for k, a in enumerate(q) if k != target]
    return tau**2 * (alpha * binary + beta * naive_kl(p_rest, q_rest))


def naive_standardize(z, tau=1.0):
    mean = sum(z) / len(z)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in z) / len(z))
    return [(v - mean) / deviation / tau for v in z]


def naive_mean(function, s, t, tau):
    rows = zip(s.tolist(), t.tolist(), TARGET.tolist(), strict=True)
    if function is naive_decoupled:
        return sum(function(a, b, tau, y) for a, b, y in rows) / len(s)
    if function == "standardized":
        return sum(
            naive_forward(naive_standardize(a), naive_standardize(b), tau) for a, b, _ in rows
        ) / len(s)
    return sum(function(a, b, tau) for a, b, _ in rows) / len(s)


NAIVE = {
    "forward": naive_forward,
    "reverse": naive_reverse,
    "jensen-shannon": naive_jensen_shannon,
    "cross-entropy": naive_cross_entropy,
    "probabilities": naive_forward,
    "decoupled": naive_decoupled,
    "standardized": "standardized",
}


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_equals_the_naive_definition(name, tau, dtype, rel):
    s, t = STUDENT.to(dtype), TEACHER.to(dtype)
    expected = naive_mean(NAIVE[name], s.double(), t.double(), tau)
    value = LOSSES[name](s, t, temperature=tau)
    assert value.shape == ()
    assert value.dtype == dtype
    assert value.item() == pytest.approx(expected, rel=rel)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_softmax_and_standardize_equal_their_naive_definitions(tau):
    p, z = logit.softmax(STUDENT, tau), logit.standardize(STUDENT, tau)
    for n, row in enumerate(STUDENT.tolist()):
        assert p[n].tolist() == pytest.approx(naive_softmax(row, tau), rel=1e-12)
        assert z[n].tolist() == pytest.approx(naive_standardize(row, tau), rel=1e-12)


def test_alpha_and_beta_weigh_the_parts():
    for alpha, beta in [(1, 0), (0, 1), (2, 3)]:
        value = logit.decoupled_kd_loss(
            STUDENT, TEACHER, TARGET, alpha=alpha, beta=beta, temperature=2
        )
        rows = zip(STUDENT.tolist(), TEACHER.tolist(), TARGET.tolist(), strict=True)
        expected = sum(naive_decoupled(s, t, 2, y, alpha, beta) for s, t, y in rows) / N
        assert value.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_zero_at_equality_and_above_zero_elsewhere(name):
    s = TEACHER.clone().requires_grad_()
    value = LOSSES[name](s, TEACHER)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(value, s)[0].abs().max() < 1e-12
    assert LOSSES[name](STUDENT, TEACHER) > 0.01


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_cross_entropy_is_kl_plus_the_teachers_entropy_with_the_same_gradient(tau):
    s = STUDENT.clone().requires_grad_()
    kl, cross = logit.kd_loss(s, TEACHER, tau), logit.kd_cross_entropy(s, TEACHER, tau)
    p = logit.softmax(TEACHER, tau)
    entropy = -(p * p.log()).sum(1).mean()
    assert (cross - kl).item() == pytest.approx(tau**2 * entropy.item(), rel=1e-10)
    of_kl, of_cross = (torch.autograd.grad(loss, s)[0] for loss in (kl, cross))
    assert torch.allclose(of_kl, of_cross, rtol=0, atol=1e-14)
    p_s = logit.softmax(STUDENT, tau)
    assert torch.allclose(of_kl, tau * (p_s - p) / N, rtol=0, atol=1e-14)


def test_at_high_temperature_it_is_regression_on_centred_logits():
    s, t = (z - z.mean(1, keepdim=True) for z in (STUDENT, TEACHER))
    s.requires_grad_()
    value = logit.kd_loss(s, t, 1e4)
    assert value.item() == pytest.approx(((s - t) ** 2).sum(1).mean().item() / (2 * K), rel=1e-3)
    gradient = torch.autograd.grad(value, s)[0]
    assert torch.allclose(gradient, (s - t).detach() / (K * N), rtol=1e-2, atol=1e-4)


def test_without_scale_the_factor_is_missing():
    for loss in (logit.kd_loss, logit.kd_cross_entropy):
        scaled, plain = (loss(STUDENT, TEACHER, 4.0, scale=scale) for scale in (True, False))
        assert scaled.item() == pytest.approx(16 * plain.item())
    p = TEACHER.softmax(1)
    scaled, plain = (
        logit.kd_loss_from_probabilities(STUDENT, p, 4.0, scale=scale) for scale in (True, False)
    )
    assert scaled.item() == pytest.approx(16 * plain.item())


def test_softmax_limits():
    assert torch.allclose(logit.softmax(STUDENT, 1e9), torch.full((N, K), 1 / K).double())
    one_hot = F.one_hot(STUDENT.argmax(1), K).double()
    assert torch.allclose(logit.softmax(STUDENT, 1e-4), one_hot)


@every_loss
def test_shifting_a_samples_logits_changes_nothing(loss):
    shift = draw(N, 1, seed=5, scale=20)
    expected = loss(STUDENT, TEACHER).item()
    assert loss(STUDENT + shift, TEACHER - shift).item() == pytest.approx(expected, rel=1e-9)


@every_loss
def test_a_batch_is_the_mean_of_its_samples(loss, monkeypatch):
    singles = []
    for n in range(N):
        monkeypatch.setitem(globals(), "LABELS", LABELS[n : n + 1])
        singles.append(loss(STUDENT[n : n + 1], TEACHER[n : n + 1]).item())
        monkeypatch.undo()
    assert loss(STUDENT, TEACHER).item() == pytest.approx(sum(singles) / N, rel=1e-10)


def test_plain_kd_is_decoupled_kd_with_the_teachers_own_beta():
    for n in range(N):
        s, t, y = STUDENT[n : n + 1], TEACHER[n : n + 1], TARGET[n : n + 1]
        beta = 1 - logit.softmax(t, 4.0)[0, y].item()
        value = logit.decoupled_kd_loss(s, t, y, alpha=1, beta=beta)
        assert value.item() == pytest.approx(logit.kd_loss(s, t, 4.0).item(), rel=1e-9)


def test_jensen_shannon_is_symmetric_and_bounded():
    def js(s, t):
        return logit.kd_loss(s, t, 1.0, divergence="jensen-shannon").item()

    assert js(STUDENT, TEACHER) == pytest.approx(js(TEACHER, STUDENT), rel=1e-12)
    far = js(1e4 * torch.eye(2), 1e4 * torch.eye(2).flip(0))
    assert far == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_exact_probabilities_teach_as_logits_do(tau):
    p = TEACHER.softmax(1)
    value = logit.kd_loss_from_probabilities(STUDENT, p, tau).item()
    assert value == pytest.approx(logit.kd_loss(STUDENT, TEACHER, tau).item(), rel=1e-10)


def test_zero_probabilities_stay_zero():
    p = torch.tensor([[0.75, 0.25, 0.0, 0.0, 0.0]], dtype=torch.float64)
    s = STUDENT[:1].clone().requires_grad_()
    value = logit.kd_loss_from_probabilities(s, p, 2.0)
    weights = [math.sqrt(0.75), math.sqrt(0.25)]
    q = [w / sum(weights) for w in weights]
    expected = 4 * naive_kl(q, naive_softmax(STUDENT[0].tolist(), 2.0)[:2])
    assert value.item() == pytest.approx(expected, rel=1e-10)
    assert torch.autograd.grad(value, s)[0].isfinite().all()


def test_standardized_logits_have_zero_mean_and_deviation_one_over_tau():
    z = logit.standardize(STUDENT, 2.0)
    assert torch.allclose(z.mean(1), torch.zeros(N).double(), atol=1e-12)
    assert torch.allclose(z.std(1, unbiased=False), torch.full((N,), 0.5).double())
    assert torch.allclose(logit.standardize(7 * STUDENT + 3, 2.0), z)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_constant_logits_standardize_to_zeros(value, dtype):
    z = torch.full((2, 7), value, dtype=dtype, requires_grad=True)
    out = logit.standardize(z)
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.autograd.grad(out.sum(), z)[0].isfinite().all()


# Second opinions.


def test_agrees_with_torch_and_torchdistill():
    other = mid_level.KDLoss("s", "output", "t", "output", temperature=4.0, alpha=0)
    io = {"s": {"output": STUDENT}}, {"t": {"output": TEACHER}}
    ours = logit.kd_loss(STUDENT, TEACHER, 4.0, scale=False).item()
    assert other(*io).item() == pytest.approx(ours, rel=1e-12)
    log_p, p = (STUDENT / 4).log_softmax(1), (TEACHER / 4).softmax(1)
    assert F.kl_div(log_p, p, reduction="batchmean").item() == pytest.approx(ours, rel=1e-12)


def test_averaging_over_classes_too_would_be_k_times_too_weak():
    log_p, p = (STUDENT / 4).log_softmax(1), (TEACHER / 4).softmax(1)
    everything = F.kl_div(log_p, p, reduction="none").mean().item()
    ours = logit.kd_loss(STUDENT, TEACHER, 4.0, scale=False).item()
    assert ours == pytest.approx(K * everything, rel=1e-12)


def test_agrees_with_torchdistills_standardisation_but_for_its_k_minus_one():
    temperature = 2.0
    other = mid_level.LogitStdKDLoss("s", "output", "t", "output", temperature, alpha=0)
    value = other({"s": {"output": STUDENT}}, {"t": {"output": TEACHER}}).item()
    s, t = logit.standardize(STUDENT), logit.standardize(TEACHER)
    # their deviation over K - 1 is a temperature larger by sqrt(K / (K - 1)); eps 1e-7 beside it
    ours = logit.kd_loss(s, t, temperature * math.sqrt(K / (K - 1)), scale=False)
    assert value == pytest.approx(ours.item(), rel=1e-5)


def authors_standardized(z, tau):
    """Divide by the deviation over K - 1, plus 1e-7, and by the temperature."""
    mean = math.fsum(z) / len(z)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in z) / (len(z) - 1))
    return [(v - mean) / (1e-7 + deviation) / tau for v in z]


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("classes", [2, 5, 10])
def test_standardised_logits_and_their_loss_follow_from_the_authors_as_the_docstrings_say(
    tau, classes
):
    s, t = draw(N, classes, seed=3), draw(N, classes, seed=4)
    larger = math.sqrt(classes / (classes - 1))
    theirs = [[authors_standardized(row, tau) for row in z.tolist()] for z in (s, t)]
    for z, rows in zip((s, t), theirs, strict=True):
        found = logit.standardize(z, tau * larger)
        assert torch.allclose(found, torch.tensor(rows).double(), rtol=1e-6)
        exact = found / (1 + 1e-7 / z.std(dim=1, keepdim=True))
        assert torch.allclose(exact, torch.tensor(rows, dtype=torch.float64), rtol=1e-12)
    value = math.fsum(naive_forward(a, b, 1) for a, b in zip(*theirs, strict=True)) / N * tau**2
    taught = Lesson(Outputs(logits=s), torch.zeros(N), Outputs(logits=t))
    ours = logit.StandardizedKD(tau * larger).loss(taught).item()
    assert value == pytest.approx(ours * (classes - 1) / classes, rel=1e-5)


def test_at_the_same_temperature_the_authors_loss_is_smaller_by_about_one_over_k():
    s, t = draw(N, 10, seed=3), draw(N, 10, seed=4)
    theirs = [[authors_standardized(row, 20) for row in z.tolist()] for z in (s, t)]
    value = math.fsum(naive_forward(a, b, 1) for a, b in zip(*theirs, strict=True)) / N * 20**2
    ours = logit.StandardizedKD(20).loss(
        Lesson(Outputs(logits=s), torch.zeros(N), Outputs(logits=t))
    )
    assert ours.item() == pytest.approx(value * 10 / 9, rel=0.01)


# Precision, devices, transformations.


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_give_finite_values_and_gradients(loss, dtype):
    signs = torch.tensor([[1.0, -1, 0, 0, 1], [-1, 1, 1, -1, 0], [1, 1, 1, 1, 1]])
    s = (1e4 * signs).to(dtype).requires_grad_()
    value = loss(s, (-1e4 * signs.flip(1)).to(dtype))
    value.backward()
    assert value.isfinite()
    assert s.grad.isfinite().all()


# Bad input.

PAIRS = {
    "kd_loss": logit.kd_loss,
    "kd_cross_entropy": logit.kd_cross_entropy,
    "decoupled_kd_loss": lambda s, t, **k: logit.decoupled_kd_loss(s, t, TARGET, **k),
}
pairs = pytest.mark.parametrize("loss", PAIRS.values(), ids=PAIRS)
sizes = st.integers(1, 6)
classes = st.integers(2, 5)


@pairs
@given(shape=st.tuples(sizes, classes), other=st.tuples(sizes, classes))
def test_shapes_that_differ_are_named(loss, shape, other):
    if shape == other:
        other = (shape[0], shape[1] + 1)
    with pytest.raises(ValueError, match=r"student_logits and teacher_logits .* same") as error:
        loss(torch.zeros(shape), torch.zeros(other))
    assert str(shape) in str(error.value)
    assert str(other) in str(error.value)


@pairs
@given(shape=st.lists(st.integers(0, 3), max_size=4).map(tuple), first=st.booleans())
def test_wrong_dimensions_and_empty_batches_are_named(loss, shape, first):
    if len(shape) == 2 and min(shape) > 0:
        shape = (0, shape[1])
    bad, good = torch.zeros(shape), torch.zeros(N, K)
    with pytest.raises(ValueError, match="student_logits" if first else "teacher_logits"):
        loss(*((bad, good) if first else (good, bad)))


@pairs
@given(dtype=st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.bool]))
def test_integer_logits_are_named(loss, dtype):
    with pytest.raises(ValueError, match=r"student_logits must be floating point.*"):
        loss(torch.zeros(N, K, dtype=dtype), TEACHER)
    with pytest.raises(ValueError, match=r"teacher_logits must be floating point.*"):
        loss(STUDENT, torch.zeros(N, K, dtype=dtype))


@pairs
def test_what_is_no_tensor_is_a_type_error(loss):
    with pytest.raises(TypeError, match="student_logits"):
        loss([[1.0, 2.0]], TEACHER)
    with pytest.raises(TypeError, match="teacher_logits"):
        loss(STUDENT, None)


ALL = {
    **LOSSES,
    "softmax": lambda s, t, **k: logit.softmax(s, **k),
    "standardize": lambda s, t, **k: logit.standardize(s, **k),
}


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
@given(tau=st.one_of(st.floats(max_value=0), st.sampled_from([math.inf, -math.inf, math.nan])))
def test_bad_temperatures_are_named(loss, tau):
    with pytest.raises(ValueError, match="temperature must be finite and lie in"):
        loss(STUDENT, TEACHER, temperature=tau)


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
@pytest.mark.parametrize("tau", ["4", None, True, torch.tensor(4.0)])
def test_temperature_of_a_wrong_type(loss, tau):
    with pytest.raises(TypeError, match="temperature must be a real number"):
        loss(STUDENT, TEACHER, temperature=tau)


@given(
    row=st.lists(st.floats(0, 1), min_size=K, max_size=K),
    off=st.floats(0.01, 10).flatmap(lambda x: st.sampled_from([x, -x])),
)
def test_probabilities_that_do_not_sum_to_one(row, off):
    p = torch.tensor([row], dtype=torch.float64) + 1e-3
    p = p / p.sum() * max(1 + off, 0.0)
    with pytest.raises(ValueError, match="row of teacher_probabilities must sum to one"):
        logit.kd_loss_from_probabilities(STUDENT[:1], p)


@pytest.mark.parametrize(
    ("probabilities", "error", "words"),
    [
        (None, TypeError, "teacher_probabilities must be a dense torch.Tensor"),
        (torch.eye(K).long(), ValueError, "teacher_probabilities must be floating point"),
        (torch.ones(K) / K, ValueError, "teacher_probabilities must have shape"),
        (torch.ones(N, K + 1) / (K + 1), ValueError, "student_logits and teacher_probabilities"),
        (torch.eye(K), ValueError, "student_logits and teacher_probabilities"),
    ],
    ids=str,
)
def test_what_is_no_probabilities_of_the_samples_is_named(probabilities, error, words):
    with pytest.raises(error, match=f"^{words}"):
        logit.kd_loss_from_probabilities(STUDENT, probabilities)


@pytest.mark.parametrize("bad", [-0.1, math.nan])
def test_probabilities_below_zero_or_nan(bad):
    p = torch.full((1, K), 0.2)
    p[0, 0], p[0, 1] = bad, 0.4 - bad
    with pytest.raises(ValueError, match="teacher_probabilities must not be negative"):
        logit.kd_loss_from_probabilities(STUDENT[:1], p)


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (TARGET.float(), ValueError, "torch.int64"),
        (TARGET.int(), ValueError, "torch.int64"),
        (TARGET[:3], ValueError, r"shape \(6,\)"),
        (TARGET[None], ValueError, r"shape \(6,\)"),
        (TARGET + 1, ValueError, r"\[0, 5\)"),
        (TARGET - 1, ValueError, r"\[0, 5\)"),
        (TARGET.tolist(), TypeError, "torch.Tensor"),
    ],
)
def test_bad_targets_are_named(target, error, words):
    with pytest.raises(error, match=f"target must .*{words}"):
        logit.decoupled_kd_loss(STUDENT, TEACHER, target)


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_bad_weights_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        logit.decoupled_kd_loss(STUDENT, TEACHER, TARGET, **{name: value})


def test_an_unknown_divergence_and_a_single_class_are_named():
    for function in (logit.softmax, logit.standardize):
        with pytest.raises(ValueError, match=r"^logits must have shape \(N, K\)"):
            function(STUDENT[0])
    with pytest.raises(ValueError, match="divergence must be one of 'forward', 'reverse'"):
        logit.kd_loss(STUDENT, TEACHER, divergence="backward")
    with pytest.raises(ValueError, match="at least 2 classes"):
        logit.decoupled_kd_loss(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2).long())


extreme = st.floats(-1e4, 1e4, width=32)


@every_loss
@given(data=st.data(), samples=st.integers(1, 5), classes=st.integers(2, 6))
def test_any_logits_give_finite_values_and_gradients(loss, data, samples, classes):
    rows = st.lists(extreme, min_size=samples * classes, max_size=samples * classes)
    s, t = (torch.tensor(data.draw(rows)).view(samples, classes) for _ in range(2))
    s.requires_grad_()
    if loss is LOSSES["decoupled"]:
        value = logit.decoupled_kd_loss(s, t, torch.zeros(samples, dtype=torch.int64))
    else:
        value = loss(s, t)
    value.backward()
    assert value.isfinite()
    assert value.item() >= -1e-5 * max(1.0, float(s.detach().abs().max()))
    assert s.grad.isfinite().all()
