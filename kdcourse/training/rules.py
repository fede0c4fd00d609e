"""What goes together, checked once and before any work, whichever procedure trains.

Every error is a :class:`kdcourse.checks.ArgumentError` that names the argument at fault.
"""

from collections.abc import Iterable
from itertools import chain

import torch
from torch import nn

from kdcourse.checks import ArgumentError
from kdcourse.models import capture
from kdcourse.objective import Objective
from kdcourse.training.epochs import Epochs
from kdcourse.training.knobs import Knobs
from kdcourse.training.teacher import Teacher, follows


def check_teacher(objective: Objective, teacher: nn.Module | None, knobs: Knobs) -> None:
    """Require a teacher where one is asked, and only there."""
    if teacher is None and objective.needs_teacher:
        raise ArgumentError(
            "teacher", f"the objective {objective!r} needs a teacher, and there is none"
        )
    if teacher is None and knobs.views is not None:
        raise ArgumentError("views", f"there is no teacher to see what {knobs.views!r} shows it")
    if teacher is not None and not objective.needs_teacher and not follows(teacher):
        raise ArgumentError(
            "teacher", f"there is a teacher, but the objective {objective!r} never asks it"
        )


def check_nets(
    student: nn.Module,
    objective: Objective,
    teacher: Teacher | None,
    knobs: Knobs,
    device: torch.device,
) -> None:
    """Require that both nets show what the objective looks at, and can be trained that way."""
    if teacher is not None and student in teacher.modules():
        raise ArgumentError("teacher", "the teacher is the student itself: teach with a copy of it")
    if knobs.compile and objective.needs_input_gradient:
        raise ArgumentError(
            "compile", "torch.compile cannot differentiate twice: use compile=False here"
        )
    if knobs.channels_last and device.type == "cpu":
        check_channels_last(student, teacher, objective)
    try:
        with capture(student, objective.student_layers):
            pass
        if teacher is not None:
            teacher.check_shown(
                objective.teacher_layers, input_gradient=objective.needs_input_gradient
            )
    except ValueError as error:
        raise ArgumentError("objective", str(error)) from None
    for _, term in objective.parts():
        if teacher is not None and term.needs_logits and not teacher.shows_logits:
            raise ArgumentError(
                "objective", f"{term!r} needs logits, and the teacher shows probabilities only"
            )


def check_source(
    source: Epochs, objectives: Iterable[Objective], teacher: nn.Module | None, parts: int
) -> None:
    """Require that the batches hold what the objectives need, and can be split.

    A batch has so many parts in all processes together. Recorded answers can be repeated only to
    the lessons in which they were given.
    """
    source.check_parts(parts)
    lessons_teacher = getattr(source.train, "only_teacher", None)
    if lessons_teacher is not None and teacher is not None and teacher is not lessons_teacher:
        raise ArgumentError(
            "teacher", "these lessons hold their teacher's answers: pass their own as the teacher"
        )
    if lessons_teacher is None and getattr(teacher, "recorded", False):
        raise ArgumentError("teacher", "a recorded teacher answers the lessons it belongs to only")
    labels = source.labels
    for objective in objectives:
        terms = [term for _, term in objective.parts()]
        need = [term for term in terms if term.needs_labels] if labels != "all" else []
        if labels == "none" and all(term.mean_over == "labels" for term in terms):
            need = terms
        if need:
            views = source.knobs.views
            unlabelled = "train has samples without" if views is None else f"{views!r} shows no"
            argument = "train" if views is None else "views"
            raise ArgumentError(argument, f"{unlabelled} labels, which {need[0]!r} needs")


def check_channels_last(
    student: nn.Module, teacher: nn.Module | None, objective: Objective
) -> None:
    """Refuse gradients that oneDNN cannot take: see :func:`kdcourse.data.in_order`."""
    differentiated = [student]
    if teacher is not None and objective.needs_input_gradient:
        differentiated.append(teacher)
    for name, part in chain.from_iterable(model.named_modules() for model in differentiated):
        if (
            isinstance(part, nn.Conv2d)
            and part.kernel_size == (1, 1)
            and max(part.stride) > 1
            and part.in_channels < 16
        ):
            raise ArgumentError(
                "channels_last",
                f"channels_last cannot be used on a CPU with {name}, a strided 1×1 convolution of "
                f"{part.in_channels} channels: with fewer than 16, oneDNN writes past its memory",
            )
