"""What checks expect of an answer, in words that tell a student what to do.

All comparisons are made in float64, whatever the answer was computed in: an answer in float32 is as
right as one in float64.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def normal(seed: int, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normal random numbers, the same for the same seed."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def returned(answer: Any) -> Any:
    """Expect that something is returned, and return it."""
    assert answer is not None, "the function returns nothing: does it end with `return`?"
    return answer


def tensor(answer: Any, shape: Sequence[int] | None = None) -> Tensor:
    """Expect a tensor of numbers, of this shape if one is given.

    Returns:
        It in float64, without gradient.
    """
    assert isinstance(returned(answer), Tensor), (
        f"the result should be a tensor, but yours is of type {type(answer).__name__}"
    )
    assert shape is None or answer.shape == torch.Size(shape), (
        f"the shape should be {tuple(shape or ())}, but yours is {tuple(answer.shape)}"
    )
    value = answer.detach().double()
    assert not bool(value.isnan().any()), "the result contains NaN, as 0/0 does"
    return value


def tensors(answer: Any, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Expect a list or tuple of tensors of these shapes, and return them in float64."""
    assert isinstance(returned(answer), (list, tuple)), (
        f"the result should be a list or tuple of length {len(shapes)}, but yours is of type "
        f"{type(answer).__name__}"
    )
    assert len(answer) == len(shapes), (
        f"the number of tensors should be {len(shapes)}, but yours is {len(answer)}"
    )
    return [tensor(one, shape) for one, shape in zip(answer, shapes, strict=True)]


def number(answer: Any) -> float:
    """Expect one finite number, as a tensor without dimensions or as a plain number."""
    if isinstance(returned(answer), Tensor):
        assert answer.numel() == 1, (
            f"the result should be one number, but yours has shape {tuple(answer.shape)}: is a sum "
            "or a mean missing?"
        )
        answer = answer.item()
    assert isinstance(answer, (int, float)), (
        f"the result should be a number, but yours is of type {type(answer).__name__}"
    )
    assert math.isfinite(answer), f"the result should be finite, but yours is {answer}"
    return float(answer)


def different(answers: Iterable[Any]) -> list[float]:
    """Expect finite numbers for different inputs, not all the same: a constant has many properties.

    Returns:
        The numbers.
    """
    found = [number(answer) for answer in answers]
    assert max(found) > min(found), (
        f"the result is always {found[0] + 0.0:.3g}, even for different inputs: does it depend on "
        "both arguments?"
    )
    return found


def value(
    answer: Any,
    expected: float,
    where: str,
    mistakes: Mapping[str, float] | None = None,
    tolerance: float = 1e-3,
) -> None:
    """Expect a number, and name the mistake if it is one of those that are known.

    Args:
        answer: What the student's function has returned.
        expected: What is right.
        where: What is compared and on which input, as the subject of the message:
            ``"for two equal rows, the loss"`` (should be 0, but yours is 1).
        mistakes: What a mistake would have given, by the words that explain it.
        tolerance: How far off it may be, as a share of what is right, or of 0.1 where that is less.
    """
    found = number(answer)
    if _near(found, expected, tolerance):
        return
    known = [
        (abs(found - wrong), words)
        for words, wrong in (mistakes or {}).items()
        if _near(found, wrong, tolerance)
    ]
    hint = f": {min(known)[1]}" if known else ""
    raise AssertionError(
        f"{where} should be {_shown(expected)}, but yours is {_shown(found)}{hint}"
    )


def unchanged(answer: Any, before: float, where: str, tolerance: float = 1e-3) -> None:
    """Expect the number that was there before: something that must not matter has changed.

    Args:
        answer: What the student's function has returned.
        before: What it had returned before.
        where: What has changed, as the subject of the message: ``"scaling the features"``.
        tolerance: As for :func:`value`.
    """
    found = number(answer)
    assert _near(found, before, tolerance), (
        f"{where} should not change the result, but yours goes from {_shown(before)} to "
        f"{_shown(found)}"
    )


def close(
    answer: Any,
    expected: Tensor,
    problem: str,
    mistakes: Mapping[str, Tensor] | None = None,
    tolerance: float = 1e-3,
) -> None:
    """Expect a tensor, entry by entry, as near as ``tolerance`` of its largest entry.

    Args:
        answer: What the student's function has returned.
        expected: What is right.
        problem: What is wrong if it is not that, nor one of the mistakes that are known.
        mistakes: What a mistake would have given, by the words that explain it.
        tolerance: How far off it may be, as a share of the largest entry of what is right.
    """
    found = tensor(answer, expected.shape)
    if _all_near(found, expected, tolerance):
        return
    known = (
        words for words, wrong in (mistakes or {}).items() if _all_near(found, wrong, tolerance)
    )
    raise AssertionError(next(known, problem))


def slope(
    loss: Callable[[Tensor], Tensor], point: Tensor, of: str = "the student's side", seed: int = 0
) -> None:
    """Expect that autograd's gradient of a loss at a point is how the loss changes there.

    Args:
        loss: A function of one float64 tensor.
        point: Where to look.
        of: What the point is, for the message.
        seed: Of the direction in which to look.
    """
    direction = normal(seed, *point.shape, dtype=torch.float64)
    direction = direction / direction.norm() * point.numel() ** 0.5
    step = 1e-2
    with torch.no_grad():
        ahead, behind = (number(loss(point + sign * step * direction)) for sign in (1, -1))
    rise = (ahead - behind) / (2 * step)
    assert rise != 0, "the result is the same for different inputs"
    along = float((gradient(loss, point, of) * direction).sum())
    assert abs(along - rise) <= 0.02 * abs(rise) + 1e-3, (
        f"the derivative in one direction is {rise:.3g} numerically, but {along:.3g} by autograd: "
        "part of the computation is detached, or done without autograd"
    )


def gradient(
    loss: Callable[[Tensor], Tensor], point: Tensor, of: str = "the student's side"
) -> Tensor:
    """Expect a finite gradient of a loss at a point, and return it in float64."""
    point = point.clone().requires_grad_()
    answer = loss(point)
    number(answer)
    found = None
    if isinstance(answer, Tensor) and answer.requires_grad:
        (found,) = torch.autograd.grad(answer, point, allow_unused=True)
    assert found is not None, (
        f"no gradient arrives at {of}: is it detached, the result turned into a plain number, or "
        "everything computed under torch.no_grad()?"
    )
    assert bool(found.isfinite().all()), (
        "the gradient is not finite: roots and quotients have no slope where they are made of zeros"
    )
    return found.double()


def no_gradient(loss: Callable[[Tensor], Tensor], point: Tensor) -> None:
    """Expect that a loss sends no gradient to its argument, the teacher's side, but uses it."""
    elsewhere = number(loss(point + normal(0, *point.shape, dtype=point.dtype)))
    point = point.clone().requires_grad_()
    answer = loss(point)
    assert number(answer) != elsewhere, "the result is the same, whatever the teacher says"
    if isinstance(answer, Tensor) and answer.requires_grad:
        (found,) = torch.autograd.grad(answer, point, allow_unused=True)
        assert found is None or not bool(found.any()), "the teacher receives a gradient"


def _all_near(found: Tensor, other: Tensor, tolerance: float) -> bool:
    scale = float(other.double().abs().max()) if other.numel() else 0.0
    return bool(((found - other.double()).abs() <= tolerance * max(scale, 1e-2)).all())


def _near(found: float, other: float, tolerance: float) -> bool:
    return abs(found - other) <= tolerance * max(abs(other), 0.1)


def _shown(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1e4 else f"{number:.4g}"
