"""Binds the arguments of an expression to a class or function, by its own signature."""

import collections.abc
import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Union, get_args, get_origin

from kdcourse.train.expression import Call, unknown

Maker = Callable[..., Any]  # a class or function

_WORDS = {
    float: "a number",
    int: "an integer",
    str: "a name",
    bool: "true or false",
    type(None): "none",
}


def signature(maker: Maker, hidden: Iterable[str] = ()) -> str:
    """Write the arguments of a maker as they stand in an expression.

    Args:
        maker: class or function.
        hidden: arguments that the command fills in itself.
    """
    shown = []
    for name, parameter in _parameters(maker, hidden).items():
        default = parameter.default
        if default is parameter.empty:
            shown.append(name)
        else:
            shown.append(f"{name}={_written(default)}")
    return f"({', '.join(shown)})".replace("_", "-") if shown else ""


def bind(maker: Maker, call: Call, hidden: Iterable[str] = ()) -> dict[str, Any]:
    """Return the arguments of a call by the names of the maker's parameters.

    Raises:
        ValueError: an argument that the maker lacks, misses or cannot take.
    """
    parameters = _parameters(maker, hidden)
    at = f"{call.name} at character {call.place}"
    if len(call.positional) > len(parameters):
        raise ValueError(
            f"{at} takes at most {len(parameters)} argument(s), got {len(call.positional)}"
        )
    bound = dict(zip(parameters, call.positional, strict=False))
    for name, value in call.named.items():
        if name not in parameters:
            raise unknown("argument", name, parameters, call.place)
        if name in bound:
            raise ValueError(f"{at} got {name} twice")
        bound[name] = value
    for name, parameter in parameters.items():
        if name in bound:
            bound[name] = _converted(bound[name], parameter.annotation, f"{name} of {at}")
        elif parameter.default is parameter.empty:
            raise ValueError(f"{at} needs {name}: {call.name}{signature(maker, hidden)}")
    return bound


def make(maker: Maker, call: Call, given: dict[str, Any] | None = None) -> Any:
    """Call a maker with the arguments of a call, and those ``given`` by the command.

    Raises:
        ValueError: an argument that the maker refuses; the message says where it stands.
    """
    given = given or {}
    bound = bind(maker, call, given)
    try:
        return maker(**given, **bound)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{call.name} at character {call.place}: {error}") from error


def _parameters(maker: Maker, hidden: Iterable[str]) -> dict[str, inspect.Parameter]:
    hidden = set(hidden)
    return {n: p for n, p in inspect.signature(maker).parameters.items() if n not in hidden}


def _converted(value: Any, hint: Any, what: str) -> Any:
    """Return a value as a hint wants it, or say what it has to be."""
    value = _text(value)
    if not _fits(value, hint):
        shown = value.name if isinstance(value, Call) else _written(value)
        raise ValueError(f"{what} must be {_wanted(hint)}, got {shown}")
    return value


def _text(value: Any) -> Any:
    """Return the text that a bare name stands for, in lists too; all else stays as it is."""
    if isinstance(value, tuple):
        return tuple(map(_text, value))
    return value.name if isinstance(value, Call) and value.bare else value


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        fixed = isinstance(value, tuple) and len(value) == len(parts)
        return fixed and all(map(_fits, value, parts))
    if origin is collections.abc.Sequence:
        return isinstance(value, tuple) and all(_fits(part, parts[0]) for part in value)
    if origin is collections.abc.Callable:
        return callable(value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is hint


def _wanted(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_wanted(part) for part in parts))
    if origin is tuple:
        return f"({', '.join(_wanted(part) for part in parts)})"
    if origin is collections.abc.Sequence:
        return f"a list, each {_wanted(parts[0])}"
    return _WORDS.get(hint, "a schedule")


def _written(value: Any) -> str:
    """Write a value as it stands in an expression."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
