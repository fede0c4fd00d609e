"""One student with its objective, teacher and optimiser, and how it learns from a batch."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from kdcourse import processes
from kdcourse.checks import check_number, widest
from kdcourse.data import Images, in_order
from kdcourse.feature import prediction_gradient
from kdcourse.models import capture
from kdcourse.training.device import autocast_dtype
from kdcourse.training.learner import ACCURACY, Inputs, Learner, shared_accuracy
from kdcourse.training.objective import Lesson, Objective
from kdcourse.training.teacher import Outputs, Teacher, as_teacher, follows

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer, int], LRScheduler]
Part = tuple[Tensor, Tensor, Sequence[Outputs]]  # inputs, target, what teachers showed


class Run(Learner):
    """A student with its objective, teacher and optimiser: what one training step needs.

    :func:`fit` makes one; schemes in which several models learn at once use :meth:`step`.

    Args:
        student: the module to train, already on its device.
        objective: sum of terms; its own weights (a hint's projection) are trained too.
        teacher: module or teacher, or None.
        steps: length of the schedule.
        learning_rate, weight_decay, optimizer, scheduler, autocast, compile: as in :func:`fit`.
        accumulate, channels_last: likewise.
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
        accumulate: int = 1,
        channels_last: bool = False,
    ):
        check_number("accumulate", accumulate, 1)
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
        self.accumulate = accumulate
        self.channels_last = channels_last
        self.objective = objective.to(self.device)
        self.teacher_layers = objective.teacher_layers
        self.needs_input_gradient = objective.needs_input_gradient
        self.teacher: Teacher | None = None
        if teacher is not None:
            self.teacher = as_teacher(teacher).to(self.device)
            if self.teacher.follows_student:  # a copy of a student that was made here
                processes.same_weights(self.teacher)
        if channels_last:
            check_channels_last(student, self.teacher, objective, self.device)
            for model in filter(None, (student, self.teacher)):
                model.to(memory_format=torch.channels_last)
        self.parallel: nn.Module = _Judged(student, self.objective, compile)
        if processes.count() > 1:
            # What lies behind the last layer that a term looks at gets no gradient.
            early = all(term.student_layers for _, term in objective.parts())
            self.parallel = DistributedDataParallel(
                self.parallel,
                find_unused_parameters=early,
                broadcast_buffers=False,  # once an epoch is enough, see Learner.epoch
            )
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
        """Learn from one batch, or from this process's share of it.

        Args:
            inputs: ``(N, C, H, W)``, or a pair of them: what the student and what the teacher sees.
            target: ``(N,)``; −1 where there is no label.

        Returns:
            The total ``loss``, every term's value and ``train_accuracy``, all detached.
        """
        if not isinstance(inputs, tuple):
            inputs = (self._formatted(inputs),) * 2  # once for both
        own, teachers = inputs
        if len(target) < self.accumulate:
            raise ValueError(f"{len(target)} samples cannot be split in {self.accumulate} parts")

        def parts() -> Iterator[Part]:
            split = (tensor.tensor_split(self.accumulate) for tensor in (own, teachers, target))
            for seen, theirs, labels in zip(*split, strict=True):
                shown = () if self.teacher is None else (self.ask(self.teacher, theirs, labels),)
                yield seen, labels, shown

        values = self._learn(parts(), target)
        if self.teacher is not None and self.teacher.follows_student:
            processes.same_buffers(self.student)
            self.teacher.update(self.student, self.taken + 1)
        return values

    def ask(self, teacher: Teacher, inputs: Tensor, target: Tensor) -> Outputs:
        """Return what a teacher shows of one batch, as far as the objective looks at it."""
        inputs = self._formatted(inputs)
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
        return self._learn([(inputs, target, shown)], target)

    def _learn(self, parts: Iterable[Part], target: Tensor) -> dict[str, Tensor]:
        """Add up the gradients of the parts of a batch, in all processes, and take one step."""
        whole = self._whole(target)
        self.optimizer.zero_grad(set_to_none=True)
        values: dict[str, Tensor] = {}
        for number, (inputs, labels, shown) in enumerate(parts, 1):
            with self._gathered(number == self.accumulate):
                with self._precision():
                    loss, measured = self.parallel(
                        self._formatted(inputs), labels, shown, self._shares(labels, whole)
                    )
                self.scaler.scale(loss).backward()
            for name, value in measured.items():
                values[name] = values[name] + value if name in values else value
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        return processes.means(values)

    def _whole(self, target: Tensor) -> Tensor | None:
        """Count samples and labels of a batch in all processes; None if this is all of it."""
        if processes.count() == self.accumulate == 1:
            return None
        return processes.total(_counted_samples(target))

    def _shares(self, target: Tensor, whole: Tensor | None) -> dict[str, Tensor] | None:
        """Return by how much a part counts, so that the mean over the processes is right."""
        if whole is None:
            return None
        share = processes.count() * _counted_samples(target) / whole.clamp(min=1)
        return {
            "samples": share[0],
            "labels": share[1],
            "batch": torch.full_like(share[0], 1 / self.accumulate),
        }

    def _gathered(self, last: bool) -> AbstractContextManager:
        """Let gradients be averaged over the processes after the last part only."""
        if last or not isinstance(self.parallel, DistributedDataParallel):
            return nullcontext()
        return self.parallel.no_sync()

    def _formatted(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 4:
            return inputs
        if self.channels_last:
            return inputs.contiguous(memory_format=torch.channels_last)
        return in_order(inputs)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def rates(self) -> dict[str, float]:
        """Return the present learning rate."""
        return {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    def validate(self, images: Images) -> dict[str, float]:
        """Return the accuracy of the student, and of a teacher that follows it."""
        measured = {"validation_accuracy": shared_accuracy(self.student, images)}
        if self.teacher is not None and self.teacher.follows_student:
            measured["teacher_validation_accuracy"] = shared_accuracy(self.teacher, images)
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
            "accumulate": self.accumulate,
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


class _Judged(nn.Module):
    """Student and objective as one module: all that learns, for ``DistributedDataParallel``."""

    def __init__(self, student: nn.Module, objective: Objective, compile: bool):
        super().__init__()
        self.student, self.objective = student, objective
        self.asked = torch.compile(student) if compile else student

    def forward(
        self,
        inputs: Tensor,
        target: Tensor,
        shown: Sequence[Outputs],
        shares: dict[str, Tensor] | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and all measurements, detached."""
        if self.objective.needs_input_gradient:
            inputs = inputs.detach().requires_grad_()
        with capture(self.student, self.objective.student_layers) as features:
            logits = self.asked(inputs)
        learned = Outputs(logits=logits, features=features)
        if self.objective.needs_input_gradient:
            learned.input_gradient = prediction_gradient(logits, inputs, target, create_graph=True)
        loss, values = self._judge(
            [Lesson(learned, target, one) for one in shown or (None,)], shares
        )
        right = (logits.detach().argmax(dim=1) == target).sum()
        accuracy = right / (target >= 0).sum().clamp(min=1)
        if shares is not None:
            accuracy = accuracy * shares["labels"]
        return loss, {"loss": loss.detach(), **values, ACCURACY: accuracy}

    def _judge(
        self, lessons: Sequence[Lesson], shares: dict[str, Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective's mean over several lessons, and that of every term."""
        judged = [self.objective(lesson, shares) for lesson in lessons]
        if len(judged) == 1:
            return judged[0]
        loss = torch.stack([loss for loss, _ in judged]).mean()
        names = judged[0][1]
        return loss, {n: torch.stack([values[n] for _, values in judged]).mean() for n in names}


def constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Make the schedule that keeps the learning rate as it is: ``fit(..., scheduler=constant)``."""
    return ConstantLR(optimizer, factor=1.0)


def described(value: object) -> str:
    """Describe a setting the same way in every process: without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def check_channels_last(
    student: nn.Module, teacher: nn.Module | None, objective: Objective, device: torch.device
) -> None:
    """Refuse gradients that oneDNN cannot take: see :func:`kdcourse.data.in_order`.

    Raises:
        ValueError: naming the layer, of the student or of a teacher that is differentiated, too.
    """
    differentiated = [student]
    if teacher is not None and objective.needs_input_gradient:
        differentiated.append(teacher)
    for name, part in chain.from_iterable(model.named_modules() for model in differentiated):
        if (
            device.type == "cpu"
            and isinstance(part, nn.Conv2d)
            and part.kernel_size == (1, 1)
            and max(part.stride) > 1
            and part.in_channels < 16
        ):
            raise ValueError(
                f"channels_last cannot be used on a CPU with {name}, a strided 1×1 convolution of "
                f"{part.in_channels} channels: with fewer than 16, oneDNN writes past its memory"
            )


def _counted_samples(target: Tensor) -> Tensor:
    """Return the numbers of samples and of labels, ``(2,)``."""
    labels = (target >= 0).sum()
    return torch.stack([torch.full_like(labels, len(target)), labels]).to(widest(target))


def _counted(model: nn.Module) -> str:
    return f"{type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters"
