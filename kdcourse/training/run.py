"""What one training step needs, and how its state is saved and taken up again."""

import math
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm.auto import tqdm

from kdcourse.feature import prediction_gradient
from kdcourse.models import capture
from kdcourse.training import checkpoint as checkpoints
from kdcourse.training.device import autocast_dtype
from kdcourse.training.history import History
from kdcourse.training.objective import Lesson, Objective
from kdcourse.training.teacher import Outputs, Teacher, as_teacher

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer, int], LRScheduler]


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
        if compile and objective.needs_input_gradient:
            raise ValueError("torch.compile cannot differentiate twice: use compile=False here")
        parameters = list(student.parameters())
        self.device = parameters[0].device
        self.student = student
        self.forward = torch.compile(student) if compile else student
        self.objective = objective.to(self.device)
        self.student_layers = objective.student_layers
        self.teacher_layers = objective.teacher_layers
        self.needs_input_gradient = objective.needs_input_gradient
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
                    shown = self.teacher.show(inputs, self.teacher_layers)
            if self.needs_input_gradient:
                inputs = inputs.detach().requires_grad_()
            with capture(self.student, self.student_layers) as features:
                logits = self.forward(inputs)
            learned = Outputs(logits=logits, features=features)
            if self.needs_input_gradient:
                learned.input_gradient = prediction_gradient(
                    logits, inputs, target, create_graph=True
                )
                if shown is not None and self.teacher is not None:
                    shown.input_gradient = self.teacher.input_gradient(inputs, target)
            loss, values = self.objective(Lesson(learned, target, shown))
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
        if not math.isfinite(row["loss"]):
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

    @property
    def settings(self) -> dict[str, Any]:
        """What distinguishes this run from others, for the checkpoint."""
        return {
            "student": _counted(self.student),
            "teacher": "none" if self.teacher is None else _counted(self.teacher),
            "objective": described(self.objective),
            "optimizer": type(self.optimizer).__name__,
            "scheduler": type(self.scheduler).__name__,
            "autocast": str(self.dtype),
        }

    def _parts(self) -> dict[str, Any]:
        return {
            "student_weights": self.student,
            "objective_weights": self.objective,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }


def described(value: object) -> str:
    """Describe a setting the same way in every process: without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _counted(model: nn.Module) -> str:
    return f"{type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters"
