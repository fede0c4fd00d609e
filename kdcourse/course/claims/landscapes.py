"""Claims of the motivation: what a narrow net could do, and where training leaves it."""

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from kdcourse import motivation
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import IMAGES, accuracy, train, training_loss
from kdcourse.metrics import agreement, predict


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
    "width",
    notebook=1,
    statement="(A) F_small has no good optimum: false. Nets of width max(d_x + 1, d_y) approximate "
    "any function.",
    effects=(
        Effect("error, width 3: 2 layers − 8 layers", "3 wide, 2 deep", "3 wide, 8 deep"),
        Effect("error, 32 layers: width 2 − width 3", "2 wide, 32 deep", "3 wide, 32 deep"),
        Effect("error, 32 layers: random start − carrying", "random", "3 wide, 32 deep"),
    ),
    reason="A function of two numbers, so the least width is 3: error in % of its deviation, "
    "median of five starts. It falls with depth, though from 8 layers to 32 training makes little "
    "of it; one channel less and depth does not help; and from an ordinary random start training "
    "finds nothing, although it is there.",
    toy={"starts": 1, "steps": 2},
)
def width(
    seed: int,
    *,
    depths: tuple[int, ...] = (2, 8, 32),
    starts: int = 5,
    steps: int = 1000,
    rate: float = 0.01,
    points: int = 32,
) -> dict[str, float]:
    """Error of narrow nets by depth, of still narrower ones, and of those started at random."""
    places, height = waves(points)
    measured = {}
    arms = {f"3 wide, {depth} deep": (depth, 3, "carrying") for depth in depths}
    arms[f"2 wide, {depths[-1]} deep"] = (depths[-1], 2, "carrying")
    arms["random"] = (depths[-1], 3, "random")
    for name, (depth, wide, start) in arms.items():
        errors = [
            fitted(
                motivation.NarrowNet(2, 1, depth, width=wide, start=start, seed=100 * seed + n),
                places,
                height,
                steps,
                rate,
            )
            for n in range(starts)
        ]
        measured[name] = float(np.median(errors))
        measured[f"{name}, best"] = min(errors)
    return measured


WIDTHS = (1, 2, 4, 8)


@claim(
    "minima",
    notebook=1,
    statement="(B) The optimum is hard to find: true. Small nets end in minima that differ more "
    "from seed to seed.",
    effects=(
        Effect("deviation of the final training loss, width 1 − width 8", "loss 1", "loss 8"),
        Effect("deviation of test accuracy, width 1 − width 8", "accuracy 1", "accuracy 8"),
        Effect("disagreement of two nets, width 1 − width 2", "different 1", "different 2"),
        Effect("disagreement of two nets, width 2 − width 4", "different 2", "different 4"),
        Effect("disagreement of two nets, width 4 − width 8", "different 4", "different 8"),
    ),
    reason="Plain nets of four seeds each; deviations over these.",
    toy={"images": 256, "epochs": 1, "nets": 2},
)
def minima(seed: int, *, images: int = IMAGES, epochs: int = 15, nets: int = 4) -> dict[str, float]:
    """How much several nets of a width differ in training loss, accuracy and predictions."""
    data = experiment.splits()
    few, test = data.train[:images], data.test
    measured = {}
    for wide in WIDTHS:
        seeds = range(nets * seed, nets * seed + nets)
        several = [train(f"plain{wide}", few, one, epochs=epochs) for one in seeds]
        said = [predict(net, test) for net in several]
        same = [agreement(a, b) for a, b in itertools.combinations(said, 2)]
        losses = [training_loss(net, few) for net in several]
        measured[f"mean loss {wide}"] = float(np.mean(losses))
        measured[f"loss {wide}"] = float(np.std(losses, ddof=1))
        measured[f"accuracy {wide}"] = float(np.std([accuracy(n, test) for n in several], ddof=1))
        measured[f"different {wide}"] = 100 * (1 - float(np.mean(same)))
    return measured


@claim(
    "landscape",
    notebook=1,
    statement="Small nets have a narrow, rough landscape; it widens with the width (k = 1, 2, 4, "
    "8).",
    reason="Negative curvature: |smallest| / largest eigenvalue of the Hessian on 256 training "
    "images, in %, mean over nine points of a filter-normalised slice. It falls with the width, "
    "with shortcuts and without; where training ended there is hardly any.",
    toy={"images": 64, "epochs": 1, "sample": 8},
)
def landscape(
    seed: int, *, images: int = IMAGES, epochs: int = 15, sample: int = 256, extent: float = 0.5
) -> dict[str, float]:
    """Roughness of the loss around trained nets by width, without and with shortcuts."""
    few = experiment.splits().train[:images]
    inputs, target = few[:sample].inputs(), few[:sample].target
    measured = {}
    for family, wide in itertools.product(("plain", "res"), WIDTHS):
        net = train(f"{family}{wide}", few, seed, epochs=epochs)
        directions = [motivation.filter_normalized_direction(net, 2 * seed + n) for n in range(2)]
        found, losses = [], []
        for steps in itertools.product((-extent, 0.0, extent), repeat=2):
            there = motivation.moved(net, directions, steps)
            found.append(motivation.curvature(there, inputs, target).negative)
            losses.append(training_loss(there, few[:sample]))
        measured[f"{family}{wide} negative"] = 100 * float(np.mean(found))
        measured[f"{family}{wide} negative, end"] = 100 * found[4]  # where training ended
        measured[f"{family}{wide} rise"] = float(np.mean(losses)) - losses[4]
    return measured
