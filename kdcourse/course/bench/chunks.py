"""What KD costs with very many classes: all samples at once, and a few at a time.

On a GPU: ``chunks.table(chunks.measure(device="cuda"))``.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from kdcourse.course.bench.compare import Store, let_freed_memory_stay, peak_memory
from kdcourse.course.claims.results import RESULTS
from kdcourse.course.claims.table import markdown
from kdcourse.data import replay
from kdcourse.logit import in_chunks, kd_loss, linear_kd_loss
from kdcourse.training.device import one_thread

Form = Callable[..., Tensor]


@dataclass
class ChunkCost:
    """Cost of KD with N samples and K classes, forward and backward, computed in one form.

    ``memory`` is the peak of allocated memory in bytes beside the inputs, the gradients included;
    ``seconds`` are those of the fastest of some runs, in turn with the other forms; ``difference``
    is that of the loss from the loss at once, as a share of it.
    """

    form: str
    samples: int
    classes: int
    dtype: str
    memory: int
    seconds: float
    difference: float


STORE = Store(RESULTS / "bench-chunks.json", "python -m kdcourse bench --chunks", ChunkCost)
load = STORE.load

AT_ONCE, COMPILED = "at once", "at once, compiled"
HIDDEN = "from hidden states "  # what forms are called that begin with them


def measure(
    *,
    samples: int = 512,
    classes: int = 128_000,
    width: int = 256,
    rounds: int = 3,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    store: Store[ChunkCost] | None = STORE,
) -> list[ChunkCost]:
    """Compare all forms, on one thread if on the CPU, store their costs, and return them.

    Args:
        samples: N; 4096 with 128,000 classes take 21 GB in the plain form.
        classes: K, or V.
        width: D, of the hidden states that the last forms begin with.
        rounds: How often each form is timed.
        dtype: That of the logits, and of hidden states and projections.
        device: Where to measure.
        store: Where to store the costs, or None.
    """
    if store is not None:
        store.check()
    let_freed_memory_stay()
    place = torch.device(device)
    draw = replay(0, device=place)  # where they are to be: a processor takes seconds for so many
    make = partial(torch.randn, generator=draw, device=place, dtype=dtype)
    logits = [make(samples, classes) for _ in range(2)]
    hidden = [make(*shape) for shape in ((samples, width), (classes, width)) * 2]
    for weight in hidden[1::2]:
        weight /= width**0.5
    with one_thread():
        costs = _costs(_of_logits(), logits, rounds) + _costs(_of_hidden(), hidden, rounds)
    if store is not None:
        store.save(costs, rounds=rounds)
    return costs


def table(costs: Sequence[ChunkCost]) -> str:
    """Return the costs as a table in Markdown: shares of those of the plain form above."""
    head = f"KD, {costs[0].samples} × {costs[0].classes:,} logits, {costs[0].dtype}"
    rows, plain, compiled = [], costs[0], costs[0]
    for cost in costs:
        plain = cost if cost.form.endswith(AT_ONCE) else plain
        compiled = cost if cost.form.endswith(COMPILED) else compiled
        known = compiled.seconds if compiled.form.startswith(plain.form) else None
        rows.append(
            (
                cost.form,
                f"{cost.memory / 1e6:,.0f}",
                f"{cost.memory / plain.memory:.3f}",
                f"{1e3 * cost.seconds:,.1f}",
                f"{cost.seconds / plain.seconds:.2f}",
                f"**{cost.seconds / known:.2f}**" if known else "",
            )
        )
    return markdown((head, "memory, MB", "part", "ms", "÷ at once", "÷ compiled"), rows)


def _of_logits() -> dict[str, Form]:
    chunked = partial(in_chunks, kd_loss)
    return {
        AT_ONCE: kd_loss,
        COMPILED: torch.compile(kd_loss),
        "in chunks": chunked,
        "in chunks, compiled": partial(chunked, compile=True),
    }


def _of_hidden() -> dict[str, Form]:
    def plain(hidden: Tensor, weight: Tensor, theirs: Tensor, other: Tensor) -> Tensor:
        return kd_loss(hidden @ weight.T, theirs @ other.T)

    return {
        HIDDEN + AT_ONCE: plain,
        HIDDEN + COMPILED: torch.compile(plain),
        HIDDEN + "in chunks": linear_kd_loss,
        HIDDEN + "in chunks, compiled": partial(linear_kd_loss, compile=True),
    }


def _costs(forms: dict[str, Form], inputs: list[Tensor], rounds: int) -> list[ChunkCost]:
    """Measure forms of one loss; the first half of the inputs is the student's."""
    own = [z.requires_grad_() for z in inputs[: len(inputs) // 2]]
    device, samples, classes = inputs[0].device, len(inputs[0]), len(inputs[-1])
    if len(own) == 1:
        classes = inputs[0].shape[1]

    def once(form: Form) -> float:
        for z in own:
            z.grad = None
        loss = form(*inputs)
        loss.backward()
        return float(loss.detach())

    def seconds(form: Form) -> float:
        start = time.perf_counter()
        once(form)  # the loss is read, which waits for it; so does what follows, for the gradients
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    losses = {name: once(form) for name, form in forms.items()}  # compiled here
    taken = [[seconds(form) for form in forms.values()] for _ in range(rounds)]
    best = dict(zip(forms, map(min, zip(*taken, strict=True)), strict=True))
    first, costs = next(iter(losses.values())), []
    for name, form in forms.items():
        for z in own:
            z.grad = None
        peak = _peak(partial(once, form), device)
        off = abs(losses[name] - first) / first
        kind = str(inputs[0].dtype).removeprefix("torch.")
        costs.append(ChunkCost(name, samples, classes, kind, peak, best[name], off))
    return costs


def _peak(function: Callable[[], object], device: torch.device) -> int:
    """Return the peak of the memory that a function allocates, in bytes, compiled code included."""
    if device.type == "cuda":
        return peak_memory(function, device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    events = profiled.profiler.kineto_results.events()
    taken = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(bytes for _, bytes in taken))
