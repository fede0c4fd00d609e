"""The terms of a loss: how strongly each pulls at the student's weights, and whither."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from kdcourse.doctor.answers import has_learned
from kdcourse.doctor.findings import Finding
from kdcourse.doctor.look import Found, Gradients, Look, remark_if

LABELS = "labels"  # what a loss on labels is called where nothing else tells it
COORDINATES = 2**16  # of a gradient, kept to be compared with those of other batches
# Two decades: a step by the one moves the weights by less than a hundredth of the other's, which
# is less than what rounding, momentum and the next batch make of it.
LOUDEST = 100.0
AGAINST = -0.3  # gradients in many dimensions that have nothing to do with each other are near 0
# Pure noise has a share of 1, which three batches tell with an error. Labels' gradients are mostly
# noise, too (a share of 0.7 to 0.9 in the course's runs), and so they are the measure: what batches
# agree on must be a third of what they agree on there.
NOISE, LESS = 0.9, 1 / 3
DROWNS = 10.0  # noise as long as the labels' gradient is in every step; ten times as long drowns it


def gradients_of(
    terms: Mapping[str, Tensor], weights: Sequence[Tensor], labels: str, *, sampled: bool
) -> Gradients:
    """Observe the gradients of weighted terms, by their names, with respect to weights.

    The graph is kept, and no ``.grad`` is touched.

    Args:
        terms: Scalars that depend on the weights.
        weights: Those of the student that are trained.
        labels: The name of the term on labels; empty where there is none.
        sampled: Whether to keep some of their coordinates.
    """
    found = {name: gradient_vector(value, weights) for name, value in terms.items()}
    reference = found.get(labels)
    cosines = {}
    for name, one in found.items():
        if reference is not None and name != labels:
            lengths = one.norm() * reference.norm()
            cosines[name] = float(one @ reference / lengths.clamp_min(1e-30))
    stride = max(1, sum(weight.numel() for weight in weights) // COORDINATES)
    samples = {name: one[::stride].cpu() for name, one in found.items()} if sampled else {}
    return Gradients({n: float(one.norm()) for n, one in found.items()}, cosines, labels, samples)


def gradient_vector(term: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return the gradient of a term as one vector; zero where it does not depend on a weight."""
    if not term.requires_grad:
        return torch.cat([torch.zeros_like(one).flatten() for one in weights]).float()
    found = torch.autograd.grad(term, list(weights), retain_graph=True, allow_unused=True)
    both = zip(found, weights, strict=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten().float() for g, w in both])


def _observed(looks: Sequence[Look]) -> list[Gradients]:
    """Return the gradients of all looks that can be compared with those of the labels."""
    every = [look.gradients for look in looks]
    return [one for one in every if one is not None and one.cosines]


def _beginning(looks: Sequence[Look]) -> list[Look]:
    """Return the first looks of a student that has learned nothing yet.

    There are none of one that has learned before, as one that begins with its teacher's weights.
    """
    early = [look for look in looks if look.early]
    return [] if early and has_learned(early[0].said) else early


def judge_finiteness(looks: Sequence[Look]) -> Found:
    """Judge whether every term's gradient is finite, by the first look in which one is not."""
    every = [look.gradients.norms for look in looks if look.gradients is not None]
    if not every:
        return None
    broken = ([name for name, norm in norms.items() if not math.isfinite(norm)] for norms in every)
    return [
        Finding(
            f"the gradient of {name}",
            f"The gradient of {name} is not finite",
            "so that a step makes every weight NaN",
            "look for a logarithm, root or quotient of zero in it, for an overflow in half "
            "precision, and at the learning rate",
        )
        for name in next(filter(None, broken), [])
    ]


def judge_loudness(looks: Sequence[Look]) -> Found:
    """Judge by how much the terms' gradients are longer or shorter than those of the labels.

    A term may warm up, and the labels' gradient vanishes as they are learned by heart: only what is
    so in every look, late ones included, is remarked.
    """
    observed = _observed(looks)
    if not any(look.gradients and not look.early for look in looks) or not observed:
        return None
    found = []
    for name in observed[-1].cosines:
        every = [_ratio(one, name) for one in observed if name in one.norms]
        ratios = [one for one in every if math.isfinite(one)]
        if not ratios:
            continue
        if not max(ratios):
            found.append(_silent(name))
            continue
        loud, faint = min(ratios) > LOUDEST, max(ratios) < 1 / LOUDEST
        middle = sorted(ratios)[len(ratios) // 2]
        found += remark_if(
            loud or faint,
            f"the weight of {name}",
            f"The gradient of {name} is {middle:.1e} times that of the labels in every look",
            "so that the labels count for nothing" if loud else "so that it teaches nothing",
            f"{'divide' if loud else 'multiply'} its weight by about "
            f"{(middle if loud else 1 / max(middle, 1e-30)):.0e}, or see that its formula has the "
            "mean, and the factor τ², that it should have",
        )
    return found


def _silent(name: str) -> Finding:
    return Finding(
        f"the weight of {name}",
        f"No gradient of {name} reaches the student in any look",
        "so that it teaches nothing",
        "compute it from what the student says, with gradients and not detached, and see that it "
        "is not the same for every student",
    )


def _ratio(one: Gradients, name: str) -> float:
    return one.norms[name] / max(one.norms[one.labels], 1e-30)


def judge_direction(looks: Sequence[Look]) -> Found:
    """Judge whether a term pulls against the labels when the student has learned nothing yet.

    Later they always do: where their sum is least, the gradients of its terms cancel.
    """
    observed = _observed(_beginning(looks))
    if not observed:
        return None
    found = []
    for name in observed[0].cosines:
        cosines = [one.cosines[name] for one in observed if name in one.cosines]
        mean = sum(cosines) / len(cosines)
        found += remark_if(
            mean < AGAINST,
            f"the direction of {name}",
            f"{name} pulls against the labels from the first batch (cosine {mean:.2f})",
            "so that either undoes what the other has taught",
            "look at its sign, at the order of its arguments, and at what the teacher is right "
            "about",
        )
    return found


def noise_share(samples: Sequence[Tensor]) -> float:
    """Return the share of gradients' mean square that is noise: what batches do not agree on.

    With gradients gᵢ = s + nᵢ, whose noise has mean zero, gᵢ·gⱼ is |s|² on average.
    """
    agreed = [float(a @ b) for a, b in combinations(samples, 2)]
    whole = [float(one @ one) for one in samples]
    return 1 - (sum(agreed) / len(agreed)) / max(sum(whole) / len(whole), 1e-30)


def judge_noise(looks: Sequence[Look]) -> Found:
    """Judge whether a term that is louder than the labels is anything but noise.

    By the first batches, whose weights are almost the same: later, all that is left is noise.
    """
    observed = [one for one in _observed(_beginning(looks)) if one.samples]
    if len(observed) < 3:
        return None
    found = []
    for name in observed[0].cosines:
        share, labels = (
            min(noise_share([one.samples[each] for one in observed]), 1.0)
            for each in (name, observed[0].labels)
        )
        louder = min(_ratio(one, name) for one in observed)
        found += remark_if(
            share > NOISE
            and labels < NOISE
            and 1 - share < LESS * (1 - labels)
            and louder > DROWNS,
            f"noise in {name}",
            f"{share:.0%} of the gradient of {name} is noise that no two batches agree on (of the "
            f"labels' {labels:.0%}), and it is {louder:.1f} times as long",
            "so that most of the loss says nothing about the task",
            "take larger batches or a smaller weight, and see that the teacher says the same of a "
            "sample twice",
        )
    return found
