"""Claims of the motivation: what small nets could do, and where training leaves them."""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcourse import CrossEntropy, metrics, motivation
from kdcourse.course.claims.claim import NATS, POINTS, Effect, Measured, claims_of
from kdcourse.course.claims.experiment import USUAL, Lab, labels_and_kd

claim = claims_of(notebook="1")


def waves(points: int) -> tuple[Tensor, Tensor]:
    """Return a grid on the unit square, ``(N, 2)``, and sin 2πx · sin 2πy there, deviation 1."""
    steps = torch.linspace(0, 1, points)
    places = torch.cartesian_prod(steps, steps)
    height = torch.sin(2 * torch.pi * places).prod(dim=1)
    return places, height / height.std()


def fitted(net: nn.Module, places: Tensor, height: Tensor, steps: int, rate: float) -> float:
    """Fit a net to a function on a grid; the root mean square error, in % of its deviation."""
    optimizer = torch.optim.Adam(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        error = (net(places)[:, 0] - height).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    return 100 * float(error.detach().sqrt())


@claim(
    Effect("error, width 3: 2 layers − 8 layers", "3 wide, 2 deep", "3 wide, 8 deep"),
    Effect("error, 32 layers: width 2 − width 3", "2 wide, 32 deep", "3 wide, 32 deep"),
    Effect("error, 32 layers: random start − carrying", "random", "3 wide, 32 deep"),
    reason="Measured is training, not approximation: sin 2πx · sin 2πy on the unit square, where "
    "width 2 is enough in theory (on the whole plane, 3). Error in % of its deviation, median of "
    "five starts. At width 3 it falls with depth, though from 8 layers to 32 hardly any more; at "
    "width 2 training is left with more than twice as much; and from an ordinary random start it "
    "finds nothing, although it is there.",
    settings=dict(depths=(2, 8, 32), starts=5, steps=1000, rate=0.01, points=32),
    toy=dict(starts=1, steps=2),
)
def width(lab: Lab) -> Measured:
    """(A) F_small has no good optimum: false. Few weights are enough to approximate any function;
    training finds them with depth, a channel to spare and a good start.
    """
    places, height = waves(lab["points"])
    deepest = lab["depths"][-1]
    arms = {f"3 wide, {depth} deep": (depth, 3, "carrying") for depth in lab["depths"]}
    arms |= {f"2 wide, {deepest} deep": (deepest, 2, "carrying"), "random": (deepest, 3, "random")}
    for name, (depth, wide, start) in arms.items():
        seeds = range(100 * lab.seed, 100 * lab.seed + lab["starts"])
        nets = [motivation.NarrowNet(2, 1, depth, width=wide, start=start, seed=s) for s in seeds]
        errors = [fitted(net, places, height, lab["steps"], lab["rate"]) for net in nets]
        yield name, float(np.median(errors))
        yield f"{name}, best", min(errors)


WIDTHS = (1, 2, 4, 8)


@claim(
    Effect("deviation of the final training loss, width 1 − width 8", "loss 1", "loss 8", NATS),
    Effect("deviation of test accuracy, width 1 − width 8", "accuracy 1", "accuracy 8"),
    Effect("disagreement of two nets, width 1 − width 2", "different 1", "different 2"),
    Effect("disagreement of two nets, width 2 − width 4", "different 2", "different 4"),
    Effect("disagreement of two nets, width 4 − width 8", "different 4", "different 8"),
    reason="Plain nets of four seeds each; deviations over these.",
    settings=USUAL | dict(nets=4),
    toy=dict(nets=2),
)
def minima(lab: Lab) -> Measured:
    """(B) The optimum is hard to find: true. Small nets end in minima that differ more from seed to
    seed.
    """
    seeds = range(lab["nets"] * lab.seed, lab["nets"] * (lab.seed + 1))
    for wide in WIDTHS:
        nets = [lab.train(student=f"plain{wide}", seed=seed) for seed in seeds]
        said = [lab.predict(net) for net in nets]
        right = [100 * metrics.share_correct(logits, lab.judged.target) for logits in said]
        same = [metrics.agreement(a, b) for a, b in itertools.combinations(said, 2)]
        losses = [lab.loss(net, lab.images) for net in nets]
        yield f"mean loss {wide}", float(np.mean(losses))
        yield f"loss {wide}", float(np.std(losses, ddof=1))
        yield f"accuracy {wide}", float(np.std(right, ddof=1))
        yield f"different {wide}", 100 * (1 - float(np.mean(same)))


@claim(
    reason="Negative curvature: |smallest| / largest eigenvalue of the Hessian on 256 training "
    "images, in %, mean over nine points of a filter-normalised slice. It falls with the width, "
    "with shortcuts and without. Where training ended there is hardly any, and that rises.",
    settings=USUAL | dict(widths=WIDTHS, sample=256, extent=0.5),
    toy=dict(images=64, widths=WIDTHS[:2], sample=8),
)
def landscape(lab: Lab) -> Measured:
    """Small nets have a narrow, rough landscape; it widens with the width (k = 1, 2, 4, 8)."""
    some = lab.images[: lab["sample"]]
    inputs = some.inputs()
    for family, wide in itertools.product(("plain", "res"), lab["widths"]):
        net = lab.train(student=f"{family}{wide}")
        directions = [
            motivation.filter_normalized_direction(net, 2 * lab.seed + n) for n in range(2)
        ]
        found, losses = [], []
        for steps in itertools.product((-lab["extent"], 0.0, lab["extent"]), repeat=2):
            there = motivation.moved(net, directions, steps)
            found.append(motivation.curvature(there, inputs, some.target).negative)
            losses.append(lab.loss(there, some))
        lab.note(found)
        yield f"{family}{wide} negative", 100 * float(np.mean(found))
        yield f"{family}{wide} negative, end", 100 * found[4]  # where training ended
        yield f"{family}{wide} rise", float(np.mean(losses)) - losses[4]


@claim(
    *(
        Effect(f"test accuracy, width {wide} − width {narrow}", f"plain{wide}", f"plain{narrow}")
        for narrow, wide in ((1, 2), (2, 4), (4, 8), (8, 16))
    ),
    reason="Every doubling of the width buys accuracy, and each buys less than the one before.",
    settings=USUAL,
)
def gap(lab: Lab) -> Measured:
    """Small f is poorer than large f, though both are trained alike."""
    for student in ("plain1", "plain2", "plain4", "plain8", "plain16"):
        yield student, lab.train(student=student)


STUDENTS = ("plain4", "plain8")
SEARCHED_RATES = (0.05, 0.1, 0.2, 0.4)
SEARCHED_WEIGHTS = (1, 2, 4)
# The best settings of the search, by the mean over its seeds: (learning rate, weight).
BEST = {
    "plain4 alone": (0.1, 4),
    "plain4 distilled": (0.2, 1),
    "plain8 alone": (0.4, 4),
    "plain8 distilled": (0.1, 1),
}
SEARCHED_ARMS = tuple(BEST)


def final_loss(lab: Lab, arm: str, weight: float, **options: Any) -> float:
    """Training loss of ``"plain4 alone"``, say, at a weight of the labels or of the teacher."""
    student, how = arm.split()
    if how == "alone":
        net = lab.train(weight * CrossEntropy(), student=student, **options)
    else:
        net = lab.distil(labels_and_kd(weight), student=student, **options)
    return lab.loss(net, lab.images)


def falls(label: str, name: str, unit: str = POINTS) -> Effect:
    """Say that a measurement of distilled students is below that of students trained alone."""
    return Effect(label, f"{name} alone", f"{name} distilled", unit)


@claim(
    *(falls(f"training loss, alone − distilled ({s})", s, NATS) for s in STUDENTS),
    reason="At the same learning rate the teacher leads to a better minimum of the labels' own "
    "loss. Whether only a teacher can do so is the next claim.",
    settings=USUAL | dict(teacher="res16", weight=1.0),
)
def existence(lab: Lab) -> Measured:
    """F_small has a good optimum after all: the distilled student, which lies in F_small, has a
    lower *training* loss than training on labels found, in the very loss that it minimised.
    """
    for arm in SEARCHED_ARMS:
        yield arm, final_loss(lab, arm, lab["weight"])


@claim(
    reason="Both arms get the best of twelve settings, chosen on the very loss they are judged by.",
    search=True,
    settings=USUAL | dict(teacher="res16"),
)
def existence_search(lab: Lab) -> Measured:
    """Search behind the next claim: labels alone at 4 learning rates × 3 loss weights, distilled at
    4 learning rates × 3 values of λ (training loss, seeds of their own).
    """
    for arm, rate, weight in itertools.product(SEARCHED_ARMS, SEARCHED_RATES, SEARCHED_WEIGHTS):
        loss = final_loss(lab, arm, weight, learning_rate=rate)
        yield f"{arm} rate={rate} weight={weight}", loss


@claim(
    *(falls(f"training loss, alone − distilled, both tuned ({s})", s, NATS) for s in STUDENTS),
    reason="Given a search of their own, labels alone find optima as low: F_small has them, and a "
    "teacher is not the only way there.",
    settings=USUAL | dict(teacher="res16"),
)
def existence_control(lab: Lab) -> Measured:
    """… and only with a teacher is it found: the distilled student has the lower training loss even
    when both arms may choose the best of twelve settings.
    """
    for arm, (rate, weight) in BEST.items():
        yield arm, final_loss(lab, arm, weight, learning_rate=rate)


def disagreement(logits: Tensor, others: Tensor) -> float:
    """Share of samples, in percent, on which two predictions differ."""
    return 100 * (1 - metrics.agreement(logits, others))


@claim(
    *(
        falls(f"disagreement {words}, alone − distilled ({s})", f"{s} {what}")
        for s in STUDENTS
        for words, what in (("of two seeds", "seeds"), ("with the teacher", "teacher"))
    ),
    reason="dist(f, f_large) leaves fewer functions to converge to.",
    settings=USUAL | dict(teacher="res16", students=STUDENTS),
)
def regulariser(lab: Lab) -> Measured:
    """The student is constrained to mimic the teacher: distilled students come closer to the
    teacher, and to each other, than students trained alone.
    """
    taught = lab.predict(lab.teacher)
    seeds = lab.seed, 500 + lab.seed
    for name in lab["students"]:
        for arm, train in (("alone", lab.train), ("distilled", lab.distil)):
            first, second = (lab.predict(train(student=name, seed=seed)) for seed in seeds)
            yield f"{name} seeds {arm}", disagreement(first, second)
            yield f"{name} teacher {arm}", disagreement(first, taught)
