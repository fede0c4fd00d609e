"""A step captured as one CUDA graph and replayed, so that a GPU waits for nobody.

The step of a small net is hundreds of kernels that run for a few microseconds each, and Python
takes longer to launch one than the GPU to run it. Captured as a graph, they are launched together.
A replay calls no Python: it does the same to the same memory once more. So whatever differs from
step to step lies in device memory (the batch, or the indices of its images; learning rate and
momentum; counts), random numbers come from generators that the graph knows, and what has to be done
on the host is done before the step or after it.
"""

import random
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from numpy import random as numpy_random
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from kdcourse import processes
from kdcourse.errors import ArgumentError
from kdcourse.training.held import held_by, hooked

PLAIN = 3  # steps that are taken plainly first: kernels are chosen, and optimisers make their state
WORTH = 50  # steps from which on capturing one takes less time than it saves
FAILED: list[torch.cuda.CUDAGraph] = []  # which torch's allocator may go on asking: they stay
OTHERS = 10  # batches of another size than the first, after which it is no use to wait for more


def why_not(capture: bool | str, device: torch.device, steps: int) -> str:
    """Return why no step can be captured, as far as can be told before the first, or nothing.

    Args:
        capture: As in :class:`kdcourse.training.Knobs`.
        device: Where the steps are taken.
        steps: How many there will be.
    """
    least = WORTH if capture == "auto" else PLAIN + 1
    if capture is False:
        return "capture=False"
    if device.type != "cuda":
        return f"steps are captured on CUDA only, not on {device.type}"
    if processes.count() > 1:
        return "many processes talk to each other in every step"
    return f"there are fewer than {least} steps" if steps < least else ""


class Steps:
    """Takes steps: plainly at first, then by replaying one.

    Args:
        take: Takes a step, on the device alone, from what it is given: tensors in tuples, lists
            and dictionaries.
        device: Where it does so.
        generators: The generators that it draws from, beside the global one.
        watched: Returns modules, augmentations, views that it calls, by name. Where an attribute
            changes with every step, a replay would leave it as it is: then no step is captured.
        captured: Called when a step has been captured.
        reason: Why no step can be captured, if that is known already.
        must: Whether to raise an error then.

    Attributes:
        reason: Why no step can be captured; empty as long as one may.

    Raises:
        ArgumentError: No step can be captured, though one must.
    """

    def __init__(
        self,
        take: Callable[[Any], None],
        device: torch.device,
        *,
        generators: Sequence[torch.Generator] = (),
        watched: Callable[[], Mapping[str, object]] = dict,
        captured: Callable[[], None] = lambda: None,
        reason: str = "",
        must: bool = False,
    ):
        self.take, self.device, self.generators = take, device, generators
        self.watched, self.captured, self.must = watched, captured, must
        self.graph: Graph | None = None
        self.given: Any = None  # what the captured step reads,
        self.memory: list[Any] = []  # its parts,
        self.kind: object = None  # and how they are put together
        self.plain = self.others = 0  # steps taken plainly so far, and those with another batch
        self.state: dict[str, object] = {}
        self.reason = ""
        self._refuse(reason)

    @property
    def outcome(self) -> str:
        """What came of it, in words."""
        few = f"fewer than {PLAIN + 1} batches were of the same size"
        return "captured" if self.graph is not None else f"not captured: {self.reason or few}"

    def begin_epoch(self) -> None:
        """Forget the captured step if somebody has changed, meanwhile, what it is made of."""
        if not self.reason:
            state = held_by(self.watched())
            if state != self.state:
                self.graph, self.state = None, state

    def __call__(self, given: Any) -> None:
        """Take a step."""
        if self.reason:
            self.take(given)
            return
        leaves, kind = tree_flatten(given)
        if self.kind is None:
            self.memory, self.kind = [self._memory_for(one) for one in leaves], kind
            self.given = tree_unflatten(self.memory, kind)
        if kind != self.kind or not all(map(_fits, self.memory, leaves)):  # a smaller batch, say
            self.others += self.graph is None
            self._refuse("batches are not of one size" * (self.others > OTHERS))
            self.take(given)
            return
        for place, value in zip(self.memory, leaves, strict=True):
            if isinstance(place, Tensor):
                place.copy_(value, non_blocking=True)
        if self.graph is None and self.plain >= PLAIN:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
        else:
            self.plain += 1
            self._take_plainly()

    def _take_plainly(self) -> None:
        """Take a step, and at last look whether there is something in it that is not replayed."""
        if self.plain != PLAIN:
            self.take(self.given)
            return
        before, drawn = held_by(self.watched()), _host_randomness(self.device)
        with _waits(self.device) as waits:
            self.take(self.given)
        self.state = held_by(self.watched())
        changed = [n for n in {**before, **self.state} if before.get(n) != self.state.get(n)]
        if changed:
            name = re.sub(r"\b_(modules|buffers|parameters)\.", "", changed[0])
            self._refuse(f"{name} changes with every step")
        elif drawn != _host_randomness(self.device):
            self._refuse("a step draws random numbers on the host")
        elif waits:
            self._refuse(f"the host waits for the GPU in every step: {waits[0]}")

    def _capture(self) -> None:
        if name := hooked(self.watched()):
            self._refuse(f"a hook of {name} is called in every step")
            return
        try:
            self.graph = Graph(lambda: self.take(self.given), self.generators)
        except RuntimeError as error:
            self._refuse(f"capturing a step failed, {_first_line(error)}")
        else:
            self.captured()

    def _refuse(self, reason: str) -> None:
        self.reason = reason
        if reason and self.must:
            raise ArgumentError("capture", f"no step can be captured: {reason}")

    def _memory_for(self, one: Any) -> Any:
        return torch.empty_like(one, device=self.device) if isinstance(one, Tensor) else one


class Graph:
    """A function on the device, recorded while it is called, to be replayed.

    Args:
        function: What to record; nothing is computed yet.
        generators: The generators that it draws from, beside the global one.
    """

    def __init__(self, function: Callable[[], None], generators: Iterable[torch.Generator]):
        self.graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        stream = torch.cuda.current_stream()
        drawn_from = [torch.cuda.default_generators[stream.device_index], *generators]
        states = [one.clone_state() for one in drawn_from]
        mode = "thread_local"  # other threads, a loader's, may go on using the GPU
        try:
            for one in generators:
                self.graph.register_generator_state(one)
            with torch.cuda.graph(self.graph, pool, stream, mode):
                function()
        except RuntimeError:
            for one, state in zip(drawn_from, states, strict=True):
                one.graphsafe_set_state(state)  # otherwise it would count for the graph for ever
            FAILED.append(self.graph)
            _close(pool, stream.device_index)
            raise

    def replay(self) -> None:
        """Do on the device what was recorded."""
        self.graph.replay()


def _close(pool: Any, device: int) -> None:
    """Tell torch's allocator that a capture is over, which it is not told by one that fails.

    Until then, it would give no memory back that is free, be there none left for others.
    """
    with suppress(RuntimeError, AttributeError):  # it knows already; or torch has no such function
        torch._C._cuda_endAllocateToPool(device, pool)
        torch._C._cuda_releasePool(device, pool)


class Streams(threading.local):
    """The streams of one thread, by their devices; for any more, cuBLAS would keep memory, too."""

    def __init__(self) -> None:
        self.known: dict[torch.device, torch.cuda.Stream] = {}

    def on(self, device: torch.device) -> torch.cuda.Stream:
        """Return the one on a device, always the same."""
        if device not in self.known:
            self.known[device] = torch.cuda.Stream(device)
        return self.known[device]


STREAMS = Streams()


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Work on another stream than the default one, of which nothing can be captured."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.current_stream(device)
    stream = STREAMS.on(before.device)
    stream.wait_stream(before)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        before.wait_stream(stream)


@contextmanager
def _waits(device: torch.device) -> Iterator[list[str]]:
    """Collect where the host waits for the GPU."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for one in caught:
        if "synchronizing CUDA operation" in str(one.message):
            found.append(f"{one.filename}, line {one.lineno}")
        elif "Synchronization debug mode" not in str(one.message):  # that it misses some
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _host_randomness(device: torch.device) -> list[object]:
    """Return the states of the generators that are not the device's, to be compared."""
    states: list[object] = [random.getstate(), repr(numpy_random.get_state())]  # noqa: NPY002
    if device.type != "cpu":
        states.append(torch.get_rng_state().numpy().tobytes())
    return states


def _fits(place: Any, value: Any) -> bool:
    """Whether a value can be put into memory of the captured step."""
    if isinstance(place, Tensor) and isinstance(value, Tensor):
        return place.shape == value.shape and place.dtype == value.dtype
    return type(place) is type(value) and bool(place == value)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
