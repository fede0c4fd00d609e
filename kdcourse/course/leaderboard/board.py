"""The boards: a student, a number of images, and every method tuned and measured on them."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import qmc
from torch import Tensor, nn

from kdcourse import CrossEntropy, fit, rehearse
from kdcourse.course.claims.claim import Claim, Measured
from kdcourse.course.claims.experiment import IMAGES, Lab
from kdcourse.course.claims.logit import few_of_those_the_teacher_saw
from kdcourse.course.claims.results import Result, read
from kdcourse.course.leaderboard.methods import KD, METHODS, Method
from kdcourse.data import Images
from kdcourse.doctor.terms import gradient_vector
from kdcourse.errors import NotFiniteError
from kdcourse.objective import Objective
from kdcourse.places import COURSE
from kdcourse.train.language import Reader
from kdcourse.training import as_teacher
from kdcourse.training.judged import Judged, show
from kdcourse.training.schedules import one_cycle

FOLDER = COURSE / "data" / "leaderboard"
TRIALS, SEEDS = 8, 10
RATIOS = 0.3, 30.0  # between which the trials lie, evenly in the logarithm
# Where: the same for all methods, and evenly spread, as independent draws would not be.
POINTS = qmc.Halton(d=2, scramble=False).random(1 + TRIALS)[1:].tolist()
ALONE = "labels alone"
GUESSING = 10.0  # percent: one of ten classes
TEACHER = "res16"
TOY = {"images": 60, "epochs": 1, "batch_size": 60}


@dataclass(frozen=True)
class Board:
    """Where methods are compared.

    Attributes:
        about: In words.
        settings: Of every training.
        words: The layers that terms look at, in the words of the command line.
        without: The methods that cannot take part, as they need maps of the student.
    """

    about: str
    settings: Mapping[str, Any]
    words: Mapping[str, str]
    without: tuple[str, ...] = ()

    @property
    def methods(self) -> dict[str, Method]:
        """The methods that take part."""
        return {name: one for name, one in METHODS.items() if name not in self.without}


STAGES = {
    "layers": "['stage1', 'stage2', 'stage3']",
    "layer": "'stage3'",
    "sides": "",
    "own_side": "",
    "logit_map": "'stage3|classifier'",
    "review": "['stage1', 'stage2', 'stage3', 'embedding']",
}
# A transformer's tokens, a class token first, and a convolutional teacher's maps.
SIDES = ", channel_dim=(-1, 1), class_token=(True, False)"
TOKENS = STAGES | {"sides": SIDES, "own_side": ", channel_dim=-1"}
NO_MAPS = "SDD", "SimKD", "ReviewKD"
ADAM = {"rate": 0.003}  # of AdamW, with which a transformer learns more than with SGD
FEW = {"images": 500, "epochs": 40, "batch_size": 32}
MANY = {"images": 4000, "epochs": 15, "batch_size": 64}
BOARDS = {
    "res8-500": Board("res8, 500 images", FEW | {"student": "res8"}, STAGES),
    "res8-4000": Board("res8, 4,000 images", MANY | {"student": "res8"}, STAGES),
    "vit-500": Board(
        "vit-small, 500 images", FEW | ADAM | {"student": "vit-small"}, TOKENS, NO_MAPS
    ),
    "vit-4000": Board(
        "vit-small, 4,000 images", MANY | ADAM | {"student": "vit-small"}, TOKENS, NO_MAPS
    ),
}


def slug(name: str) -> str:
    """Return a method's name as a part of a file's name."""
    return name.lower().replace(" ", "-")


def search(board: str, name: str) -> Claim:
    """Return the trials of a method: the seeds are their numbers, the validation set judges."""
    method, settings = BOARDS[board].methods[name], dict(BOARDS[board].settings)
    told = {"labels": method.labels, "term": method.term, "choices": method.choices}
    id, question = f"{board}-{slug(name)}-search", f"Which settings for {name}?"
    return claim_of(id, question, partial(_trial, board, name), settings | told, search=True)


def final(board: str, name: str, folder: Path = FOLDER, device: str = "cpu") -> Claim:
    """Return the measurement of a method, by the settings that were best in its trials.

    Raises:
        FileNotFoundError: There were no trials yet on such a kind of device.
    """
    loss = "CrossEntropy()" if name == ALONE else chosen(board, name, folder, device)
    id, question = f"{board}-{slug(name)}", f"How good is a student taught by {name}?"
    told = {**BOARDS[board].settings, "loss": loss}
    return claim_of(id, question, partial(_student, name), told)


def claim_of(id: str, question: str, measure: Any, settings: dict[str, Any], **more: Any) -> Claim:
    """Return a measurement of a board: with the teacher of all, and asked for with all others."""
    settings = settings | {"teacher": TEACHER}
    return Claim(
        id, question, "7", measure, settings=settings, toy=TOY, asked="leaderboard", **more
    )


def best_trial(
    board: str, name: str, folder: Path = FOLDER, device: str = "cpu"
) -> tuple[int, dict[str, float]]:
    """Return the trial that was best on validation data, of equals the first, and what it was."""
    runs = read(search(board, name), folder, device).runs
    return max(runs.items(), key=lambda one: (one[1]["accuracy"], -one[0]))


def chosen(board: str, name: str, folder: Path = FOLDER, device: str = "cpu") -> str:
    """Return the objective of the best trial, in the words of the command line."""
    method, (_, found) = BOARDS[board].methods[name], best_trial(board, name, folder, device)
    setting = method.choices[int(found["choice"])]
    return method.loss((found["labels"], found["dist"]), setting, BOARDS[board].words)


def ratio_of(trial: int) -> float:
    """Return the length of the distance's gradient in a trial, relative to that of the labels."""
    return RATIOS[0] * (RATIOS[1] / RATIOS[0]) ** POINTS[trial][0]


def _trial(board: str, name: str, lab: Lab) -> Measured:
    """Try one ratio of the gradients, of the distance to that of the labels, and one choice.

    The gradients of both together are as long as that of the labels alone: so all methods take
    steps of one size.
    """
    method, ratio = BOARDS[board].methods[name], ratio_of(lab.trial)
    choice = int(POINTS[lab.trial][1] * len(method.choices))
    even = even_weight(board, name, method.choices[choice], lab)
    labels, dist = 1 / (1 + ratio), even * ratio / (1 + ratio)
    loss = method.loss((labels, dist), method.choices[choice], BOARDS[board].words)
    yield "labels", labels
    yield "dist", dist
    yield "choice", float(choice)
    yield "accuracy", taught(lab, name, loss)


def _student(name: str, lab: Lab) -> Measured:
    yield "accuracy", taught(lab, name, lab["loss"])


def taught(lab: Lab, name: str, loss: str) -> nn.Module | float:
    """Return a student that was taught, or what guessing gets, where its training diverges."""
    net, objective, teacher = student_of(lab, name, loss)
    try:
        return lab.fit(net, objective, _images(lab), teacher=teacher, **optimizer_of(lab))
    except NotFiniteError:
        return GUESSING


def optimizer_of(lab: Lab) -> dict[str, Any]:
    """Return the knobs of a board whose students do not learn by the course's optimiser."""
    if "rate" not in lab.settings:
        return {}
    adam = partial(torch.optim.AdamW, lr=lab["rate"], weight_decay=1e-2)
    return {"optimizer": adam, "scheduler": one_cycle}


def student_of(
    lab: Lab, name: str, loss: str | None = None
) -> tuple[nn.Module, Objective, nn.Module | None]:
    """Return a student of a method, with fresh weights, its objective, and the teacher it asks."""
    net = _net(lab, name)
    objective = _objective(lab["loss"] if loss is None else loss, net, lab)
    return net, objective, lab.teacher if objective.needs_teacher else None


def _net(lab: Lab, name: str) -> nn.Module:
    rebuild = METHODS[name].rebuild if name in METHODS else None
    return lab.net() if rebuild is None else rebuild(lab.net(), lab.teacher)


def _objective(loss: str, net: nn.Module, lab: Lab) -> Objective:
    given = {"student": net, "classes": 10, "channels": 1, "seed": lab.seed, **lab.settings}
    return Reader(loss, given, "terms").made


def _images(lab: Lab) -> Images:
    few = lab["images"] < IMAGES
    return few_of_those_the_teacher_saw(lab) if few else lab.images


def even_weight(board: str, name: str, setting: float | str, lab: Lab) -> float:
    """Return the weight at which the gradient of a distance is as long as that of the labels.

    It is that in the student's weights, on average over four batches, when the student has learned
    from the labels for two epochs.
    """
    method, images = BOARDS[board].methods[name], _images(lab)
    net, options = _net(lab, name), _options(lab)
    if method.rebuild is None:  # one that is rebuilt does not learn from labels
        net.load_state_dict(_begun(board, lab.trial, lab.toy))
    term = _objective(method.dist(setting, BOARDS[board].words), net, lab)
    teacher = lab.teacher if term.needs_teacher else None
    rehearse(net, images, term, teacher=teacher, **options)
    batches = itertools.islice(images.batches(lab["batch_size"]), 4)
    ratios = [
        _length(net, CrossEntropy(), None, batch) / _length(net, term, teacher, batch)
        for batch in batches
    ]
    return sum(ratios) / len(ratios)


@lru_cache(maxsize=1)  # the methods of a trial come one after the other
def _begun(board: str, trial: int, toy: bool) -> dict[str, Tensor]:
    """Return the weights of a trial's student that has learned from the labels for two epochs."""
    lab = Lab(search(board, KD), trial, toy=toy)
    net = lab.net()
    fit(net, _images(lab), CrossEntropy(), **_options(lab))
    return net.state_dict()


def _options(lab: Lab) -> dict[str, Any]:
    return {**lab.options, "epochs": 2, "device": "cpu", **optimizer_of(lab)}


def _length(
    net: nn.Module, objective: Objective, teacher: nn.Module | None, batch: tuple[Tensor, Tensor]
) -> float:
    """Return the length of an objective's gradient in the weights of a student in training."""
    asked = [] if teacher is None else [as_teacher(teacher)]
    shown = [show(one, *batch, objective) for one in asked]
    loss, _ = Judged(net.train(), objective)(*batch, shown, None)
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    return float(gradient_vector(loss, weights).norm())


def results(
    board: str, folder: Path = FOLDER, seeds: int | None = None, device: str = "cpu"
) -> dict[str, Result]:
    """Return what was measured of each method, and of labels alone, with the same seeds.

    Args:
        board: The board's name.
        folder: Where results are stored.
        seeds: The fewest that will do; by default all.
        device: The kind of device on which it was measured.

    Raises:
        FileNotFoundError: One of them was not measured yet, or with too few seeds.
    """
    found = {}
    for name in (ALONE, *BOARDS[board].methods):
        found[name] = result = read(final(board, name, folder, device), folder, device)
        if not result.runs.keys() >= set(range(seeds or SEEDS)):
            raise FileNotFoundError(f"{result.claim.id} was measured with too few seeds")
    shared = sorted(set.intersection(*(set(result.runs) for result in found.values())))
    for result in found.values():  # others may be under way
        result.runs = {seed: result.runs[seed] for seed in shared}
    return found
