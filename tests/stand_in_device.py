"""A device that computes on the CPU and forgives as little as a GPU: ``-p stand_in_device``.

Its tensors hold one on the CPU, which does the work, so that results are those of the CPU, bit by
bit. As on a GPU, they do not mix with tensors of the CPU, nor with its generators; and where the
host reads a value, or sends one, it waits, which is noted in :data:`WAITS`. The plugin gives the
device to every test that takes the fixture ``device``.

It is set up before the first backward pass of a process, after which torch knows all its devices:
hence a plugin of pytest, in a process of its own (``tests/test_stand_in.py``), and no fixture.
"""

import traceback
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "stand_in"
WAITS: list[str] = []  # where the host has read or sent a value, as "file:line operation"
MOVES = ("aten::_to_copy", "aten::copy_", "aten::_copy_from")
POSITIONS = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
# What torch makes by resizing something empty, which these tensors cannot follow.
RESIZED = ("arange", "arange.start", "arange.start_step", "linspace", "eye", "eye.m")
HOST_READS = (
    *("aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::nonzero"),
    *("aten::unique_dim", "aten::_unique2", "aten::masked_select", "aten::bincount"),
)


class OnDevice(Tensor):
    """A tensor of the stand-in."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> "OnDevice":
        return Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, raw: Tensor):
        self.raw = raw

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), keywords=None):
        return compute(operation, *arguments, **(keywords or {}))

    def __format__(self, form: str) -> str:
        return format(self.item(), form) if self.dim() == 0 else super().__format__(form)

    def __repr__(self, **_: Any) -> str:
        return f"{self.raw!r} on the {NAME}"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert a tensor of the {NAME} to NumPy: copy it to the CPU first")

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.raw.untyped_storage()

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def __reduce_ex__(self, protocol: int):
        return self.raw.__reduce_ex__(protocol)


TorchGenerator = torch.Generator
OWN: set[int] = set()  # which generators are the stand-in's: where they lie in memory


class AnyGenerator(type(TorchGenerator)):
    """Takes the generators of every device for instances, as the class that it stands for does."""

    def __instancecheck__(cls, one: object) -> bool:
        return issubclass(type(one), TorchGenerator)


class Generator(TorchGenerator, metaclass=AnyGenerator):
    """A generator: the stand-in has its own, with the draws of the CPU's."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:
        own = torch.device(device).type == NAME
        made = super().__new__(cls, "cpu") if own else TorchGenerator(device)
        (OWN.add if own else OWN.discard)(made._cdata)
        return made

    device = property(lambda self: torch.device(NAME, 0))


make = torch.tensor


def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    """Make a tensor of numbers, which torch would do past any backend that is written in Python."""
    made = make(data, **options)
    return made if device is None else made.to(device)


def compute(operation: Any, *arguments: Any, **keywords: Any) -> Any:
    """Do on the CPU what the device was asked for."""
    name = operation.name().partition(".")[0]
    given = [one for one in tree_leaves((arguments, keywords)) if isinstance(one, Tensor)]
    ours, place = {isinstance(one, OnDevice) for one in given}, keywords.get("device")
    if place is not None:
        ours.add(place.type == NAME)
        keywords["device"] = torch.device("cpu")
    if name not in MOVES:
        _check_places(name, arguments, given, keywords)
    if name in HOST_READS or (name in MOVES and len(ours) == 2):
        WAITS.append(f"{_caller()} {name.removeprefix('aten::')}")
    raw_arguments, raw_keywords = tree_map_only(OnDevice, _raw, (arguments, keywords))
    result = operation(*raw_arguments, **raw_keywords)
    changed = _changed(operation, arguments, keywords)
    if changed is not None:
        if changed.shape != _raw(changed).shape:
            raise NotImplementedError(f"the {NAME} cannot resize in place: {operation.name()}")
        return changed
    leaves = place is not None and place.type != NAME
    return result if leaves else tree_map_only(Tensor, OnDevice, result)


def _raw(tensor: Tensor) -> Tensor:
    return tensor.raw if isinstance(tensor, OnDevice) else tensor


def _changed(operation: Any, arguments: Any, keywords: Any) -> Tensor | None:
    """Return the tensor that an operation has changed in place and returns, if there is one."""
    known = operation._schema.arguments
    if len(operation._schema.returns) != 1:
        return None
    values = {one.name: value for one, value in zip(known, arguments, strict=False)} | keywords
    written = (values.get(one.name) for one in known if one.is_write)
    return next((one for one in written if isinstance(one, Tensor)), None)


def _check_places(name: str, arguments: Any, given: list[Tensor], keywords: Any) -> None:
    """Refuse what a GPU would refuse."""
    if name in POSITIONS:  # which may be the CPU's
        given = [arguments[0], *(one for one in arguments[2:] if isinstance(one, Tensor))]
    strangers = [one for one in given if not isinstance(one, OnDevice) and one.dim() > 0]
    if strangers:
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, got one of shape "
            f"{tuple(strangers[0].shape)} on {strangers[0].device} and others on the {NAME}"
        )
    for one in (*arguments, *keywords.values()):
        if isinstance(one, TorchGenerator) and one._cdata not in OWN:
            raise RuntimeError(f"{name}: expected a generator of the {NAME}, got one of the CPU")


def _caller() -> str:
    """Return the innermost line of the course that runs now."""
    for frame in reversed(traceback.extract_stack(limit=60)):
        if "kdcourse" in frame.filename or "/notebooks/" in frame.filename:
            return f"{frame.filename.rpartition('kdcourse/')[2]}:{frame.lineno}"
    return "elsewhere"


def swap(one: Tensor, other: Tensor) -> None:
    """Exchange two parameters, also where a graph of autograd still knows one of them."""
    one.__class__, other.__class__ = other.__class__, one.__class__
    one.__dict__, other.__dict__ = other.__dict__, one.__dict__
    torch._C._swap_tensor_impl(one, other)


class Backend(backend_registration._DummyBackendModule):
    """What torch asks the module of a device for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _restored(storage: Any, location: str) -> Any:
    """Return what was read for the stand-in from a file: it is the CPU's until it is copied."""
    return storage if location.startswith(NAME) else None


def set_up() -> torch.device:
    """Set the device up in this process, and let it be what :func:`choose_device` prefers.

    Raises:
        RuntimeError: This version of torch cannot have a backend that is written in Python.
    """
    register = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if register is None:
        raise RuntimeError(f"torch {torch.__version__} has no backends written in Python")
    register(NAME, Backend())
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters stay the same objects
    torch.utils.swap_tensors = swap
    every, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(compute, "PrivateUse1")
    for name in RESIZED:
        packet, _, overload = name.partition(".")
        operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
        own.impl(name, partial(compute, operation), "PrivateUse1")
    torch.Generator, torch.tensor = Generator, tensor
    torch.serialization.register_package(0, lambda storage: None, _restored)
    KEPT.extend([every, own])
    return torch.device(NAME, 0)


KEPT: list[Any] = []


PLACE = set_up()
