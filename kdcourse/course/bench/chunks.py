"""What KD costs with very many classes: all samples at once, and a few at a time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kdcourse.course.bench.compare import Store, peak_memory
from kdcourse.course.claims.results import RESULTS
from kdcourse.course.claims.table import markdown
from kdcourse.data import replay
from kdcourse.logit import in_chunks, kd_loss
from kdcourse.training.device import one_thread


@dataclass
class ChunkCost:
    """KD of N samples with K classes, forward and backward, at once and in chunks of some rows.

    ``memory`` is the peak of living tensors in bytes, without the inputs and the student's
    gradient, which both forms have; ``difference`` is the relative one of the two losses.
    """

    samples: int
    classes: int
    rows: int
    memory: int
    chunked_memory: int
    seconds: float
    chunked_seconds: float
    difference: float


STORE = Store(RESULTS / "bench-chunks.json", "python -m kdcourse bench --chunks", ChunkCost)


def measure(
    *, samples: int = 4096, classes: int = 128_000, rows: int = 64, store: Store[ChunkCost] = STORE
) -> ChunkCost:
    """Compare both forms in float32 on one thread, store the cost with the versions, return it."""
    student, teacher = (torch.randn(samples, classes, generator=replay(seed)) for seed in (0, 1))
    student.requires_grad_()

    def once(form: Callable[[Tensor, Tensor], Tensor]) -> float:
        student.grad = None
        loss = form(student, teacher)
        loss.backward()
        return float(loss.detach())

    found = []
    with one_thread():
        for form in (kd_loss, partial(in_chunks, kd_loss, rows=rows)):
            memory = peak_memory(partial(once, form)) - student.nbytes
            start = time.perf_counter()
            loss = once(form)
            found.append((memory, time.perf_counter() - start, loss))
    (memory, seconds, loss), (chunked_memory, chunked_seconds, chunked_loss) = found
    difference = abs(chunked_loss - loss) / loss
    cost = ChunkCost(
        samples, classes, rows, memory, chunked_memory, seconds, chunked_seconds, difference
    )
    store.save([cost])
    return cost


def load() -> ChunkCost:
    """Return the stored cost."""
    (cost,) = STORE.load()
    return cost


def table(cost: ChunkCost) -> str:
    """Return the cost as a table in Markdown."""
    forms = (
        ("at once", cost.memory, cost.seconds),
        (f"in chunks of {cost.rows}", cost.chunked_memory, cost.chunked_seconds),
    )
    head = (f"KD, {cost.samples} × {cost.classes:,} logits", "memory, MB", "part", "seconds")
    rows = (
        (name, f"{memory / 1e6:,.0f}", f"{memory / cost.memory:.3f}", f"{seconds:.1f}")
        for name, memory, seconds in forms
    )
    return markdown(head, rows)
