"""The checks that all losses share: bad input raises an error that names it, before any arithmetic.

Checks of shapes, types and plain numbers always run. A check that has to read a tensor's values
runs for CPU tensors only: on a GPU it would stall the device, and inside ``torch.compile`` or
``vmap``, or on the ``meta`` device, there are no values to read.
"""

import math
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor


class Told(Exception):
    """An error that names the argument at fault; a notebook shows it below the user's own line.

    IPython asks an exception how to render itself. Left out are the frames of this package and of
    what is installed, which the message makes needless; scripts and debuggers see all of them.

    Attributes:
        argument: The name of the argument.
    """

    def __init__(self, argument: str, message: str):
        super().__init__(argument, message)
        self.argument = argument

    def __str__(self) -> str:
        return self.args[1]

    def _render_traceback_(self) -> list[str]:
        shown: TracebackType | None = None
        causes = [] if self.__cause__ is None else _frames(self.__cause__.__traceback__)
        for frame in reversed([*_frames(self.__traceback__), *causes]):
            if not frame.tb_frame.f_code.co_filename.startswith(NOT_THE_USERS):
                shown = TracebackType(shown, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
        alone = type(self)(*self.args)  # without its cause, which its words tell
        shell = sys.modules["IPython"].get_ipython()  # which has asked for this
        render = shell.InteractiveTB.structured_traceback
        return render(type(self), alone, shown, tb_offset=0, context=3)


NOT_THE_USERS = (str(Path(__file__).parent), *sysconfig.get_paths().values(), "<string>")


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


class ArgumentError(Told, ValueError):
    """An argument that cannot work, by itself or in combination with others."""


class ArgumentTypeError(Told, TypeError):
    """An argument of a type that cannot work."""


class NotFiniteError(Told, FloatingPointError):
    """A loss that is no longer finite; ``argument`` is what to blame."""


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
    """Require a tensor of a floating-point dtype."""
    if not isinstance(tensor, Tensor):
        raise ArgumentTypeError(name, f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise ArgumentError(name, f"{name} must be floating point, got {tensor.dtype}")


def check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Require two tensors of the same shape (same batch size, same number of classes)."""
    if tensor.shape != other.shape:
        raise ArgumentError(
            name,
            f"{name} and {other_name} must have the same shape (same batch, same classes), "
            f"got {tuple(tensor.shape)} and {tuple(other.shape)}",
        )


def check_same_samples(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Require two tensors of the same batch size, whatever their other dimensions."""
    if len(tensor) != len(other):
        raise ArgumentError(
            name,
            f"{name} and {other_name} must hold the same samples, "
            f"got {len(tensor)} and {len(other)}",
        )


def check_target(target: Tensor, samples: int, classes: int) -> None:
    """Require class indices: shape ``(N,)``, int64, in ``[0, K)``."""
    if not isinstance(target, Tensor):
        raise ArgumentTypeError(
            "target", f"target must be a torch.Tensor, got {type(target).__name__}"
        )
    if target.dtype != torch.int64:
        raise ArgumentError(
            "target", f"target must hold class indices of dtype torch.int64, got {target.dtype}"
        )
    if target.shape != (samples,):
        raise ArgumentError(
            "target", f"target must have shape ({samples},), got {tuple(target.shape)}"
        )
    if readable(target) and not bool(((target >= 0) & (target < classes)).all()):
        raise ArgumentError(
            "target",
            f"target must lie in [0, {classes}), got values from "
            f"{int(target.min())} to {int(target.max())}",
        )


def check_labels(name: str, target: Tensor, classes: int) -> None:
    """Require labels in ``[0, K)``, or −1 where there is none; the values are read."""
    lowest, highest = int(target.min()), int(target.max())
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


def check_temperature(temperature: float) -> None:
    """Require a finite temperature above zero."""
    check_number("temperature", temperature, 0.0, open_low=True)


def check_positive(**values: int) -> None:
    """Require every named value to be an integer of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ArgumentTypeError(
                name, f"{name} must be a positive integer, got {type(value).__name__}"
            )
        if not isinstance(value, Integral) or value < 1:
            raise ArgumentError(name, f"{name} must be a positive integer, got {value!r}")


def check_module(name: str, model: object) -> None:
    """Require a module, made and not merely described."""
    if isinstance(model, nn.Module):
        return
    advice = ""
    if isinstance(model, type):
        advice = ": call the class to make one"
    elif isinstance(model, Mapping):
        advice = ": load it into a model (model.load_state_dict)"
    elif callable(model):
        advice = ": call it in the forward of a module"
    kind = model.__name__ if isinstance(model, type) else type(model).__name__
    raise ArgumentTypeError(name, f"{name} must be a torch.nn.Module, got {kind}{advice}")


def check_flag(name: str, value: object) -> None:
    """Require True or False: any other value would be one of them, without a word."""
    if not isinstance(value, bool):
        raise ArgumentTypeError(name, f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Require ``value`` to be one of ``choices``."""
    if value not in choices:
        words = ", ".join(map(repr, choices))
        raise ArgumentError(name, f"{name} must be one of {words}, got {value!r}")


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
    if not off <= max(1e-3, 4 * torch.finfo(probabilities.dtype).eps):
        raise ArgumentError(
            name, f"each row of {name} must sum to one; the worst is off by {off:.4g}"
        )


def are_probabilities(outputs: Tensor) -> bool:
    """Whether outputs ``(N, K)`` are probabilities and not logits: each row ≥ 0, with sum one."""
    if outputs.dim() != 2 or outputs.shape[1] < 2 or outputs.device.type == "meta":
        return False
    rows = outputs.detach().float()
    return len(rows) > 0 and bool((rows >= 0).all() & ((rows.sum(1) - 1).abs() < 1e-3).all())


def readable(tensor: Tensor) -> bool:
    """Whether the values of ``tensor`` can be read without stalling a device."""
    return (
        tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not isinstance(tensor, FakeTensor)
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; leave float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def widest(tensor: Tensor) -> torch.dtype:
    """Return the most precise dtype that a tensor's device has: float64, but not on MPS."""
    return tensor.dtype if tensor.device.type == "mps" else torch.float64
