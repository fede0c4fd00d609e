"""Objectives from expressions: ``ce + 0.9*kd(temperature=4)``."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse import feature, training
from kdcourse.further import SEED
from kdcourse.metrics import evaluation_mode
from kdcourse.models import capture, seeded
from kdcourse.objective import Layer
from kdcourse.teachers import SelfDistillation
from kdcourse.train.arguments import Maker, bind, make, signature
from kdcourse.train.expression import Call, parse, unknown
from kdcourse.training import FeatureHint, Objective, Term, WarmUp

Shapes = Callable[[Layer], tuple[torch.Size, torch.Size]]

NONLINEARITIES: dict[str, Callable[[int], nn.Module | None]] = {
    "none": lambda channels: None,
    "relu": lambda channels: nn.ReLU(),
    "norm-relu": lambda channels: nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()),
}


def hint(
    shapes: Shapes,
    seed: int,
    layer: Layer,
    *,
    kernel_size: int | None = None,
    nonlinearity: str = "none",
) -> FeatureHint:
    """Make a hint with a projection that fits both nets (:class:`kdcourse.feature.Hint`).

    Args:
        shapes: of a layer's output in student and teacher, ``(N, C, H, W)`` each.
        seed: of the projection's weights.
        layer: its name, or the student's and the teacher's.
        kernel_size: of the projection; FitNets' choice by default: H − H' + 1 where the student's
            map is larger, else 1.
        nonlinearity: behind the projection: ``none``, ``relu``, or ``norm-relu`` (batch norm,
            then ReLU).
    """
    if nonlinearity not in NONLINEARITIES:
        raise unknown("nonlinearity", nonlinearity, NONLINEARITIES)
    student, teacher = shapes(layer)
    if len(student) != 4 or len(teacher) != 4:
        raise ValueError(f"layer {layer!r} must put out feature maps (N, C, H, W)")
    if kernel_size is None:
        kernel_size = max(1, student[-1] - teacher[-1] + 1)
    behind = NONLINEARITIES[nonlinearity](teacher[1])
    with seeded(seed):
        projection = feature.Hint(
            student[1], teacher[1], kernel_size=kernel_size, nonlinearity=behind
        )
    return FeatureHint(layer, projection)


def warm_up(term: Term, steps_an_epoch: int, epochs: int) -> WarmUp:
    """Let the weight of a term rise over the first epochs."""
    return WarmUp(term, epochs * steps_an_epoch)


TERMS: dict[str, Maker] = {
    "ce": training.CrossEntropy,
    "kd": training.LogitKD,
    "dkd": training.DecoupledKD,
    "standardized-kd": training.StandardizedKD,
    "attention": training.AttentionTransfer,
    "hint": hint,
    "saliency": training.Saliency,
    "rkd-distance": training.RKDDistance,
    "rkd-angle": training.RKDAngle,
    "similarity": training.SimilarityPreserving,
    "seed": SEED,
    "self-distillation": SelfDistillation,
    "warm-up": warm_up,
}
# Arguments that TermMaker fills in.
FILLED_IN = {
    "hint": ("shapes", "seed"),
    "seed": ("student_width", "teacher_width", "seed"),
    "self-distillation": ("outputs",),
    "warm-up": ("term", "steps_an_epoch"),
}


class TermMaker:
    """Makes objectives from expressions.

    Args:
        student, teacher: the nets whose layers the terms look at.
        inputs: of the nets, on their device; they tell how large the layers' outputs are.
        seed: of the weights of terms that have any.
        steps_an_epoch: how often the objective is asked in one.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        inputs: Tensor,
        *,
        seed: int,
        steps_an_epoch: int,
    ):
        self.student, self.teacher, self.inputs = student, teacher, inputs
        self.seed, self.steps_an_epoch = seed, steps_an_epoch

    def __call__(self, text: str) -> Objective:
        """Make the objective of one expression.

        Raises:
            ValueError: an expression that makes none.
        """
        parts = [weight * self._term(call) for weight, call in parse(text)]
        return sum(parts[1:], start=parts[0])

    def _term(self, call: Any) -> Term:
        if not isinstance(call, Call):
            raise ValueError(f"{call!r} is no term")
        if call.name not in TERMS:
            raise unknown("term", call.name, TERMS, call.place)
        given: dict[str, Any] = {}
        if call.name == "hint":
            given = {"shapes": self._shapes, "seed": self.seed}
        elif call.name == "seed":
            layer = bind(SEED, call, FILLED_IN["seed"]).get("layer", "embedding")
            student, teacher = (shape[1:].numel() for shape in self._shapes(layer))
            given = {"student_width": student, "teacher_width": teacher, "seed": self.seed}
        elif call.name == "self-distillation":
            with evaluation_mode(self.student), torch.no_grad():
                given = {"outputs": self.student(self.inputs).shape[1]}
        elif call.name == "warm-up":
            if not call.positional:
                raise ValueError(f"warm-up at character {call.place} needs a term: warm-up(kd, 20)")
            term = self._term(call.positional[0])
            given = {"term": term, "steps_an_epoch": self.steps_an_epoch}
            call = replace(call, positional=call.positional[1:])
        return make(TERMS[call.name], call, given)

    def _shapes(self, layer: Layer) -> tuple[torch.Size, torch.Size]:
        """Return the shapes of what a layer puts out in student and teacher."""
        if self.teacher is None:
            raise ValueError("this term needs a teacher, and there is none")
        own, theirs = (layer, layer) if isinstance(layer, str) else layer
        with evaluation_mode(self.student), torch.no_grad(), capture(self.student, [own]) as shown:
            self.student(self.inputs)
            taught = training.as_teacher(self.teacher).show(self.inputs, [theirs]).features
        return shown[own].shape, taught[theirs].shape


def described() -> dict[str, str]:
    """Describe the arguments of every term by its name, for ``--help``."""
    shown = {name: signature(maker, FILLED_IN.get(name, ())) for name, maker in TERMS.items()}
    return {**shown, "warm-up": f"(TERM, {shown['warm-up'].lstrip('(')}"}
