"""What an option says, in the Python of the notebooks: ``CrossEntropy() + 4 * LogitKD(4)``.

The text is read, and never run. Understood are literals, sums, products and quotients, and calls of
those public names of the library that make something and do nothing else: terms, teachers, nets,
augmentations, views, schedules. What they are given is bound by Python itself.
"""

import ast
import collections.abc
import difflib
import inspect
import operator
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NoReturn, get_origin, get_type_hints

from torch import nn

import kdcourse
from kdcourse import models
from kdcourse.objective import Objective, Term
from kdcourse.training.teacher import Teacher

# Files whose public names only make things.
ROOMS = {"augmentation": "augmentations", "tips": "views", "training.schedules": "schedules"}
ALWAYS = ("channels", "classes", "seed")  # bound also where a default stands
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@cache
def words() -> dict[str, dict[str, Callable[..., Any]]]:
    """Return the public names that an option may say, by what they make."""
    found: dict[str, dict[str, Callable[..., Any]]] = {}
    for name, module in sorted(kdcourse.public_names().items()):
        value = getattr(import_module(module), name)
        kind = ROOMS.get(module.removeprefix("kdcourse.")) or _makes(value)
        if kind is not None:
            found.setdefault(kind, {})[name] = value
    return found


def _makes(value: Any) -> str | None:
    """Say what a class or function makes; None if it does anything else, such as training."""
    made = value if isinstance(value, type) else get_type_hints(value).get("return")
    if get_origin(made) is collections.abc.Callable:
        return "schedules"
    if not isinstance(made, type) or not issubclass(made, nn.Module):
        return None
    if "checkpoint" in inspect.signature(value).parameters:
        return None
    if issubclass(made, Objective):
        return "terms" if issubclass(made, Term) and made.loss is not Term.loss else None
    if issubclass(made, Teacher) or value.__name__ == "pretrained":
        return "teachers" if made is not Teacher or value is not Teacher else None
    return "nets"


def read(text: str, given: Mapping[str, Any] | None = None) -> Any:
    """Return what an expression makes.

    Args:
        text: The expression.
        given: What the command knows, by the names of parameters (``student``, ``classes``): it is
            bound to them where the text leaves them out, and may be named in it.

    Raises:
        ValueError: The text cannot be read, or Python refuses what it says; the message says where.
    """
    return Reader(text, given or {}).made


class Reader:
    """Reads one expression.

    Attributes:
        made: What it makes.
        nets: The nets that were made on the way, in the order of their names, with fresh weights.
    """

    def __init__(self, text: str, given: Mapping[str, Any]):
        self.given, self.nets = given, list[nn.Module]()
        self.words = {name: w for kind in words().values() for name, w in kind.items()}
        self.line = " ".join(text.split("\n")).strip()
        try:
            with warnings.catch_warnings():  # Python's, about odd literals
                warnings.simplefilter("ignore")
                tree = ast.parse(self.line, mode="eval")
            self.made = self.value(tree.body)
        except SyntaxError as error:
            place = f" near character {error.offset}" if error.offset else ""
            raise ValueError(f"{text!r} cannot be read{place}") from None
        except (RecursionError, MemoryError):
            raise ValueError("it is nested too deeply") from None

    def value(self, node: ast.expr) -> Any:
        """Return what a part of the expression stands for."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return node.value
            case ast.List():
                return [self.value(part) for part in node.elts]
            case ast.Tuple():
                return tuple(self.value(part) for part in node.elts)
            case ast.UnaryOp(op=ast.USub()) if self.is_number(number := self.value(node.operand)):
                return -number
            case ast.BinOp() if type(node.op) in OPERATORS:
                return self.computed(node, self.value(node.left), self.value(node.right))
            case ast.Call(func=ast.Name(id=name)):
                return self.called(node, name)
            case ast.Name(id=name) if name in self.given:
                return self.given[name]
            case ast.Name(id=name) if name in words()["schedules"]:  # as fit takes it
                return self.words[name]
            case ast.Name(id=name):
                self.fail(node, f"write {name}()" if name in self.words else self.unknown(name))
        self.fail(node, "understood are calls of public names, literals, sums and products")

    def computed(self, node: ast.BinOp, left: Any, right: Any) -> Any:
        """Return a sum, product or quotient of numbers and objectives, and of nothing else."""
        if not all(self.is_number(part) or isinstance(part, Objective) for part in (left, right)):
            self.fail(node, "only numbers and objectives can be added and multiplied")
        try:
            return OPERATORS[type(node.op)](left, right)
        except (TypeError, ValueError, ArithmeticError) as error:
            self.fail(node, str(error))

    def called(self, node: ast.Call, name: str) -> Any:
        """Return what a call of a public name makes."""
        if name not in self.words:
            self.fail(node.func, self.unknown(name))
        positional = [self.value(argument) for argument in node.args]
        named = {}
        for keyword in node.keywords:
            if keyword.arg is None:  # **
                self.fail(node, "understood are arguments one by one")
            named[keyword.arg] = self.value(keyword.value)
        maker = self.words[name]
        known = inspect.signature(maker).parameters
        try:
            said = inspect.signature(maker).bind_partial(*positional, **named).arguments
            needed = {n for n, p in known.items() if p.default is p.empty or n in ALWAYS}
            rest = {n: v for n, v in self.given.items() if n in needed and n not in said}
            made = maker(*positional, **named, **rest)
        except Exception as error:  # a class may refuse in any way what it is given
            close = [_meant(wrong, known) for wrong in named if wrong not in known]
            self.fail(node, f"{error}{''.join(close)}")
        if maker.__module__ == models.__name__:
            self.nets.append(made)
        return made

    def unknown(self, name: str) -> str:
        """Say that there is no such name, and which is closest."""
        return f"there is no such name{_meant(name, self.words)}; --help lists those there are"

    def fail(self, node: ast.expr, reason: str) -> NoReturn:
        """Refuse a part of the expression, and say where it stands."""
        place = len(self.line.encode()[: node.col_offset].decode()) + 1
        found = textwrap.shorten(ast.get_source_segment(self.line, node) or "", 60)
        raise ValueError(f"{found!r} at character {place}: {reason}")

    @staticmethod
    def is_number(value: Any) -> bool:
        """Whether a value is an int or a float."""
        return isinstance(value, int | float) and not isinstance(value, bool)


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Make the error for a name that does not exist, with the closest one that does."""
    known = list(known)
    return ValueError(
        f"unknown {kind} {name!r}{_meant(name, known) or ';'} known: {', '.join(known)}"
    )


def described() -> str:
    """List every name that an option may say, with its arguments, for ``--help``."""
    lines = []
    for kind, makers in words().items():
        lines += [
            f"{kind}:",
            *(f"  {name}{_signature(maker)}" for name, maker in makers.items()),
            "",
        ]
    return "\n".join(lines)


def _signature(maker: Callable[..., Any]) -> str:
    """Write the arguments of a class or function, without types."""
    signature = inspect.signature(maker)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))
