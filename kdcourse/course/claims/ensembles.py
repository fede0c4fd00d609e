"""Which teacher? Claims about ensembles: the brain teaser, and averaging real nets."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from kdcourse import models
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Bound, Effect, claim
from kdcourse.course.claims.experiment import IMAGES, OPTIONS, TOY, accuracy, train
from kdcourse.data import Images
from kdcourse.metrics import predict
from kdcourse.teachers import (
    Ensemble,
    majority_vote_accuracy,
    majority_vote_bounds,
    right_votes,
)
from kdcourse.training import fit

VOTERS = range(1, 9)


def urn(votes: tuple[bool, ...], accuracy: float, correlation: float) -> float:
    """Probability of a sequence of right and wrong votes from Pólya's urn, vote by vote."""
    probability = 1.0
    for m, vote in enumerate(votes):
        copies = m * correlation / (1 - correlation + m * correlation) if m else 0.0
        share = votes[:m].count(vote) / m if m else 0.0
        own = accuracy if vote else 1 - accuracy
        probability *= copies * share + (1 - copies) * own
    return probability


def votes(voters: int) -> Iterator[tuple[bool, ...]]:
    """All ways to be right or wrong."""
    return itertools.product((False, True), repeat=voters)


@claim(
    "vote",
    notebook=5,
    statement="Brain teaser: three binary classifiers with 70 % accuracy; their majority vote has "
    "78.4 % (B) if they are independent, and may have all of 55, 70, 78.4 and 100 % (E).",
    bounds=(
        Bound("three voters of 0.7: formula and 0.784", "three", 1e-12),
        Bound("formula and the sum over all votes, 1 to 8 voters", "enumeration", 1e-12),
        Bound("correlation of two voters and ρ", "correlation", 1e-9),
        Bound("identical voters: formula and one voter", "identical", 1e-12),
        Bound("three voters of 0.7: bounds and 0.55, 1", "bounds", 1e-12),
    ),
    reason="Analytic. The question does not say how the errors hang together, and that decides.",
)
def vote(seed: int) -> dict[str, float]:
    """Deviations of the formula from enumeration, for an accuracy and a correlation drawn."""
    draw = np.random.default_rng(seed)
    p, rho = float(draw.uniform(0.05, 0.95)), float(draw.uniform(0.05, 0.95))
    worst = 0.0
    for voters, r in itertools.product(VOTERS, (0.0, rho)):
        won = 0.0
        for ballot in votes(voters):
            worth = 1.0 if 2 * sum(ballot) > voters else 0.5 * (2 * sum(ballot) == voters)
            won += worth * urn(ballot, p, r)
        worst = max(worst, abs(won - majority_vote_accuracy(p, voters, r)))
    both_right = right_votes(p, 2, rho)[2]
    low, high = majority_vote_bounds(0.7, 3)
    return {
        "three": abs(majority_vote_accuracy(0.7, 3) - 0.784),
        "enumeration": worst,
        "correlation": float(abs((both_right - p**2) / (p * (1 - p)) - rho)),
        "identical": abs(majority_vote_accuracy(p, 7, 1.0) - p),
        "bounds": max(abs(low - 0.55), abs(high - 1)),
    }


def two_classes(images: Images, first: str, second: str) -> Images:
    """Keep two classes, as 0 and 1."""
    labels = [images.classes.index(name) for name in (first, second)]
    kept = images[(images.target == labels[0]) | (images.target == labels[1])]
    return replace(kept, target=(kept.target == labels[1]).long(), classes=(first, second))


def ballots(
    seed: int, own: bool, images: int, epochs: int, voters: int, student: str
) -> np.ndarray:
    """Who is right on which test image? ``(voters, N)``, of nets that tell two classes apart."""
    data = experiment.splits()
    pool = two_classes(data.train, "T-shirt/top", "Shirt")
    test = two_classes(data.test, "T-shirt/top", "Shirt")
    rows = []
    for voter in range(voters):
        few = pool.subset(images, seed=100 * seed + (voter if own else 0), balanced=True)
        net = models.by_name(student, classes=2, seed=100 * seed + voter)
        fit(
            net,
            few,
            epochs=epochs,
            batch_size=10,
            learning_rate=0.05,
            seed=100 * seed + voter,
            **OPTIONS,
        )
        rows.append((predict(net, test).argmax(dim=1) == test.target).numpy())
    return np.array(rows)


@claim(
    "vote-nets",
    notebook=5,
    statement="… and nets of about 70 % accuracy do gain by a vote, but not what independent "
    "voters would.",
    effects=(
        Effect("accuracy, vote of three − one net", "three", "one"),
        Effect("accuracy, three independent voters − vote of three nets", "independent", "three"),
        Effect("accuracy of nine votes, each its own images − all the same", "own nine", "nine"),
        Effect("correlation of two nets, same images − own images", "correlation", "own corr."),
    ),
    reason="T-shirt or shirt, learned from 40 images. Nets find the same images hard, so their "
    "errors are correlated, less so if each learned from images of its own. Pólya's urn with the "
    "correlation measured predicts the vote within about a point.",
    toy={"images": 10, "epochs": 1, "voters": 9},
)
def vote_nets(
    seed: int, *, images: int = 40, epochs: int = 20, voters: int = 9, student: str = "plain2"
) -> dict[str, float]:
    """Accuracy of nets, of their votes by three and nine, and what the formula says of them."""
    measured: dict[str, float] = {}
    for start, own in (("", False), ("own ", True)):
        right = ballots(seed, own, images, epochs, voters, student)
        p = float(right.mean())
        pairs = np.cov(right, bias=True)[np.triu_indices(voters, 1)].mean()
        spread = (right.mean(axis=1) * (1 - right.mean(axis=1))).mean()
        rho = max(0.0, float(pairs / spread)) if spread else 1.0
        triples = [right[i : i + 3].sum(axis=0) >= 2 for i in range(0, voters, 3)]
        of_three = {
            "one": p,
            "three": float(np.mean(triples)),
            "nine": float((2 * right.sum(axis=0) > voters).mean()),
            "independent": majority_vote_accuracy(p, 3),
            "independent nine": majority_vote_accuracy(p, voters),
            "urn": majority_vote_accuracy(p, 3, rho),
            "urn nine": majority_vote_accuracy(p, voters, rho),
        }
        measured |= {f"{start}{name}": 100 * value for name, value in of_three.items()}
        measured[f"{start}corr." if own else "correlation"] = rho
    return measured


def several(student: str, images: Images, seed: int, members: int, epochs: int) -> list[nn.Module]:
    """Train nets that differ in their seeds."""
    return [train(student, images, 1000 * (m + 1) + seed, epochs=epochs) for m in range(members)]


@claim(
    "ensemble",
    notebook=5,
    statement="Predictions of several weak models, averaged or voted on, make a better model, and "
    "a teacher.",
    effects=(
        Effect("test accuracy, averaged probabilities − one member", "probabilities", "member"),
        Effect("test accuracy, averaged logits − one member", "logits", "member"),
        Effect("test accuracy, majority vote − one member", "vote", "member"),
        Effect("test accuracy of res8, from averaged probabilities − alone", "taught", "alone"),
    ),
    reason="Three res8, trained on the same images from different seeds, teach a fourth.",
    toy=TOY,
)
def ensemble(
    seed: int, *, images: int = IMAGES, epochs: int = 15, student: str = "res8", members: int = 3
) -> dict[str, float]:
    """Test accuracy of members, of their ensembles, and of students of these."""
    data = experiment.splits()
    few, test = data.train[:images], data.test
    nets = several(student, few, seed, members, epochs)
    measured = {"member": sum(accuracy(net, test) for net in nets) / members}
    for combine in ("probabilities", "logits", "vote"):
        measured[combine] = accuracy(Ensemble(nets, combine), test)
    teachers: dict[str, Any] = {"taught": Ensemble(nets), "taught by one": nets[0]}
    taught = experiment.taught_arms(seed, few, teachers, student, test, epochs=epochs)
    return measured | taught


@claim(
    "vote-teacher",
    notebook=5,
    statement="… and even one that shows nothing but its votes.",
    effects=(
        Effect("test accuracy of res8, from the votes − alone", "votes", "alone"),
        Effect("test accuracy of res8, from averages − from the votes", "averages", "votes"),
    ),
    reason="The members are of one mind about nearly all images they were trained on: there their "
    "votes are little more than labels, and what is dark in their knowledge is lost.",
    toy=TOY,
)
def vote_teacher(
    seed: int, *, images: int = IMAGES, epochs: int = 15, student: str = "res8", members: int = 3
) -> dict[str, float]:
    """Test accuracy of students of the votes, and of the averages, of one ensemble."""
    data = experiment.splits()
    few = data.train[:images]
    nets = several(student, few, seed, members, epochs)
    teachers: dict[str, Any] = {"votes": Ensemble(nets, "vote"), "averages": Ensemble(nets)}
    return experiment.taught_arms(seed, few, teachers, student, data.test, epochs=epochs)
