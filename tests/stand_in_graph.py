"""Stands in for a CUDA graph on a machine without a GPU.

Every operation of a step is written down while it is taken, with the memory that it reads and
writes. A replay does these operations again on the same memory, and no Python of the step runs: a
number that a schedule has changed in Python stays what it was, as in a CUDA graph. What a graph
cannot do is refused: reading a value on the host, be it to know a size, or making a tensor of
numbers that Python has.
"""

import sys
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from kdcourse.training import capture, learner, run

aten = torch.ops.aten
READS = (
    *(aten._local_scalar_dense, aten.is_nonzero, aten.nonzero, aten.equal, aten.masked_select),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount),
    *(aten._linalg_check_errors, aten._linalg_eigh, aten._linalg_svd, aten.linalg_eig),
)
MADE = (aten.lift_fresh,)  # of numbers
PLACES = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


def waits(function, arguments, options) -> bool:
    """Whether the host has to know a value on the device, so that it can go on."""
    if function.overloadpacket in PLACES:  # how many there are; but one number fills a mask
        fills = len(arguments) > 2 and len(arguments[1]) == arguments[2].numel() == 1
        return not fills and any(
            one is not None and one.dtype == torch.bool for one in arguments[1]
        )
    if function is aten.repeat_interleave.Tensor:
        return options.get("output_size") is None
    if function.overloadpacket is aten.fake_quantize_per_channel_affine_cachemask:
        return not arguments[2].is_floating_point()  # whether zero points lie in their range
    return function.overloadpacket in READS


class Writing(TorchDispatchMode):
    """Writes down what is done."""

    def __init__(self, calls: list[Callable[[], None]]):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.overloadpacket in MADE or waits(function, arguments, options or {}):
            raise AssertionError(f"a step that is replayed calls {function}")
        results = function(*arguments, **(options or {}))
        memory = tree_map_only(Tensor, lambda one: one.detach(), (arguments, options or {}))
        returns = function._schema.returns
        if all(one.alias_info is None for one in returns):
            written = [one.detach() for one in tree_leaves(results) if isinstance(one, Tensor)]
            self.calls.append(partial(_again, function, *memory, written))
        elif any(one.alias_info.is_write for one in returns if one.alias_info):
            self.calls.append(partial(function, *memory[0], **memory[1]))
        return results  # a view of what is there anyway needs no call


def _again(function, arguments, options, written):
    results = [o for o in tree_leaves(function(*arguments, **options)) if isinstance(o, Tensor)]
    for place, value in zip(written, results, strict=True):
        place.copy_(value)


class Recorded:
    """What was done when a function was called, to be done again."""

    graphs = replays = operations = 0

    def __init__(self, function: Callable[[], None], generators: Iterable[torch.Generator] = ()):
        type(self).graphs += 1
        self.calls: list[Callable[[], None]] = []
        with Writing(self.calls):
            function()
        type(self).operations = len(self.calls)
        self.done = True  # once: a CUDA graph would do it at the first replay only

    @torch.no_grad()
    def replay(self) -> None:
        type(self).replays += 1
        if not self.done:
            for call in self.calls:
                call()
        self.done = False


class Counted(capture.Graph):
    """A CUDA graph."""

    graphs = replays = 0

    def __init__(self, *arguments):
        type(self).graphs += 1
        super().__init__(*arguments)

    def replay(self) -> None:
        type(self).replays += 1
        super().replay()


@pytest.fixture
def replaying(device: torch.device, monkeypatch: pytest.MonkeyPatch):
    """Let steps be captured: on a GPU by CUDA graphs, on the CPU by what stands in for them."""

    def why_not(wanted, device, steps):
        return "" if wanted is not False else "capture=False"

    kind = Counted if device.type == "cuda" else Recorded
    for count in ("graphs", "replays"):
        monkeypatch.setattr(kind, count, 0)
    monkeypatch.setattr(kind, "device", device, raising=False)
    monkeypatch.setattr(capture, "Graph", kind)
    for module in (learner, run):
        monkeypatch.setattr(module, "why_not", why_not)
    if kind is Recorded:
        for name, module in list(sys.modules.items()):
            if name.startswith("kdcourse.") and hasattr(module, "readable"):
                monkeypatch.setattr(module, "readable", lambda tensor: False)
    return kind
