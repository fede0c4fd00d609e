"""What hand-written gradients save, against autograd's through the same operations.

Each loss runs twice as it is, and twice with the forward pass of its ``autograd.Function`` as plain
operations: eager, and under ``torch.compile``, which fuses by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch

from kdcourse import feature, precision, relational
from kdcourse.course.bench.compare import Loss, Store, compare_many, peak_memory
from kdcourse.course.claims.results import RESULTS
from kdcourse.course.claims.table import markdown
from kdcourse.data import replay
from kdcourse.training.device import one_thread

EMBEDDINGS, FEATURES = [(32, 512), (128, 512), (256, 512)], [(32, 64, 8, 8), (32, 64, 56, 56)]
LOSSES: dict[str, tuple[Loss, Any, Sequence[tuple[int, ...]]]] = {
    "distance": (relational.rkd_distance_loss, relational._Distances, EMBEDDINGS),
    "similarity": (relational.similarity_preserving_loss, precision._Gram, EMBEDDINGS),
    "attention": (feature.attention_transfer_loss, feature._MeanSquare, FEATURES),
}


@dataclass
class Saving:
    """Time of a loss with its hand-written gradient ÷ that without, forward and backward.

    Memory is the peak of living tensors in bytes, eager.
    """

    loss: str
    shape: str
    eager: float
    compiled: float
    our_memory: int
    plain_memory: int


STORE = Store(RESULTS / "bench-gradients.json", "python -m kdcourse bench --gradients", Saving)
load = STORE.load


def measure(
    *, rounds: int = 9, losses: Sequence[str] = (*LOSSES,), store: Store[Saving] = STORE
) -> list[Saving]:
    """Compare both forms in float32 on one thread, store what is saved, and return it."""
    store.check()
    savings = []
    with one_thread():
        for name in losses:
            loss, function, shapes = LOSSES[name]
            savings += [_saving(name, loss, function, shape, rounds) for shape in shapes]
    store.save(savings, rounds=rounds)
    return savings


def table(savings: Sequence[Saving]) -> str:
    """Return the savings as a table in Markdown."""
    head = ("loss", "input", "time, eager", "time, compiled", "memory, MB", "without, MB")
    rows = (
        (
            s.loss,
            s.shape,
            f"**{s.eager:.2f}**",
            f"**{s.compiled:.2f}**",
            f"{s.our_memory / 1e6:.1f}",
            f"{s.plain_memory / 1e6:.1f}",
        )
        for s in savings
    )
    return markdown(head, rows)


def _saving(name: str, loss: Loss, function: Any, shape: tuple[int, ...], rounds: int) -> Saving:
    draw = replay(0)
    student, teacher = (torch.randn(shape, generator=draw).relu() for _ in range(2))

    def ours(form: Loss, repeats: int) -> None:
        for _ in range(repeats):
            form(student.detach().requires_grad_(), teacher).backward()

    def plain(form: Loss, repeats: int) -> None:
        with mock.patch.object(function, "apply", function.forward):
            ours(form, repeats)

    def ratio(one: Loss, other: Loss) -> float:
        return compare_many(name, partial(ours, one), partial(plain, other), rounds).ratio

    torch.compiler.reset()
    # Another function, so that it is compiled anew, and while ``apply`` is patched.
    compiled = torch.compile(lambda s, t: loss(s, t)), torch.compile(lambda s, t: 1 * loss(s, t))
    memory = peak_memory(partial(ours, loss, 1)), peak_memory(partial(plain, loss, 1))
    return Saving(name, " × ".join(map(str, shape)), ratio(loss, loss), ratio(*compiled), *memory)
