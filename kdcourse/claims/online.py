"""Which teacher? Claims about online distillation: mutual learning and the momentum teacher."""

from kdcourse import models
from kdcourse.claims import experiment
from kdcourse.claims.claim import Effect, claim
from kdcourse.claims.experiment import IMAGES, OPTIONS, TOY, accuracy
from kdcourse.teachers import MomentumTeacher, mutual_learning
from kdcourse.training import constant, fit


@claim(
    "mutual",
    notebook=5,
    statement="Two students that distil from each other beat two that learn alone; no pretrained "
    "teacher is required.",
    effects=(Effect("test accuracy of two res8, mutual − alone", "mutual", "alone"),),
    reason="The paper's settings (alternating updates, τ = 1), same initial weights and the same "
    "batches in both arms: two res8 that see 4,000 images gain nothing from each other.",
    toy=TOY,
)
def mutual(
    seed: int, *, images: int = IMAGES, epochs: int = 15, student: str = "res8", peers: int = 2
) -> dict[str, float]:
    """Mean test accuracy of loners and of peers, updated in turn and at once."""
    data = experiment.splits()
    few = data.train[:images]
    seeds = [10 * seed + n for n in range(peers)]
    loners = []
    for one in seeds:  # the same batches as the peers, which see one order
        loner = models.by_name(student, seed=one)
        fit(loner, few, epochs=epochs, seed=10 * seed, **OPTIONS)
        loners.append(accuracy(loner, data.test))
    measured = {"alone": sum(loners) / peers}
    for name, updates in (("mutual", "alternating"), ("mutual at once", "simultaneous")):
        students = [models.by_name(student, seed=one) for one in seeds]
        mutual_learning(students, few, updates=updates, epochs=epochs, seed=10 * seed, **OPTIONS)
        measured[name] = sum(accuracy(s, data.test) for s in students) / peers
    return measured


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
