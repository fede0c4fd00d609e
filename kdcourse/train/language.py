"""What an option says, in the Python of the notebooks: ``CrossEntropy() + 4 * LogitKD(4)``.

The text is read, and never run. Understood are literals, sums, products and quotients, and calls of
those public names of the library that make something and do nothing else: terms, teachers, nets,
augmentations, views, sources of texts, schedules. What they are given is bound by Python itself.
"""

import ast
import inspect
import operator
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NoReturn

from torch import nn
from torch.optim.lr_scheduler import LRScheduler

import kdcourse
from kdcourse import models
from kdcourse.objective import Objective, Term
from kdcourse.train.options import meant
from kdcourse.training.teacher import Teacher

Maker = Callable[..., Any]
# Files whose public names only make things.
ROOMS = {
    "augmentation": "augmentations",
    "rand_augment": "augmentations",
    "tips": "views",
    "training.schedules": "schedules",
    "language.sources": "texts",
}
ALWAYS = (  # filled in also where a default stands
    *("channels", "classes", "seed"),
    *("class_dim", "ignore_index", "channel_dim", "length", "batch_size"),  # where texts are read
)
OPERATORS: dict[type, Maker] = {
    ast.Add: operator.add,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
UNDERSTOOD = (
    "understood are calls of public names, literals, sums and products, such as "
    "CrossEntropy() + 4 * LogitKD(temperature=4); --help lists the names"
)


@cache
def words() -> dict[str, tuple[str, Maker]]:
    """Return what each public name that an option may say makes, and the class or function."""
    found = {}
    for name, module in sorted(kdcourse.public_names().items()):
        maker = getattr(import_module(module), name)
        kind = ROOMS.get(module.removeprefix("kdcourse.")) or _makes(maker)
        if kind is not None:
            found[name] = kind, maker
    return found


def _makes(maker: Maker) -> str | None:
    """Say what a class or function makes; None if it may do anything else, such as training."""
    made: Any = maker
    if not isinstance(maker, type):
        signature = inspect.signature(maker)
        made = None if "checkpoint" in signature.parameters else signature.return_annotation
    if made == Callable[[int], float]:
        return "momenta"
    if not isinstance(made, type) or not issubclass(made, nn.Module):
        return None
    if issubclass(made, Objective):
        return "terms" if issubclass(made, Term) and made.loss is not Term.loss else None
    if issubclass(made, Teacher):
        return "teachers" if made.show is not Teacher.show else None
    return "nets"


def is_schedule(maker: Maker) -> bool:
    """Whether ``fit`` calls a function itself, so that an option says its bare name."""
    return inspect.signature(maker).return_annotation is LRScheduler


class Reader:
    """Reads one expression, or raises a ``ValueError`` that says where it cannot be followed.

    Args:
        text: The expression.
        given: What the command knows, by the names of parameters (``student``, ``classes``): it is
            bound to them where the text leaves them out, and may be named in it.
        kinds: What the expression may make (:func:`words`); anything if nothing is said.

    Attributes:
        made: What it makes.
        nets: The nets that were made on the way, in the order of their names, with fresh weights.
    """

    def __init__(self, text: str, given: Mapping[str, Any], *kinds: str):
        self.given, self.nets = given, list[nn.Module]()
        self.line = " ".join(text.split("\n")).lstrip()
        self.blanks = len(text) - len(self.line)  # which Python would refuse
        try:
            with warnings.catch_warnings():  # Python's, about odd literals
                warnings.simplefilter("ignore")
                body = ast.parse(self.line, mode="eval").body
            self.made = self.value(body)
        except SyntaxError as error:
            near = f" near character {self.blanks + error.offset}" if error.offset else ""
            raise ValueError(f"{text!r} cannot be read{near}") from None
        except (RecursionError, MemoryError):
            raise ValueError("it is nested too deeply") from None
        name = getattr(body.func if isinstance(body, ast.Call) else body, "id", "")
        kind = "terms" if isinstance(self.made, Objective) else words().get(name, (None,))[0]
        if kinds and kind not in kinds:
            raise ValueError(f"{text!r} makes none of the {' or '.join(kinds)} that --help lists")

    def value(self, node: ast.expr) -> Any:
        """Return what a part of the expression stands for."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return node.value
            case ast.List():
                return [self.value(part) for part in node.elts]
            case ast.Tuple():
                return tuple(self.value(part) for part in node.elts)
            case ast.UnaryOp(op=ast.USub()) if is_number(number := self.value(node.operand)):
                return -number
            case ast.BinOp() if type(node.op) in OPERATORS:
                pair = [self.value(node.left), self.value(node.right)]
                if not all(is_number(part) or isinstance(part, Objective) for part in pair):
                    self.fail(node, "only numbers and objectives can be added and multiplied")
                return self.attempt(node, OPERATORS[type(node.op)], pair, {})
            case ast.Call(func=ast.Name(id=name)) if name in words():
                return self.called(node, words()[name][1])
            case ast.Name(id=name) if name in self.given:
                return self.given[name]
            case ast.Name(id=name) if name in words():
                maker = words()[name][1]
                return maker if is_schedule(maker) else self.fail(node, f"write {name}()")
            case ast.Call(func=ast.Name() as name) | (ast.Name() as name):
                self.fail(name, f"there is no such name{meant(name.id, words())}; {UNDERSTOOD}")
        self.fail(node, UNDERSTOOD)

    def called(self, node: ast.Call, maker: Maker) -> Any:
        """Return what a call makes, its arguments completed by what the command knows."""
        positional = [self.value(argument) for argument in node.args]
        named = {keyword.arg: self.value(keyword.value) for keyword in node.keywords}
        if len(named) < len(node.keywords):
            self.fail(node, "an argument stands there twice")
        known = inspect.signature(maker).parameters
        first = [name for name, p in known.items() if p.kind is not p.KEYWORD_ONLY]
        for name in known.keys() & self.given.keys() - {*named, *first[: len(positional)]}:
            if name in ALWAYS or known[name].default is inspect.Parameter.empty:
                named[name] = self.given[name]
        made = self.attempt(node, maker, positional, named)
        if maker.__module__.startswith(f"{models.__name__}."):
            self.nets.append(made)
        return made

    def attempt(self, node: ast.expr, maker: Maker, positional: Sequence, named: dict) -> Any:
        """Return what a class or function makes, or say where that failed."""
        try:
            return maker(*positional, **named)
        except Exception as error:  # it may refuse in any way what it is given
            known = inspect.signature(maker).parameters
            close = [meant(name, known) for name in named if name and name not in known]
            reason = str(error).partition(". Did you mean")[0]  # as Python asks from 3.13 on
            self.fail(node, f"{reason}{''.join(close)}")

    def fail(self, node: ast.expr, reason: str) -> NoReturn:
        """Refuse a part of the expression, and say where it stands."""
        place = self.blanks + len(self.line.encode()[: node.col_offset].decode()) + 1
        found = textwrap.shorten(ast.get_source_segment(self.line, node) or "", 60)
        close = meant(found.replace("-", "_"), words(), 0.8)  # pad-crop-flip is a difference
        hint = close if reason == UNDERSTOOD else ""
        raise ValueError(f"{found!r} at character {place}: {reason}{hint}")


def mentions(text: str, name: str) -> bool:
    """Whether an expression names something that the command knows, such as the teacher."""
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, RecursionError, MemoryError, ValueError):  # which its reader tells
        return False
    return any(isinstance(node, ast.Name) and node.id == name for node in nodes)


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
