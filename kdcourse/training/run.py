"""One student with its objective, teacher and optimiser, and how it learns from a batch."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from kdcourse.data import Images
from kdcourse.feature import prediction_gradient
from kdcourse.metrics import accuracy
from kdcourse.models import capture
from kdcourse.training.device import autocast_dtype
from kdcourse.training.learner import Inputs, Learner
from kdcourse.training.objective import Lesson, Objective
from kdcourse.training.teacher import Outputs, Teacher, as_teacher, follows

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer, int], LRScheduler]


class Run(Learner):
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
        if teacher is not None and not objective.needs_teacher and not follows(teacher):
            raise ValueError(f"there is a teacher, but the objective {objective!r} never asks it")
        if teacher is not None and student in teacher.modules():
            raise ValueError("the teacher is the student itself: teach with a copy of it")
        if compile and objective.needs_input_gradient:
            raise ValueError("torch.compile cannot differentiate twice: use compile=False here")
        parameters = list(student.parameters())
        self.device = parameters[0].device
        self.student = student
        self.students = [student]
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

    def step(self, inputs: Inputs, target: Tensor) -> dict[str, Tensor]:
        """Learn from one batch.

        Args:
            inputs: ``(N, C, H, W)``, or a pair of them: what the student and what the teacher sees.
            target: ``(N,)``; −1 where there is no label.

        Returns:
            The total ``loss``, every term's value and ``train_accuracy``, all detached.
        """
        own, teachers = inputs if isinstance(inputs, tuple) else (inputs, inputs)
        if self.teacher is None:
            return self.learn(own, target)
        values = self.learn(own, target, self.ask(self.teacher, teachers, target))
        self.teacher.update(self.student, self.taken + 1)
        return values

    def ask(self, teacher: Teacher, inputs: Tensor, target: Tensor) -> Outputs:
        """Return what a teacher shows of one batch, as far as the objective looks at it."""
        with self._precision():
            with torch.no_grad():
                shown = teacher.show(inputs, self.teacher_layers)
            if self.needs_input_gradient:
                shown.input_gradient = teacher.input_gradient(inputs, target)
        return shown

    def learn(self, inputs: Tensor, target: Tensor, *shown: Outputs) -> dict[str, Tensor]:
        """Learn from one batch and from what any number of teachers showed of it.

        Args:
            inputs: ``(N, C, H, W)``.
            target: ``(N,)``; −1 where there is no label.
            shown: by each teacher; the objective's mean over them is minimised.

        Returns:
            As :meth:`step`.
        """
        with self._precision():
            if self.needs_input_gradient:
                inputs = inputs.detach().requires_grad_()
            with capture(self.student, self.student_layers) as features:
                logits = self.forward(inputs)
            learned = Outputs(logits=logits, features=features)
            if self.needs_input_gradient:
                learned.input_gradient = prediction_gradient(
                    logits, inputs, target, create_graph=True
                )
            loss, values = self._judge([Lesson(learned, target, one) for one in shown or (None,)])
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        right = (logits.detach().argmax(dim=1) == target).sum()
        share = right / (target >= 0).sum().clamp(min=1)
        return {"loss": loss.detach(), **values, "train_accuracy": share}

    def _judge(self, lessons: Sequence[Lesson]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective's mean over several lessons, and that of every term."""
        judged = [self.objective(lesson) for lesson in lessons]
        if len(judged) == 1:
            return judged[0]
        loss = torch.stack([loss for loss, _ in judged]).mean()
        names = judged[0][1]
        return loss, {n: torch.stack([values[n] for _, values in judged]).mean() for n in names}

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def rates(self) -> dict[str, float]:
        """Return the present learning rate."""
        return {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    def validate(self, images: Images) -> dict[str, float]:
        """Return the accuracy of the student, and of a teacher that follows it."""
        measured = {"validation_accuracy": accuracy(self.student, images)}
        if self.teacher is not None and self.teacher.follows_student:
            measured["teacher_validation_accuracy"] = accuracy(self.teacher, images)
        return measured

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

    def parts(self) -> dict[str, Any]:
        """Return everything that has a state, by name."""
        moves = {"teacher_weights": self.teacher} if follows(self.teacher) else {}
        return {
            "student_weights": self.student,
            "objective_weights": self.objective,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            **moves,
        }


def constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Make the schedule that keeps the learning rate as it is: ``fit(..., scheduler=constant)``."""
    return ConstantLR(optimizer, factor=1.0)


def described(value: object) -> str:
    """Describe a setting the same way in every process: without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _counted(model: nn.Module) -> str:
    return f"{type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters"
