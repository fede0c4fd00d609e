"""Two ways to do the same thing, side by side: time and memory.

Absolute times depend on the machine and on who else uses it; so the two sides of every ratio take
turns, and the median of the rounds counts.
"""

import json
import platform
import re
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Comparison:
    """Two ways to do the same thing.

    Attributes:
        name: what is compared.
        ours: median seconds of our way.
        other: median seconds of the other way.
        ratio: median over the rounds of ours ÷ other, taken round by round.
        rounds: so many rounds.
    """

    name: str
    ours: float
    other: float
    ratio: float
    rounds: int


def compare(
    name: str, ours: Callable[[], object], other: Callable[[], object], rounds: int
) -> Comparison:
    """Time two functions in turn."""
    a, b = in_turn([ours, other], rounds)
    return Comparison(name, statistics.median(a), statistics.median(b), median_ratio(a, b), rounds)


def in_turn(functions: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Time functions in turn, after one round to warm up; return the seconds of each."""
    for function in functions:
        function()
    taken = [[_seconds(function) for function in functions] for _ in range(rounds)]
    return [list(seconds) for seconds in zip(*taken, strict=True)]


def median_ratio(ours: Sequence[float], other: Sequence[float]) -> float:
    """Return the median over the rounds of ours ÷ other, taken round by round."""
    return statistics.median(a / b for a, b in zip(ours, other, strict=True))


def store(path: Path, command: str, versions: Mapping[str, str], **content: Any) -> None:
    """Store what a command has measured as JSON, with the versions by which it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {"command": command, "versions": versions, **content}
    path.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def processor() -> str:
    """Name the processor and the instructions that torch uses on it."""
    linux = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", linux.read_text()) if linux.is_file() else None
    name = found[1] if found else platform.processor()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def peak_memory(function: Callable[[], object]) -> int:
    """Bytes of all tensors that a function makes and that live at the same time, at most."""
    with _LiveMemory() as memory:
        function()
    return memory.peak


class _LiveMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations put out, until these are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.live: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        given = {storage._cdata for storage in _storages((arguments, keywords))}
        outputs = function(*arguments, **(keywords or {}))
        for storage in _storages(outputs):
            if storage._cdata not in given:  # else a view, or made in place
                self._count(storage)
        return outputs

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.live:  # two outputs in one storage
            return
        self.live.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, storage: int, size: int) -> None:
        self.live.discard(storage)
        self.now -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
