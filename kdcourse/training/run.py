"""One student with its objective, teacher and optimiser, and how it learns from a batch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdcourse import processes
from kdcourse.batch import (
    Inputs,
    SeparateViews,
    blaming_argument,
    blaming_model,
    map_tensors,
    split_samples,
    views_of,
)
from kdcourse.data import in_order
from kdcourse.errors import ArgumentError, NotFiniteError
from kdcourse.metrics import Samples
from kdcourse.modes import kept_buffers
from kdcourse.objective import Objective, Outputs
from kdcourse.signatures import check_is
from kdcourse.training.capture import why_not
from kdcourse.training.device import autocast_dtype
from kdcourse.training.diagnosis import Diagnosis
from kdcourse.training.epochs import Epochs
from kdcourse.training.fingerprint import described, fingerprint
from kdcourse.training.judged import Judged, first_lesson, show
from kdcourse.training.knobs import Knobs
from kdcourse.training.learner import Learner
from kdcourse.training.parallel import Counts, average
from kdcourse.training.rating import Rating
from kdcourse.training.rules import (
    check_all_trained,
    check_nets,
    check_optimizer,
    check_scheduler,
)
from kdcourse.training.schedules import constant
from kdcourse.training.sgd import DeviceSGD, constants, why_apart
from kdcourse.training.teacher import FrozenTeacher, Teacher, as_teacher, follows
from kdcourse.training.watch import Watch

Shown = Iterable[Sequence[Outputs]]  # by each teacher, for every part of a batch


class Run(Learner):
    """A student with its objective, teacher and optimiser: what one training step needs.

    :func:`fit` makes one; schemes in which several models learn at once use :meth:`step`.

    Args:
        student: The module to train, already on its device.
        objective: A sum of terms; weights of its own (a hint's projection) are trained too.
        teacher: A module or teacher, or None.
        steps: The length of the schedule.
        source: Where terms that size themselves find a first batch.
        knobs: As for :func:`fit`.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        teacher: nn.Module | None = None,
        *,
        steps: int,
        source: Epochs | None = None,
        **knobs: Any,
    ):
        self.knobs = Knobs(**knobs)
        self.accumulate = self.knobs.accumulate
        self.student, self.students, self.objectives = student, [student], [objective]
        self.device = next(student.parameters()).device
        self.objective = objective.to(self.device).train()
        self.teacher: Teacher | None = None
        if teacher is not None:
            self.teacher = as_teacher(teacher, self.knobs.output).to(self.device)
        check_nets(student, objective, self.teacher, self.knobs, self.device)
        if source is not None and not objective.prepared:
            first_lesson(objective, student, self.teacher, source)
        if self.knobs.channels_last:
            for model in filter(None, (student, self.teacher)):
                model.to(memory_format=torch.channels_last)
        if self.knobs.compile and type(self.teacher) is FrozenTeacher:
            self.teacher = self.teacher.compiled()
        self.judged = Judged(student, self.objective, self.knobs.compile, self.knobs.output)
        self.replayed = not why_not(self.knobs.capture, self.device, steps)
        self.watch = Watch(at_once=self.device.type == "cpu" and not self.replayed)
        self.counts = Counts(self.device, [self.objective])
        self.rating = Rating(objective, self.knobs.metrics, self.knobs.output)
        learned: list[nn.Module] = [self.judged]
        if self.teacher is not None and self.teacher.follows_student:
            learned.append(self.teacher)  # a copy of a student that was made here
        processes.check_same({"student": _counted(student), "objective": _counted(objective)})
        processes.copy_from_main(
            one for model in learned for one in (*model.parameters(), *model.buffers())
        )
        named = [(name, p) for name, p in self.judged.named_parameters() if p.requires_grad]
        self.trained = [weight for _, weight in named]
        self.steps = steps
        with blaming_argument("optimizer", "the optimizer"):
            self.optimizer: Optimizer = self.knobs.make_optimizer(named)
            check_is("optimizer", self.optimizer, Optimizer)
            check_optimizer(self.optimizer, self.trained)
        with blaming_argument("scheduler", "the schedule of this optimizer"):
            self.scheduler: LRScheduler = self.knobs.make_scheduler(self.optimizer, steps)
            check_is("scheduler", self.scheduler, LRScheduler)
            check_scheduler(self.scheduler, self.optimizer, steps)
        self.dtype = autocast_dtype(self.device, self.knobs.autocast)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.dtype == torch.float16 and self.device.type == "cuda"
        )
        # In a step that is replayed, the optimiser reads its rates on the device, or steps apart.
        self.apart = self._why_apart() if self.replayed else ""
        self.sgd = DeviceSGD(self.optimizer) if self.replayed and not self.apart else None
        self.share = torch.zeros((), device=self.device)  # by which a teacher follows
        self.recorded: list[Tensor | None] = []  # the gradients that a replay writes
        self.diagnoses = [Diagnosis(self)] if self.knobs.diagnose else []
        self.called = self.moved = False  # the present step, other than by a replay; the optimiser

    def _why_apart(self) -> str:
        """Return why the optimiser's step cannot be part of one that is replayed, or nothing."""
        if self.scaler.is_enabled():
            return "the gradients of float16 are scaled"
        kind = type(self.teacher)
        if follows(self.teacher) and kind.update is not Teacher.update:  # type: ignore[union-attr]
            return f"{kind.__name__}.update is called after every step"
        return why_apart(self.optimizer)

    def ready(self) -> None:
        if self.sgd is not None:
            self.sgd.send()
        if self.teacher is not None and self.teacher.follows_student and self.sgd is not None:
            self.share.fill_(self.teacher.share(self.taken + 1))

    def learn(
        self, inputs: Inputs, target: Tensor, shown: Shown | None = None
    ) -> dict[str, Tensor]:
        """Learn from one batch, or from this process's share of it, on the device alone.

        Args:
            inputs: What both nets are called with, or :class:`kdcourse.batch.SeparateViews`.
            target: ``(N,)``; −1 where there is no label.
            shown: What teachers showed of every part of the batch, if they were asked already
                (:meth:`ask`); the objective's mean over them is minimised.

        Returns:
            The total ``loss``, every term's value and ``train_accuracy``, all detached. Of a share,
            what it adds to them; their mean over the processes is that of the batch.
        """
        values = self._differentiate(inputs, target, shown)
        if not self.apart:
            self._optimize()
        return values

    def advance(self) -> None:
        if self.apart:
            if not self.called:  # a smaller batch may have put its own in their place
                for weight, gradient in zip(self.trained, self.recorded, strict=True):
                    weight.grad = gradient
            self._optimize()
        for one in self.diagnoses:
            one.advance(replayed=not self.called)
        self.called = False
        # A loader may yield more than its length says.
        if getattr(self.scheduler, "last_epoch", 0) < self.steps:
            self.scheduler.step()
        self.watch.ask()

    def captured(self) -> None:
        self.recorded = [weight.grad for weight in self.trained]
        for one in self.diagnoses:
            one.captured()

    def _differentiate(
        self, inputs: Inputs, target: Tensor, shown: Shown | None
    ) -> dict[str, Tensor]:
        """Compute the loss and its gradients."""
        if not isinstance(inputs, SeparateViews):
            inputs = self._formatted(inputs)  # once for both
        if len(target) < self.accumulate:
            raise ArgumentError(
                "accumulate", f"{len(target)} samples cannot be split in {self.accumulate} parts"
            )
        own, theirs = views_of(inputs)
        if shown is None:
            shown = self.ask([] if self.teacher is None else [self.teacher], theirs, target)
        whole = None  # how much all of the batch counts, where this is not all of it
        if processes.count() > 1 or self.accumulate > 1:
            whole = self.counts.of(inputs, target)
        self.optimizer.zero_grad(set_to_none=True)
        first = not self.judged.known
        values: dict[str, Tensor] = {}
        split_up = (
            split_samples(one, self.accumulate, len(target)) for one in (own, theirs, target)
        )
        parts = zip(*split_up, shown, strict=True)
        for seen, beside, labels, taught in parts:
            both = SeparateViews(self._formatted(seen), beside)
            with self.precision():
                loss, measured = self.judged(
                    both, labels, taught, self._shares(both, labels, whole)
                )
            if first:
                check_all_trained(self.student, self.trained)
            self.watch.see(seen, taught, self.judged.logits, measured)
            for one in self.diagnoses:
                one.see(both, labels, taught, self.judged.logits)
            with blaming_argument("objective", "differentiating the objective", first):
                self.scaler.scale(loss).backward()
            for name, value in measured.items():
                values[name] = values[name] + value if name in values else value
        self.called = True
        if processes.count() > 1:
            average(self.trained, self.counts, self.student if follows(self.teacher) else None)
        return values

    def _optimize(self) -> None:
        """Move the weights by their gradients, and a teacher that follows after them."""
        if self.knobs.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained, self.knobs.clip)
        if self.sgd is not None:
            self.sgd.step()
        else:
            with blaming_argument("optimizer", "a step of the optimizer", first=not self.moved):
                self.scaler.step(self.optimizer)
            self.scaler.update()
        self.moved = True
        if self.teacher is not None and self.teacher.follows_student:
            if self.sgd is not None:
                self.teacher.follow(self.student, self.share)
            else:
                self.teacher.update(self.student, self.taken + 1)

    def look(self, inputs: Inputs, target: Tensor) -> None:
        """Let the doctor look at a batch, without learning from it."""
        own, theirs = views_of(inputs)
        asked = self.ask([] if self.teacher is None else [self.teacher], theirs, target)
        parts = (split_samples(one, self.accumulate, len(target)) for one in (own, theirs, target))
        for seen, beside, labels, taught in zip(*parts, asked, strict=True):
            both = SeparateViews(self._formatted(seen), beside)
            with torch.no_grad(), self.precision(), kept_buffers(self.student):
                logits = self.judged.lesson(both, labels).student_logits
            for one in self.diagnoses:
                one.see(both, labels, taught, logits)
                one.look()

    def ask(
        self, teachers: Sequence[Teacher], inputs: Inputs, target: Tensor
    ) -> Iterator[list[Outputs]]:
        """Yield what teachers show of every part of a batch, as far as the objective looks."""
        split_up = (split_samples(one, self.accumulate, len(target)) for one in (inputs, target))
        for seen, labels in zip(*split_up, strict=True):
            seen = self._formatted(seen)
            with self.precision(), blaming_model("teacher", seen, first=not self.judged.known):
                shown = [show(teacher, seen, labels, self.objective) for teacher in teachers]
            yield shown

    def _shares(
        self, inputs: Inputs, target: Tensor, whole: Tensor | None
    ) -> dict[str, Tensor] | None:
        """Return how much a part counts, so that the mean over the processes is right."""
        if whole is None:
            return None
        part = self.counts.counted(inputs, target)
        return self.counts.shares(self.objective, part, whole, self.accumulate)

    def _formatted(self, inputs: Inputs) -> Inputs:
        return map_tensors(self._in_memory_format, inputs)

    def _in_memory_format(self, images: Tensor) -> Tensor:
        if images.dim() != 4:
            return images
        if self.knobs.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return in_order(images)

    def precision(self) -> torch.autocast:
        """Return the context in which nets and losses are called."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def start(self) -> None:
        check_all_trained(self.student, self.trained)

    def finish(self) -> None:
        self.watch.finish()
        if bool(nn.utils.get_total_norm(self.trained).isnan()):  # a few kernels, for all weights
            raise NotFiniteError(
                "objective",
                "weights became NaN though the loss did not: a gradient is not finite (that of a "
                "root at zero, say), in a term or in the student",
            )

    def rates(self) -> dict[str, float]:
        return {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    def validate(self, samples: Samples) -> dict[str, float]:
        """Return what is measured of the student, and of a teacher that follows it."""
        measured = self.rating.of(self.student, samples, processes.part())
        if self.teacher is not None and self.teacher.follows_student:
            rated = Rating(self.objective).of(self.teacher, samples, processes.part())
            measured |= {f"teacher_{name}": value for name, value in rated.items()}
        return measured

    @property
    def ratings(self) -> list[Rating]:
        return [self.rating]

    @property
    def rated(self) -> dict[str, list[nn.Module]]:
        following = [self.teacher] if self.teacher is not None and follows(self.teacher) else []
        return {self.rating.best_by: [self.student, self.objective, *following]}

    @property
    def watched(self) -> dict[str, object]:
        return {
            "student": self.student,
            "objective": self.objective,
            "teacher": self.teacher,
            "augment": self.knobs.augment,
            "views": self.knobs.views,
            "optimizer": [constants(group) for group in self.optimizer.param_groups],
        }

    @property
    def open_ended(self) -> bool:
        return self.knobs.scheduler is constant

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "learning_rate": self.knobs.learning_rate,
            "weight_decay": self.knobs.weight_decay,
            "student": _counted(self.student),
            "output": described(self.knobs.output),
            "teacher": self._teacher_as_it_came(),
            "objective": self.as_it_began(self.objective, self.knobs.checkpoint),
            "optimizer": _named(self.optimizer, self.knobs.optimizer),
            "scheduler": _named(self.scheduler, self.knobs.scheduler),
            "clip": self.knobs.clip,
            "autocast": str(self.dtype),
            "accumulate": self.accumulate,
            "sync_batch_norm": self.knobs.sync_batch_norm,
        }

    def _teacher_as_it_came(self) -> str:
        if self.teacher is None:
            return "none"
        if self.teacher.follows_student:  # its weights are those of the student at first
            return f"{_counted(self.teacher)}, {described(getattr(self.teacher, 'momentum', None))}"
        return f"{_counted(self.teacher)} [{fingerprint(self.teacher)}]"

    def parts(self) -> dict[str, Any]:
        moves = {"teacher_weights": self.teacher} if follows(self.teacher) else {}
        return {
            "student_weights": self.student,
            "objective_weights": self.objective,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            **moves,
        }


def _counted(model: nn.Module) -> str:
    count = sum(p.numel() for p in model.parameters())
    return f"{type(model).__name__}, {count} parameters"


def _named(made: object, maker: object) -> str:
    """Describe what was made, and what has made it."""
    return f"{type(made).__name__} [{fingerprint(maker)}]"
