"""From options to nets, objective, views and schedule, tried out before any work begins."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from kdcourse import data, models
from kdcourse.data import Augmentation, Images, Views
from kdcourse.metrics import evaluation_mode
from kdcourse.models import capture
from kdcourse.tips import Consistent, FunctionMatching
from kdcourse.train import vocabulary
from kdcourse.train.aims import TermMaker
from kdcourse.train.options import OptionError, Options, blaming
from kdcourse.train.shape import Shape, data_set, shape_of, shape_of_images
from kdcourse.train.teaching import TeacherMaker, WeightsError, folded
from kdcourse.training import CrossEntropy, Lesson, Objective, Outputs, as_teacher, choose_device
from kdcourse.training.knobs import MakeOptimizer, MakeScheduler
from kdcourse.training.rules import check_channels_last
from kdcourse.training.teacher import Teacher, follows

SAMPLES = 4  # of a trial


@dataclass
class Plan:
    """Everything that a training is made of, except the data.

    Attributes:
        options: it was made from.
        shape: of the data it was made for.
        student, teacher, objective: the nets and the aim.
        augment, views: what is done to the images; one of them at most.
        scheduler: makes the schedule.
        device: where to train.
        autocast: as :func:`kdcourse.training.fit` takes it.
    """

    options: Options
    shape: Shape
    student: nn.Module
    teacher: nn.Module | None
    objective: Objective
    augment: Augmentation | None
    views: Views | None
    scheduler: MakeScheduler
    device: torch.device
    autocast: bool | torch.dtype

    @property
    def optimizer(self) -> MakeOptimizer:
        """Makes the optimiser."""
        options = self.options

        def make(parameters: Any) -> Optimizer:
            return SGD(
                parameters,
                options.learning_rate,
                momentum=options.momentum,
                nesterov=options.nesterov,
                weight_decay=options.weight_decay,
            )

        return make

    @property
    def way(self) -> dict[str, Any]:
        """How to take steps: options of :func:`kdcourse.training.fit` and of its ``Run``."""
        return {
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "autocast": self.autocast,
            "compile": self.options.compile,
            "accumulate": self.options.accumulate,
            "channels_last": self.options.channels_last,
        }

    @property
    def steps_an_epoch(self) -> int:
        """How many steps an epoch takes."""
        return _steps_an_epoch(self.options, self.shape)


def prepare(options: Options, images: Images | None = None, *, need_weights: bool = True) -> Plan:
    """Make everything that the options ask for, and try it out on a few blank images.

    Args:
        options: of the training.
        images: the training set, once it has been read.
        need_weights: of the teacher; without, it may stay untrained.

    Raises:
        OptionError: naming the option that cannot work.
    """
    name = data_set(options.data)
    shape = shape_of(options, name) if images is None else shape_of_images(images)
    device = _device(options)
    like = {"channels": shape.channels, "classes": shape.classes}
    with blaming("student"):
        student = models.by_name(options.student, **like, seed=options.seed)
    inputs = _blank(shape)
    with blaming("student"), evaluation_mode(student), torch.no_grad():
        student(inputs)
    teacher = _teacher(options, student, shape, need_weights)
    with blaming("loss"):
        make = TermMaker(
            student,
            teacher,
            inputs,
            seed=options.seed,
            steps_an_epoch=options.accumulate * _steps_an_epoch(options, shape),
        )
        objective = make(options.loss)
        if teacher is not None and not _looks_inside(objective):
            teacher = folded(teacher)
        _try(objective, student, teacher, inputs)
    augment, views = _seen(options, shape)
    with blaming("schedule"):
        scheduler = vocabulary.schedule(options.schedule, options.epochs)
    plan = Plan(
        options,
        shape,
        student,
        teacher,
        objective,
        augment,
        views,
        scheduler,
        device,
        _autocast(options, device),
    )
    _check_together(plan)
    return plan


def _blank(shape: Shape) -> Tensor:
    """Return a few images without anything on them."""
    return torch.zeros(SAMPLES, shape.channels, shape.size, shape.size)


def _device(options: Options) -> torch.device:
    with blaming("device"):
        device = choose_device(options.device)
        if device.type not in ("cpu", "cuda", "mps"):
            raise ValueError(f"cpu, cuda and mps are possible, not {device.type}")
        if device.type != "cuda":
            torch.empty(0, device=device)  # is there one?
        elif (device.index or 0) >= torch.cuda.device_count():  # without using the first GPU
            raise ValueError(f"there are {torch.cuda.device_count()} GPUs here")
    return device


def _autocast(options: Options, device: torch.device) -> bool | torch.dtype:
    if options.autocast in ("none", "auto"):
        return options.autocast == "auto"
    if options.autocast == "float16" and device.type == "cpu":
        raise OptionError("--autocast: float16 needs a GPU; on a CPU take bfloat16")
    return getattr(torch, options.autocast)


def _steps_an_epoch(options: Options, shape: Shape) -> int:
    return -(-shape.images // options.batch_size)


def _teacher(
    options: Options, student: nn.Module, shape: Shape, need_weights: bool
) -> nn.Module | None:
    weights = [Path(name) for name in options.teacher_weights]
    if options.teacher == "none":
        if weights:
            raise OptionError("--teacher-weights: there is no --teacher to load them into")
        return None
    make = TeacherMaker(
        weights,
        student,
        options.epochs * _steps_an_epoch(options, shape),
        {"channels": shape.channels, "classes": shape.classes},
        load=shape.known,
        need=need_weights,
    )
    try:
        with blaming("teacher"):
            return make(options.teacher)
    except OptionError as error:
        if isinstance(error.__cause__, WeightsError):
            raise OptionError(f"--teacher-weights: {error.__cause__}") from None
        raise


def _seen(options: Options, shape: Shape) -> tuple[Augmentation | None, Views | None]:
    """Return the augmentation, or the views that hold it."""
    with blaming("augment"):
        augment = vocabulary.augment(options.augment)
        augment(_blank(shape).byte(), data.replay(0))
    if options.views != "none":
        with blaming("views"):
            return None, vocabulary.views(options.views, augment)
    if options.cache:
        return None, Consistent(augment)
    return augment, None


def _looks_inside(objective: Objective) -> bool:
    """Whether more than the teacher's predictions are asked for."""
    return bool(objective.teacher_layers) or objective.needs_input_gradient


def _try(
    objective: Objective, student: nn.Module, teacher: nn.Module | None, inputs: Tensor
) -> None:
    """Judge one lesson, so that nets, layers and terms that do not go together are found out."""
    if objective.needs_teacher and teacher is None:
        raise OptionError("--teacher: say who teaches, for --loss asks a teacher")
    if teacher is not None and not objective.needs_teacher and not follows(teacher):
        raise OptionError("--teacher: --loss never asks it; add a term such as kd")
    target = torch.zeros(len(inputs), dtype=torch.int64)
    layers = objective.student_layers
    with evaluation_mode(student), capture(student, layers) as features, torch.no_grad():
        shown = Outputs(logits=student(inputs), features=features)
    taught = None
    if teacher is not None:
        asked: Teacher = as_teacher(teacher)
        taught = asked.show(inputs, objective.teacher_layers)
        if objective.needs_input_gradient:
            taught.input_gradient = asked.input_gradient(inputs, target)
            shown.input_gradient = torch.zeros_like(inputs)
    with torch.no_grad():  # on a copy: some terms change with every batch
        copy.deepcopy(objective)(Lesson(shown, target, taught))


def _check_together(plan: Plan) -> None:
    """Find out options that exclude each other."""
    options, objective = plan.options, plan.objective
    shares = options.accumulate * int(os.environ.get("WORLD_SIZE", 1))
    last = (plan.shape.images - 1) % options.batch_size + 1
    if plan.shape.known and last < shares:
        raise OptionError(
            f"--batch-size: the last batch of an epoch would hold {last} image(s), too few for "
            f"{shares} parts (--accumulate, and one process or more)"
        )
    if options.channels_last:
        with blaming("channels-last"):
            if plan.device.type == "cpu":
                check_channels_last(plan.student, plan.teacher, objective)
    if options.compile and objective.needs_input_gradient:
        raise OptionError("--compile: torch.compile cannot differentiate twice, as saliency must")
    if isinstance(plan.views, FunctionMatching):
        for _, term in objective.parts():
            if term.needs_labels:
                raise OptionError(f"--views: mixtures have no label, which {term!r} needs")
        if all(isinstance(term, CrossEntropy) for _, term in objective.parts()):
            raise OptionError("--views: mixtures have no label, and --loss asks nobody else")
    if options.views != "none" and plan.teacher is None:
        raise OptionError("--views: there is no --teacher to see anything")
    if options.cache:
        _check_cache(plan)


def _check_cache(plan: Plan) -> None:
    """Find out teachers and objectives that cannot do with kept answers."""
    if plan.teacher is None:
        raise OptionError("--cache: there is no --teacher whose answers could be kept")
    if follows(plan.teacher):
        raise OptionError("--cache: this teacher changes, its answers cannot be kept")
    if _looks_inside(plan.objective):
        raise OptionError("--cache: only logits are kept, and --loss looks at more of the teacher")
    if as_teacher(plan.teacher).show(_blank(plan.shape)).logits is None:
        raise OptionError("--cache: only logits are kept, and this teacher shows none")
