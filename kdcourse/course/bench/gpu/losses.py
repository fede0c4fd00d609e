"""What losses cost on one device, forward and backward, beside the form that is written naively."""

import gc
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.course.bench import chunks
from kdcourse.course.bench.compare import Loss, in_turn, median_ratio, peak_memory
from kdcourse.course.bench.gpu.outcome import Journal, Turn, own_journal
from kdcourse.data import replay
from kdcourse.relational import rkd_angle_loss

SAMPLES = (32, 64, 128, 256, 512, 1024)
NAIVE, OURS = "naive", "ours"
REFERENCES = NAIVE, chunks.COMPILED  # what other forms of a loss are compared with


@dataclass
class LossCost:
    """What one form of a loss costs, forward and backward.

    Attributes:
        loss, shape, form: Which loss, of inputs of which shape, in which form.
        milliseconds: The median over the rounds.
        ratio: Its time ÷ that of the form that it is compared with (see :data:`REFERENCES`).
        memory: The peak besides the inputs, in bytes.
    """

    loss: str
    shape: Sequence[int]
    form: str
    milliseconds: float
    ratio: float
    memory: int


@dataclass(frozen=True)
class Task:
    """Which sizes are measured, where, and in how many rounds."""

    device: str = "cuda"
    samples: Sequence[int] = SAMPLES
    width: int = 512
    logits: Sequence[int] = (4096, 128_000)
    rounds: int = 5
    seconds: float = 15.0  # about how long its turn takes, in comparison with others


def naive_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD's angle loss as its authors write it, with all ``(N, N, N)`` angles at once."""

    def angles(embeddings: Tensor) -> Tensor:
        sides = F.normalize(embeddings[None] - embeddings[:, None], dim=2)
        return torch.bmm(sides, sides.mT)

    return F.smooth_l1_loss(angles(student), angles(teacher))


def measure(task: Task, journal: Journal) -> None:
    """Compile what is compiled, wait for the turn, and measure every loss at every size."""
    angle: dict[str, Loss] = {NAIVE: naive_angle_loss, OURS: rkd_angle_loss}
    work: dict[str, Callable[[], object]] = {
        f"angle, {n} samples": partial(_note, journal, task, "angle", (n, task.width), angle)
        for n in task.samples
    }
    work[f"KD, {task.logits[1]:,} classes"] = lambda: _note_chunks(journal, task)
    journal.plan("losses", ["compile", *work])
    journal.attempt("losses", "compile", lambda: _chunks(task, rounds=1))  # and keep what is made
    Turn(journal).wait()
    for name, one in work.items():
        journal.attempt("losses", name, one)


def _inputs(shape: Sequence[int], device: str) -> tuple[Tensor, Tensor]:
    student, teacher = (
        torch.randn(*shape, generator=replay(n, device=device), device=device) for n in range(2)
    )
    return student.requires_grad_(), teacher


def _once(loss: Loss, student: Tensor, teacher: Tensor, repeats: int = 1) -> None:
    for _ in range(repeats):
        student.grad = None
        loss(student, teacher).backward()
    if student.device.type == "cuda":
        torch.cuda.synchronize()


def _note(
    journal: Journal, task: Task, name: str, shape: Sequence[int], forms: Mapping[str, Loss]
) -> None:
    given = _inputs(shape, task.device)
    repeats = 10 if shape[0] <= 256 else 1  # so that each is long enough, and none too long
    memory = [_memory(partial(_once, form, *given), task.device) for form in forms.values()]
    taken = in_turn([partial(_once, form, *given, repeats) for form in forms.values()], task.rounds)
    for form, seconds, peak in zip(forms, taken, memory, strict=True):
        milliseconds = 1000 * sorted(seconds)[len(seconds) // 2] / repeats
        cost = LossCost(name, shape, form, milliseconds, median_ratio(seconds, taken[0]), peak)
        journal.write(loss=asdict(cost))


def _chunks(task: Task, rounds: int) -> list[chunks.ChunkCost]:
    samples, classes = task.logits
    return chunks.measure(
        samples=samples, classes=classes, rounds=rounds, device=task.device, store=None
    )


def _note_chunks(journal: Journal, task: Task) -> None:
    for cost in of_chunks(_chunks(task, task.rounds)):
        journal.write(loss=asdict(cost))


def of_chunks(costs: Sequence[chunks.ChunkCost]) -> list[LossCost]:
    """Compare forms of KD with the compiled one; those that begin with hidden states are apart."""
    found = []
    for cost in costs:
        form = cost.form.removeprefix(chunks.HIDDEN)
        start = cost.form.removesuffix(form)
        compiled = next(one for one in costs if one.form == start + chunks.COMPILED)
        shape, ratio = (cost.samples, cost.classes), cost.seconds / compiled.seconds
        loss = f"KD {start}".strip()
        found.append(LossCost(loss, shape, form, 1000 * cost.seconds, ratio, cost.memory))
    return found


def _memory(once: Callable[[], object], device: str) -> int:
    """Return the most memory that is taken at once, in bytes, besides what was there before."""
    if device == "cuda":
        once()  # which makes what stays
        gc.collect()
    return peak_memory(once, device)


if __name__ == "__main__":
    measure(Task(**json.loads(sys.argv[1])), own_journal())
