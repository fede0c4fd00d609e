"""How alike the samples of a batch are."""

import math

import pytest
import torch
from torch.nn import functional as F

from kdcourse.errors import ArgumentError
from kdcourse.methods.correlation import CorrelationCongruence, correlation_congruence_loss
from kdcourse.objective import Lesson, Outputs

N = 6
LOSSES = {
    "correlation": correlation_congruence_loss,
    "correlation, bilinear": lambda s, t: correlation_congruence_loss(s, t, order=1),
    "correlation, order 5": lambda s, t: correlation_congruence_loss(s, t, 0.7, 5),
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(N, 4, seed=1), draw(N, 3, seed=2)


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


def unit(row):
    norm = math.sqrt(math.fsum(v * v for v in row))
    return [v / norm if norm else 0.0 for v in row]


def naive(s, t, kernel):
    s, t = ([unit(row) for row in z.tolist()] for z in (s, t))
    pairs = [(i, j) for i in range(len(s)) for j in range(len(s))]
    return math.fsum((kernel(s[i], s[j]) - kernel(t[i], t[j])) ** 2 for i, j in pairs) / len(pairs)


def inner(x, y):
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def series(gamma, order):
    def kernel(x, y):
        terms = [(2 * gamma * inner(x, y)) ** p / math.factorial(p) for p in range(order + 1)]
        return math.exp(-2 * gamma) * math.fsum(terms)

    return kernel


@pytest.mark.parametrize("samples", [2, 3, N])
@pytest.mark.parametrize(("gamma", "order"), [(0.4, 1), (0.4, 2), (0.4, 3), (1.5, 6)])
def test_equals_the_definition(samples, gamma, order):
    s, t = STUDENT[:samples], TEACHER[:samples]
    value = correlation_congruence_loss(s, t, gamma, order)
    assert value.item() == pytest.approx(naive(s, t, series(gamma, order)), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.1, 0.4, 2.0])
def test_a_series_of_high_order_is_the_gaussian(gamma):
    def gaussian(x, y):
        return math.exp(-gamma * math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True)))

    value = correlation_congruence_loss(STUDENT, TEACHER, gamma, 40)
    assert value.item() == pytest.approx(naive(STUDENT, TEACHER, gaussian), rel=1e-12)


def test_order_one_is_the_bilinear_kernel_up_to_the_factor_of_the_docstring():
    value = correlation_congruence_loss(STUDENT, TEACHER, 0.4, 1).item()
    expected = (0.8 * math.exp(-0.8)) ** 2 * naive(STUDENT, TEACHER, inner)
    assert value == pytest.approx(expected, rel=1e-12)


def test_it_is_zero_at_the_teacher_and_for_what_only_scales_and_rotates():
    rotation = torch.linalg.qr(draw(3, 3)).Q
    assert correlation_congruence_loss(TEACHER, TEACHER) == 0
    turned = 3 * TEACHER @ rotation
    value = correlation_congruence_loss(STUDENT, TEACHER)
    torch.testing.assert_close(correlation_congruence_loss(STUDENT, turned), value)
    mixed = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(correlation_congruence_loss(STUDENT[mixed], TEACHER[mixed]), value)
    assert correlation_congruence_loss(TEACHER + 1, TEACHER) > 1e-3


@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1.0, 1e15, 1e25])
def test_zeros_and_extreme_magnitudes_are_no_fault(scale):
    s = (scale * STUDENT).float()
    s[1] = 0
    s.requires_grad_()
    value = correlation_congruence_loss(s, TEACHER.float())
    (gradient,) = torch.autograd.grad(value, s)
    changed = STUDENT.clone()
    changed[1] = 0
    assert value.item() == pytest.approx(naive(changed, TEACHER, series(0.4, 2)), rel=1e-5)
    assert gradient[1].abs().max() == 0
    assert gradient.isfinite().all()


def test_against_the_kernel_as_others_write_it():
    """By powers from 0 on, of the product of normalised rows; the mean over all pairs."""
    kernels = []
    for z in (STUDENT, TEACHER):
        cosine = F.normalize(z) @ F.normalize(z).T
        terms = [cosine**p * 0.8**p / math.factorial(p) for p in range(3)]
        kernels.append(math.exp(-0.8) * sum(terms))
    theirs = F.mse_loss(*kernels)
    torch.testing.assert_close(correlation_congruence_loss(STUDENT, TEACHER), theirs)


def test_the_loss_of_the_benchmark_is_no_multiple_of_it():
    """Inner products of the differences of neighbours in the batch: their order matters."""

    def benchmark(s, t):
        difference = (s - t).abs()
        return 0.02 * (difference[:-1] * difference[1:]).sum(dim=1).mean()

    order = torch.tensor([0, 2, 4, 1, 3, 5])
    s, t = STUDENT[:, :3], TEACHER
    ratios = [
        benchmark(one, other) / correlation_congruence_loss(one, other)
        for one, other in ((s, t), (s[order], t[order]))
    ]
    assert abs(ratios[0] / ratios[1] - 1) > 0.01


def test_the_term_compares_layers_and_a_last_batch_of_one_sample_costs_nothing():
    shown = [Outputs(features={"a": z, "b": 2 * z + 1}) for z in (STUDENT, TEACHER)]
    target = torch.zeros(N, dtype=torch.int64)
    value = CorrelationCongruence(["a", "b"], 0.3, 3).loss(Lesson(shown[0], target, shown[1]))
    pairs = (STUDENT, TEACHER), (2 * STUDENT + 1, 2 * TEACHER + 1)
    assert value == sum(correlation_congruence_loss(*pair, 0.3, 3) for pair in pairs)
    few = [Outputs(features={"embedding": z[:1]}) for z in (STUDENT, TEACHER)]
    assert CorrelationCongruence().loss(Lesson(few[0], target[:1], few[1])) == 0
    assert CorrelationCongruence().name == "correlation_congruence"


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="student_embeddings must hold at least 2 samples"):
        correlation_congruence_loss(STUDENT[:1], TEACHER[:1])
    for make in (
        CorrelationCongruence,
        lambda **k: correlation_congruence_loss(STUDENT, TEACHER, **k),
    ):
        with pytest.raises(ArgumentError, match="gamma must be finite and lie in"):
            make(gamma=0.0)
        with pytest.raises(ArgumentError, match="order must be a positive integer"):
            make(order=0)
