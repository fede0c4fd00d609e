"""From options to nets, objective, views and schedule, tried out before any work begins."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from kdcourse import augmentation, data, models
from kdcourse.checks import ArgumentError
from kdcourse.data import Augmentation, Images, Views
from kdcourse.metrics import evaluation_mode
from kdcourse.objective import Objective
from kdcourse.teachers import (
    CachedLessons,
    ClosedTeacher,
    Ensemble,
    FoldedTeacher,
    FrozenTeacher,
    Teacher,
    shipped,
)
from kdcourse.tips import Consistent
from kdcourse.train.language import Reader, read
from kdcourse.train.options import OptionError, Options, blaming, dashed
from kdcourse.train.shape import Shape, data_set, shape_of, shape_of_images
from kdcourse.training import Knobs, choose_device, rehearse

OPTION = {"objective": "loss", "train": "data", "scheduler": "schedule"}  # by fit's argument


@dataclass
class Plan:
    """Everything that a training is made of, except the data.

    Attributes:
        options: The options it was made from.
        shape: The shape of the data it was made for.
        student, teacher, objective: The nets and the aim.
        device: Where to train.
        knobs: The other options of :func:`kdcourse.training.fit`.
    """

    options: Options
    shape: Shape
    student: nn.Module
    teacher: nn.Module | None
    objective: Objective
    device: torch.device
    knobs: dict[str, Any] = field(default_factory=dict)

    @property
    def steps_an_epoch(self) -> int:
        """How many steps an epoch takes."""
        return _steps_an_epoch(self.options, self.shape)


def prepare(options: Options, images: Images | None = None, *, need_weights: bool = True) -> Plan:
    """Make everything that the options ask for, and try it out on a few blank images.

    Args:
        options: The options of the training.
        images: The training set, once it has been read.
        need_weights: Whether the teacher's nets must have weights; without, they stay untrained.

    Raises:
        OptionError: The message names the option that cannot work.
    """
    name = data_set(options.data)
    shape = shape_of(options, name) if images is None else shape_of_images(images)
    given: dict[str, Any] = {
        "channels": shape.channels,
        "classes": shape.classes,
        "seed": options.seed,
    }
    with blaming("student"):
        student = _net(options.student, given)
        with evaluation_mode(student), torch.no_grad():
            student(_blank(shape, 2).inputs())
    steps = options.epochs * _steps_an_epoch(options, shape)
    given |= {"student": student, "epochs": options.epochs, "steps": steps}
    teacher = _teacher(options, given, shape, need_weights)
    with blaming("loss"):
        objective = read(options.loss, given)
        if not isinstance(objective, Objective):
            raise ValueError(f"{options.loss!r} is no sum of terms")
    if teacher is not None and not (objective.teacher_layers or objective.needs_input_gradient):
        with blaming("teacher"):
            teacher = folded(teacher)
    plan = Plan(options, shape, student, teacher, objective, _device(options))
    plan.knobs = _knobs(plan, given)
    _rehearse(plan)
    return plan


def _rehearse(plan: Plan) -> None:
    """Let the library find out, on blank images, what does not go together."""
    options, shape = plan.options, plan.shape
    few = _blank(shape, shape.images)
    parts = options.accumulate * int(os.environ.get("WORLD_SIZE", 1)) if shape.known else 1
    with _blaming_arguments():
        knobs = {**plan.knobs, "accumulate": options.accumulate}
        rehearse(plan.student, few, plan.objective, teacher=plan.teacher, parts=parts, **knobs)
        if options.cache:
            if plan.teacher is None:
                raise OptionError("--cache: there is no --teacher whose answers could be kept")
            with blaming("cache"):
                views = knobs.pop("views")
                lessons = CachedLessons(plan.teacher, few[:2], views=views, epochs=1)
            rehearse(plan.student, lessons, plan.objective, teacher=lessons.teacher, **knobs)


@contextmanager
def _blaming_arguments() -> Iterator[None]:
    """Name the option that stands for the argument in an error of the library."""
    try:
        yield
    except OptionError:
        raise
    except ArgumentError as error:
        option = OPTION.get(error.argument, error.argument)
        raise OptionError(f"--{dashed(option)}: {error}") from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise OptionError(f"--loss: {error}") from error


def _blank(shape: Shape, number: int) -> Images:
    """Return images with nothing on them, which take no memory."""
    pixels = torch.zeros((), dtype=torch.uint8)
    target = torch.zeros((), dtype=torch.int64)
    channels = (0.5,) * shape.channels
    return Images(
        pixels.expand(number, shape.channels, shape.size, shape.size),
        target.expand(number),
        tuple(map(str, range(shape.classes))),
        channels,
        channels,
    )


def _knobs(plan: Plan, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of ``fit``."""
    options = plan.options
    augment, views = _seen(options, given, plan.shape)
    with blaming("schedule"):
        schedule = read(options.schedule, given)
        if not callable(schedule):
            raise ValueError(f"{options.schedule!r} is no schedule")

    def optimizer(parameters: Any) -> Optimizer:
        return SGD(
            parameters,
            options.learning_rate,
            momentum=options.momentum,
            nesterov=options.nesterov,
            weight_decay=options.weight_decay,
        )

    own = {spec.name for spec in fields(Knobs)} - {
        "validation",
        "augment",
        "views",
        "autocast",
        "device",
    }
    return {
        **{name: getattr(options, name) for name in own if hasattr(options, name)},
        "optimizer": optimizer,
        "scheduler": schedule,
        "augment": augment,
        "views": views,
        "autocast": _autocast(options, plan.device),
        "device": plan.device,
    }


def _seen(
    options: Options, given: dict[str, Any], shape: Shape
) -> tuple[Augmentation | None, Views | None]:
    """Return the augmentation, or the views that hold one, after a try."""
    few = _blank(shape, 2)
    augment, views = None, None
    if options.augment != "none":
        with blaming("augment"):
            augment = read(options.augment, given)
            augment(few.pixels.clone(), data.replay(0))
    if options.views != "none":
        with blaming("views"):
            views = read(options.views, given)
            views(few.pixels.clone(), few.target, data.replay(0))
    if options.cache and views is None:
        return None, Consistent(augment or augmentation.Compose())
    return augment, views


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


def _net(text: str, given: dict[str, Any]) -> nn.Module:
    """Return a net by its short name (``wrn-16-2``), or by an expression (``resnet(20)``)."""
    if re.fullmatch(r"[\w-]+", text):
        return models.by_name(text, **given)
    net = read(text, given)
    if not isinstance(net, nn.Module) or isinstance(net, Objective):
        raise ValueError(f"{text!r} is no net")
    return net


def _teacher(
    options: Options, given: dict[str, Any], shape: Shape, need_weights: bool
) -> nn.Module | None:
    """Return the teacher: one that ships with the course, a net with weights, or an expression.

    The nets that an expression makes take their weights from ``--teacher-weights``, in order.
    """
    files, text = [Path(name) for name in options.teacher_weights], options.teacher
    if text == "none":
        if files:
            raise OptionError("--teacher-weights: there is no --teacher to load them into")
        return None
    with blaming("teacher"):
        if not files and text in shipped.RECIPES:
            text = f"pretrained({text!r})"
        elif re.fullmatch(r"[\w-]+", text):
            text = f"by_name({text!r})"
        reader = Reader(text, given)
        teacher = reader.made
        if not isinstance(teacher, nn.Module) or isinstance(teacher, Objective):
            raise ValueError(f"{options.teacher!r} is no teacher")
        first = next((m for m in teacher.modules() if isinstance(m, nn.Conv2d)), None)
        if first is not None and first.in_channels != shape.channels:
            raise ValueError(
                f"{options.teacher} was trained on images of {first.in_channels} channel(s), these "
                f"have {shape.channels}"
            )
    if need_weights or files:
        _load(reader.nets, files, options.teacher, read_them=shape.known)
    return teacher.eval()


def _load(nets: list[nn.Module], files: list[Path], text: str, *, read_them: bool) -> None:
    """Load the weights of every net from its file."""
    with blaming("teacher-weights"):
        if len(nets) > len(files):
            raise ValueError(
                f"{text} makes {len(nets)} net(s) and needs as many safetensors files, such as the "
                f"student.safetensors of an earlier run, got {len(files)}"
            )
        if len(nets) < len(files):
            left = ", ".join(map(str, files[len(nets) :]))
            raise ValueError(f"no net in {text!r} is left for {left}")
        for net, path in zip(nets, files, strict=True):
            if read_them:
                load_weights(net, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a model's weights from a safetensors file.

    Raises:
        ValueError: There is no such file, or it holds the weights of another net.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    expected, found = _shapes(model.state_dict()), _shapes(state)
    if expected != found:
        name = next(n for n in {**expected, **found} if expected.get(n) != found.get(n))
        raise ValueError(
            f"{path} holds the weights of another net: its {name} is "
            f"{found.get(name, 'missing')}, expected {expected.get(name, 'none')}"
        )
    model.load_state_dict(state)


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def folded(model: nn.Module) -> nn.Module:
    """Make faster the nets in a teacher whose hidden layers nobody asks for."""
    if isinstance(model, Ensemble):
        model.members = nn.ModuleList(folded(member) for member in model.members)
    elif isinstance(model, ClosedTeacher):
        model.model = folded(model.model)
    elif type(model) is FrozenTeacher:
        return FoldedTeacher(model.model)
    elif not isinstance(model, Teacher):
        return FoldedTeacher(model)
    return model
