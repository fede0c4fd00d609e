"""Learning from labels: cross-entropy at places, by definition."""

import math

import pytest
import torch
from test_predictions import SHAPES, drawn, example_of
from torch.nn import functional as F

from kdcourse.cross_entropy import CrossEntropy, cross_entropy_loss
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.objective import Lesson, Outputs
from kdcourse.precision import at_least_float32

K = 5
CLASS_WEIGHT = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0], dtype=torch.float64)
LOSSES = {
    "classes": lambda s, t: cross_entropy_loss(s, torch.arange(6, device=s.device) % K),
    "probabilities": lambda s, t: cross_entropy_loss(s, at_least_float32(t).softmax(dim=1)),
    "weighted classes": lambda s, t: cross_entropy_loss(
        s,
        torch.arange(6, device=s.device) % K,
        class_weight=1 + torch.arange(K, device=s.device, dtype=torch.float32),
        label_smoothing=0.1,
    ),
}


def example(name):
    """Logits, and a teacher's where a loss looks at them, for the tests of every loss."""
    return drawn(6, K), drawn(6, K, seed=1)


def naive(rows, labels, weights, smoothing=0.0, class_weight=None):
    """The definition: labels are probabilities of each place."""
    total = counted = 0.0
    c = [1.0] * K if class_weight is None else class_weight
    for z, y, w in zip(rows, labels, weights, strict=True):
        normalise = math.log(math.fsum(math.exp(v) for v in z))
        t = [(1 - smoothing) * p + smoothing / K for p in y]
        total -= w * math.fsum(c[k] * t[k] * (z[k] - normalise) for k in range(K))
        counted += w * math.fsum(c[k] * y[k] for k in range(K))
    return total / counted


def rows_of(tensor, class_dim):
    return tensor.movedim(class_dim, -1).reshape(-1, K).tolist()


@pytest.mark.parametrize(("shape", "class_dim"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
def test_equals_the_definition(shape, class_dim, soft):
    logits, others, target, mask, weight = example_of(shape, class_dim)
    labels = F.one_hot(target, K).double().movedim(-1, class_dim)
    if soft:
        labels = target = others.softmax(dim=class_dim)
    ones = torch.ones_like(weight)
    options = {"label_smoothing": 0.1, "class_weight": CLASS_WEIGHT}
    for counting, w in (
        ({}, ones),
        ({"mask": mask}, ones * mask),
        ({"weight": weight}, weight),
        ({"mask": mask, "weight": weight}, weight * mask),
    ):
        data = [rows_of(logits, class_dim), rows_of(labels, class_dim), w.flatten().tolist()]
        plain = cross_entropy_loss(logits, target, class_dim=class_dim, **counting)
        assert plain.item() == pytest.approx(naive(*data), rel=1e-9)
        value = cross_entropy_loss(logits, target, class_dim=class_dim, **counting, **options)
        expected = naive(*data, 0.1, CLASS_WEIGHT.tolist())
        assert value.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"weight": CLASS_WEIGHT}])
def test_of_classes_it_is_that_of_torch(options):
    logits, _, target, mask, _ = example_of((2, K, 2, 3), 1)
    target = target.masked_fill(~mask, -100)
    expected = F.cross_entropy(logits, target, **options)
    own = {("class_weight" if name == "weight" else name): v for name, v in options.items()}
    value = cross_entropy_loss(logits, target, ignore_index=-100, **own)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    term = CrossEntropy(ignore_index=-100, **own)
    value = term.double().loss(Lesson(Outputs(logits=logits), target))
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)  # of float32 class weights


@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("left_out_by", ["ignore_index", "mask", "weight"])
def test_what_does_not_count_may_hold_anything(left_out_by, padding):
    logits, _, target, mask, _ = example_of((3, 4, K), -1)
    padded = logits.masked_fill(~mask[..., None], padding).requires_grad_()
    counting = {"mask": {"mask": mask}, "weight": {"weight": mask.double()}}
    counting = counting.get(left_out_by, {"ignore_index": 99})
    value = cross_entropy_loss(padded, target.masked_fill(~mask, 99), class_dim=-1, **counting)
    assert value.item() == pytest.approx(
        cross_entropy_loss(logits, target, class_dim=-1, mask=mask).item()
    )
    (gradient,) = torch.autograd.grad(value, padded)
    assert gradient.isfinite().all()
    assert not gradient[~mask].any()


def test_if_nothing_counts_it_is_zero():
    logits = drawn(4, K).requires_grad_()
    for options in ({}, {"class_weight": CLASS_WEIGHT}):
        value = cross_entropy_loss(logits, torch.full((4,), -1), ignore_index=-1, **options)
        assert value.item() == 0
        assert not torch.autograd.grad(value, logits)[0].any()
    value = cross_entropy_loss(logits, torch.full((4,), 3), class_weight=CLASS_WEIGHT)
    assert value.item() == 0  # a class that does not count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": torch.tensor([0, 1, 2, K])}, r"target must lie in \[0, 5\)"),
        ({"target": torch.rand(4, K)}, "each row of target must sum to one"),
        ({"target": torch.zeros(4, K + 1)}, "target and logits must have the same shape"),
        ({"class_weight": torch.ones(K + 1)}, r"class_weight must be .* shape \(5,\)"),
        ({"class_weight": torch.ones(K).long()}, "class_weight must be floating point"),
        ({"class_weight": -torch.ones(K)}, "class_weight must be ≥ 0 and finite"),
        ({"label_smoothing": 1.0}, "label_smoothing must be finite and lie in"),
    ],
)
def test_bad_input_is_named(options, message):
    arguments = {"logits": drawn(4, K), "target": torch.zeros(4, dtype=torch.int64), **options}
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        cross_entropy_loss(**arguments)


def test_class_weights_are_shown_and_move_along():
    term = CrossEntropy(class_weight=[1, 2])
    assert repr(term) == "CrossEntropy(label_smoothing=0.0, class_weight=(1.0, 2.0))"
    assert term.state_dict() == {}
    assert term.to("meta")._of_classes.is_meta
