"""From options to nets, objective, views and schedule, tried out before any work begins."""

import os
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LRScheduler

from kdcourse import augmentation, data
from kdcourse.data import Augmentation, Images, Views
from kdcourse.objective import Objective
from kdcourse.teachers import CachedLessons, Teacher
from kdcourse.tips import Consistent
from kdcourse.train import nets, texts
from kdcourse.train.images import blank
from kdcourse.train.language import Reader
from kdcourse.train.options import OptionError, Options, blaming
from kdcourse.train.texts import Corpus
from kdcourse.training import Knobs, choose_device, rehearse
from kdcourse.training.knobs import MakeOptimizer


@dataclass
class Plan:
    """Everything that a training is made of, except the data."""

    options: Options
    images: Images | Corpus  # like those to train on
    guessed: bool  # whether their shape is a guess, until the data have been read
    student: nn.Module
    teacher: nn.Module | None
    objective: Objective
    knobs: dict[str, Any]  # the other options of fit
    steps_an_epoch: int

    @property
    def steps(self) -> int:
        """The number of steps of the training."""
        return _steps(self.options, self.steps_an_epoch)

    def lessons(self, images: Images | Corpus, **kept: Any) -> dict[str, Any]:
        """Return what ``fit`` learns from, by whom, and how.

        The images are on the device. Where answers are kept, ``kept`` says how many, and where.
        """
        if isinstance(images, Corpus):
            train = texts.source(self.options, images, self.student, self.teacher)
            return {"train": train, "teacher": self._asked(train), **self.knobs}
        if not self.options.cache:
            return {"train": images, "teacher": self.teacher, **self.knobs}
        assert self.teacher is not None
        knobs = dict(self.knobs)
        kept |= {name: knobs.pop(name) for name in ("views", "batch_size")}
        lessons = CachedLessons(
            self.teacher.to(images.device), images, seed=self.options.seed, **kept
        )
        return {"train": lessons, "teacher": lessons.teacher, **knobs}

    def _asked(self, train: texts.Source) -> nn.Module | None:
        """Return the teacher, unless all it does is to write the texts."""
        writes = self.teacher is not None and any(
            one is self.teacher for one in vars(train).values()
        )
        if self.teacher is None or self.objective.needs_teacher or not writes:
            return self.teacher
        self.teacher.to(self.knobs["device"])  # as fit does where it is asked
        return None


def prepare(
    options: Options, images: Images | Corpus | None = None, *, need_weights: bool = True
) -> Plan:
    """Make everything that the options ask for, and try it out on a few images.

    These are blank images until the training set has been read. Without ``need_weights``, nets may
    stay untrained whose weights the options leave out.
    """
    images, guessed = _before_reading(options) if images is None else (images, False)
    given: dict[str, Any] = {"seed": options.seed, **_known(images)}
    if options.epochs is not None:
        given["epochs"] = options.epochs
    with blaming("drop-last"):
        steps_an_epoch = images.steps(options.batch_size, drop_last=options.drop_last)
    given["steps"] = _steps(options, steps_an_epoch)
    student, teacher = nets.made(
        options, given, images, need_weights=need_weights, read_weights=not guessed
    )
    given["student"] = student
    with blaming("loss"):
        objective = Reader(options.loss, given, "terms").made
    if teacher is not None:
        with blaming("teacher"):
            if isinstance(images, Corpus):
                nets.try_out(teacher, images, "teacher")
            elif not (objective.teacher_layers or objective.needs_input_gradient):
                teacher = nets.folded(teacher)
    knobs = _knobs(options, given, images)
    plan = Plan(options, images, guessed, student, teacher, objective, knobs, steps_an_epoch)
    parts = 1 if guessed else options.accumulate * int(os.environ.get("WORLD_SIZE", 1))
    with blaming("loss"):  # the library finds out what does not go together
        train: Any = images
        if isinstance(images, Corpus):
            texts.check_parts(options, images, parts)
            lessons = plan.lessons(images[:2])
            texts.check_labels(lessons["train"], objective)
            teacher = lessons["teacher"]
            train = texts.source(replace(options, texts="data"), images, student, None)
        rehearse(student, train, objective, teacher=teacher, parts=parts, **knobs)
        if options.cache:
            with blaming("cache"):
                lessons = plan.lessons(images[:2], epochs=1)
            rehearse(student, objective=objective, **lessons)
    return plan


def trained(options: Options, images: Images, weights: str) -> tuple[nn.Module, nn.Module | None]:
    """Return the student of a finished run, and its teacher, but for one that followed it.

    Args:
        options: Those of the run.
        images: Images like those it was trained on.
        weights: The safetensors file of the student.
    """
    steps = options.steps or images.steps(options.batch_size)
    given = {**_known(images), "seed": options.seed, "epochs": options.epochs, "steps": steps}
    options = replace(options, student_weights=weights)
    student, teacher = nets.made(options, given, images, need_weights=True, read_weights=True)
    follows = isinstance(teacher, Teacher) and teacher.follows_student
    return student.eval(), None if follows else teacher


def some(train: Any, options: Options) -> Any:
    """Return as many of the data to train on as are asked for."""
    if options.images is not None and options.images > len(train):
        raise OptionError(f"--images: there are {len(train)} to train on")
    return train[: options.images]


def _before_reading(options: Options) -> tuple[Images | Corpus, bool]:
    """Return what is like the data to train on, and whether their shape is a guess."""
    if options.reads_texts:  # which takes no time
        return some(texts.read(options).train, options), False
    return blank(options)


def _known(images: Images | Corpus) -> dict[str, Any]:
    """Return what the command knows of the data, by the names of parameters."""
    if isinstance(images, Corpus):
        return images.given
    return {"channels": images.pixels.shape[1], "classes": len(images.classes)}


def _steps(options: Options, steps_an_epoch: int) -> int:
    """Return the number of steps of a training."""
    return options.steps or (options.epochs or 0) * steps_an_epoch  # one of them is there


def _knobs(options: Options, given: dict[str, Any], images: Images | Corpus) -> dict[str, Any]:
    """Return the options of ``fit``; most of them are options of the command by the same name."""
    rates: dict[str, Any] = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
    optimizer: MakeOptimizer = partial(
        SGD, momentum=options.momentum, nesterov=options.nesterov, **rates
    )
    if options.optimizer == "adamw":
        optimizer = partial(AdamW, betas=(options.momentum, 0.999), **rates)
    with blaming("schedule"):
        schedule = Reader(options.schedule, given, "schedules").made
        made = schedule(optimizer(given["student"].parameters()), given["steps"])
        if not isinstance(made, LRScheduler):
            raise ValueError(f"{options.schedule!r} is no schedule")
    augment, views = _seen(options, given, images[:2])
    device = _device(options)
    names = {spec.name for spec in fields(Knobs) if hasattr(options, spec.name)}
    names -= {"learning_rate", "weight_decay"}  # the optimizer's own
    names -= {"keep"}  # the best can be found once there are images to validate on
    if isinstance(images, Corpus):
        names -= {"batch_size"}  # what yields the texts has it
    return {
        **{name: getattr(options, name) for name in names},
        "validation": None,  # images, once they are read
        "optimizer": optimizer,
        "scheduler": schedule,
        "augment": augment,
        "views": views,
        "autocast": _autocast(options, device),
        "capture": "auto" if options.capture else False,
        "device": device,
    }


def _seen(
    options: Options, given: dict[str, Any], few: Any
) -> tuple[Augmentation | None, Views | None]:
    """Return the augmentation, or the views that hold one, after a try on a few images."""
    augment, views = None, None
    if options.augment != "none":
        with blaming("augment"):
            augment = Reader(options.augment, given, "augmentations").made
            augment(few.pixels.clone(), data.replay(0))
    if options.views != "none":
        with blaming("views"):
            views = Reader(options.views, given, "views").made
            views(few.pixels.clone(), few.target, data.replay(0))
    if options.cache and views is None:
        return None, Consistent(augment or augmentation.Compose())
    return augment, views


def _device(options: Options) -> torch.device:
    with blaming("device"):
        device = choose_device(options.device)
        if device.type not in ("cpu", "cuda", "mps"):
            raise ValueError(f"cpu, cuda and mps are possible, not {device.type}")
    return device


def _autocast(options: Options, device: torch.device) -> bool | torch.dtype:
    if options.autocast in ("none", "auto"):
        return options.autocast == "auto"
    if options.autocast == "float16" and device.type == "cpu":
        raise OptionError("--autocast: float16 needs a GPU; on a CPU take bfloat16")
    return getattr(torch, options.autocast)
