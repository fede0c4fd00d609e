"""What a training will take: parameters, multiply–adds, memory, and time per epoch."""

import math
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse.data import Images, replay
from kdcourse.models import multiply_adds
from kdcourse.train.options import listed_seeds
from kdcourse.train.plan import Plan
from kdcourse.train.seeds import side_by_side
from kdcourse.training import Knobs, Run
from kdcourse.training.device import one_thread, wait_for
from kdcourse.training.epochs import Batches, Epochs

WARM_UP, TIMED = 2, 5  # steps


def report(plan: Plan) -> str:
    """Describe what a training will take, after a few steps on random images.

    These steps change the student. Nothing is read or written.
    """
    options, (count, channels, *size) = plan.options, plan.images.pixels.shape
    image = plan.images[:1].inputs()
    lines = [f"{'':10}{'parameters':>14}{'multiply-adds per image':>26}"]
    for name, model in (("student", plan.student), ("teacher", plan.teacher)):
        if model is not None:
            adds = multiply_adds(model, image)
            own = [p for n, p in model.named_parameters() if "folded" not in n.split(".")]
            parameters = sum(p.numel() for p in own)
            lines.append(f"{name:10}{parameters:>14,}{adds:>26,}")
    images = _random_images(plan)
    memory = _memory(plan, images)
    with one_thread() if options.seeds else nullcontext():
        first, later = _seconds_per_step(plan, images)
    steps = plan.steps_an_epoch
    known = " (guessed: this set is not known before it is read)" if plan.guessed else ""
    lines += ["", *(f"{name:32}{_size(bytes):>12}" for name, bytes in memory.items()), ""]
    lines += [
        f"{count:,} images of {channels} x {size[0]} x {size[1]}{known}",
        f"{steps:,} steps of {options.batch_size} images an epoch, on {plan.knobs['device']}",
        f"about {_duration(steps * first)} an epoch ({1000 * first:.1f} ms a step)",
    ]
    different = plan.steps
    if 0 < options.cache * steps < plan.steps:
        different = options.cache * steps
        lines.append(f"about {_duration(steps * later)} once the teacher's answers are kept")
    whole = different * first + (plan.steps - different) * later
    ends = f"{options.steps:,} steps" if options.steps else f"{options.epochs} epochs"
    lines.append(f"about {_duration(whole)} for {ends}, validation not counted")
    if options.seeds:
        count = len(listed_seeds(options.seeds))
        jobs = side_by_side(options, plan.knobs["device"], count)
        lines.append(
            f"about {_duration(math.ceil(count / jobs) * whole)} for {count} seeds, {jobs} at a "
            "time, if they do not slow each other down"
        )
    return "\n".join(lines)


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
    options, known = plan.options, plan.images
    part = math.ceil(options.batch_size / options.accumulate)
    knobs = {**plan.knobs, "accumulate": 1, "batch_size": part}
    run, source = _begin(plan, images, plan.teacher, knobs)
    batch = next(iter(source.batches(0)))
    learned = [*run.student.parameters(), *run.objective.parameters()]
    activations = kept_for_backward(lambda: run.step(*batch), learned)
    states = [value for state in run.optimizer.state.values() for value in state.values()]
    counted = "batch" if part == options.batch_size else "part"
    sizes = {
        "weights": _bytes([*learned, *run.student.buffers()]),
        "gradients": _bytes(p.grad for p in learned if p.grad is not None),
        "optimiser state": _bytes(value for value in states if isinstance(value, Tensor)),
        f"activations of one {counted}": activations,
        "teacher": _bytes(plan.teacher.parameters()) if plan.teacher is not None else 0,
        "training images": known.pixels.numel() + 8 * len(known),
        "kept answers of the teacher": 4 * options.cache * len(known) * len(known.classes),
    }
    return {name: size for name, size in sizes.items() if size}


def _seconds_per_step(plan: Plan, images: Images) -> tuple[float, float]:
    """Return the time of a step, and of one that finds the teacher's answers in the cache."""
    knobs = plan.lessons(images, epochs=1)
    run, source = _begin(plan, knobs.pop("train"), knobs.pop("teacher"), knobs)
    first = _timed(run, source)
    return first, _timed(run, source) if plan.options.cache else first


def _timed(run: Run, source: Epochs) -> float:
    """Return the median seconds of drawing a batch and learning from it."""
    steps = run.steps_from(source)
    seconds, start = [], time.perf_counter()
    for given in source.given(0):
        run.take(steps, given)
        wait_for(run.device)
        now = time.perf_counter()
        seconds.append(now - start)
        start = now
    return statistics.median(seconds[WARM_UP:])


def _begin(
    plan: Plan, train: Batches, teacher: nn.Module | None, knobs: dict[str, Any]
) -> tuple[Run, Epochs]:
    """Return what learns, on the device, and the batches of an epoch."""
    device = knobs["device"]
    student = plan.student.to(device).train()
    endless = {**knobs, "epochs": None, "steps": 10**6}  # more than are taken
    run = Run(student, plan.objective, teacher, **endless)
    return run, Epochs(train, device, Knobs(**endless))


def _random_images(plan: Plan) -> Images:
    """Make as many images as the timed steps need, on the device."""
    known, draw = plan.images, replay(0)
    count = plan.options.batch_size * (WARM_UP + TIMED)
    pixels = torch.randint(256, (count, *known.pixels.shape[1:]), generator=draw, dtype=torch.uint8)
    target = torch.randint(len(known.classes), (count,), generator=draw)
    return replace(known, pixels=pixels, target=target).to(plan.knobs["device"])


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _size(count: int) -> str:
    unit = next((unit for unit in (30, 20, 10) if count >= 2**unit), 0)
    return f"{count / 2**unit:.1f} {({0: 'B', 10: 'KiB', 20: 'MiB', 30: 'GiB'})[unit]}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
