"""The checks that all losses share: bad input raises an error that names it, before any arithmetic.

Checks of shapes, types and plain numbers always run. A check that has to read a tensor's values
runs for CPU tensors only: on a GPU it would stall the device, and inside ``torch.compile`` or
``vmap``, or on the ``meta`` device, there are no values to read.
"""

import inspect
import math
from collections.abc import Callable
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.precision import at_least_float32 as at_least_float32  # handed-out homework does
from kdcourse.precision import readable
from kdcourse.signatures import WORDS, check_is, describe, is_dense

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_module(name: str, model: object) -> None:
    """Require a module, made and not merely described."""
    check_is(name, model, nn.Module)


def check_tensor(name: str, tensor: Tensor) -> None:
    """Require a dense tensor."""
    if not isinstance(tensor, Tensor) or not is_dense(tensor):
        raise ArgumentTypeError(name, f"{name} must be {WORDS[Tensor]}, got {describe(tensor)}")


def check_matrix(name: str, tensor: Tensor, columns: str = "K", least: int = 1) -> None:
    """Require a floating-point tensor of shape ``(N, columns)`` with at least ``least`` rows."""
    check_floating(name, tensor)
    if tensor.dim() != 2:
        raise ArgumentError(
            name, f"{name} must have shape (N, {columns}), got {tuple(tensor.shape)}"
        )
    if tensor.shape[0] < least:
        raise ArgumentError(
            name, f"{name} must hold at least {least} sample(s), got {tensor.shape[0]}"
        )
    if columns == "K" and tensor.shape[1] < 2:
        raise ArgumentError(
            name, f"{name} must have at least 2 classes (N, K), got {tuple(tensor.shape)}"
        )
    if tensor.shape[1] < 1:
        raise ArgumentError(
            name, f"{name} must have at least one column, got {tuple(tensor.shape)}"
        )


def check_floating(name: str, tensor: Tensor) -> None:
    """Require a dense tensor of a floating-point dtype of at least 16 bits."""
    check_tensor(name, tensor)
    if tensor.dtype not in FLOATS:
        raise ArgumentError(
            name, f"{name} must be floating point of at least 16 bits, got {tensor.dtype}"
        )


def check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Require two tensors of the same shape (same batch size, same number of classes)."""
    check_same_device(name, tensor, other_name, other)
    if tensor.shape != other.shape:
        raise ArgumentError(
            name,
            f"{name} and {other_name} must have the same shape (same batch, same classes), "
            f"got {tuple(tensor.shape)} and {tuple(other.shape)}",
        )


def check_same_device(
    name: str, tensor: Tensor | torch.Generator, other_name: str, other: Tensor | torch.Generator
) -> None:
    """Require two tensors on one device, or one that draws and what it draws for."""
    if tensor.device != other.device:
        raise ArgumentError(
            name,
            f"{name} and {other_name} must be on the same device, "
            f"got {tensor.device} and {other.device}",
        )


def check_same_samples(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Require two tensors of the same batch size, whatever their other dimensions."""
    check_same_device(name, tensor, other_name, other)
    if tensor.shape[:1] != other.shape[:1]:
        got = [len(one) if one.dim() else "a scalar" for one in (tensor, other)]
        raise ArgumentError(
            name, f"{name} and {other_name} must hold the same samples, got {got[0]} and {got[1]}"
        )


def check_target(
    target: Tensor, samples: int, classes: int | None = None, name: str = "target"
) -> None:
    """Require class indices: shape ``(N,)``, int64, in ``[0, K)`` where K is known."""
    check_tensor(name, target)
    if target.dtype != torch.int64:
        raise ArgumentError(
            name, f"{name} must hold class indices of dtype torch.int64, got {target.dtype}"
        )
    if target.shape != (samples,):
        raise ArgumentError(name, f"{name} must have shape ({samples},), got {tuple(target.shape)}")
    if classes is None or not readable(target):
        return
    if not bool(((target >= 0) & (target < classes)).all()):
        raise ArgumentError(
            name,
            f"{name} must lie in [0, {classes}), got values from "
            f"{int(target.min())} to {int(target.max())}",
        )


def check_labels(name: str, target: Tensor, samples: int, classes: int) -> None:
    """Require labels ``(N,)`` in ``[0, K)``, −1 where there is none, or probabilities ``(N, K)``.

    Args:
        name: What the labels are those of.
        target: The labels.
        samples: N.
        classes: K.
    """
    if target.shape == (samples, classes) and target.is_floating_point():
        check_probabilities(f"the labels of {name}", target)
        return
    if target.dtype != torch.int64 or target.shape != (samples,):
        raise ArgumentError(
            name,
            f"the labels of {name} must be torch.int64 of shape ({samples},), or probabilities "
            f"({samples}, {classes}), got {target.dtype} of shape {tuple(target.shape)}",
        )
    if not readable(target) or len(target) == 0:
        return
    lowest, highest = torch.stack(target.aminmax()).tolist()
    if lowest < -1 or highest >= classes:
        raise ArgumentError(
            name,
            f"the labels of {name} must lie in [0, {classes}), or be -1 where there is none, got "
            f"values from {lowest} to {highest}",
        )


def check_number(
    name: str,
    value: float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Require a finite real number between ``low`` and ``high``, which are included unless open."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(name, f"{name} must be a real number, got {type(value).__name__}")
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (math.isfinite(value) and above and below):
        left = "(" if open_low or low == -math.inf else "["
        right = ")" if open_high or high == math.inf else "]"
        raise ArgumentError(
            name, f"{name} must be finite and lie in {left}{low}, {high}{right}, got {value}"
        )


def check_temperature(temperature: float, name: str = "temperature", high: float = 1e9) -> None:
    """Require a temperature at which predictions can still be computed."""
    check_number(name, temperature, 1e-9, high)


def check_positive(**values: int) -> None:
    """Require every named value to be an integer of at least 1."""
    for name, value in values.items():
        check_integer(name, value, 1)


def check_integer(name: str, value: int, low: int, high: int | None = None) -> None:
    """Require an integer from ``low`` to ``high``, both included."""
    words = "a positive integer" if low == 1 else f"an integer of at least {low}"
    if high is not None:
        words = f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(name, f"{name} must be {words}, got {describe(value)}")
    if not isinstance(value, Integral) or value < low or (high is not None and value > high):
        raise ArgumentError(name, f"{name} must be {words}, got {value!r}")


def check_callable(name: str, function: Callable, *arguments: object) -> None:
    """Require a function that can be called with such arguments, as far as it tells."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some of C do not tell
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise ArgumentTypeError(
            name, f"{name} must be callable with {len(arguments)} argument(s), has {signature}"
        ) from None


def check_flag(name: str, value: object) -> None:
    """Require True or False: any other value would be one of them, without a word."""
    if not isinstance(value, bool):
        raise ArgumentTypeError(name, f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Require ``value`` to be one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        words = ", ".join(map(repr, choices))
        raise ArgumentError(name, f"{name} must be one of {words}, got {value!r}")


def check_values(name: str, tensor: Tensor) -> None:
    """Require a tensor with values: one that is not on the meta device."""
    if tensor.is_meta:
        raise ArgumentError(name, f"{name} must hold values, got a tensor on the meta device")


def check_probabilities(name: str, probabilities: Tensor) -> None:
    """Require rows ≥ 0 that sum to one, within 1e-3 or the precision of the dtype."""
    if not readable(probabilities):
        return
    if not bool((probabilities >= 0).all()):  # also false for NaN
        raise ArgumentError(
            name, f"{name} must not be negative or NaN; smallest: {probabilities.min()}"
        )
    sums = probabilities.detach().double().sum(dim=1)
    off = float((sums - 1).abs().max())
    if not off <= rounding(probabilities):
        raise ArgumentError(
            name, f"each row of {name} must sum to one; the worst is off by {off:.4g}"
        )


def are_probabilities(outputs: Tensor, class_dim: int = 1) -> bool:
    """Whether outputs are probabilities and not logits: ≥ 0, with sum one over the classes."""
    if outputs.is_meta or outputs.numel() == 0 or not -outputs.dim() < class_dim < outputs.dim():
        return False
    if outputs.shape[class_dim] < 2:
        return False
    off = (outputs.detach().double().sum(dim=class_dim) - 1).abs().max()
    return bool((outputs >= 0).all()) and float(off) <= rounding(outputs)


def rounding(probabilities: Tensor) -> float:
    """How far from one the sum of probabilities may be, in the precision they have."""
    return max(1e-3, 4 * torch.finfo(probabilities.dtype).eps)


def check_outputs(argument: str, who: str, outputs: object) -> None:
    """Require a tensor of predictions from a model, which is, or is in, the argument."""
    if not isinstance(outputs, Tensor):
        raise ArgumentTypeError(
            argument,
            f"{who} must return a tensor of logits (N, K), got {type(outputs).__name__}: say "
            "where they are in it (output=lambda returned: ..., of fit or of a FrozenTeacher), or "
            "wrap it into a module that returns them",
        )


def check_logits(argument: str, who: str, outputs: object, class_dim: int = 1) -> None:
    """Require a tensor of logits, and not of probabilities; the values are read."""
    check_outputs(argument, who, outputs)
    if are_probabilities(outputs, class_dim):  # type: ignore[arg-type]
        raise ArgumentError(
            argument,
            f"{who} returns probabilities, and logits are needed: leave its softmax out"
            + " (or use ClosedTeacher)" * (argument != "student"),
        )
