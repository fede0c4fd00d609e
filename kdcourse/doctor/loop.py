"""Any training loop, watched through hooks on its student and its teacher."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from kdcourse.batch import Output, are_classes, blaming_argument, logits_of
from kdcourse.checks import check_positive, check_temperature
from kdcourse.doctor import teacher as teachers
from kdcourse.doctor.answers import what_both_say
from kdcourse.doctor.doctor import FIRST, Doctor
from kdcourse.doctor.features import dead_shares
from kdcourse.doctor.findings import Findings
from kdcourse.doctor.look import Look, Said
from kdcourse.doctor.terms import gradient_vector, gradients_of
from kdcourse.errors import ArgumentError
from kdcourse.models import capture
from kdcourse.predictions import check_class_dim, place_rows
from kdcourse.signatures import check_is, checked


class Watched:
    """A loop that is being watched; :func:`watch` makes one.

    Args:
        student: The module that learns.
        teacher: The module that teaches.
        every: After the first batches, every so many steps one is looked at.
        temperature: The one of the soft targets.
        class_dim: The dimension of the classes.
        ignore_index: The target of places that do not count.
        output: Finds the logits in what both return.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        *,
        every: int,
        temperature: float,
        class_dim: int,
        ignore_index: int | None,
        output: Output,
    ):
        self.student, self.teacher = student, teacher
        self.every, self.temperature = every, temperature
        self.class_dim, self.ignore_index = class_dim, ignore_index
        self.output = output
        self.doctor, self.steps = Doctor(), 0
        self.layers: dict[str, dict[str, Tensor]] = {}
        self.passes: dict[str, tuple[Any, Any, str]] = {}

    @property
    def due(self) -> bool:
        """Whether the present step is looked at."""
        return self.steps < FIRST or (self.steps + 1) % self.every == 0

    @property
    def report(self) -> Findings:
        """What was found so far."""
        return self.doctor.report()

    def note(self, who: str, module: nn.Module, inputs: Any, returned: Any) -> None:
        """Keep what a net was called with and has said, until the step is done."""
        if self.due:
            mode = teachers.part_in_train_mode(module) if who == "teacher" else ""
            with blaming_argument("output", f"output, for what the {who} returns,"):
                self.passes[who] = inputs, self.output(returned), mode

    def step(self, target: Tensor | None = None, **losses: Tensor) -> None:
        """Look at a step: before its gradients are computed, and after both nets were called.

        >>> seen.step(target, labels=cross_entropy, kd=3.0 * kd)

        Args:
            target: Class indices, one a place; −1 where there is no label.
            losses: The terms of the loss by their names, each times its weight. The one called
                ``labels``, or else the first, is what others are compared with.
        """
        check_is("target", target, Tensor | None)
        for name, loss in losses.items():
            if not isinstance(loss, Tensor) or loss.dim() != 0:
                raise ArgumentError(name, f"{name} must be a scalar tensor that is to be minimised")
        if self.due:
            if "student" not in self.passes:
                raise ArgumentError(
                    "student", "the student was not called in this step: watch the module itself"
                )
            self._check_class_dim(target)
            try:
                self.doctor.looks.append(self._look(target, losses))
            except RuntimeError as error:
                if "a second time" not in str(error):
                    raise
                raise ArgumentError(
                    "losses", "losses must be given before backward(), which frees their graph"
                ) from error
            self.doctor.tell(self.report)
        self.passes.clear()
        self.steps += 1

    def _check_class_dim(self, target: Tensor | None) -> None:
        """Require of logits with positions that the classes are not plainly elsewhere."""
        logits = self.passes["student"][1]
        if target is None or not isinstance(logits, Tensor) or logits.dim() < 3:
            return
        elsewhere = logits.shape[: self.class_dim] + logits.shape[self.class_dim :][1:]
        if target.shape == logits.shape[:-1] != elsewhere:
            raise ArgumentError(
                "class_dim",
                f"class_dim must be -1 where targets are {tuple(target.shape)} and logits "
                f"{tuple(logits.shape)}, got {self.class_dim}",
            )

    def _look(self, target: Tensor | None, losses: dict[str, Tensor]) -> Look:
        early = self.steps < FIRST
        own, logits, _ = self.passes["student"]
        weights = [one for one in self.student.parameters() if one.requires_grad]
        follows = getattr(self.teacher, "follows_student", False)
        labels = "labels" if "labels" in losses else next(iter(losses), "")
        seen: dict[str, Any] = {
            "early": early,
            "said": self._said(logits, target),
            "dead": {
                name: share
                for who, shown in self.layers.items()
                for name, share in dead_shares(who, shown).items()
            },
        }
        if losses:
            compared = "" if follows else labels
            seen["gradients"] = gradients_of(losses, weights, compared, sampled=early)
        if self.teacher is not None and "teacher" in self.passes:
            theirs, taught, mode = self.passes["teacher"]
            seen |= {"in_train_mode": mode}
            if isinstance(taught, Tensor):
                asked = taught.requires_grad
                seen["reached"] = _reached(self.teacher, losses) if asked else False
            if not follows:
                seen["weights"] = teachers.digest([*self.teacher.parameters()])
                seen["statistics"] = teachers.digest([*self.teacher.buffers()])
                seen["likeness"] = teachers.likeness(own, theirs)
        return Look(**seen)

    def _said(self, logits: Tensor, target: Tensor | None) -> Said | None:
        if not isinstance(logits, Tensor) or logits.dim() < 2:
            return None
        rows = place_rows(logits, self.class_dim)
        taught = self.passes["teacher"][1] if "teacher" in self.passes else None
        if isinstance(taught, Tensor) and taught.shape == logits.shape:
            taught = place_rows(taught, self.class_dim)
        else:
            taught = None
        if target is not None and (not are_classes(target) or target.numel() != len(rows)):
            target = None
        if target is not None:
            target = target.flatten()
            if self.ignore_index is not None:
                counts = target != self.ignore_index
                rows, target = rows[counts], target[counts]
                taught = None if taught is None else taught[counts]
        return what_both_say(rows, taught, target, self.temperature) if len(rows) else None


def _reached(teacher: nn.Module, losses: dict[str, Tensor]) -> bool | None:
    """Return whether a loss has a gradient with respect to a teacher's weights."""
    weights = [one for one in teacher.parameters() if one.requires_grad]
    if not weights or not losses:
        return None
    return any(bool(gradient_vector(loss, weights).any()) for loss in losses.values())


@contextmanager
@checked
def watch(
    student: nn.Module,
    teacher: nn.Module | None = None,
    *,
    temperature: float = 1.0,
    layers: Sequence[str] = (),
    class_dim: int = 1,
    ignore_index: int | None = None,
    output: Output | None = None,
    every: int = 100,
) -> Iterator[Watched]:
    """Watch any training loop, and warn of what goes wrong in it.

    >>> with doctor.watch(student, teacher, temperature=4) as seen:
    ...     for inputs, target in loader:
    ...         ...  # call both, and compute the terms of the loss
    ...         seen.step(target, labels=cross_entropy, kd=3.0 * kd)
    ...         (cross_entropy + 3.0 * kd).backward()

    The first three batches are looked at, and then every ``every``-th one; that costs a backward
    pass for each term. Nothing is changed in either net, and no random number is drawn. What both
    were called with, and returned, is seen by hooks: call the modules that are watched, and no
    compiled ones that were made of them.

    Args:
        student: The module that learns.
        teacher: The module that teaches, the one that is called (of a ``FrozenTeacher`` whose
            ``show`` is used, its ``model``); without one, only the student is looked at.
        temperature: The one at which the teacher's soft targets are made, > 0.
        layers: Names of layers of both nets that are compared.
        class_dim: The dimension of the classes, 1 or more, or negative.
        ignore_index: The target of places that do not count.
        output: Finds the logits in what both return, as in :class:`kdcourse.training.Knobs`.
        every: How often to look after the first batches.

    Yields:
        What is told of every step (``step(target, **losses)``), and tells what was found
        (``report``). Each finding is also a warning, once.
    """
    check_temperature(temperature)
    check_class_dim(class_dim)
    check_positive(every=every)
    seen = Watched(
        student,
        teacher,
        every=every,
        temperature=temperature,
        class_dim=class_dim,
        ignore_index=ignore_index,
        output=output or logits_of,
    )
    nets = {"student": student} | ({} if teacher is None else {"teacher": teacher})
    with ExitStack() as hooks:
        for who, net in nets.items():
            if layers:
                seen.layers[who] = hooks.enter_context(capture(net, layers))

            def note(module: nn.Module, args: Any, kwargs: Any, out: Any, who: str = who) -> None:
                seen.note(who, module, (args, kwargs), out)

            handle = net.register_forward_hook(note, with_kwargs=True)
            hooks.callback(handle.remove)
        yield seen
