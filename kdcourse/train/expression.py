"""What an option says, read without running it: ``ce + 0.9*kd(temperature=4)``.

An expression is a sum of names, each perhaps with arguments and a factor. Arguments are numbers,
texts, names, lists, or names with arguments of their own. Names may hold dashes and dots
(``wrn-16-2``, ``stage3.1``), so a dash between letters or digits is no minus.
"""

import ast
import difflib
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

# Python's own parser reads the text. A dash or dot inside a name would be an operator to it, so
# each is replaced by a letter that looks alike, one for one: positions stay what they are.
_INSIDE = str.maketrans("-.", "ーꓸ")
_OUTSIDE = str.maketrans("ーꓸ", "-.")
_TOKEN = re.compile(
    r"""
    "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*'      # a text
    | \d[\w.]*(?:(?<=[eE])[+-]\d+)?            # a number
    | (?P<name>[^\W\d]\w*(?:[-.]\w+)*)
    """,
    re.VERBOSE,
)
_CONSTANTS = {"true": True, "false": False, "none": None}
_UNDERSTOOD = "understood are sums of names with arguments, and numbers as factors"


@dataclass(frozen=True)
class Call:
    """A name, with arguments or without.

    Attributes:
        name: as written.
        place: of the name in the text, from 1.
        positional: arguments without a name.
        named: arguments by name.
    """

    name: str
    place: int
    positional: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)

    @property
    def bare(self) -> bool:
        """Whether it is a name and nothing else, which can also stand for a text."""
        return not self.positional and not self.named


def parse(text: str) -> list[tuple[float, Call]]:
    """Read a sum of calls and return each with its factor.

    Raises:
        ValueError: anything else; the message says what and where.
    """
    line = re.sub(r"\s", " ", text)
    margin = len(line) - len(line.lstrip())
    line = _TOKEN.sub(
        lambda m: m[0].translate(_INSIDE) if m["name"] else m[0], line.lstrip()
    ).rstrip()
    if not line:
        raise ValueError("it is empty")
    try:
        with warnings.catch_warnings():  # of Python's, about odd literals
            warnings.simplefilter("ignore")
            tree = ast.parse(line, mode="eval")
        return _Reader(line, margin).sum(tree.body)
    except SyntaxError as error:
        place = f" near character {margin + error.offset}" if error.offset else ""
        raise ValueError(f"{text!r} cannot be read{place}; {_UNDERSTOOD}") from None
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deeply") from None
    except (OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"{text!r} cannot be computed: {error}") from None


def one(text: str) -> Call:
    """Read a single call, without a factor."""
    parts = parse(text)
    if len(parts) != 1 or parts[0][0] != 1:
        raise ValueError(f"{text!r} must be one name, perhaps with arguments")
    return parts[0][1]


class _Reader:
    """Turns Python's syntax tree into calls, and admits nothing else."""

    def __init__(self, line: str, margin: int):
        self.line, self.margin = line.encode(), margin

    def place(self, node: ast.expr) -> int:
        return len(self.line[: node.col_offset].decode()) + self.margin + 1

    def fail(self, node: ast.expr) -> NoReturn:
        found = (ast.get_source_segment(self.line.decode(), node) or "").translate(_OUTSIDE)
        raise ValueError(
            f"{found!r} at character {self.place(node)} is not understood; {_UNDERSTOOD}"
        )

    def sum(self, node: ast.expr) -> list[tuple[float, Call]]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.sum(node.left) + self.sum(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)):
            if isinstance(node.op, ast.Mult) and self.is_number(node.left):
                factor, calls = self.number(node.left), node.right
            elif self.is_number(node.right):
                factor, calls = self.number(node.right), node.left
                if isinstance(node.op, ast.Div):
                    factor = 1 / factor
            else:
                self.fail(node)
            return [(factor * weight, call) for weight, call in self.sum(calls)]
        return [(1.0, self.call(node))]

    def call(self, node: ast.expr) -> Call:
        if isinstance(node, ast.Name):
            return Call(node.id.translate(_OUTSIDE), self.place(node))
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            self.fail(node)
        named = {}
        for keyword in node.keywords:
            if keyword.arg is None:  # **
                self.fail(node)
            named[keyword.arg.translate(_OUTSIDE).replace("-", "_")] = self.argument(keyword.value)
        positional = tuple(self.argument(value) for value in node.args)
        return Call(node.func.id.translate(_OUTSIDE), self.place(node), positional, named)

    def argument(self, node: ast.expr) -> Any:
        if self.is_number(node):
            return self.number(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bool, type(None))):
            return node.value
        if isinstance(node, (ast.Tuple, ast.List)):
            return tuple(self.argument(value) for value in node.elts)
        if isinstance(node, ast.Name) and node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        return self.call(node)

    def is_number(self, node: ast.expr) -> bool:
        """Whether a node is a number, its negative, or a product or quotient of numbers."""
        if isinstance(node, ast.UnaryOp):
            return isinstance(node.op, ast.USub) and self.is_number(node.operand)
        if isinstance(node, ast.BinOp):
            arithmetic = isinstance(node.op, (ast.Mult, ast.Div))
            return arithmetic and self.is_number(node.left) and self.is_number(node.right)
        return isinstance(node, ast.Constant) and type(node.value) in (int, float)

    def number(self, node: ast.expr) -> float:
        """Return a number's value; an int stays one where nothing is divided."""
        if not self.is_number(node):
            self.fail(node)
        if isinstance(node, ast.UnaryOp):
            return -self.number(node.operand)
        if isinstance(node, ast.BinOp):
            left, right = self.number(node.left), self.number(node.right)
            return left * right if isinstance(node.op, ast.Mult) else left / right
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, (int, float))
        return node.value


def unknown(kind: str, name: str, known: Iterable[str], place: int | None = None) -> ValueError:
    """Make the error for a name that does not exist, with the closest one that does."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    at = "" if place is None else f" at character {place}"
    hint = f"; did you mean {close[0]}?" if close else ";"
    return ValueError(f"unknown {kind} {name!r}{at}{hint} known: {', '.join(known)}")
