"""Quantities instead of classes."""

import math

import pytest
import torch
from sklearn.metrics import r2_score
from test_predictions import drawn
from torch import nn
from torch.nn import functional as F

from kdcourse import fit
from kdcourse.errors import ArgumentError
from kdcourse.objective import Lesson, Outputs
from kdcourse.regression import MeanSquared, RegressionKD, squared_error_loss

LOSSES = {"squared error": squared_error_loss}


def example(name):
    """Predictions of student and teacher, here and for the tests of every loss."""
    return drawn(4, 3), drawn(4, 3, seed=1)


@pytest.mark.parametrize("shape", [(4, 3), (6,), (2, 1, 2, 2)])
def test_equals_the_definition(shape):
    y, wanted, weight = drawn(*shape), drawn(*shape, seed=1), drawn(*shape, seed=2).abs()
    triples = list(zip(*(one.flatten().tolist() for one in (y, wanted, weight)), strict=True))
    expected = math.fsum(w * (a - b) ** 2 for a, b, w in triples)
    expected /= math.fsum(w for _, _, w in triples)
    assert squared_error_loss(y, wanted, weight=weight).item() == pytest.approx(expected)
    assert squared_error_loss(y, wanted).item() == pytest.approx(F.mse_loss(y, wanted).item())


def test_what_does_not_count_may_hold_anything():
    y, wanted, mask = drawn(4, 3), drawn(4, 3, seed=1), drawn(4, 3, seed=2) > -1
    padded = y.masked_fill(~mask, math.nan).requires_grad_()
    value = squared_error_loss(padded, wanted.masked_fill(~mask, math.inf), mask=mask)
    assert value.item() == pytest.approx(F.mse_loss(y[mask], wanted[mask]).item())
    assert not torch.autograd.grad(value, padded)[0][~mask].any()


def test_predictions_and_labels_are_never_broadcast():
    with pytest.raises(ArgumentError, match=r"shape \(N, …\) of predictions, \(4, 1\), got \(4,\)"):
        squared_error_loss(drawn(4, 1), drawn(4))


def test_terms_compare_with_labels_and_teacher():
    y, labels, taught = drawn(4, 3), drawn(4, 3, seed=1), drawn(4, 3, seed=2)
    lesson = Lesson(Outputs(logits=y), labels, Outputs(logits=taught))
    assert MeanSquared().loss(lesson).item() == pytest.approx(F.mse_loss(y, labels).item())
    assert RegressionKD().loss(lesson).item() == pytest.approx(F.mse_loss(y, taught).item())


@pytest.mark.parametrize("shape", [(8, 3), (8,), (8, 2, 2, 2)])
def test_r2_is_that_of_sklearn_in_parts_and_weighted(shape):
    y, labels, weight = drawn(*shape), drawn(*shape, seed=1), drawn(8, seed=2).abs()
    term = MeanSquared()
    rows = [
        one.reshape(8, shape[1], -1).mT.flatten(0, 1) if one.dim() > 1 else one
        for one in (y, labels)
    ]
    repeats = len(rows[0]) // 8
    for w in (None, weight):
        parts = [slice(0, 3), slice(3, 8)]
        sums = [
            term.sums(
                Lesson(Outputs(logits=y[at]), labels[at], weight=None if w is None else w[at])
            )
            for at in parts
        ]
        each = None if w is None else w.repeat_interleave(repeats)
        expected = r2_score(rows[1], rows[0], sample_weight=each)
        assert term.rate(sum(sums)) == pytest.approx(expected)


def test_labels_without_variance_are_named():
    lesson = Lesson(Outputs(logits=drawn(4)), torch.ones(4, dtype=torch.float64))
    with pytest.raises(ArgumentError, match="validation must hold different labels"):
        MeanSquared().rate(MeanSquared().sums(lesson))


@pytest.mark.parametrize("flat", [False, True], ids=["a column", "a vector"])
def test_quantities_may_be_whole_numbers(flat):
    torch.manual_seed(0)
    inputs, ages = torch.rand(16, 1), torch.arange(16)[:, None]
    net = nn.Linear(1, 1)
    if flat:
        net, ages = nn.Sequential(net, nn.Flatten(0)), ages[:, 0]
    history = fit(
        *(net, [(inputs, ages)], MeanSquared()),
        **{"validation": [(inputs, ages)], "epochs": 2, "device": "cpu", "progress": False},
    )
    assert "train_accuracy" not in history.last
    assert history.last["validation_r2"] < 1
