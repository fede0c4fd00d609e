"""Layers that say the same of everything."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from kdcourse.doctor.look import Found, Look, remark_if

FEWEST = 8  # samples from which on a layer that says the same of all is dead, and no accident
DEAD = 0.95  # the share of units; behind a ReLU, a third may be dead in a net that is sound


def dead_share(features: Tensor) -> float | None:
    """Return the share of units of ``(N, …)`` that say the same of every sample, if it can tell."""
    if len(features) < FEWEST or features.dim() < 2:
        return None
    return float((features.detach() == features.detach()[:1]).all(dim=0).float().mean())


def dead_shares(who: str, features: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the dead share of every layer that tells it, named with the net that it is of."""
    found = {f"the {who}'s {name}": dead_share(one) for name, one in features.items()}
    return {name: share for name, share in found.items() if share is not None}


def judge_layers(looks: Sequence[Look]) -> Found:
    """Judge whether a layer that is compared says anything."""
    if not any(look.dead for look in looks):
        return None
    found = []
    for name in next(look.dead for look in looks if look.dead):
        share = min(look.dead.get(name, 1.0) for look in looks if look.dead)
        found += remark_if(
            share >= DEAD,
            name,
            f"{share:.0%} of {name} is the same for every sample: the layer is dead",
            "so that comparing it teaches nothing",
            "compare another layer, or one before its ReLU, and look at learning rate and "
            "initialisation of what lies before it",
        )
    return found
