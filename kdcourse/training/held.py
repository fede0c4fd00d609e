"""What Python objects hold, to find out what has changed in them."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType, ModuleType

from torch import Tensor, nn
from torch.nn.modules import module

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
WEIGHT_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
DEEPEST, LONGEST = 40, 1000  # how far objects are looked into


@dataclass(frozen=True)
class _TheSame:
    """Compares an object by its identity, and keeps it, so that no other gets its address."""

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TheSame) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


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
    """Return all that objects hold, by its path: numbers by value, tensors by their memory."""
    found: dict[str, object] = {}
    seen: set[int] = set()

    def visit(path: str, value: object) -> None:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            found[path] = repr(value)  # NaN is not equal to itself
        elif isinstance(value, Tensor):
            found[path] = _TheSame(value), value.data_ptr(), value.requires_grad
        elif isinstance(value, CONTAINERS):
            found[path] = type(value), len(value)
        else:
            found[path] = _TheSame(value)
        if id(value) not in seen and path.count(".") < DEEPEST:
            seen.add(id(value))
            for name, part in _parts(value):
                visit(f"{path}.{name}", part)

    for name, value in objects.items():
        visit(name, value)
    return found


def _parts(value: object) -> Iterable[tuple[object, object]]:
    """Return what a container, an object or a function holds, with its name."""
    if isinstance(value, (type, ModuleType, Tensor)):
        return ()
    if isinstance(value, Mapping):
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
