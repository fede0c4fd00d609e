"""Claims of the motivation: small nets lag behind, not for want of a good optimum."""

from typing import Any

from torch import nn

from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import (
    IMAGES,
    TEMPERATURE,
    TOY,
    accuracy,
    disagreement,
    distil,
    train,
    training_loss,
)
from kdcourse.data import Images
from kdcourse.metrics import predict
from kdcourse.training import CrossEntropy, LogitKD


@claim(
    "gap",
    notebook=1,
    statement="Small f is poorer than large f, though both are trained alike.",
    effects=(
        Effect("test accuracy, width 2 − width 1", "plain2", "plain1"),
        Effect("test accuracy, width 4 − width 2", "plain4", "plain2"),
        Effect("test accuracy, width 8 − width 4", "plain8", "plain4"),
        Effect("test accuracy, width 16 − width 8", "plain16", "plain8"),
    ),
    reason="Every doubling of the width buys accuracy, and each buys less than the one before.",
    toy=TOY,
)
def gap(seed: int, *, images: int = IMAGES, epochs: int = 15) -> dict[str, float]:
    """Test accuracy of plain nets by width, trained alike on labels."""
    data = experiment.splits()
    widths = (1, 2, 4, 8, 16)
    students = {
        f"plain{w}": train(f"plain{w}", data.train[:images], seed, epochs=epochs) for w in widths
    }
    return {name: accuracy(student, data.test) for name, student in students.items()}


EXISTENCE_STUDENTS = ("plain4", "plain8")
SEARCHED_ARMS = ("plain4 alone", "plain4 distilled", "plain8 alone", "plain8 distilled")
SEARCHED_RATES = (0.05, 0.1, 0.2, 0.4)
SEARCHED_WEIGHTS = (1, 2, 4)


@claim(
    "existence",
    notebook=1,
    statement=(
        "F_small has a good optimum after all: the distilled student, which lies in F_small, has a "
        "lower *training* loss than training on labels found, in the very loss that it minimised."
    ),
    effects=(
        Effect("training loss, alone − distilled (plain4)", "plain4 alone", "plain4 distilled"),
        Effect("training loss, alone − distilled (plain8)", "plain8 alone", "plain8 distilled"),
    ),
    reason="At the same learning rate the teacher leads to a better minimum of the labels' own "
    "loss. Whether only a teacher can do so is the next claim.",
    toy=TOY,
)
def existence(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    teacher: str = "res16",
    weight: float = 1.0,
) -> dict[str, float]:
    """Final cross-entropy with the training labels: trained alone, and distilled."""
    data = experiment.splits().train[:images]
    measured = {}
    for name in EXISTENCE_STUDENTS:
        alone = train(name, data, seed, epochs=epochs)
        distilled = distil(name, data, seed, teacher, weight=weight, epochs=epochs)
        measured[f"{name} alone"] = training_loss(alone, data)
        measured[f"{name} distilled"] = training_loss(distilled, data)
    return measured


@claim(
    "existence-search",
    notebook=1,
    statement=(
        "Search behind the next claim: labels alone at 4 learning rates × 3 loss weights, "
        "distilled at 4 learning rates × 3 values of λ (training loss, seeds of their own)."
    ),
    reason="Both arms get the best of twelve settings, chosen on the very loss they are judged by.",
    toy=TOY,
)
def existence_search(
    seed: int, *, images: int = IMAGES, epochs: int = 15, teacher: str = "res16"
) -> dict[str, float]:
    """Training loss by learning rate and weight, alone and distilled."""
    data = experiment.splits().train[:images]
    return {
        f"{student} rate={rate} weight={weight}": training_loss(
            existence_arm(student, 1000 + seed, rate, weight, data, teacher, epochs), data
        )
        for student in SEARCHED_ARMS
        for rate in SEARCHED_RATES
        for weight in SEARCHED_WEIGHTS
    }


def existence_arm(
    student: str,
    seed: int,
    rate: float,
    weight: float,
    data: Images,
    teacher: str,
    epochs: int,
) -> nn.Module:
    """Train ``"plain4 alone"``, say: the weight is that of the labels alone, or the teacher's λ."""
    name, arm = student.split()
    options: dict[str, Any] = {"epochs": epochs, "learning_rate": rate}
    if arm == "alone":
        return train(name, data, seed, weight * CrossEntropy(), **options)
    objective = CrossEntropy() + weight * LogitKD(TEMPERATURE)
    return train(name, data, seed, objective, teacher=experiment.teacher(teacher), **options)


# The best settings of the search, by the mean over its seeds: (learning rate, weight).
BEST = {
    "plain4 alone": (0.1, 4),
    "plain4 distilled": (0.2, 1),
    "plain8 alone": (0.4, 4),
    "plain8 distilled": (0.1, 1),
}


@claim(
    "existence-control",
    notebook=1,
    statement=(
        "… and only with a teacher is it found: the distilled student has the lower training loss "
        "even when both arms may choose the best of twelve settings."
    ),
    effects=(
        Effect(
            "training loss, alone − distilled, both tuned (plain4)",
            "plain4 alone",
            "plain4 distilled",
        ),
        Effect(
            "training loss, alone − distilled, both tuned (plain8)",
            "plain8 alone",
            "plain8 distilled",
        ),
    ),
    reason="Given a search of their own, labels alone find optima as low: F_small has them, and a "
    "teacher is not the only way there.",
    toy=TOY,
)
def existence_control(
    seed: int, *, images: int = IMAGES, epochs: int = 15, teacher: str = "res16"
) -> dict[str, float]:
    """Final training loss of both arms at their best settings."""
    data = experiment.splits().train[:images]
    return {
        student: training_loss(
            existence_arm(student, seed, rate, weight, data, teacher, epochs), data
        )
        for student, (rate, weight) in BEST.items()
    }


@claim(
    "regulariser",
    notebook=1,
    statement=(
        "The student is constrained to mimic the teacher: distilled students come closer to the "
        "teacher, and to each other, than students trained alone."
    ),
    effects=(
        Effect(
            "disagreement of two seeds, alone − distilled (plain4)",
            "plain4 seeds alone",
            "plain4 seeds distilled",
        ),
        Effect(
            "disagreement with the teacher, alone − distilled (plain4)",
            "plain4 teacher alone",
            "plain4 teacher distilled",
        ),
        Effect(
            "disagreement of two seeds, alone − distilled (plain8)",
            "plain8 seeds alone",
            "plain8 seeds distilled",
        ),
        Effect(
            "disagreement with the teacher, alone − distilled (plain8)",
            "plain8 teacher alone",
            "plain8 teacher distilled",
        ),
    ),
    reason="dist(f, f_large) leaves fewer functions to converge to.",
    toy=TOY,
)
def regulariser(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    teacher: str = "res16",
    students: tuple[str, ...] = ("plain4", "plain8"),
) -> dict[str, float]:
    """Share of test images, in percent, on which two seeds, or student and teacher, differ."""
    data = experiment.splits()
    few = data.train[:images]
    taught = predict(experiment.teacher(teacher), data.test)
    measured = {}
    for name in students:
        arms = {
            "alone": [train(name, few, s, epochs=epochs) for s in (seed, 500 + seed)],
            "distilled": [distil(name, few, s, teacher, epochs=epochs) for s in (seed, 500 + seed)],
        }
        for arm, pair in arms.items():
            first, second = (predict(student, data.test) for student in pair)
            measured[f"{name} seeds {arm}"] = disagreement(first, second)
            measured[f"{name} teacher {arm}"] = disagreement(first, taught)
    return measured
