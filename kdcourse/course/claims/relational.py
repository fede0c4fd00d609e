"""Claims about relational distillation, and the comparison of all families."""

import torch

from kdcourse import metrics, relational
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Bound, Effect, claim
from kdcourse.course.claims.experiment import IMAGES, TOY, accuracy, train
from kdcourse.course.claims.properties import FAMILIES, SEEN, WEIGHTS, by_family, nearest_neighbour
from kdcourse.data import replay


@claim(
    "invariance",
    notebook=4,
    statement="Relations are what is left when an embedding is rotated, scaled and moved.",
    bounds=(
        Bound("distances of an embedding and its moved copy", "distance", 1e-12),
        Bound("angles of an embedding and its moved copy", "angle", 1e-12),
        Bound("similarities of an embedding and its rotated, scaled copy", "similarity", 1e-12),
    ),
    reason="Analytic: distances over their mean and angles are the same.",
)
def invariance(seed: int, *, samples: int = 32, width: int = 8) -> dict[str, float]:
    """Relational losses between an embedding and a moved copy of it, in float64."""
    draw = replay(seed)
    z, square = (torch.randn(n, width, generator=draw).double() for n in (samples, width))
    turned = 3 * z @ torch.linalg.qr(square).Q
    moved = turned + torch.randn(width, generator=draw)
    return {
        "distance": float(relational.rkd_distance_loss(moved, z)),
        "angle": float(relational.rkd_angle_loss(moved, z)),
        "similarity": float(relational.similarity_preserving_loss(turned, z)),
    }


@claim(
    "structure",
    notebook=4,
    statement="If the teacher thinks two samples are similar, the student does too.",
    effects=(
        Effect(
            "correlation of distances with the teacher's, taught − alone",
            "relational distances",
            "alone distances",
        ),
        Effect(
            "nearest neighbour of the same class, taught − alone",
            "relational 1-NN",
            "alone 1-NN",
        ),
    ),
    reason="Distances of 500 test images; nearest training image of each of 10,000 test images.",
    toy=TOY,
)
def structure(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "res8",
    teacher: str = "res16",
    weight: float = 1,  # the best of the search by nearest neighbour on validation data
) -> dict[str, float]:
    """Distances and neighbours in the embedding of a student alone and taught by relations."""
    data = experiment.splits()
    few, seen = data.train[:images], data.test[:SEEN]
    taught = metrics.embed(experiment.teacher(teacher), seen)
    nets = {
        "alone": train(student, few, seed, epochs=epochs),
        "relational": by_family("relational", weight, student, few, seed, teacher, epochs),
    }
    measured = {}
    for arm, net in nets.items():
        measured[arm] = accuracy(net, data.test)
        measured[f"{arm} 1-NN"] = nearest_neighbour(net, few, data.test)
        embedded = metrics.embed(net, seen)
        measured[f"{arm} distances"] = metrics.distance_correlation(embedded, taught)
        measured[f"{arm} CKA"] = metrics.linear_cka(embedded, taught)
    return measured


@claim(
    "pros-cons",
    notebook=4,
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
    toy=TOY,
)
def pros_cons(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "res8",
    teacher: str = "res16",
) -> dict[str, float]:
    """Test accuracy and retrieval of a student alone and taught by each family, tuned alike."""
    data = experiment.splits()
    few = data.train[:images]
    nets = {"alone": train(student, few, seed, epochs=epochs)} | {
        family: by_family(family, WEIGHTS[family], student, few, seed, teacher, epochs)
        for family in FAMILIES
    }
    measured = {}
    for name, net in nets.items():
        measured[name] = accuracy(net, data.test)
        measured[f"{name} 1-NN"] = nearest_neighbour(net, few, data.test)
        test = data.test[:2000]
        measured[f"{name} recall@5"] = 100 * metrics.recall_at(
            5, metrics.embed(net, test), test.target
        )
    return measured
