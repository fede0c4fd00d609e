"""The checks that all losses share, at the edges of what they allow."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kdcourse import checks, precision

ROWS = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])


@pytest.mark.parametrize(
    ("outputs", "are"),
    [
        (ROWS, True),
        (ROWS.half(), True),
        (torch.eye(3), True),
        (torch.tensor([[0.3, 0.7]]), True),
        (ROWS + 9e-4 / 3, True),
        (ROWS + 1.1e-3 / 3, False),
        (ROWS - 0.2, False),
        (0.9 * ROWS, False),
        (ROWS * torch.tensor([[1.0], [2.0]]), False),
        (torch.tensor([[1.5, -0.5]]), False),
        (ROWS[:0], False),
        (torch.ones(4, 1), False),
        (ROWS[0], False),
        (ROWS[None], False),
        (ROWS.to("meta"), False),
    ],
    ids=str,
)
def test_probabilities_are_rows_above_zero_that_sum_to_one(outputs, are):
    assert checks.are_probabilities(outputs) is are


@pytest.mark.parametrize(
    ("off", "dtype", "good"),
    [
        (9e-4, torch.float64, True),
        (1.1e-3, torch.float64, False),
        (-1.1e-3, torch.float64, False),
        (0.02, torch.bfloat16, True),
        (0.06, torch.bfloat16, False),
    ],
)
def test_a_row_sums_to_one_within_a_thousandth_or_the_precision_it_has(off, dtype, good):
    rows = torch.tensor([[0.25, 0.75], [0.25, 0.75 + off]], dtype=torch.float64).to(dtype)
    if good:
        checks.check_probabilities("p", rows)
    else:
        with pytest.raises(ValueError, match=r"each row of p must sum to one; the worst is off by"):
            checks.check_probabilities("p", rows)


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        ({}, [-1e300, 0, 1e300], [math.nan, math.inf, -math.inf]),
        ({"low": 0}, [0, 1], [-1e-300]),
        ({"low": 0, "open_low": True}, [1e-300], [0, -1]),
        ({"high": 1}, [1, -5], [1 + 1e-15]),
        ({"low": 0, "high": 1, "open_high": True}, [0, 1 - 1e-15], [1, -1]),
    ],
    ids=str,
)
def test_a_number_lies_within_its_limits(limits, inside, outside):
    for value in inside:
        checks.check_number("x", value, **limits)
    for value in outside:
        with pytest.raises(checks.ArgumentError, match="x must be finite and lie in") as refused:
            checks.check_number("x", value, **limits)
        assert refused.value.argument == "x"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({}, "(-inf, inf)"),
        ({"low": 0}, "[0, inf)"),
        ({"high": 1}, "(-inf, 1]"),
        ({"low": 0, "high": 1, "open_low": True}, "(0, 1]"),
        ({"low": 0, "high": 1, "open_high": True}, "[0, 1)"),
    ],
    ids=str,
)
def test_the_limits_are_told(limits, words):
    with pytest.raises(ValueError, match="x must") as refused:
        checks.check_number("x", math.nan, **limits)
    assert str(refused.value) == f"x must be finite and lie in {words}, got nan"


@pytest.mark.parametrize("value", [True, "1", None, 1j, torch.tensor(1.0)], ids=str)
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match="x must be a real number, got"):
        checks.check_number("x", value)
    with pytest.raises(TypeError, match="x must be a positive integer, got"):
        checks.check_positive(x=value)


def test_positive_integers():
    checks.check_positive(x=1, y=10**9)
    for bad in (0, -1, 1.0, 2.5):
        with pytest.raises(checks.ArgumentError, match=f"y must be a positive integer, got {bad}"):
            checks.check_positive(x=1, y=bad)


def test_a_matrix():
    checks.check_matrix("m", torch.zeros(1, 2))
    checks.check_matrix("m", torch.zeros(0, 1), "D", least=0)
    checks.check_matrix("m", torch.zeros(3, 1), "D", least=3)
    for shape, columns, least, words in [
        ((2,), "K", 1, r"must have shape \(N, K\), got \(2,\)"),
        ((2, 2, 2), "D", 1, r"must have shape \(N, D\)"),
        ((0, 2), "K", 1, r"must hold at least 1 sample\(s\), got 0"),
        ((2, 2), "D", 3, r"must hold at least 3 sample\(s\), got 2"),
        ((2, 1), "K", 1, r"must have at least 2 classes \(N, K\), got \(2, 1\)"),
        ((2, 0), "D", 1, r"must have at least one column, got \(2, 0\)"),
    ]:
        with pytest.raises(ValueError, match=f"^m {words}"):
            checks.check_matrix("m", torch.zeros(shape), columns, least)


def test_a_target_lies_among_its_classes():
    checks.check_target(torch.tensor([0, 2, 1]), 3, 3)
    for bad, words in (([0, 3, 1], "from 0 to 3"), ([0, -1, 1], "from -1 to 1")):
        with pytest.raises(ValueError, match=rf"target must lie in \[0, 3\), got values {words}"):
            checks.check_target(torch.tensor(bad), 3, 3)
    checks.check_target(torch.zeros(3, device="meta").long(), 3, 3)  # nothing to read there


def test_values_are_read_on_the_cpu_only_and_outside_of_transformations():
    assert precision.readable(torch.ones(2))
    assert not precision.readable(torch.ones(2, device="meta"))
    with FakeTensorMode():
        assert not precision.readable(torch.ones(2))
    seen = []
    torch.func.vmap(lambda row: seen.append(precision.readable(row)) or row)(torch.ones(2, 2))
    assert seen == [False]


@pytest.mark.parametrize(
    ("dtype", "least", "widest"),
    [
        (torch.float16, torch.float32, torch.float64),
        (torch.bfloat16, torch.float32, torch.float64),
        (torch.float32, torch.float32, torch.float64),
        (torch.float64, torch.float64, torch.float64),
    ],
)
def test_precision(dtype, least, widest):
    tensor = torch.ones(2, dtype=dtype)
    assert precision.at_least_float32(tensor).dtype == least
    assert precision.widest(tensor) == widest


def test_flags_and_choices():
    checks.check_flag("x", False)
    checks.check_choice("x", "a", ("a", "b"))
    with pytest.raises(TypeError, match="x must be True or False, got 1"):
        checks.check_flag("x", 1)
    with pytest.raises(checks.ArgumentError, match="x must be one of 'a', 'b', got 'c'"):
        checks.check_choice("x", "c", ("a", "b"))
