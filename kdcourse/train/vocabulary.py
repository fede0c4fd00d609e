"""Augmentations, views and schedules by name, and a list of all names for ``--help``."""

from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from kdcourse import augmentation, tips
from kdcourse.data import Augmentation, Views
from kdcourse.teachers import CrossedViews
from kdcourse.train import aims, teaching
from kdcourse.train.arguments import Maker, make, signature
from kdcourse.train.expression import one, parse, unknown
from kdcourse.training.knobs import MakeScheduler
from kdcourse.training.schedules import constant

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
    "crossed": CrossedViews,
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
        "terms": aims.described(),
        "teachers": teaching.described(),
        "views": dict.fromkeys(VIEWS, ""),
        "augmentations": {n: signature(m) for n, m in AUGMENTATIONS.items()},
        "schedules": {n: signature(m, ["epochs"]) for n, m in SCHEDULES.items()},
    }
    lines = []
    for kind, names in kinds.items():
        lines += [f"{kind}:", *(f"  {name}{rest}" for name, rest in names.items()), ""]
    return "\n".join(lines)
