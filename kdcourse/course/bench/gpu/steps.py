"""Milliseconds of a step on one device: the tutorial's loop, by hand, captured by hand, ``fit``.

A process measures one pair of nets at one batch size; another compiles, which takes long, beside
all others. Then each waits for its turn, and has the machine to itself.
"""

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from kdcourse import data, models
from kdcourse.augmentation import pad_crop_flip
from kdcourse.course.bench.gpu.by_hand import ByHand, captured, rates
from kdcourse.course.bench.gpu.outcome import Journal, Turn, own_journal
from kdcourse.course.bench.overhead import PerImage
from kdcourse.course.bench.training import by_tutorial
from kdcourse.training import CrossEntropy, LogitKD, fit

PAIRS = {  # student and teacher; the number of channels
    ("plain8", "res16"): 1,
    ("resnet20", "resnet56"): 3,
    ("wrn-16-2", "wrn-40-2"): 3,
}
BATCH_SIZES = (64, 512)
COMPILED = "fit, compile=True"
TUTORIAL = "the tutorial's loop, DataLoader workers"
EAGER, CAPTURED = "by hand, eager", "by hand, captured"
FIT, UNCAPTURED = "fit", "fit, capture=False"
WAYS = (TUTORIAL, EAGER, CAPTURED, FIT, COMPILED, UNCAPTURED)


@dataclass
class Step:
    """What a step costs in one way to take it.

    Attributes:
        student, teacher, batch_size: What learns from what, and from how many images at a time.
        way: How the step is taken.
        milliseconds: The median over the epochs after the first, which warms up.
        epochs: How many these are.
        memory: The peak of GPU memory in bytes, images included; 0 where it was not measured.
        first: Seconds from the call to the end of the first step, capturing or compiling included;
            None where it was not measured.
        images: What was learned from.
        remark: What ``fit`` says of capturing.
    """

    student: str
    teacher: str
    batch_size: int
    way: str
    milliseconds: float
    epochs: int
    memory: int
    first: float | None
    images: str
    remark: str = ""


@dataclass(frozen=True)
class Task:
    """What one process measures, and at which size."""

    student: str
    teacher: str
    batch_size: int
    device: str = "cuda"
    steps: int = 50
    epochs: int = 4
    compiled: bool = False  # whether fit is measured compiled, or every other way

    @property
    def seconds(self) -> float:
        """About how long its turn takes, in comparison with others.

        An eager step launches hundreds of kernels, in 20 ms, a captured or compiled one in two.
        """
        return 3.0 if self.compiled else 15.0

    @property
    def brief(self) -> "Task":
        """The same with half the steps: of ways that take ten times as long."""
        return replace(self, steps=-(-self.steps // 2))

    @property
    def channels(self) -> int:
        """The channels of the images."""
        return PAIRS[self.student, self.teacher]

    def nets(self) -> tuple[nn.Module, nn.Module]:
        """Make student and teacher anew."""
        size: dict[str, Any] = {"channels": self.channels, "classes": 10}
        student = models.by_name(self.student, seed=0, **size)
        return student, models.by_name(self.teacher, seed=1, **size).eval()

    def images(self) -> data.Images:
        """Return as many images as an epoch's steps need: real ones, if they are on the disk."""
        load = data.fashion_mnist if self.channels == 1 else data.cifar10
        count = self.steps * self.batch_size
        try:
            return load().train[:count]
        except FileNotFoundError:
            draw = data.replay(0)
            pixels = torch.randint(256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
            target = torch.randint(10, (count,), generator=draw)
            names, half = tuple("0123456789"), (0.5,) * 3
            return data.Images(pixels, target, names, half, half, name="random 3×32×32")


@dataclass
class Timing:
    """Seconds to the end of the first step, and of each epoch after the first."""

    first: float | None = None
    epochs: list[float] = field(default_factory=list)
    remark: str = ""


def by_tutorial_with_workers(task: Task, train: data.Images) -> Timing:
    """Time the tutorial's loop, which asks workers for every batch."""
    student, teacher = task.nets()
    workers = min(8, os.cpu_count() or 1)
    epoch = by_tutorial(
        PerImage(train),
        teacher.to(task.device),
        task.batch_size,
        student=student.to(task.device),
        workers=workers,
    )
    return Timing(None, _timed(epoch, task.epochs), f"{workers} workers")


def by_hand(task: Task, train: data.Images, *, capture: bool) -> Timing:
    """Time the step that is written out."""
    start = time.perf_counter()
    hand = ByHand(*task.nets(), train.to(task.device), task.batch_size)
    step: Callable[[], object] = hand.step
    if capture and task.device == "cuda":
        step = captured(hand.step, hand.generator)
    hand.epoch(step, rates(1, hand.rate.device))  # which waits for its end
    first = time.perf_counter() - start
    schedule = rates(task.steps, hand.rate.device)
    return Timing(first, _timed(partial(hand.epoch, step, schedule), task.epochs))


def by_fit(
    task: Task, train: data.Images, log: Callable[[Any], None] | None = None, **options: Any
) -> Timing:
    """Time ``fit``, whose history tells the seconds of an epoch."""
    student, teacher = task.nets()
    history = fit(
        student,
        train,
        CrossEntropy() + LogitKD(4),
        teacher=teacher,
        epochs=task.epochs,
        batch_size=task.batch_size,
        augment=pad_crop_flip(),
        device=task.device,
        progress=False,
        log=log,
        **options,
    )
    return Timing(history.seconds_to_first_step, history["seconds"][1:], history.capture)


def _timed(epoch: Callable[[], object], count: int) -> list[float]:
    """Return the seconds of all epochs but the first; each reads its loss, and so waits."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        epoch()
        taken.append(time.perf_counter() - start)
    return taken[1:]


def measure(task: Task, journal: Journal) -> None:
    """Measure every way, and note each as soon as it is known."""
    train, turn, brief = task.images(), Turn(journal), task.brief
    few = train[: brief.steps * brief.batch_size]
    ways: dict[str, tuple[Task, Callable[[], Timing]]] = {  # those that are compared come first
        FIT: (task, partial(by_fit, task, train)),
        CAPTURED: (task, partial(by_hand, task, train, capture=True)),
        UNCAPTURED: (brief, partial(by_fit, brief, few, capture=False)),
        EAGER: (brief, partial(by_hand, brief, few, capture=False)),
        TUTORIAL: (brief, partial(by_tutorial_with_workers, brief, few)),
    }
    if task.compiled:  # in the first epoch, before its turn
        ways = {COMPILED: (task, partial(by_fit, task, train, turn.wait, compile=True))}
    part = f"step {task.student} from {task.teacher}, batch {task.batch_size}"
    journal.plan(part, ways)
    torch.zeros((), device=task.device).item()  # the device has started before the turn
    if not task.compiled:
        turn.wait()
    for name, (taken, way) in ways.items():
        journal.attempt(part, name, partial(_note, journal, taken, train.name, name, way))


def _note(journal: Journal, task: Task, images: str, name: str, way: Callable[[], Timing]) -> None:
    gc.collect()
    on_gpu = task.device == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    timing = way()
    memory = torch.cuda.max_memory_allocated() - before if on_gpu else 0
    step = Step(
        *(task.student, task.teacher, task.batch_size, name),
        1000 * statistics.median(timing.epochs) / task.steps,
        len(timing.epochs),
        memory,
        timing.first,
        images,
        timing.remark,
    )
    journal.write(step=asdict(step))
    if on_gpu:
        check_captured(name, timing.remark)


def check_captured(way: str, outcome: str) -> None:
    """Require of ``fit`` that it has captured its steps, by what it says of that.

    Raises:
        RuntimeError: It has not, with its reason.
    """
    if way in (FIT, COMPILED) and outcome != "captured":
        raise RuntimeError(f"steps were {outcome}")


if __name__ == "__main__":
    measure(Task(**json.loads(sys.argv[1])), own_journal())
