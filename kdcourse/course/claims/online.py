"""Which teacher? Claims about online distillation: mutual learning and the momentum teacher."""

from torch import nn

from kdcourse import models
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import IMAGES, OPTIONS, TOY, accuracy
from kdcourse.data import Images
from kdcourse.teachers import MomentumTeacher, mutual_learning
from kdcourse.teachers.mutual import UPDATES
from kdcourse.training import CrossEntropy, LogitKD, Objective, constant, fit

SEARCHED = ((1, 1), (1, 3), (4, 1), (4, 3))  # τ and λ


@claim(
    "mutual-search",
    notebook=5,
    statement="How much do updates, τ and λ matter in mutual learning? Mean validation accuracy of "
    "two res8 (seeds of their own).",
    reason="The next claim keeps the paper's τ = 1 and λ = 1 all the same.",
    toy=TOY,
)
def mutual_search(
    seed: int, *, images: int = IMAGES, epochs: int = 15, student: str = "res8"
) -> dict[str, float]:
    """Mean validation accuracy of two loners, and of two peers by updates, τ and λ."""
    data, seed = experiment.splits(), 1000 + seed
    few = data.train[:images]
    measured = {"alone": loners(student, few, seed, epochs, data.validation)}
    for updates in UPDATES:
        for temperature, weight in SEARCHED:
            objective = CrossEntropy() + weight * LogitKD(temperature)
            measured[f"{updates} tau={temperature} lambda={weight}"] = peers(
                student, few, seed, epochs, data.validation, objective, updates
            )
    return measured


def two(student: str, seed: int) -> list[nn.Module]:
    """Make two students."""
    return [models.by_name(student, seed=10 * seed + n) for n in range(2)]


def loners(student: str, images: Images, seed: int, epochs: int, test: Images) -> float:
    """Mean accuracy of two students that learn alone, from the same batches."""
    students = two(student, seed)
    for loner in students:
        fit(loner, images, epochs=epochs, seed=10 * seed, **OPTIONS)
    return sum(accuracy(loner, test) for loner in students) / 2


def peers(
    student: str,
    images: Images,
    seed: int,
    epochs: int,
    test: Images,
    objective: Objective,
    updates: str,
) -> float:
    """Mean accuracy of two students that learn from each other, and from the loners' batches."""
    students = two(student, seed)
    mutual_learning(
        students, images, objective, updates=updates, epochs=epochs, seed=10 * seed, **OPTIONS
    )
    return sum(accuracy(peer, test) for peer in students) / 2


@claim(
    "mutual",
    notebook=5,
    statement="Two students that distil from each other beat two that learn alone; no pretrained "
    "teacher is required.",
    effects=(
        Effect("test accuracy of two res8, mutual − alone", "alternating", "alone"),
        Effect("test accuracy of two res8, updated at once − alone", "simultaneous", "alone"),
    ),
    reason="The paper's τ = 1 and λ = 1; same initial weights and the same batches in both arms. "
    "Other settings may do as well or ruin it: see the search.",
    toy=TOY,
)
def mutual(
    seed: int, *, images: int = IMAGES, epochs: int = 15, student: str = "res8"
) -> dict[str, float]:
    """Mean test accuracy of loners and of peers, updated in turn and at once."""
    data = experiment.splits()
    few, test = data.train[:images], data.test
    objective = CrossEntropy() + LogitKD(1.0)
    return {
        "alone": loners(student, few, seed, epochs, test),
        **{u: peers(student, few, seed, epochs, test, objective, u) for u in UPDATES},
    }


@claim(
    "momentum",
    notebook=5,
    statement="The exponential moving average of the student generalises better than the student.",
    effects=(
        Effect("test accuracy at constant learning rate, average − student", "average", "student"),
    ),
    reason="At a constant rate the student never settles; the average does. A falling rate has "
    "the same effect, and then there is nothing left to average out.",
    toy=TOY,
)
def momentum(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 10,
    student: str = "res8",
    learning_rate: float = 0.05,
    decay: float = 0.98,
) -> dict[str, float]:
    """Test accuracy of a student and of its average, at a constant and at a falling rate."""
    data = experiment.splits()
    few = data.train[:images]
    measured = {}
    for suffix, schedule in (("", constant), (" falling", None)):
        net = models.by_name(student, seed=seed)
        average = MomentumTeacher(net, decay)
        fit(
            net,
            few,
            teacher=average,
            epochs=epochs,
            learning_rate=learning_rate,
            scheduler=schedule,
            seed=seed,
            **OPTIONS,
        )
        measured[f"student{suffix}"] = accuracy(net, data.test)
        measured[f"average{suffix}"] = accuracy(average, data.test)
    return measured
