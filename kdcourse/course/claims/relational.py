"""Claims about relational distillation, and the comparison of all families."""

import itertools

import torch
from torch import nn

from kdcourse import metrics, relational
from kdcourse.course.claims.claim import Bound, Effect, Measured, claims_of
from kdcourse.course.claims.experiment import USUAL, Lab
from kdcourse.course.claims.feature import GRID, SEEN, WEIGHTS, by_family
from kdcourse.data import replay

claim = claims_of(notebook=4)

FAMILIES = tuple(WEIGHTS)


@claim(
    "pros-cons-search",
    statement="Which weight for each family? Validation accuracy and nearest-neighbour accuracy "
    "of res8 from res16, five weights each (seeds of their own).",
    reason="The same budget for every family.",
    search=True,
    settings=USUAL | dict(student="res8", teacher="res16", grid=GRID, families=FAMILIES),
)
def search(lab: Lab) -> Measured:
    """Validation accuracy by family and weight."""
    yield from by_both(lab, "alone", lab.train())
    for family, weight in itertools.product(lab["families"], lab["grid"]):
        yield from by_both(lab, f"{family} {weight}", by_family(lab, family, weight))


def by_both(lab: Lab, name: str, net: nn.Module) -> Measured:
    """Accuracy of a net's predictions, and of nearest neighbours in its embedding."""
    yield name, lab.accuracy(net)
    yield f"{name} 1-NN", lab.neighbours(net)


@claim(
    "invariance",
    statement="Relations are what is left when an embedding is rotated, scaled and moved.",
    bounds=(
        Bound("distances of an embedding and its moved copy", "distance", 1e-12),
        Bound("angles of an embedding and its moved copy", "angle", 1e-12),
        Bound("similarities of an embedding and its rotated, scaled copy", "similarity", 1e-12),
    ),
    reason="Analytic: distances over their mean and angles are the same.",
    settings=dict(samples=32, width=8),
)
def invariance(lab: Lab) -> Measured:
    """Relational losses between an embedding and a moved copy of it, in float64."""
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
    "structure",
    statement="If the teacher thinks two samples are similar, the student does too.",
    effects=(
        Effect(
            "correlation of distances with the teacher's, taught − alone",
            "relational distances",
            "alone distances",
            unit="",
        ),
        Effect(
            "nearest neighbour of the same class, taught − alone",
            "relational 1-NN",
            "alone 1-NN",
        ),
    ),
    reason="Distances of 500 test images; nearest training image of each of 10,000 test images.",
    settings=USUAL | dict(student="res8", teacher="res16", weight=1),
)
def structure(lab: Lab) -> Measured:
    """Distances and neighbours in the embedding of a student alone and taught by relations."""
    seen = lab.judged[:SEEN]
    taught = lab.embed(lab.teacher, seen)
    nets = {"alone": lab.train(), "relational": by_family(lab, "relational", lab["weight"])}
    for arm, net in nets.items():
        yield from by_both(lab, arm, net)
        embedded = lab.embed(net, seen)
        yield f"{arm} distances", metrics.distance_correlation(embedded, taught)
        yield f"{arm} CKA", metrics.linear_cka(embedded, taught)


@claim(
    "pros-cons",
    statement="Feature and relational outperform logit when carefully tuned, and are the natural "
    "choice for feature extractors.",
    effects=tuple(
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
    """Test accuracy and retrieval of a student alone and taught by each family, tuned alike."""
    some = lab.judged[:2000]
    for name in ("alone", *FAMILIES):
        net = lab.train() if name == "alone" else by_family(lab, name, WEIGHTS[name])
        yield from by_both(lab, name, net)
        yield f"{name} recall@5", 100 * metrics.recall_at(5, lab.embed(net, some), some.target)
