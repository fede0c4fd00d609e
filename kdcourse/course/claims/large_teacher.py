"""Which teacher? Claims about size: too large a teacher, and the assistant."""

from kdcourse import logit, models
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import IMAGES, TEMPERATURE, WEIGHT, accuracy, train
from kdcourse.metrics import agreement, predict
from kdcourse.teachers import distill_through
from kdcourse.training import CrossEntropy, LogitKD

SIZES = ("res4", "res8", "res16", "res32", "res48")
LARGEST, MIDDLE = SIZES[-1], "res16"
EARLY = 5  # epochs of the early-stopped teacher


@claim(
    "too-large",
    notebook=5,
    statement="If the teacher is too large, KD does not work well: the regulariser is too strong "
    "for the small model to fit.",
    effects=(
        Effect("student's test accuracy, from res16 − from res48", "res16", "res48"),
        Effect(
            "student's disagreement with its teacher, res48 − res16",
            "res48 disagreement",
            "res16 disagreement",
        ),
    ),
    reason="A plain2 student (536 parameters), teachers trained alike on labels, fresh ones for "
    "every seed. From res16 on, larger teachers no longer help, but they do no harm: the student "
    "saturates. A teacher that was stopped early is no better.",
    toy={"images": 256, "epochs": 1, "sizes": ("res16", "res48"), "early": 1},
)
def too_large(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    early: int = EARLY,
    student: str = "plain2",
    sizes: tuple[str, ...] = SIZES,
) -> dict[str, float]:
    """Accuracy of teachers by size, of their students, and how far these are from them."""
    data = experiment.splits()
    few, test = data.train[:images], data.test
    measured = {"alone": accuracy(train(student, few, seed, epochs=epochs), test)}
    for name, size, so_long in (
        *((size, size, epochs) for size in sizes),
        (f"{sizes[-1]} early", sizes[-1], early),  # stopped early: the rival explanation
    ):
        teacher = train(size, few, 100 + seed, epochs=so_long)
        objective = CrossEntropy() + WEIGHT * LogitKD(TEMPERATURE)
        taught = train(student, few, seed, objective, teacher=teacher, epochs=epochs)
        theirs, own = predict(teacher, test), predict(taught, test)
        measured[name] = accuracy(taught, test)
        measured[f"{name} teacher"] = accuracy(teacher, test)
        measured[f"{name} disagreement"] = 100 * (1 - agreement(own, theirs))
        measured[f"{name} distance"] = float(logit.kd_loss(own, theirs, TEMPERATURE, scale=False))
    return measured


@claim(
    "assistant",
    notebook=5,
    statement="A teacher assistant of intermediate size bridges the gap: teacher → TA → student.",
    effects=(
        Effect("test accuracy, res32 → res8 → plain2 − res32 → plain2", "one", "direct"),
        Effect("test accuracy, res32 → res16 → res8 → plain2 − direct", "two", "direct"),
        Effect("test accuracy, taught assistant − untaught res8, as teachers", "one", "untaught"),
    ),
    reason="The gain through one assistant is within the noise of seeds. But the assistant that "
    "res32 taught is the better teacher than the same net trained on labels: it passes on what it "
    "was taught.",
    toy={"images": 256, "epochs": 1, "teacher_name": "res8", "chain": ("res4", "plain4")},
)
def assistant(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "plain2",
    teacher_name: str = "res32",
    chain: tuple[str, str] = ("res16", "res8"),
) -> dict[str, float]:
    """Test accuracy of a student taught directly, through one assistant and through two."""
    data = experiment.splits()
    few, test = data.train[:images], data.test
    teacher = train(teacher_name, few, 100 + seed, epochs=epochs)
    objective = CrossEntropy() + WEIGHT * LogitKD(TEMPERATURE)
    measured = {
        "alone": accuracy(train(student, few, seed, epochs=epochs), test),
        "teacher": accuracy(teacher, test),
    }
    for name, sizes in (("direct", ()), ("one", chain[1:]), ("two", chain)):
        assistants = [models.by_name(size, seed=200 + seed) for size in sizes]
        learner = models.by_name(student, seed=seed)
        distill_through(
            teacher,
            assistants,
            learner,
            few,
            objective,
            epochs=epochs,
            seed=seed,
            device="cpu",
            progress=False,
            on_interrupt="raise",
        )
        measured[name] = accuracy(learner, test)
        if assistants:
            measured[f"{name} assistant"] = accuracy(assistants[-1], test)
    untaught = train(chain[1], few, 200 + seed, epochs=epochs)
    by_untaught = train(student, few, seed, objective, teacher=untaught, epochs=epochs)
    measured["untaught"] = accuracy(by_untaught, test)
    return measured
