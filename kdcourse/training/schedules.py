"""Learning-rate schedules: each makes one from the optimiser and the number of steps.

>>> fit(student, train, epochs=240, scheduler=at_epochs([150, 180, 210], epochs=240))
"""

from collections.abc import Callable, Sequence

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from kdcourse.checks import check_number, check_positive
from kdcourse.errors import ArgumentError
from kdcourse.signatures import checked


@checked
def one_cycle(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Rise to the learning rate and fall to almost nothing; momentum swings the other way.

    Momentum, or Adam's β₁, falls and rises by 0.05; none stays none.
    """
    check_positive(steps=steps)
    groups = optimizer.param_groups
    momenta = [g["betas"][0] if "betas" in g else g.get("momentum", 0.0) for g in groups]
    return lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in groups],
        total_steps=steps,
        cycle_momentum=min(momenta) > 0,
        base_momentum=[max(round(m - 0.05, 9), 0.0) for m in momenta],
        max_momentum=[min(round(m + 0.05, 9), 0.999) for m in momenta],
    )


@checked
def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Fall from the learning rate to zero along half a cosine."""
    check_positive(steps=steps)
    return lr_scheduler.CosineAnnealingLR(optimizer, steps)


@checked
def constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Keep the learning rate as it is."""
    check_positive(steps=steps)
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


@checked
def at_epochs(
    milestones: Sequence[int], factor: float = 0.1, *, epochs: int
) -> Callable[[Optimizer, int], LRScheduler]:
    """Return a schedule that multiplies the learning rate by a factor after each of some epochs.

    Args:
        milestones: The numbers of these epochs, from 1.
        factor: What the rate is multiplied by.
        epochs: The number of epochs of the whole training.
    """
    check_number("factor", factor, 0.0)
    check_positive(epochs=epochs)
    if not all(milestone > 0 for milestone in milestones):
        raise ArgumentError(
            "milestones", f"milestones must be epochs above 0, got {list(milestones)}"
        )

    def scheduler(optimizer: Optimizer, steps: int) -> LRScheduler:
        return lr_scheduler.MultiStepLR(
            optimizer, [m * steps // epochs for m in milestones], factor
        )

    return scheduler
