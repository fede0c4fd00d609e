"""What KD costs with very many classes: all samples at once, and a few at a time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from kdcourse.course.bench.compare import Loss, Store, peak_memory
from kdcourse.course.claims.results import RESULTS
from kdcourse.course.claims.table import markdown
from kdcourse.data import replay
from kdcourse.logit import in_chunks, kd_loss
from kdcourse.training.device import one_thread


@dataclass
class ChunkCost:
    """Cost of KD with N samples and K classes, forward and backward, computed in one form.

    ``memory`` is the peak of living tensors in bytes, without the inputs and the student's
    gradient, which every form has; ``difference`` is that of the loss from the loss at once, as a
    share of it.
    """

    form: str
    samples: int
    classes: int
    memory: int
    seconds: float
    difference: float


STORE = Store(RESULTS / "bench-chunks.json", "python -m kdcourse bench --chunks", ChunkCost)
load = STORE.load


def measure(
    *, samples: int = 4096, classes: int = 128_000, rows: int = 64, store: Store[ChunkCost] = STORE
) -> list[ChunkCost]:
    """Compare both forms in float32 on one thread, store their costs, and return them."""
    store.check()
    student, teacher = (torch.randn(samples, classes, generator=replay(seed)) for seed in (0, 1))
    student.requires_grad_()
    chunked = partial(in_chunks, kd_loss, rows=rows)
    forms: dict[str, Loss] = {"at once": kd_loss, f"in chunks of {rows}": chunked}

    def once(form: Loss) -> float:
        student.grad = None
        loss = form(student, teacher)
        loss.backward()
        return float(loss.detach())

    costs: list[ChunkCost] = []
    losses: list[float] = []
    with one_thread():
        for name, form in forms.items():
            memory = peak_memory(partial(once, form)) - student.nbytes
            start = time.perf_counter()
            losses.append(once(form))
            seconds = time.perf_counter() - start
            difference = abs(losses[-1] - losses[0]) / losses[0]
            costs.append(ChunkCost(name, samples, classes, memory, seconds, difference))
    store.save(costs)
    return costs


def table(costs: Sequence[ChunkCost]) -> str:
    """Return the costs as a table in Markdown."""
    whole = costs[0]
    logits = f"KD, {whole.samples} × {whole.classes:,} logits"
    rows = (
        (c.form, f"{c.memory / 1e6:,.0f}", f"{c.memory / whole.memory:.3f}", f"{c.seconds:.1f}")
        for c in costs
    )
    return markdown((logits, "memory, MB", "part", "seconds"), rows)
