"""What a training will take: parameters, multiply–adds, memory, and time per epoch."""

import math
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, count, islice
from typing import Any

import torch
from torch import Tensor

from kdcourse.data import Images, replay
from kdcourse.models import multiply_adds
from kdcourse.train.options import listed_seeds
from kdcourse.train.plan import Plan
from kdcourse.train.seeds import side_by_side
from kdcourse.train.texts import Corpus
from kdcourse.training import Knobs, Run
from kdcourse.training.device import one_thread, wait_for
from kdcourse.training.epochs import Epochs

WARM_UP, TIMED = 2, 5  # steps


def report(plan: Plan) -> str:
    """Describe what a training will take, after a few steps on random images, or on the texts.

    These steps change the student. Nothing else is read, and nothing written.
    """
    options, one, kind, shape = plan.options, *_described(plan.images)
    lines = [f"{'':10}{'parameters':>14}{f'multiply-adds per {kind}':>26}"]
    for name, model in (("student", plan.student), ("teacher", plan.teacher)):
        if model is not None:
            adds = multiply_adds(model, one)
            own = [p for n, p in model.named_parameters() if "folded" not in n.split(".")]
            parameters = sum(p.numel() for p in own)
            lines.append(f"{name:10}{parameters:>14,}{adds:>26,}")
    images = _few(plan)
    memory = _memory(plan, images)
    with one_thread() if options.seeds else nullcontext():
        first, later = _seconds_per_step(plan, images)
    steps = plan.steps_an_epoch
    known = " (guessed: this set is not known before it is read)" if plan.guessed else ""
    lines += ["", *(f"{name:32}{_size(bytes):>12}" for name, bytes in memory.items()), ""]
    lines += [
        f"{len(plan.images):,} {kind}s of {shape}{known}",
        f"{steps:,} steps of {options.batch_size} {kind}s an epoch, on {plan.knobs['device']}",
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
        number = len(listed_seeds(options.seeds))
        jobs = side_by_side(options, plan.knobs["device"], number)
        lines.append(
            f"about {_duration(math.ceil(number / jobs) * whole)} for {number} seeds, {jobs} at a "
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


def _described(images: Images | Corpus) -> tuple[Tensor, str, str]:
    """Return one of the inputs, what it is called, and how large each is."""
    if isinstance(images, Corpus):
        return images[:1].lessons[0], "text", f"at most {images.length} characters"
    return images[:1].inputs(), "image", " x ".join(map(str, images.pixels.shape[1:]))


def _memory(plan: Plan, images: Images | Corpus) -> dict[str, int]:
    """Return bytes by what they are for, after one step on one part of a batch."""
    options, known = plan.options, plan.images
    part = math.ceil(options.batch_size / options.accumulate)
    knobs = {**plan.knobs, "accumulate": 1}
    if "batch_size" in knobs:  # texts come in batches of their own
        knobs["batch_size"] = part
    alone = replace(plan, options=replace(options, cache=0, batch_size=part), knobs=knobs)
    run, source = _begin(plan, alone.lessons(images))
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
    }
    if isinstance(known, Corpus):
        sizes["training texts"] = 8 * len(known) * known.length
    else:
        sizes["training images"] = known.pixels.numel() + 8 * len(known)
        answers = 4 * options.cache * len(known) * len(known.classes)
        sizes["kept answers of the teacher"] = answers
    return {name: size for name, size in sizes.items() if size}


def _seconds_per_step(plan: Plan, images: Images | Corpus) -> tuple[float, float]:
    """Return the time of a step, and of one that finds the teacher's answers in the cache."""
    run, source = _begin(plan, plan.lessons(images, epochs=1))
    first = _timed(run, source)
    return first, _timed(run, source) if plan.options.cache else first


def _timed(run: Run, source: Epochs) -> float:
    """Return the median seconds of drawing a batch and learning from it."""
    steps = run.steps_from(source)
    seconds, start = [], time.perf_counter()
    batches = chain.from_iterable(map(source.given, count()))
    for given in islice(batches, WARM_UP + TIMED):
        run.take(steps, given)
        wait_for(run.device)
        now = time.perf_counter()
        seconds.append(now - start)
        start = now
    return statistics.median(seconds[WARM_UP:])


def _begin(plan: Plan, lessons: dict[str, Any]) -> tuple[Run, Epochs]:
    """Return what learns, on the device, and the batches of an epoch."""
    knobs = {**lessons}
    train, teacher, device = knobs.pop("train"), knobs.pop("teacher"), knobs["device"]
    student = plan.student.to(device).train()
    endless = {**knobs, "epochs": None, "steps": 10**6}  # more than are taken
    run = Run(student, plan.objective, teacher, **endless)
    return run, Epochs(train, device, Knobs(**endless))


def _few(plan: Plan) -> Images | Corpus:
    """Return as many images, on the device, or texts as the timed steps need."""
    known, draw = plan.images, replay(0)
    number = plan.options.batch_size * (WARM_UP + TIMED)
    if isinstance(known, Corpus):
        return known[:number]
    pixels = torch.randint(
        256, (number, *known.pixels.shape[1:]), generator=draw, dtype=torch.uint8
    )
    target = torch.randint(len(known.classes), (number,), generator=draw)
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
