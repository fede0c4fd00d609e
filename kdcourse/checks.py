"""The checks that all losses share: bad input raises an error that names it, before any arithmetic.

Checks of shapes, types and plain numbers always run. A check that has to read a tensor's values
runs for CPU tensors only: on a GPU it would stall the device, and inside ``torch.compile`` or
``vmap``, or on the ``meta`` device, there are no values to read.
"""

import inspect
import math
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from itertools import chain, repeat
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, TracebackType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

Checked = TypeVar("Checked", bound=Callable)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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


def checked(function: Checked) -> Checked:
    """Let a function, or a class, require of its arguments what its signature says.

    Types are read from the annotations (:func:`fits`); ranges remain for the function to check. Not
    for losses, which are compiled and cheap: they call the checks below themselves.
    """
    if isinstance(function, type):
        function.__init__ = checked(function.__init__)  # type: ignore[misc]
        return function
    parameters = inspect.signature(function).parameters.values()
    expected: dict[str, Any] = {}
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]

    @wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        if not expected:  # now that the whole module is there, with all names of types
            expected.update(get_type_hints(function))
        positional = zip(chain(names, *map(repeat, rest)), args, strict=False)
        for name, value in chain(positional, kwargs.items()):
            if name in expected:
                check_is(name, value, expected[name])
        return function(*args, **kwargs)

    return checking  # type: ignore[return-value]


def check_is(name: str, value: object, expected: Any) -> None:
    """Require a value of an annotated type; another number than one that is meant is an error, too.

    Raises:
        ArgumentError: The value is a number, and another is expected, such as 1.5 for an integer.
        ArgumentTypeError: It is anything else.
    """
    if not fits(value, expected):
        number = fits(value, int | float) or isinstance(value, float)  # NaN
        wanted = any(part in (int, float) for part in (expected, *get_args(expected)))
        error = ArgumentError if number and wanted else ArgumentTypeError
        raise error(name, f"{name} must be {_words(expected)}, got {_found(value)}")


def fits(value: Any, expected: Any) -> bool:
    """Whether a value is of an annotated type, items of lists included.

    As people mean it: True is no number, NaN is none, NumPy's numbers are. A list will do for a
    tuple, text is no list of letters, and tensors are dense.
    """
    kind, parts = get_origin(expected) or expected, get_args(expected)
    if kind in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if expected is Any or isinstance(expected, str):  # the name of a type that is not looked up
        return True
    if kind in NUMBERS:
        real = isinstance(value, NUMBERS[kind]) and not isinstance(value, bool)
        return real and math.isfinite(value)
    if kind is Tensor:
        return isinstance(value, Tensor) and is_dense(value)
    if kind is Callable:
        return callable(value)
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(
            fits(key, parts[0]) and fits(item, parts[1]) for key, item in value.items()
        )
    if kind is tuple and parts[-1] is not ...:
        several = isinstance(value, tuple | list) and len(value) == len(parts)
        return several and all(map(fits, value, parts))
    if issubclass(kind, Iterable) and parts:
        several = isinstance(value, Iterable) and not isinstance(
            value, str | bytes | Mapping | Tensor
        )
        listed = isinstance(value, list | tuple)  # a DataLoader's batches cost something
        return several and (not listed or all(fits(item, parts[0]) for item in value))
    return isinstance(value, kind)


NUMBERS: dict[Any, type] = {int: Integral, float: Real}
WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a finite real number",
    str: "a text",
    Tensor: "a dense torch.Tensor",
    nn.Module: "a torch.nn.Module",
    NoneType: "None",
    Callable: "a function",
}


def _words(expected: Any) -> str:
    kind, parts = get_origin(expected) or expected, get_args(expected)
    if kind in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_words, parts)))
    if kind in WORDS:
        return WORDS[kind]
    if kind is Any:
        return "anything"
    if kind is tuple and parts[-1] is not ...:
        return f"a pair ({', '.join(map(_words, parts))})"
    if issubclass(kind, Mapping):
        return f"a dictionary of {_words(parts[1])} by {_words(parts[0])}"
    if issubclass(kind, Iterable) and parts:
        return f"a list, each item {_words(parts[0])}"
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"


def _found(value: object) -> str:
    """Say what was given, and what to do with it where that is plain."""
    kind = type(value).__name__
    if isinstance(value, type):
        return f"{value.__name__}: call the class to make one"
    if isinstance(value, Tensor):
        if value.is_nested:
            return f"nested {kind}"
        layout = "" if is_dense(value) else f" and layout {value.layout}"
        return f"{kind} of shape {tuple(value.shape)}{layout}"
    if isinstance(value, Mapping) and value and all(map(torch.is_tensor, value.values())):
        return f"{kind}: load it into a model (model.load_state_dict)"
    if inspect.isroutine(value):
        return f"{kind}: call it in the forward of a module"
    if isinstance(value, list | tuple):
        return f"{kind} ({', '.join(type(item).__name__ for item in value[:3])})"
    return f"{kind} {value!r}" if isinstance(value, str | Real) else kind


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is laid out as losses take it: neither sparse nor nested."""
    return tensor.layout is torch.strided and not tensor.is_nested


def check_module(name: str, model: object) -> None:
    """Require a module, made and not merely described."""
    check_is(name, model, nn.Module)


def check_tensor(name: str, tensor: Tensor) -> None:
    """Require a dense tensor."""
    if not isinstance(tensor, Tensor) or not is_dense(tensor):
        raise ArgumentTypeError(name, f"{name} must be {WORDS[Tensor]}, got {_found(tensor)}")


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
        check_integer(name, value, 1)


def check_integer(name: str, value: int, low: int, high: int | None = None) -> None:
    """Require an integer from ``low`` to ``high``, both included."""
    words = "a positive integer" if low == 1 else f"an integer of at least {low}"
    if high is not None:
        words = f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(name, f"{name} must be {words}, got {_found(value)}")
    if not isinstance(value, Integral) or value < low or (high is not None and value > high):
        raise ArgumentError(name, f"{name} must be {words}, got {value!r}")


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


SMALL = 1e-36  # stands for zero where something is divided; 1 / SMALL is a float32 yet


def unit(rows: Tensor) -> Tensor:
    """Scale rows ``(N, M)`` to unit norm, zeros staying zeros, without gradient."""
    return rows / norms(rows)[0]


def norms(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Norms of rows ``(N, M)`` as ``(N, 1)``, to divide by, and in units of the largest entry.

    The largest entry is taken out before squaring: the squares of tiny or huge entries would
    leave the range. What is left has a norm from 1 to √M, unless all is zero. Then the norm is
    infinite: what is divided by it is zero, and so is the gradient, which has no direction.
    """
    largest = rows.detach().abs().amax(dim=1, keepdim=True).clamp_min(SMALL)
    scaled = torch.linalg.vector_norm(rows / largest, dim=1, keepdim=True).clamp_min(1)
    norm = scaled * largest
    return torch.where(norm <= SMALL, torch.inf, norm), scaled
