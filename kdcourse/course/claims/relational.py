"""Claims about relational distillation, and the comparison of all families."""

import itertools

import torch
from torch import nn

from kdcourse import metrics, relational
from kdcourse.course.claims.claim import Bound, Effect, Measured, claims_of
from kdcourse.course.claims.experiment import USUAL, Lab
from kdcourse.course.claims.feature import GRID, SEEN, WEIGHTS, by_family, closer
from kdcourse.data import replay

claim = claims_of(notebook="4")

FAMILIES = tuple(WEIGHTS)


@claim(
    reason="The same budget for every family.",
    search=True,
    settings=USUAL | dict(student="res8", teacher="res16", grid=GRID, families=FAMILIES),
)
def pros_cons_search(lab: Lab) -> Measured:
    """Which weight for each family? Validation accuracy and nearest-neighbour accuracy of res8 from
    res16, five weights each (seeds of their own).
    """
    yield from by_both(lab, "alone", lab.train())
    for family, weight in itertools.product(lab["families"], lab["grid"]):
        yield from by_both(lab, f"{family} {weight}", by_family(lab, family, weight))


def by_both(lab: Lab, name: str, net: nn.Module) -> Measured:
    """Accuracy of a net's predictions, and of nearest neighbours in its embedding."""
    yield name, net
    yield f"{name} 1-NN", lab.neighbours(net)


@claim(
    Bound("distances of an embedding and its moved copy", "distance", 1e-12),
    Bound("angles of an embedding and its moved copy", "angle", 1e-12),
    Bound("similarities of an embedding and its rotated, scaled copy", "similarity", 1e-12),
    reason="Analytic: distances over their mean and angles are the same.",
    settings=dict(samples=32, width=8),
)
def invariance(lab: Lab) -> Measured:
    """Relations are what is left when an embedding is rotated, scaled and moved."""
    width, draw = lab["width"], replay(lab.seed)
    z, square = (torch.randn(n, width, generator=draw).double() for n in (lab["samples"], width))
    turned = 3 * z @ torch.linalg.qr(square).Q
    moved = turned + torch.randn(width, generator=draw)
    for name, loss, copy in (
        ("distance", relational.rkd_distance_loss, moved),
        ("angle", relational.rkd_angle_loss, moved),
        ("similarity", relational.similarity_preserving_loss, turned),
    ):
        lab.note(loss(z[:, : width // 2], z))  # what it says where relations do differ
        yield name, float(loss(copy, z))


@claim(
    closer("correlation of distances", "relational", "distances"),
    Effect("nearest neighbour of the same class, taught − alone", "relational 1-NN", "alone 1-NN"),
    reason="Distances of 500 test images; nearest training image of each of 10,000 test images.",
    settings=USUAL | dict(student="res8", teacher="res16", weight=1),
)
def structure(lab: Lab) -> Measured:
    """If the teacher thinks two samples are similar, the student does too."""
    seen = lab.judged[:SEEN]
    taught = lab.embed(lab.teacher, seen)
    nets = {"alone": lab.train(), "relational": by_family(lab, "relational", lab["weight"])}
    for arm, net in nets.items():
        yield from by_both(lab, arm, net)
        embedded = lab.embed(net, seen)
        yield f"{arm} distances", metrics.distance_correlation(embedded, taught)
        yield f"{arm} CKA", metrics.linear_cka(embedded, taught)


@claim(
    *(
        Effect(f"{what}, {family} − logit", f"{family}{suffix}", f"logit{suffix}")
        for what, suffix in (
            ("test accuracy", ""),
            ("nearest neighbour", " 1-NN"),
            ("one of five neighbours", " recall@5"),
        )
        for family in FAMILIES[1:]
    ),
    reason="Each family at the best of five weights by validation accuracy. Here plain KD is hard "
    "to beat, as in the literature's tables for CIFAR-100.",
    settings=USUAL | dict(student="res8", teacher="res16"),
)
def pros_cons(lab: Lab) -> Measured:
    """Feature and relational outperform logit when carefully tuned, and are the natural choice for
    feature extractors.
    """
    some = lab.judged[:2000]
    for name in ("alone", *FAMILIES):
        net = lab.train() if name == "alone" else by_family(lab, name, WEIGHTS[name])
        yield from by_both(lab, name, net)
        yield f"{name} recall@5", 100 * metrics.recall_at(5, lab.embed(net, some), some.target)
