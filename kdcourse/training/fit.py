"""The one training loop: every scheme of the course composes :func:`fit`."""

import re
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm.auto import tqdm

from kdcourse.checks import check_choice, check_number
from kdcourse.data import Augmentation, Images, replay_seed
from kdcourse.metrics import accuracy
from kdcourse.models import capture
from kdcourse.training import checkpoint as checkpoints
from kdcourse.training.device import autocast_dtype, choose_device
from kdcourse.training.history import History
from kdcourse.training.objective import CrossEntropy, Lesson, Objective
from kdcourse.training.teacher import Outputs, Teacher, as_teacher

Batches = Images | Iterable[tuple[Tensor, Tensor]]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer, int], LRScheduler]


def fit(
    student: nn.Module,
    train: Batches,
    objective: Objective | None = None,
    *,
    teacher: nn.Module | None = None,
    validation: Images | None = None,
    epochs: int = 15,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    optimizer: MakeOptimizer | None = None,
    scheduler: MakeScheduler | None = None,
    augment: Augmentation | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    autocast: bool | torch.dtype = False,
    compile: bool = False,
    checkpoint: str | Path | None = None,
    on_interrupt: str = "return",
    progress: bool = True,
) -> History:
    """Train a student, with or without a teacher: ``min_f L(f) + λ · dist(f, f_large)``.

    >>> fit(student, train, CrossEntropy() + 4.0 * LogitKD(temperature=4), teacher=teacher)

    Training is a function of the initial weights and ``seed``: the order of the images, their
    augmentations and any dropout can be replayed. Torch's global generator is left as it was.

    Args:
        student: any module from inputs to logits ``(N, K)``; trained in place, on ``device``.
        train: an in-memory set, or anything that yields ``(inputs, target)`` batches anew each
            epoch and has a length (a ``DataLoader``).
        objective: sum of terms; labels alone without one.
        teacher: a module or :class:`Teacher`; asked in eval mode and without gradients.
        validation: set on which accuracy is measured after each epoch.
        epochs: passes through ``train``.
        batch_size: images per batch (of an in-memory set).
        learning_rate: peak of the default one-cycle schedule.
        weight_decay: of the default optimiser, SGD with Nesterov momentum 0.9.
        optimizer: makes another optimiser from the parameters.
        scheduler: makes another schedule from the optimiser and the number of steps; stepped
            after every batch.
        augment: batched augmentation of an in-memory set; teacher and student see the same.
        seed: of order, augmentation and dropout.
        device: CUDA, MPS or CPU, the best there is by default.
        autocast: mixed precision, or its dtype.
        compile: run the student through ``torch.compile``.
        checkpoint: file to save to after every epoch and to resume from. A run that was killed
            ends, when called again, with the weights of an uninterrupted one.
        on_interrupt: on Ctrl-C or a stopped kernel, ``"return"`` the history so far (the student
            keeps what it learned) or ``"raise"``.
        progress: show a progress bar.

    Returns:
        The history of every term, one row an epoch.

    Raises:
        ValueError: settings that cannot work, or a checkpoint of another run.
        FloatingPointError: the loss is no longer finite.
    """
    check_choice("on_interrupt", on_interrupt, ("return", "raise"))
    check_number("epochs", epochs, 1)
    check_number("batch_size", batch_size, 1)
    place = choose_device(device)
    student.to(place)
    if isinstance(train, Images):
        train = train.to(place)
    steps = -(-len(train) // batch_size) if isinstance(train, Images) else _length(train)
    if steps == 0:
        raise ValueError("train holds no batch")
    run = Run(
        student,
        CrossEntropy() if objective is None else objective,
        teacher,
        steps=epochs * steps,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        optimizer=optimizer,
        scheduler=scheduler,
        autocast=autocast,
        compile=compile,
    )
    settings = {
        "student": f"{type(student).__name__}, {sum(p.numel() for p in student.parameters())}",
        "train": f"{train.name if isinstance(train, Images) else type(train).__name__}, {steps}",
        "validation": 0 if validation is None else len(validation),
        "objective": _described(run.objective),
        "teacher": "none" if teacher is None else type(teacher).__name__,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "optimizer": type(run.optimizer).__name__,
        "scheduler": type(run.scheduler).__name__,
        "augment": _described(augment),
        "autocast": str(run.dtype),
        "seed": seed,
    }
    history = History()
    if checkpoint is not None and Path(checkpoint).is_file():
        history.rows = run.resume(checkpoint, settings)

    mode = student.training
    devices = [place] if place.type == "cuda" else []
    bar = tqdm(
        total=epochs * steps, initial=len(history) * steps, disable=not progress, unit="step"
    )
    try:
        with torch.random.fork_rng(devices=devices):
            for epoch in range(len(history), epochs):
                torch.manual_seed(replay_seed(seed, epoch))
                student.train()
                batches = (
                    train.batches(batch_size, seed=seed, epoch=epoch, augment=augment)
                    if isinstance(train, Images)
                    else train
                )
                row = {"epoch": epoch + 1, **run.epoch(batches, bar)}
                if validation is not None:
                    row["validation_accuracy"] = accuracy(student, validation)
                    bar.set_postfix(validation_accuracy=f"{row['validation_accuracy']:.3f}")
                history.rows.append(row)
                if checkpoint is not None:
                    run.save(checkpoint, settings, history)
    except KeyboardInterrupt:
        if on_interrupt == "raise":
            raise
        history.interrupted = True
        warnings.warn(
            f"interrupted after {len(history)} of {epochs} epochs; the student keeps what it "
            "learned" + ("" if checkpoint is None else ", and the same call resumes"),
            stacklevel=2,
        )
    finally:
        bar.close()
        student.train(mode)
    return history


class Run:
    """A student with its objective, teacher and optimiser: what one training step needs.

    :func:`fit` makes one; schemes in which several models learn at once use :meth:`step`.

    Args:
        student: the module to train, already on its device.
        objective: sum of terms; its own weights (a hint's projection) are trained too.
        teacher: module or teacher, or None.
        steps: length of the schedule.
        learning_rate, weight_decay, optimizer, scheduler, autocast, compile: as in :func:`fit`.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        teacher: nn.Module | None = None,
        *,
        steps: int,
        learning_rate: float = 0.1,
        weight_decay: float = 5e-4,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
        autocast: bool | torch.dtype = False,
        compile: bool = False,
    ):
        if objective.needs_teacher and teacher is None:
            raise ValueError(f"the objective {objective!r} needs a teacher, and there is none")
        if teacher is not None and not objective.needs_teacher:
            raise ValueError(f"there is a teacher, but the objective {objective!r} never asks it")
        if teacher is not None and student in teacher.modules():
            raise ValueError("the teacher is the student itself: teach with a copy of it")
        parameters = list(student.parameters())
        self.device = parameters[0].device
        self.student = student
        self.forward = torch.compile(student) if compile else student
        self.objective = objective.to(self.device)
        self.teacher: Teacher | None = None
        if teacher is not None:
            self.teacher = as_teacher(teacher).to(self.device)
        trained = [p for p in [*parameters, *objective.parameters()] if p.requires_grad]
        if optimizer is None:
            self.optimizer: Optimizer = torch.optim.SGD(
                trained, learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
            )
        else:
            self.optimizer = optimizer(trained)
        self.scheduler: LRScheduler = (
            OneCycleLR(self.optimizer, learning_rate, total_steps=steps)
            if scheduler is None
            else scheduler(self.optimizer, steps)
        )
        self.dtype = autocast_dtype(self.device, autocast)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.dtype == torch.float16 and self.device.type == "cuda"
        )

    def step(self, inputs: Tensor, target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Learn from one batch.

        Args:
            inputs: ``(N, C, H, W)``.
            target: ``(N,)``.

        Returns:
            Every term's value and the total ``loss``, and the student's logits, all detached.
        """
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            shown = None
            if self.teacher is not None:
                with torch.no_grad():
                    shown = self.teacher.show(inputs, self.objective.teacher_layers)
            with capture(self.student, self.objective.student_layers) as features:
                logits = self.forward(inputs)
            lesson = Lesson(Outputs(logits=logits, features=features), target, shown)
            loss, values = self.objective(lesson)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        return {"loss": loss.detach(), **values}, logits.detach()

    def epoch(self, batches: Iterable[tuple[Tensor, Tensor]], bar: tqdm) -> dict[str, float]:
        """Learn from every batch once and return the means over the epoch."""
        start = time.perf_counter()
        learning_rate = self.optimizer.param_groups[0]["lr"]
        totals: dict[str, Tensor] = {}
        seen = 0
        for inputs, target in batches:
            inputs, target = inputs.to(self.device), target.to(self.device)
            values, logits = self.step(inputs, target)
            values["train_accuracy"] = (logits.argmax(dim=1) == target).float().mean()
            for name, value in values.items():  # summed on the device: no stall for a number
                totals[name] = totals.get(name, 0.0) + value * len(target)
            seen += len(target)
            bar.update()
        if seen == 0:
            raise ValueError("train yielded no batch")
        row = {name: float(total) / seen for name, total in totals.items()}
        if not torch.isfinite(torch.tensor(row["loss"])):
            raise FloatingPointError(
                f"the loss became {row['loss']}: lower the learning rate or a term's weight"
            )
        return {**row, "learning_rate": learning_rate, "seconds": time.perf_counter() - start}

    def save(self, path: str | Path, settings: dict[str, Any], history: History) -> None:
        """Write a checkpoint."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        checkpoints.save(path, {"settings": settings, "rows": history.rows, **parts})

    def resume(self, path: str | Path, settings: dict[str, Any]) -> list[dict[str, float]]:
        """Take up a checkpoint of a run with the same settings and return its history."""
        state = checkpoints.load(path, self.device)
        if not (isinstance(state, dict) and "settings" in state):
            raise checkpoints.CorruptedCheckpointError(f"{path} is no checkpoint of a training run")
        for name, value in settings.items():
            if state["settings"].get(name) != value:
                raise ValueError(
                    f"{path} belongs to another run: its {name} is "
                    f"{state['settings'].get(name)!r}, here it is {value!r}"
                )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        return state["rows"]

    def _parts(self) -> dict[str, Any]:
        return {
            "student_weights": self.student,
            "objective_weights": self.objective,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }


def _described(value: object) -> str:
    """Describe a setting the same way in every process: without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _length(batches: Iterable[Any]) -> int:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        kind = type(batches).__name__
        raise TypeError(
            f"train must be Images or have a length (a DataLoader), got {kind}"
        ) from None
