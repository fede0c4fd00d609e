"""The names that options may use and what is made of them: terms, augmentations, schedules."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from kdcourse import augmentation, feature, tips, training
from kdcourse.data import Augmentation, Views
from kdcourse.further import SEED
from kdcourse.metrics import evaluation_mode
from kdcourse.models import capture, seeded
from kdcourse.train import teaching
from kdcourse.train.arguments import Maker, bind, make, signature
from kdcourse.train.expression import Call, one, parse, unknown
from kdcourse.training import FeatureHint, Objective, Term
from kdcourse.training.run import MakeScheduler, constant
from kdcourse.training.terms import Layer

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
}
FILLED_IN = {
    "hint": ("shapes", "seed"),
    "seed": ("student_width", "teacher_width", "seed"),
}
LABELLED = (training.DecoupledKD, training.Saliency)  # cannot do without labels

AUGMENTATIONS: dict[str, Maker] = {
    "pad-crop-flip": augmentation.pad_crop_flip,
    "crop-flip": augmentation.crop_flip,
    "pad-crop": augmentation.PadCrop,
    "resized-crop": augmentation.ResizedCrop,
    "flip": augmentation.Flip,
    "noise": augmentation.Noise,
    "none": lambda: augmentation.Compose(),
}
VIEWS: dict[str, Callable[[Augmentation], Views]] = {
    "fixed-teacher": tips.FixedTeacher,
    "independent": tips.Independent,
    "consistent": tips.Consistent,
    "function-matching": tips.FunctionMatching,
}


def one_cycle(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Rise to the learning rate and fall to almost nothing; momentum swings the other way."""
    (group,) = optimizer.param_groups
    momentum = group["momentum"]
    return OneCycleLR(
        optimizer,
        group["lr"],
        total_steps=steps,
        cycle_momentum=momentum > 0,
        base_momentum=max(momentum - 0.05, 0.0),
        max_momentum=min(momentum + 0.05, 0.999),
    )


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Fall from the learning rate to zero along half a cosine."""
    return CosineAnnealingLR(optimizer, steps)


def at_epochs(epochs: int, milestones: Sequence[int], factor: float = 0.1) -> MakeScheduler:
    """Multiply the learning rate by ``factor`` after each of these epochs.

    Args:
        epochs: of the whole training.
        milestones: numbers of epochs.
        factor: of one decay.
    """
    if not all(milestone > 0 for milestone in milestones):
        raise ValueError(f"milestones must be epochs above 0, got {list(milestones)}")

    def scheduler(optimizer: Optimizer, steps: int) -> LRScheduler:
        return MultiStepLR(optimizer, [m * steps // epochs for m in milestones], factor)

    return scheduler


SCHEDULES: dict[str, Maker] = {
    "one-cycle": lambda: one_cycle,
    "cosine": lambda: cosine,
    "constant": lambda: constant,
    "steps": at_epochs,
}


def objective(
    text: str, student: nn.Module, teacher: nn.Module | None, inputs: Tensor, seed: int
) -> Objective:
    """Make an objective from its expression, such as ``ce + 0.9*kd(temperature=4)``.

    Args:
        text: a sum of terms.
        student, teacher: the nets whose layers the terms look at.
        inputs: of the nets, on their device; they tell how large the layers' outputs are.
        seed: of the weights of terms that have any.
    """

    def shapes(layer: Layer) -> tuple[torch.Size, torch.Size]:
        own, theirs = (layer, layer) if isinstance(layer, str) else layer
        if teacher is None:
            raise ValueError("this term needs a teacher, and there is none")
        with evaluation_mode(student), torch.no_grad(), capture(student, [own]) as shown:
            student(inputs)
            taught = training.as_teacher(teacher).show(inputs, [theirs]).features
        return shown[own].shape, taught[theirs].shape

    parts = [weight * _term(call, shapes, seed) for weight, call in parse(text)]
    return sum(parts[1:], start=parts[0])


def _term(call: Call, shapes: Shapes, seed: int) -> Term:
    if call.name not in TERMS:
        raise unknown("term", call.name, TERMS, call.place)
    given: dict[str, Any] = {}
    if call.name == "hint":
        given = {"shapes": shapes, "seed": seed}
    elif call.name == "seed":
        layer = bind(SEED, call, FILLED_IN["seed"]).get("layer", "embedding")
        widths = [shape[1:].numel() for shape in shapes(layer)]
        given = {"student_width": widths[0], "teacher_width": widths[1], "seed": seed}
    return make(TERMS[call.name], call, given)


def augment(text: str) -> Augmentation:
    """Make an augmentation: ``pad-crop-flip(4)``, or several, ``pad-crop(2) + noise(0.1)``."""
    steps = []
    for factor, call in parse(text):
        if factor != 1:
            raise ValueError(f"an augmentation has no factor, {call.name} has {factor:g}")
        if call.name not in AUGMENTATIONS:
            raise unknown("augmentation", call.name, AUGMENTATIONS, call.place)
        steps.append(make(AUGMENTATIONS[call.name], call))
    return steps[0] if len(steps) == 1 else augmentation.Compose(*steps)


def views(name: str, seen: Augmentation) -> Views:
    """Make a view of images that ``seen`` augments."""
    if name not in VIEWS:
        raise unknown("view", name, VIEWS)
    return VIEWS[name](seen)


def schedule(text: str, epochs: int) -> MakeScheduler:
    """Make a learning-rate schedule: ``one-cycle``, ``steps([150, 180, 210])``, …."""
    call = one(text)
    if call.name not in SCHEDULES:
        raise unknown("schedule", call.name, SCHEDULES, call.place)
    given = {"epochs": epochs} if call.name == "steps" else {}
    return make(SCHEDULES[call.name], call, given)


def described() -> str:
    """Describe every name with its arguments, for ``--help``."""
    kinds = {
        "terms": {n: signature(m, FILLED_IN.get(n, ())) for n, m in TERMS.items()},
        "teachers": teaching.described(),
        "views": dict.fromkeys(VIEWS, ""),
        "augmentations": {n: signature(m) for n, m in AUGMENTATIONS.items()},
        "schedules": {n: signature(m, ["epochs"]) for n, m in SCHEDULES.items()},
    }
    lines = []
    for kind, names in kinds.items():
        lines += [f"{kind}:", *(f"  {name}{rest}" for name, rest in names.items()), ""]
    return "\n".join(lines)
