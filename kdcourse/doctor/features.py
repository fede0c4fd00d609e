"""What nets show: layers that say the same of everything, and logits of another size."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from kdcourse.doctor.look import Found, Look, remark_if

FEWEST = 8  # samples from which on a layer that says the same of all is dead, and no accident
DEAD = 0.95  # the share of units; behind a ReLU, a third may be dead in a net that is sound
# A decade: a softmax of logits ten times as large is as good as hard, of a tenth as good as flat.
FAR = 10.0
LATER = 3  # looks, of epochs that may be short, until logits that began small should have grown


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


def judge_scales(looks: Sequence[Look]) -> Found:
    """Judge whether the student's logits are of the teacher's size.

    They may be small at first, and grow; they are not large at any time.
    """
    every = [(k.early, k.said.scales) for k in looks if k.said and k.said.scales]
    ratios = [(early, own / max(theirs, 1e-30)) for early, (own, theirs) in every]
    later = [ratio for early, ratio in ratios if not early]
    if not ratios:
        return None
    large = min(ratio for _, ratio in ratios) > FAR
    small = len(later) >= LATER and max(later[-LATER:]) < 1 / FAR
    last = ratios[-1][1]
    return remark_if(
        large or small,
        "the scale of logits",
        f"The student's logits are {last:.2g} times as large as the teacher's",
        "so that one of them is as good as hard, or flat, at any temperature that suits the other",
        "look at the initialisation of the last layer, or at a factor on one net's outputs, and "
        "see that both are logits and not probabilities",
    )
