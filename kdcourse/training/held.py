"""What Python objects hold, to find out what has changed in them."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
WEIGHT_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
PLAIN = (type(None), bool, int, float, complex, str, bytes)
CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
BUILT_IN = {dict, OrderedDict, list, tuple, set, frozenset}  # of which empty ones are left out
DEEPEST, LONGEST = 40, 1000  # how far objects are looked into


class _TheSame:
    """Compares an object by its identity, and keeps it, so that no other gets its address."""

    __slots__ = ("value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: object):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TheSame) and self.value is other.value


def hooked(objects: Mapping[str, object]) -> str:
    """Return the name of a module, or of a weight, that has a hook, or nothing."""
    if any(getattr(module, f"_global{kind}") for kind in HOOKS):
        return "every module"
    for name, value in objects.items():
        if not isinstance(value, nn.Module):
            continue
        for path, part in (*value.named_modules(), *value.named_parameters()):
            kinds = HOOKS if isinstance(part, nn.Module) else WEIGHT_HOOKS
            if any(getattr(part, kind, None) for kind in kinds):
                return f"{name}.{path}".removesuffix(".")
    return ""


def held_by(objects: Mapping[str, object]) -> dict[str, object]:
    """Return all that objects hold, by its path: numbers by value, tensors by their memory.

    A GPU has nothing to do while two nets are gone through, module by module, before every epoch.
    """
    found: dict[str, object] = {}
    seen: set[int] = set()
    sorts: dict[type, object] = {}  # asked for once: an abstract class is slow to tell its own

    def visit(path: str, value: Any, depth: int) -> None:
        kind = type(value)
        sort = sorts.get(kind) or sorts.setdefault(kind, _sort(kind))
        if sort is PLAIN:
            found[path] = repr(value)  # NaN is not equal to itself
        elif sort is Tensor:
            found[path] = _TheSame(value), value.data_ptr(), value.requires_grad
        else:
            found[path] = (kind, len(value)) if sort is CONTAINERS else _TheSame(value)
            if depth < DEEPEST and id(value) not in seen:
                seen.add(id(value))
                for name, part in _parts(value):
                    if type(part) not in BUILT_IN or part:  # mostly hooks, and nobody has any
                        visit(f"{path}.{name}", part, depth + 1)

    for name, value in objects.items():
        visit(name, value, 0)
    return found


def _sort(kind: type) -> object:
    """Return what objects of a kind are compared by."""
    return next((sort for sort in (PLAIN, Tensor, CONTAINERS) if issubclass(kind, sort)), object)


def _parts(value: object) -> Iterable[tuple[object, object]]:
    """Return what a container, an object or a function holds, with its name."""
    if isinstance(value, nn.Module):  # most are
        return vars(value).items()
    if isinstance(value, (type, ModuleType)):
        return ()
    if isinstance(value, (dict, Mapping)):
        return value.items()
    if isinstance(value, CONTAINERS):
        return enumerate(value) if len(value) <= LONGEST else ()
    if isinstance(value, MethodType):
        return (("self", value.__self__), ("function", value.__func__))
    if isinstance(value, partial):
        return (("function", value.func), ("arguments", value.args), ("options", value.keywords))
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return zip(value.__code__.co_freevars, cells, strict=True)
    return vars(value).items() if hasattr(value, "__dict__") else ()
