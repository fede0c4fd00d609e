"""Claims of the motivation: small nets lag behind, not for want of a good optimum."""

from kdcourse.claims import experiment
from kdcourse.claims.claim import Effect, claim
from kdcourse.claims.experiment import (
    IMAGES,
    accuracy,
    disagreement,
    distil,
    train,
    training_loss,
)
from kdcourse.metrics import predict
from kdcourse.training import CrossEntropy

TOY = {"images": 256, "epochs": 1}


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


SEARCHED_RATES = (0.05, 0.1, 0.2, 0.4)
SEARCHED_WEIGHTS = (1, 2, 4)


@claim(
    "existence-search",
    notebook=1,
    statement=(
        "Search for the strongest rival of the next claim: labels alone, at several learning rates "
        "and loss weights (final training loss, seeds of their own)."
    ),
    reason="The rival gets the best of twelve settings, chosen on the very loss it is judged by.",
    toy=TOY,
)
def existence_search(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    students: tuple[str, ...] = ("plain2", "plain4", "plain8"),
) -> dict[str, float]:
    """Training loss of labels alone by learning rate and weight of the loss."""
    data = experiment.splits().train[:images]
    measured = {}
    for name in students:
        for rate in SEARCHED_RATES:
            for weight in SEARCHED_WEIGHTS:
                student = train(
                    name,
                    data,
                    1000 + seed,
                    weight * CrossEntropy(),
                    epochs=epochs,
                    learning_rate=rate,
                )
                measured[f"{name} rate={rate} weight={weight}"] = training_loss(student, data)
    return measured


# The best settings of the search above, by the mean of its seeds: (learning rate, loss weight).
BEST_ALONE = {"plain2": (0.1, 1), "plain4": (0.1, 1), "plain8": (0.1, 1)}


@claim(
    "existence",
    notebook=1,
    statement=(
        "F_small does hold a good optimum: the distilled student lies in F_small and has the lower "
        "*training* loss, in the very loss that training alone minimises."
    ),
    effects=(
        Effect("training loss, alone − distilled (plain2)", "plain2 alone", "plain2 distilled"),
        Effect("training loss, alone − distilled (plain4)", "plain4 alone", "plain4 distilled"),
        Effect("training loss, alone − distilled (plain8)", "plain8 alone", "plain8 distilled"),
        Effect("… against the best of 12 settings (plain2)", "plain2 tuned", "plain2 distilled"),
        Effect("… against the best of 12 settings (plain4)", "plain4 tuned", "plain4 distilled"),
        Effect("… against the best of 12 settings (plain8)", "plain8 tuned", "plain8 distilled"),
    ),
    reason="The teacher's soft targets lead to a better minimum of the labels' own loss.",
    toy=TOY,
)
def existence(
    seed: int, *, images: int = IMAGES, epochs: int = 15, teacher: str = "res16"
) -> dict[str, float]:
    """Final training cross-entropy: labels alone, labels at their best settings, distilled."""
    data = experiment.splits().train[:images]
    measured = {}
    for name, (rate, weight) in BEST_ALONE.items():
        alone = train(name, data, seed, epochs=epochs)
        tuned = train(name, data, seed, weight * CrossEntropy(), epochs=epochs, learning_rate=rate)
        distilled = distil(name, data, seed, teacher, epochs=epochs)
        measured[f"{name} alone"] = training_loss(alone, data)
        measured[f"{name} tuned"] = training_loss(tuned, data)
        measured[f"{name} distilled"] = training_loss(distilled, data)
    return measured


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
