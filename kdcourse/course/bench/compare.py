"""What all benchmarks share: two ways to do the same thing take turns, and what they cost is kept.

Absolute times depend on the machine and on who else uses it. So the two sides of every ratio take
turns, and the median over the rounds counts.
"""

import json
import statistics
import time
import timeit
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdcourse import files
from kdcourse.checks import check_positive
from kdcourse.course.claims.results import current_versions
from kdcourse.course.claims.table import markdown
from kdcourse.places import intact, latest, own_folder

Loss = Callable[[Tensor, Tensor], Tensor]
Row = TypeVar("Row")


@dataclass
class Comparison:
    """Two ways to do the same thing: medians over the rounds, in seconds.

    ``ratio`` is the median of ours ÷ other, taken round by round.
    """

    name: str
    ours: float
    other: float
    ratio: float
    rounds: int


def compare(
    name: str,
    ours: Callable[[], object],
    other: Callable[[], object],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time two functions in turn, by a clock that counts seconds."""
    a, b = in_turn([ours, other], rounds, clock)
    return Comparison(name, statistics.median(a), statistics.median(b), median_ratio(a, b), rounds)


def compare_many(
    name: str, ours: Callable[[int], object], other: Callable[[int], object], rounds: int
) -> Comparison:
    """Time two functions that repeat something short as often as they are told; seconds of one.

    Several calls in a row, as caches are cold in the first one after the other side's turn; seconds
    of the processor, as a turn is so short that others who use it would show.
    """
    let_freed_memory_stay()
    once = compare(name, partial(ours, 1), partial(other, 1), 1)
    repeats = max(1, int(0.05 / once.ours))
    both = partial(ours, repeats), partial(other, repeats)
    timed = compare(name, *both, rounds, time.process_time)
    return replace(timed, ours=timed.ours / repeats, other=timed.other / repeats)


def let_freed_memory_stay() -> None:
    """Have glibc keep what is freed, as it does in a training, which has freed large tensors.

    Before, it may hand a tensor of 1 MB back to the kernel whenever nothing was allocated behind
    it, and of two equal steps one takes half as long again.
    """
    torch.ones(2**23 - 2**11)  # 32 MB, less a little: the largest block that it learns from


_seconds = partial(timeit.timeit, number=1)


def in_turn(
    functions: Sequence[Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Time functions in turn, after one round to warm up; return the seconds of each."""
    check_positive(rounds=rounds)
    for function in functions:
        function()
    taken = [[_seconds(function, timer=clock) for function in functions] for _ in range(rounds)]
    return [list(seconds) for seconds in zip(*taken, strict=True)]


def median_ratio(ours: Sequence[float], other: Sequence[float]) -> float:
    """Return the median over the rounds of ours ÷ other, taken round by round."""
    return statistics.median(a / b for a, b in zip(ours, other, strict=True))


@dataclass(frozen=True)
class Store(Generic[Row]):
    """The JSON file of a benchmark: the command, what it measured, and by which versions."""

    path: Path
    command: str
    row: Callable[..., Row]

    def check(self) -> None:
        """Require, before anything is measured, that it can be stored."""
        files.check_writable(own_folder(self.path.parent))

    def save(self, rows: Sequence[Any], packages: Iterable[str] = (), **more: Any) -> None:
        """Write what was measured, versions of these packages, too, and more about it."""
        versions = current_versions() | {name: version(name) for name in packages}
        content = {"command": self.command, "versions": versions, **more}
        content["rows"] = [asdict(row) for row in rows]
        text = json.dumps(content, indent=1, ensure_ascii=False)
        files.write(own_folder(self.path.parent) / self.path.name, text + "\n")

    def load(self) -> list[Row]:
        """Return what was measured; raises as :meth:`content` does."""
        content = self.content()
        with intact(latest(self.path)):
            return [self.row(**row) for row in content["rows"]]

    def content(self) -> dict[str, Any]:
        """Return all that is stored: rows, command, versions, and more.

        Raises:
            FileNotFoundError: Nothing was measured yet.
            RuntimeError: The file is damaged.
        """
        path = latest(self.path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; measure: {self.command}")
        with intact(path):
            return dict(json.loads(path.read_text(encoding="utf-8")))


def comparison_table(comparisons: Iterable[Comparison]) -> str:
    """Return comparisons as a table in Markdown."""
    rows = (
        (c.name, f"{c.ours:.3f}", f"{c.other:.3f}", f"**{c.ratio:.3f}**", f"{c.rounds}")
        for c in comparisons
    )
    return markdown(("ours ÷ other", "ours, s", "other, s", "ratio", "rounds"), rows)


def peak_memory(function: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Return the bytes of the tensors that a function makes and that live at once, at most."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveMemory() as memory:
        function()
    return memory.peak


def kernels(function: Callable[[], object]) -> int:
    """Return how many operations a function launches on tensors, but for views and allocations.

    About as many kernels run on a GPU, where each costs some microseconds, however small it is.
    """
    with _Launched() as launched:
        function()
    return launched.count


class _Launched(TorchDispatchMode):
    """Counts operations that compute something."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        self.count += not (function.is_view or "empty" in function.__name__)
        return function(*arguments, **(keywords or {}))


class _LiveMemory(TorchDispatchMode):
    """Adds up the bytes of the tensors that operations return, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        outputs = function(*arguments, **(keywords or {}))
        # What was given comes out again as a view, or changed in place.
        self.live |= _storages(outputs) - _storages((arguments, keywords))
        self.peak = max(self.peak, sum(storage.nbytes() for storage in self.live))
        return outputs


def _storages(tree: Any) -> set[torch.UntypedStorage]:
    return {leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
