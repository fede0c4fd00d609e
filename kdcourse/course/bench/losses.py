"""What the losses cost, forward and backward, against those of torchdistill.

torchdistill is the best-maintained distillation library; its losses are what a course or a paper
would otherwise use. Only this benchmark needs it (it is in the extra ``test``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from kdcourse.course.bench.compare import Loss, Store, compare_many, peak_memory
from kdcourse.course.claims.results import RESULTS
from kdcourse.course.claims.table import markdown
from kdcourse.data import replay
from kdcourse.feature import attention_transfer_loss
from kdcourse.relational import rkd_angle_loss, rkd_distance_loss, similarity_preserving_loss
from kdcourse.training.device import one_thread

WIDTH = 512  # D, where the cost is drawn against N
SAMPLES = (16, 32, 64, 128, 256)
EMBEDDINGS = [(n, WIDTH) for n in SAMPLES] + [(32, 25088)]
FEATURES = [(n, 64, 8, 8) for n in SAMPLES] + [(32, 64, 56, 56)]


@dataclass
class Cost:
    """Cost of one loss, forward and backward, beside another form of it.

    The shape is that of the student's input. Times are as in
    :class:`~kdcourse.course.bench.compare.Comparison`; memory is the peak of living tensors in
    bytes.
    """

    loss: str
    shape: tuple[int, ...]
    ours: float
    other: float
    ratio: float
    our_memory: int
    other_memory: int


STORE = Store(RESULTS / "bench-losses.json", "python -m kdcourse bench", Cost)
load = STORE.load


def measure(
    *,
    rounds: int = 9,
    embeddings: Sequence[tuple[int, ...]] = EMBEDDINGS,
    features: Sequence[tuple[int, ...]] = FEATURES,
    store: Store[Cost] = STORE,
    progress: bool = True,
) -> list[Cost]:
    """Compare every loss on one thread, store the costs with the versions, and return them."""
    store.check()
    shapes = {"attention": features}
    work = [
        (name, shape, *losses)
        for name, losses in _losses().items()
        for shape in shapes.get(name, embeddings)
    ]
    costs = []
    with one_thread():
        for name, shape, ours, other in tqdm(work, disable=not progress, unit="loss"):
            costs.append(cost(name, ours, other, _inputs(name, shape), rounds))
    store.save(costs, packages=["torchdistill"], rounds=rounds)
    return costs


def table(costs: Sequence[Cost], other: str = "torchdistill") -> str:
    """Return the costs as a table in Markdown, beside those of some other code."""
    head = ("loss", "input", "ours, ms", f"{other}, ms", "faster by", "ours, MB", f"{other}, MB")
    rows = (
        (
            c.loss,
            " × ".join(map(str, c.shape)),
            f"{1e3 * c.ours:.2f}",
            f"{1e3 * c.other:.2f}",
            f"**{_times(1 / c.ratio)}**",
            f"{c.our_memory / 1e6:.1f}",
            f"{c.other_memory / 1e6:.1f}",
        )
        for c in costs
    )
    return markdown(head, rows)


def _times(factor: float) -> str:
    return f"{factor:.0f}×" if factor >= 10 else f"{factor:.1f}×"


def cost(
    name: str,
    ours: Callable[..., Tensor],
    other: Callable[..., Tensor],
    inputs: Sequence[Any],
    rounds: int,
) -> Cost:
    """Compare two forms of a loss; the first of their inputs is the student's, which learns."""
    student, *rest = inputs

    def run(loss: Callable[..., Tensor], repeats: int) -> None:
        for _ in range(repeats):
            loss(student.detach().requires_grad_(), *rest).backward()

    timed = compare_many(name, partial(run, ours), partial(run, other), rounds)
    memory = peak_memory(partial(run, ours, 1)), peak_memory(partial(run, other, 1))
    return Cost(name, tuple(student.shape), timed.ours, timed.other, timed.ratio, *memory)


def _inputs(name: str, shape: tuple[int, ...]) -> list[Tensor]:
    draw = replay(0)
    inputs = [torch.randn(shape, generator=draw) for _ in range(2)]
    return [features.relu() for features in inputs] if name == "attention" else inputs


def _losses() -> dict[str, tuple[Loss, Loss]]:
    """Return our losses and torchdistill's, with the same reduction where there is a choice."""
    from torchdistill.losses import mid_level

    def shown(loss: Any) -> Loss:
        return lambda student, teacher: loss({"s": {"output": student}}, {"t": {"output": teacher}})

    pairs = {"pair": {"student": {"io": "output", "path": "s"}}}
    pairs["pair"]["teacher"] = {"io": "output", "path": "t"}
    rkd = mid_level.RKDLoss("s", "t", 1.0, 1.0, "mean")
    similarity = mid_level.SPKDLoss("s", "t", "batchmean")
    return {
        "distance": (rkd_distance_loss, lambda s, t: rkd.compute_rkd_distance_loss(t, s)),
        "angle": (rkd_angle_loss, lambda s, t: rkd.compute_rkd_angle_loss(t, s)),
        "similarity": (similarity_preserving_loss, shown(similarity)),
        "attention": (attention_transfer_loss, shown(mid_level.ATLoss(pairs, mode="paper"))),
    }
