"""What a training will take: parameters, multiply–adds, memory, and time per epoch."""

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdcourse.data import Images, replay
from kdcourse.metrics import evaluation_mode
from kdcourse.teachers import CachedLessons
from kdcourse.train.plan import Plan
from kdcourse.training.learner import Batch
from kdcourse.training.run import Run

WARM_UP, TIMED = 2, 5  # steps


def report(plan: Plan) -> str:
    """Describe what a training will take, after a few steps on random images.

    These steps change the student. Nothing is read or written.
    """
    options, shape = plan.options, plan.shape
    image = torch.zeros(1, shape.channels, shape.size, shape.size)
    lines = [f"{'':10}{'parameters':>14}{'multiply-adds per image':>26}"]
    for name, model in (("student", plan.student), ("teacher", plan.teacher)):
        if model is not None:
            adds = multiply_adds(model, image)
            count = sum(p.numel() for p in _own(model))
            lines.append(f"{name:10}{count:>14,}{adds:>26,}")
    images = _random_images(plan)
    memory = _memory(plan, images)
    first, later = _seconds_per_step(plan, images)
    steps = plan.steps_an_epoch
    known = "" if shape.known else " (guessed: this set is not known before it is read)"
    lines += ["", *(f"{name:32}{_size(size):>12}" for name, size in memory.items()), ""]
    lines += [
        f"{shape.images:,} images of {shape.channels} x {shape.size} x {shape.size}{known}",
        f"{steps:,} steps of {options.batch_size} images an epoch, on {plan.device}",
        f"about {_duration(steps * first)} an epoch ({1000 * first:.1f} ms a step)",
    ]
    different = options.epochs
    if options.cache < options.epochs and options.cache:
        different = options.cache
        lines.append(f"about {_duration(steps * later)} once the teacher's answers are kept")
    whole = steps * (different * first + (options.epochs - different) * later)
    lines.append(f"about {_duration(whole)} for {options.epochs} epochs, validation not counted")
    return "\n".join(lines)


def multiply_adds(model: nn.Module, inputs: Tensor) -> int:
    """Count the multiply–adds of a forward pass: half its floating-point operations."""
    with evaluation_mode(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs)
    return counter.get_total_flops() // 2


def kept_for_backward(step: Callable[[], Any], weights: Iterable[Tensor]) -> int:
    """Bytes that a training step keeps between forward and backward pass, beside the weights."""
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:  # views share a storage, which counts once
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def _memory(plan: Plan, images: Images) -> dict[str, int]:
    """Return bytes by what they are for, after one step on one part of a batch."""
    options, shape = plan.options, plan.shape
    run = _run(replace(plan, knobs={**plan.knobs, "accumulate": 1}), plan.teacher)
    part = math.ceil(options.batch_size / options.accumulate)
    batch = next(iter(images.batches(part, **_seen(plan))))
    learned = [*run.student.parameters(), *run.objective.parameters()]
    activations = kept_for_backward(lambda: run.step(*batch), learned)
    states = [
        value
        for state in run.optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    sizes = {
        "weights": _bytes([*learned, *run.student.buffers()]),
        "gradients": _bytes(p.grad for p in learned if p.grad is not None),
        "optimiser state": _bytes(states),
        "activations of one batch" if part == options.batch_size else "activations of one part": (
            activations
        ),
        "teacher": _bytes(plan.teacher.parameters()) if plan.teacher is not None else 0,
        "training images": shape.images * (shape.channels * shape.size**2 + 8),
        "kept answers of the teacher": 4 * options.cache * shape.images * shape.classes,
    }
    return {name: size for name, size in sizes.items() if size}


def _seconds_per_step(plan: Plan, images: Images) -> tuple[float, float]:
    """Return the time of a step, and of one that finds the teacher's answers in the cache."""
    options = plan.options
    if not options.cache:
        batches = images.batches(options.batch_size, **_seen(plan))
        seconds = _timed(_run(plan, plan.teacher), batches)
        return seconds, seconds
    assert plan.teacher is not None
    lessons = CachedLessons(
        plan.teacher.to(plan.device),
        images,
        views=plan.knobs["views"],
        epochs=1,
        batch_size=options.batch_size,
    )
    run = _run(plan, lessons.teacher)
    return _timed(run, lessons), _timed(run, lessons)


def _timed(run: Run, batches: Iterable[Batch]) -> float:
    """Return the median seconds of drawing a batch and learning from it."""
    seconds, start = [], time.perf_counter()
    for inputs, target in batches:
        run.step(inputs, target)
        if run.device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        seconds.append(now - start)
        start = now
    return statistics.median(seconds[WARM_UP:])


def _run(plan: Plan, teacher: nn.Module | None) -> Run:
    student = plan.student.to(plan.device).train()
    steps = 10**6  # more than are taken
    knobs = {k: v for k, v in plan.knobs.items() if k not in ("augment", "views")}
    return Run(student, plan.objective, teacher, steps=steps, **knobs)


def _seen(plan: Plan) -> dict[str, Any]:
    """Return what is done to the images of a batch."""
    return {name: plan.knobs[name] for name in ("augment", "views")}


def _random_images(plan: Plan) -> Images:
    """Make as many images as the timed steps need, on the device."""
    shape, draw = plan.shape, replay(0)
    number = plan.options.batch_size * (WARM_UP + TIMED)
    size = (number, shape.channels, shape.size, shape.size)
    pixels = torch.randint(256, size, generator=draw, dtype=torch.uint8)
    target = torch.randint(shape.classes, (number,), generator=draw)
    half = (0.5,) * shape.channels
    names = tuple(str(label) for label in range(shape.classes))
    return Images(pixels, target, names, half, half).to(plan.device)


def _own(model: nn.Module) -> list[Tensor]:
    """List the parameters of a model, without those of folded copies in teachers."""
    return [p for name, p in model.named_parameters() if "folded" not in name.split(".")]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _size(count: int) -> str:
    unit = next((unit for unit in (30, 20, 10) if count >= 2**unit), 0)
    return f"{count / 2**unit:.1f} {({0: 'B', 10: 'KiB', 20: 'MiB', 30: 'GiB'})[unit]}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
