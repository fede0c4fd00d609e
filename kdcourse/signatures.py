"""Argument checks derived from signatures: every argument must be of its annotated type."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from itertools import chain, repeat
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from kdcourse.errors import ArgumentError, ArgumentTypeError

Checked = TypeVar("Checked", bound=Callable)


def checked(function: Checked) -> Checked:
    """Let a function, or a class, require of its arguments what its signature says.

    Types are read from the annotations (:func:`matches`); the function itself checks ranges. Not
    for losses, which are compiled and cheap: they call :mod:`kdcourse.checks` themselves.
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
    if not matches(value, expected):
        number = matches(value, int | float) or isinstance(value, float)  # NaN
        wanted = any(part in (int, float) for part in (expected, *get_args(expected)))
        error = ArgumentError if number and wanted else ArgumentTypeError
        raise error(name, f"{name} must be {_words(expected)}, got {describe(value, expected)}")


def matches(value: Any, expected: Any) -> bool:
    """Whether a value is of an annotated type, items of lists included.

    As people mean it: True is no number, NaN is none, NumPy's numbers are. A list will do for a
    tuple, a string is no list of letters, and tensors are dense.
    """
    kind, parts = get_origin(expected) or expected, get_args(expected)
    if kind in (Union, UnionType):
        return any(matches(value, part) for part in parts)
    if expected is Any or isinstance(expected, str):  # the name of a type that is not looked up
        return True
    if kind in REAL:
        real = isinstance(value, REAL[kind]) and not isinstance(value, bool)
        return real and (isinstance(value, Integral) or math.isfinite(value))
    if kind is Tensor:
        return isinstance(value, Tensor) and is_dense(value)
    if kind is Callable:
        return callable(value)
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(
            matches(key, parts[0]) and matches(item, parts[1]) for key, item in value.items()
        )
    if kind is tuple and parts[-1] is not ...:
        several = isinstance(value, (tuple, list)) and len(value) == len(parts)
        return several and all(map(matches, value, parts))
    if issubclass(kind, Iterable) and parts:
        several = isinstance(value, Iterable) and not isinstance(
            value, (str, bytes, Mapping, Tensor)
        )
        if kind is not Iterable:  # it is gone through more than once
            several = several and hasattr(value, "__len__") and hasattr(value, "__getitem__")
        listed = isinstance(value, (list, tuple))  # a DataLoader's batches cost something
        return several and (not listed or all(matches(item, parts[0]) for item in value))
    return isinstance(value, kind)


REAL: dict[Any, type] = {int: Integral, float: Real}


WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a finite real number",
    str: "a string",
    Tensor: "a dense torch.Tensor",
    nn.Module: "a torch.nn.Module",
    NoneType: "None",
    Callable: "a callable",
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
        kind = "pair" if len(parts) == 2 else "tuple"
        return f"a {kind} ({', '.join(map(_words, parts))})"
    if issubclass(kind, Mapping):
        return f"a dictionary of {_words(parts[1])} by {_words(parts[0])}"
    if issubclass(kind, Iterable) and parts:
        return f"a list, each item {_words(parts[0])}"
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"


def describe(value: object, wanted: Any = None) -> str:
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
        module = nn.Module in (wanted, *get_args(wanted))
        return kind + ": call it in the forward of a module" * module
    if isinstance(value, (list, tuple)):
        return f"{kind} ({', '.join(type(item).__name__ for item in value[:3])})"
    return f"{kind} {value!r}" if isinstance(value, (str, Real)) else kind


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is laid out as losses take it: neither sparse nor nested."""
    return tensor.layout is torch.strided and not tensor.is_nested
