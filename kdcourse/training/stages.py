"""FitNets' two stages: first the layers up to the hint, then the whole net."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcourse.batch import Inputs, call
from kdcourse.checks import check_positive
from kdcourse.errors import ArgumentError
from kdcourse.logit import CrossEntropy
from kdcourse.metrics import Samples
from kdcourse.models import capture
from kdcourse.modes import evaluation_mode
from kdcourse.objective import Objective
from kdcourse.signatures import checked
from kdcourse.training.epochs import Batches, Epochs
from kdcourse.training.fit import fit, rehearse
from kdcourse.training.history import History
from kdcourse.training.knobs import Knobs, takes_knobs
from kdcourse.training.rating import Rating
from kdcourse.training.rules import check_student, check_validation


@takes_knobs
@checked
def fit_in_stages(
    student: nn.Module,
    train: Batches,
    hint: Objective,
    objective: Objective | None = None,
    *,
    teacher: nn.Module,
    hint_epochs: int = 5,
    epochs: int = 10,
    validation: Samples | None = None,
    checkpoint: str | Path | None = None,
    **knobs: Any,
) -> tuple[History, History]:
    """Train by a hint up to the guided layer, then the whole net by ``objective``.

    What lies behind the guided layer (weights, and the statistics of batch norm) enters the second
    stage as it was. Each stage has a learning-rate schedule of its own.

    Args:
        student: The module to train in place.
        train: As for :func:`fit`.
        hint: The first stage's objective, such as ``10 * FeatureHint("stage2")``; it must look at
            layers of the student.
        objective: The second stage's objective; labels alone without one.
        teacher: Asked in the first stage, and in the second if ``objective`` does.
        hint_epochs: The number of epochs of the first stage.
        epochs: The number of epochs of the second stage.
        validation: A set on which accuracy is measured in the second stage, and by which that
            one keeps the best weights.
        checkpoint: The file of the second stage; the first has one beside it (``.hint``).
        knobs: The options of both stages, as for :func:`fit`, but for ``steps``.

    Returns:
        The histories of the two stages. If the first is interrupted, the second is not begun.

    Source: Romero et al. 2015 (arXiv 1412.6550), section 2.3.
    """
    check_positive(hint_epochs=hint_epochs)
    if knobs.pop("steps", None) is not None:
        raise ArgumentError(
            "steps", "steps cannot be told of two stages: give hint_epochs and epochs"
        )
    later: dict[str, Any] = {"epochs": epochs, "validation": validation, "checkpoint": checkpoint}
    later |= {"keep": knobs.pop("keep", "last"), "metrics": knobs.pop("metrics", None)}
    chosen = Knobs(**later, **knobs)  # all that cannot work is told before the first stage
    check_student(student)
    objective = CrossEntropy() if objective is None else objective
    check_validation(validation, [student], [Rating(objective, chosen.metrics, chosen.output)])
    if not hint.student_layers:
        raise ArgumentError("hint", f"hint must look at layers of the student, got {hint!r}")
    place = next(student.parameters()).device
    asks = objective.needs_teacher
    later["teacher"] = teacher if asks else None
    rehearse(student, train, copy.deepcopy(objective), **later, **knobs)
    inputs, *_ = Epochs(train, place, chosen).sample()
    behind = _behind(student, hint.student_layers, inputs)
    kept = [{name: b.clone() for name, b in m.named_buffers(recurse=False)} for m in behind]
    first = fit(
        student,
        train,
        hint,
        teacher=teacher,
        epochs=hint_epochs,
        checkpoint=None if checkpoint is None else f"{checkpoint}.hint",
        **knobs,
    )
    for module, buffers in zip(behind, kept, strict=True):
        for name, value in module.named_buffers(recurse=False):
            value.copy_(buffers[name])
    if first.interrupted:
        return first, History()
    second = fit(
        student,
        train,
        objective,
        **later,
        **knobs,
    )
    return first, second


def _behind(student: nn.Module, layers: Sequence[str], inputs: Inputs) -> list[nn.Module]:
    """Return the modules whose weights the layers' outputs do not depend on."""
    with evaluation_mode(student), torch.enable_grad(), capture(student, layers) as shown:
        call(student, inputs, "student")
    named = [(module, list(module.parameters(recurse=False))) for module in student.modules()]
    weights = [p for _, own in named for p in own if p.requires_grad]
    total = torch.stack([output.sum() for output in shown.values()]).sum()
    if not total.requires_grad:
        raise ArgumentError("hint", "no weight that can be trained lies before the hint's layers")
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    used = {id(p) for p, g in zip(weights, gradients, strict=True) if g is not None}
    return [module for module, own in named if own and not any(id(p) in used for p in own)]
