"""Where the field went since: newer distances between predictions, tuned alike."""

from torch import nn

from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import IMAGES, TEMPERATURE, TOY, accuracy, train
from kdcourse.data import Images
from kdcourse.training import CrossEntropy, DecoupledKD, LogitKD, Objective, StandardizedKD

METHODS = ("kd", "decoupled", "standardized", "reverse", "jensen-shannon")
GRID = (0.3, 1, 3, 10)  # of every method's weight, in units of its own: the same budget
UNITS = {"kd": 1, "decoupled": 0.3, "standardized": 3, "reverse": 1, "jensen-shannon": 4}
# The best of the search below, by mean validation accuracy.
WEIGHTS = {"kd": 3, "decoupled": 0.3, "standardized": 3, "reverse": 1, "jensen-shannon": 3}


def dist(method: str) -> Objective:
    """Return a method's ``dist(f, f_large)``, at the settings of its paper."""
    terms = {
        "kd": LogitKD(TEMPERATURE),
        "decoupled": DecoupledKD(alpha=1, beta=8, temperature=TEMPERATURE),
        "standardized": StandardizedKD(temperature=2),
        "reverse": LogitKD(TEMPERATURE, divergence="reverse"),
        "jensen-shannon": LogitKD(TEMPERATURE, divergence="jensen-shannon"),
    }
    return UNITS[method] * terms[method]


def by_method(
    method: str, weight: float, student: str, images: Images, seed: int, teacher: str, epochs: int
) -> nn.Module:
    """Train a student by ``CE + λ · dist``, with one method's dist."""
    objective = CrossEntropy() + weight * dist(method)
    taught = experiment.teacher(teacher)
    return train(student, images, seed, objective, teacher=taught, epochs=epochs)


@claim(
    "newer-logit-search",
    notebook=7,
    statement="Which weight for each newer distance between predictions? Validation accuracy of "
    "res8 from res16, four weights each (seeds of their own).",
    reason="The same budget for every method.",
    toy=TOY,
)
def search(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "res8",
    teacher: str = "res16",
) -> dict[str, float]:
    """Validation accuracy by method and weight."""
    data, seed = experiment.splits(), 1000 + seed
    few = data.train[:images]
    measured = {"alone": accuracy(train(student, few, seed, epochs=epochs), data.validation)}
    for method in METHODS:
        for weight in GRID:
            net = by_method(method, weight, student, few, seed, teacher, epochs)
            measured[f"{method} {weight}"] = accuracy(net, data.validation)
    return measured


@claim(
    "newer-logit",
    notebook=7,
    statement="Newer distances between predictions (decoupled KD, logit standardisation, reverse "
    "KL, Jensen–Shannon) beat KD.",
    effects=(
        Effect("test accuracy, decoupled KD − KD", "decoupled", "kd"),
        Effect("test accuracy, standardised logits − KD", "standardized", "kd"),
        Effect("test accuracy, reverse KL − KD", "reverse", "kd"),
        Effect("test accuracy, Jensen–Shannon − KD", "jensen-shannon", "kd"),
    ),
    reason="Each at the best of four weights on validation data, as KD is. On average all are "
    "within half a point of it, and five seeds cannot tell them apart.",
    toy=TOY,
)
def newer_logit(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "res8",
    teacher: str = "res16",
) -> dict[str, float]:
    """Test accuracy by method, each at its weight, and of the student alone."""
    data = experiment.splits()
    few = data.train[:images]
    measured = {"alone": accuracy(train(student, few, seed, epochs=epochs), data.test)}
    for method in METHODS:
        net = by_method(method, WEIGHTS[method], student, few, seed, teacher, epochs)
        measured[method] = accuracy(net, data.test)
    return measured
