"""What KD costs with very many classes: all samples at once, and a few at a time."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kdcourse.course.bench.compare import peak_memory, store
from kdcourse.course.claims.results import RESULTS, current_versions
from kdcourse.data import replay
from kdcourse.logit import in_chunks, kd_loss
from kdcourse.training.device import one_thread

PATH = RESULTS / "bench-chunks.json"


@dataclass
class ChunkCost:
    """KD at once and in chunks, forward and backward.

    Attributes:
        samples: N.
        classes: K.
        rows: samples in a chunk.
        memory: bytes of living tensors at the peak, beside the inputs and the student's gradient,
            which every form has; of the form at once.
        chunked_memory: likewise, in chunks.
        seconds: of the form at once.
        chunked_seconds: in chunks.
        difference: relative, of the two losses.
    """

    samples: int
    classes: int
    rows: int
    memory: int
    chunked_memory: int
    seconds: float
    chunked_seconds: float
    difference: float


def measure(
    *, samples: int = 4096, classes: int = 128_000, rows: int = 64, path: Path = PATH
) -> ChunkCost:
    """Compare both forms in float32 on one thread, store the cost with the versions, return it."""
    student, teacher = (torch.randn(samples, classes, generator=replay(seed)) for seed in (0, 1))
    student.requires_grad_()
    forms: list[Callable[[Tensor, Tensor], Tensor]] = [
        kd_loss,
        partial(in_chunks, kd_loss, rows=rows),
    ]
    found: list[tuple[int, float, float]] = []

    def once(form: Callable[[Tensor, Tensor], Tensor]) -> float:
        student.grad = None
        loss = form(student, teacher)
        loss.backward()
        return float(loss.detach())

    with one_thread():
        for form in forms:
            memory = peak_memory(partial(once, form)) - student.nbytes
            start = time.perf_counter()
            loss = once(form)
            found.append((memory, time.perf_counter() - start, loss))
    (memory, seconds, loss), (chunked_memory, chunked_seconds, chunked_loss) = found
    cost = ChunkCost(
        samples,
        classes,
        rows,
        memory,
        chunked_memory,
        seconds,
        chunked_seconds,
        abs(chunked_loss - loss) / loss,
    )
    store(path, "python -m kdcourse bench --chunks", current_versions(), cost=asdict(cost))
    return cost


def load(path: Path = PATH) -> ChunkCost:
    """Return the stored cost."""
    return ChunkCost(**json.loads(path.read_text())["cost"])


def table(cost: ChunkCost) -> str:
    """Return the cost as a Markdown table."""
    rows = (
        ("at once", cost.memory, cost.seconds),
        (f"in chunks of {cost.rows}", cost.chunked_memory, cost.chunked_seconds),
    )
    lines = [
        f"| KD, {cost.samples} × {cost.classes:,} logits | memory, MB | part | seconds |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {memory / 1e6:,.0f} | {memory / cost.memory:.3f} | {seconds:.1f} |"
        for name, memory, seconds in rows
    ]
    return "\n".join(lines)
