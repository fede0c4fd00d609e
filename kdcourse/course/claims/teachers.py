"""Claims about which teacher: its size, assistants, ensembles, the student's own size."""

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from kdcourse import CrossEntropy, LogitKD, fit, logit, metrics, models, teachers
from kdcourse.course.claims.claim import CLAIMS, Bound, Effect, Measured, claims_of
from kdcourse.course.claims.experiment import (
    OPTIONS,
    TEMPERATURE,
    USUAL,
    Lab,
    labels_and_kd,
    splits,
)
from kdcourse.data import Images
from kdcourse.objective import Objective
from kdcourse.teachers.multi_view import batches
from kdcourse.training import constant

claim = claims_of(notebook="5a")


SIZES = ("res4", "res8", "res16", "res32", "res48")


@claim(
    Effect("student's test accuracy, from res16 − from res48", "res16", "res48"),
    Effect(
        "student's disagreement with its teacher, res48 − res16",
        "res48 disagreement",
        "res16 disagreement",
    ),
    reason="A plain2 student (536 parameters), teachers trained alike on labels, fresh ones for "
    "every seed. From res16 on, larger teachers no longer help, but they do no harm: the student "
    "saturates. A teacher that was stopped early is no better.",
    settings=USUAL | dict(early=5, student="plain2", sizes=SIZES),
    toy=dict(sizes=("res16", "res48"), early=1),
)
def too_large(lab: Lab) -> Measured:
    """If the teacher is too large, KD does not work well: the regulariser is too strong for the
    small model to fit.
    """
    yield "alone", lab.train()
    arms = {size: (size, lab["epochs"]) for size in lab["sizes"]}
    largest = lab["sizes"][-1]
    arms[f"{largest} early"] = largest, lab["early"]  # stopped early: the rival explanation
    target = lab.judged.target
    for name, (size, epochs) in arms.items():
        teacher = lab.train(student=size, seed=100 + lab.seed, epochs=epochs)
        taught = lab.distil(teacher=teacher)
        theirs, own = lab.predict(teacher), lab.predict(taught)
        yield name, 100 * metrics.share_correct(own, target)
        yield f"{name} teacher", 100 * metrics.share_correct(theirs, target)
        yield f"{name} disagreement", 100 * (1 - metrics.agreement(own, theirs))
        yield f"{name} distance", float(logit.kd_loss(own, theirs, TEMPERATURE, scale=False))


@claim(
    Effect("test accuracy, from the teacher that the probe chose − from any", "chosen", "any"),
    Effect("0.5 − what the choice falls short of the best", "0.5", "short"),
    reason="Five teachers of a plain8 student: res4, res8 and res16 trained alike on labels, res16 "
    "stopped after one epoch, and one that was trained on more images. A probe is judged on "
    "validation data; a whole training takes as long as nineteen of them.",
    settings=USUAL | dict(steps=50, student="plain8", sizes=("res4", "res8", "res16")),
    toy=dict(steps=2, sizes=("res4",)),
)
def teacher_probe(lab: Lab) -> Measured:
    """Fifty steps with each of several teachers tell which one to take."""
    seed, largest = 100 + lab.seed, lab["sizes"][-1]
    candidates = {size: lab.train(student=size, seed=seed) for size in lab["sizes"]}
    candidates["early"] = lab.train(student=largest, seed=seed, epochs=1)
    candidates["augmented"] = teachers.pretrained("res16-augmented")
    validation = splits().validation

    def judge(net: nn.Module) -> float:
        return 100 * metrics.accuracy(net, validation)

    knobs = {"seed": lab.seed, "device": lab.device, "progress": False}
    probe = teachers.rank_teachers(
        lab.net(), candidates, lab.images, labels_and_kd(), judge, steps=lab["steps"], **knobs
    )
    for name, score in probe.items():
        yield f"{name}, probe", lab.note(score)
    whole = {name: lab.accuracy(lab.distil(teacher=one)) for name, one in candidates.items()}
    for name, accuracy in whole.items():
        yield name, accuracy
    chosen = whole[next(iter(probe))]
    yield "chosen", chosen
    yield "any", sum(whole.values()) / len(whole)
    yield "0.5", 0.5
    yield "short", max(whole.values()) - chosen


@claim(
    Effect("test accuracy, res32 → res8 → plain2 − res32 → plain2", "one", "direct"),
    Effect("test accuracy, res32 → res16 → res8 → plain2 − direct", "two", "direct"),
    Effect("test accuracy, taught assistant − untaught res8, as teachers", "one", "untaught"),
    reason="The gain through one assistant is within the noise of seeds. But the assistant that "
    "res32 taught is the better teacher than the same net trained on labels: it passes on what it "
    "was taught.",
    settings=USUAL | dict(student="plain2", teacher_name="res32", chain=("res16", "res8")),
    toy=dict(teacher_name="res8", chain=("res4", "plain4")),
)
def assistant(lab: Lab) -> Measured:
    """A teacher assistant of intermediate size bridges the gap: teacher → TA → student."""
    chain = lab["chain"]
    teacher = lab.train(student=lab["teacher_name"], seed=100 + lab.seed)
    yield "alone", lab.train()
    yield "teacher", teacher
    for name, sizes in (("direct", ()), ("one", chain[1:]), ("two", chain)):
        assistants = [lab.net(200 + lab.seed, size) for size in sizes]
        student = lab.net()
        teachers.distill_through(
            teacher, assistants, student, lab.images, labels_and_kd(), **lab.options
        )
        yield name, student
        if assistants:
            yield f"{name} assistant", assistants[-1]
    untaught = lab.train(student=chain[1], seed=200 + lab.seed)
    yield "untaught", lab.distil(teacher=untaught)


def urn(votes: tuple[bool, ...], accuracy: float, correlation: float) -> float:
    """Probability of a sequence of right and wrong votes from Pólya's urn, vote by vote."""
    probability = 1.0
    for m, vote in enumerate(votes):
        copies = m * correlation / (1 - correlation + m * correlation) if m else 0.0
        share = votes[:m].count(vote) / m if m else 0.0
        own = accuracy if vote else 1 - accuracy
        probability *= copies * share + (1 - copies) * own
    return probability


@claim(
    Bound("three voters of 0.7: formula and 0.784", "three", 1e-12),
    Bound("formula and the sum over all votes, 1 to 8 voters", "enumeration", 1e-12),
    Bound("correlation of two voters and ρ", "correlation", 1e-9),
    Bound("identical voters: formula and one voter", "identical", 1e-12),
    Bound("three voters of 0.7: bounds and 0.55, 1", "bounds", 1e-12),
    reason="Analytic. The question does not say how the errors are related, and that decides.",
)
def vote(lab: Lab) -> Measured:
    """Brain teaser: three binary classifiers with 70 % accuracy; their majority vote has 78.4 % (B)
    if they are independent, and may have all of 55, 70, 78.4 and 100 % (E).
    """
    draw = np.random.default_rng(lab.seed)
    p, rho = float(draw.uniform(0.05, 0.95)), float(draw.uniform(0.05, 0.95))
    cases = list(itertools.product(range(1, 9), (0.0, rho)))
    formula = lab.note([teachers.majority_vote_accuracy(p, voters, r) for voters, r in cases])
    summed = []
    for voters, r in cases:
        won = 0.0
        for ballot in itertools.product((False, True), repeat=voters):
            worth = 1.0 if 2 * sum(ballot) > voters else 0.5 * (2 * sum(ballot) == voters)
            won += worth * urn(ballot, p, r)
        summed.append(won)
    both_right = teachers.right_votes(p, 2, rho)[2]
    low, high = teachers.majority_vote_bounds(0.7, 3)
    yield "three", abs(teachers.majority_vote_accuracy(0.7, 3) - 0.784)
    yield "enumeration", max(abs(a - b) for a, b in zip(summed, formula, strict=True))
    yield "correlation", float(abs((both_right - p**2) / (p * (1 - p)) - rho))
    yield "identical", abs(teachers.majority_vote_accuracy(p, 7, 1.0) - p)
    yield "bounds", max(abs(low - 0.55), abs(high - 1))


def two_classes(images: Images, first: str = "T-shirt/top", second: str = "Shirt") -> Images:
    """Keep two classes, as 0 and 1."""
    labels = [images.classes.index(name) for name in (first, second)]
    kept = images[(images.target == labels[0]) | (images.target == labels[1])]
    return replace(kept, target=(kept.target == labels[1]).long(), classes=(first, second))


def ballots(seed: int, own: bool, **settings: Any) -> np.ndarray:
    """Who is right on which test image? ``(voters, N)``, of nets that tell two classes apart.

    Args:
        seed: The seed of the nets and of their images.
        own: Whether every net learns from images of its own.
        settings: Those of the claim ``vote-nets`` that are to be others.
    """
    nets = CLAIMS["vote-nets"]
    return cast(Lab(replace(nets, settings={**nets.settings, **settings}), seed), own)


def cast(lab: Lab, own: bool) -> np.ndarray:
    """Cast the ballots in a lab of the claim ``vote-nets``."""
    pool, test = two_classes(lab.pool), two_classes(lab.judged)
    rows = []
    for voter in range(lab["voters"]):
        seed = 100 * lab.seed + voter
        few = pool.subset(lab["images"], seed=seed if own else 100 * lab.seed, balanced=True)
        net = models.by_name(lab["student"], classes=2, seed=seed)
        lab.fit(net, images=few, seed=seed)
        rows.append((lab.predict(net, test).argmax(dim=1) == test.target).numpy())
    return np.array(rows)


@claim(
    Effect("accuracy, vote of three − one net", "three", "one"),
    Effect("accuracy, three independent voters − vote of three nets", "independent", "three"),
    Effect("accuracy of nine votes, each its own images − all the same", "own nine", "nine"),
    Effect("correlation of two nets, same images − own images", "correlation", "own corr.", ""),
    reason="T-shirt or shirt, learned from 40 images. Nets find the same images hard, so their "
    "errors are correlated, less so if each learned from images of its own. Pólya's urn with the "
    "correlation measured predicts the vote within about a point.",
    settings=dict(
        images=40, epochs=20, batch_size=10, learning_rate=0.05, voters=9, student="plain2"
    ),
    toy=dict(images=10),
)
def vote_nets(lab: Lab) -> Measured:
    """… and nets of about 70 % accuracy do gain by a vote, but not what independent voters
    would.
    """
    voters = lab["voters"]
    for start, own in (("", False), ("own ", True)):
        right = cast(lab, own)
        p = float(right.mean())
        pairs = np.cov(right, bias=True)[np.triu_indices(voters, 1)].mean()
        deviation = (right.mean(axis=1) * (1 - right.mean(axis=1))).mean()
        rho = max(0.0, float(pairs / deviation)) if deviation else 1.0
        triples = [right[i : i + 3].sum(axis=0) >= 2 for i in range(0, voters, 3)]
        shares = {
            "one": p,
            "three": float(np.mean(triples)),
            "nine": float((2 * right.sum(axis=0) > voters).mean()),
            "independent": teachers.majority_vote_accuracy(p, 3),
            "independent nine": teachers.majority_vote_accuracy(p, voters),
            "urn": teachers.majority_vote_accuracy(p, 3, rho),
            "urn nine": teachers.majority_vote_accuracy(p, voters, rho),
        }
        for name, share in shares.items():
            yield f"{start}{name}", 100 * share
        yield f"{start}corr." if own else "correlation", rho


def several(lab: Lab) -> list[nn.Module]:
    """Train nets that differ in their seeds."""
    return [lab.train(seed=1000 * (m + 1) + lab.seed) for m in range(lab["members"])]


@claim(
    Effect("test accuracy, averaged probabilities − one member", "probabilities", "member"),
    Effect("test accuracy, averaged logits − one member", "logits", "member"),
    Effect("test accuracy, majority vote − one member", "vote", "member"),
    Effect("test accuracy of res8, from averaged probabilities − alone", "taught", "alone"),
    reason="Three res8, trained on the same images from different seeds, teach a fourth.",
    settings=USUAL | dict(student="res8", members=3),
)
def ensemble(lab: Lab) -> Measured:
    """Predictions of several weak models, averaged or voted on, make a better model, and a
    teacher.
    """
    nets = several(lab)
    yield "member", sum(lab.accuracy(net) for net in nets) / len(nets)
    for combine in ("probabilities", "logits", "vote"):
        yield combine, teachers.Ensemble(nets, combine)
    yield from lab.taught({"taught": teachers.Ensemble(nets), "taught by one": nets[0]})


@claim(
    Effect("test accuracy of res8, from the votes − alone", "votes", "alone"),
    Effect("test accuracy of res8, from averages − from the votes", "averages", "votes"),
    reason="The members are of one mind about nearly all images they were trained on: there their "
    "votes are little more than labels, and what is dark in their knowledge is lost.",
    settings=USUAL | dict(student="res8", members=3),
)
def vote_teacher(lab: Lab) -> Measured:
    """… and even one that shows nothing but its votes."""
    nets = several(lab)
    votes, averages = teachers.Ensemble(nets, "vote"), teachers.Ensemble(nets)
    return lab.taught({"votes": votes, "averages": averages})


def patch_net(
    seed: int,
    samples: DataLoader,
    epochs: int,
    objective: Objective | None = None,
    teacher: nn.Module | None = None,
    device: torch.device | str | None = None,
) -> teachers.PatchNet:
    """Train a net on two-view samples by plain SGD."""
    net = teachers.PatchNet(seed=seed)
    fit(
        net,
        samples,
        objective,
        teacher=teacher,
        epochs=epochs,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.2),
        scheduler=constant,
        seed=seed,
        device=device,
        **OPTIONS,
    )
    return net


@claim(
    Effect("accuracy on one view, self-distilled − alone", "self", "alone"),
    Effect("accuracy on one view, from the ensemble − self-distilled", "from ensemble", "self"),
    Effect("accuracy on one view, ensemble − alone", "ensemble", "alone"),
    Effect(
        "classes with both views learned, self-distilled − alone",
        "self both views",
        "alone both views",
    ),
    Effect(
        "classes with both views learned, from the ensemble − alone",
        "from ensemble both views",
        "alone both views",
    ),
    reason="Synthetic data with two features a class: a net that knows one view is right on every "
    "training sample and stops learning; the soft predictions of others still tell of the second.",
    settings=dict(samples=500, epochs=600, members=10),
    toy=dict(samples=100, epochs=2, members=2),
)
def multi_view(lab: Lab) -> Measured:
    """Different seeds capture different views of the data (headlight, window); after distillation,
    the student sees both.
    """
    data = teachers.TwoViews(seed=lab.seed)
    inputs, target = data.draw(lab["samples"])
    samples, epochs, members = batches(inputs, target), lab["epochs"], lab["members"]
    first = 100 * lab.seed
    make = partial(patch_net, device=lab.device)
    alone: list[nn.Module] = [make(first + m, samples, epochs) for m in range(members)]
    together = teachers.Ensemble(alone, combine="logits")
    kd = CrossEntropy() + LogitKD(TEMPERATURE)
    arms: dict[str, list[nn.Module]] = {
        "alone": alone,
        "self": [make(first + members, samples, epochs, kd, alone[0])],
        "from ensemble": [make(first + members, samples, epochs, kd, together)],
        "ensemble": [together],
    }
    for name, nets in arms.items():
        for net in nets:
            lab.predict(net, inputs)
        learned = [teachers.learned_views(net, data) for net in nets]
        both = [(views > 0.5).all(dim=1).float().mean() for views in learned]
        yield name, sum(100 * float(views.mean()) for views in learned) / len(nets)
        yield f"{name} both views", sum(100 * float(share) for share in both) / len(nets)


@claim(
    Effect("test accuracy, f₂ − f₁", "f2", "f1"),
    Effect("test accuracy, f₄ − f₁", "f4", "f1"),
    Effect("test accuracy, ensemble of f₁, …, f₄ − f₄", "ensemble", "f4"),
    reason="res8, the teacher's outputs only (τ = 1): no label is seen after the first generation.",
    settings=USUAL | dict(student="res8", generations=4),
)
def born_again(lab: Lab) -> Measured:
    """Self-distillation: f₁ → f₂ → … → f_k improves on f₁, and the ensemble of f₁, …, f_k improves
    on both.
    """
    start, count = 10 * lab.seed, lab["generations"]
    options = lab.options | {"seed": start, "generations": count}
    family = teachers.born_again(lab.net, lab.images, **options)
    for number, net in enumerate(family, start=1):
        yield f"f{number}", net
    yield "ensemble", teachers.Ensemble(family)
    others = [lab.train(seed=start + n) for n in range(1, count)]
    yield "independent ensemble", teachers.Ensemble([family[0], *others])
    yield "f2 with labels", lab.distil(CrossEntropy() + LogitKD(1.0), family[0], seed=start + 1)
