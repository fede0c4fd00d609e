"""Claims about logit distillation."""

from typing import Any

import torch

from kdcourse import logit
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Bound, Effect, claim
from kdcourse.course.claims.experiment import IMAGES, TOY, accuracy, distil, taught_arms, train
from kdcourse.data import Images, replay
from kdcourse.teachers import ClosedTeacher
from kdcourse.training import CrossEntropy, LogitKD


@claim(
    "temperature",
    notebook=2,
    statement="High temperature → uniform (low confidence); low temperature → zero/one.",
    bounds=(
        Bound("τ = 10⁶ against the uniform distribution", "hot", 1e-4),
        Bound("τ = 10⁻³ against zero/one on the largest logit", "cold", 1e-9),
        Bound("entropy never falls as τ rises", "fall of entropy", 1e-12),
    ),
    reason="Analytic: dividing logits by τ shrinks every margin by τ.",
)
def temperature(seed: int, *, samples: int = 64, classes: int = 10) -> dict[str, float]:
    """Deviation from the limits of the softened softmax, on logits with distinct entries."""
    order = torch.rand(samples, classes, generator=replay(seed)).argsort(dim=1).double()
    logits = order + torch.rand(samples, classes, generator=replay(seed, 1)) / 2
    one_hot = experiment.one_hot(logits.argmax(dim=1), classes)
    entropies = []
    for tau in torch.logspace(-1, 2, 31).tolist():
        p = logit.softmax(logits, tau)
        entropies.append(-torch.xlogy(p, p).sum(dim=1))
    falls = -(torch.stack(entropies).diff(dim=0)).min()
    return {
        "hot": float((logit.softmax(logits, 1e6) - 1 / classes).abs().max()),
        "cold": float((logit.softmax(logits, 1e-3) - one_hot).abs().max()),
        "fall of entropy": max(float(falls), 0.0),
    }


@claim(
    "same-gradient",
    notebook=2,
    statement="The KD term −Σ p_T log p_S, called KL, is a cross-entropy: it has KL's gradient.",
    bounds=(
        Bound("gradient of KL and of cross-entropy", "gradients", 1e-12),
        Bound("cross-entropy − KL against τ² × the teacher's entropy", "values", 1e-9),
    ),
    reason="Analytic: the teacher's entropy does not depend on the student.",
)
def same_gradient(
    seed: int, *, samples: int = 64, classes: int = 10, temperature: float = 4.0
) -> dict[str, float]:
    """Deviation between the two forms of the KD term, in float64."""
    draw = replay(seed)
    student = torch.randn(samples, classes, generator=draw, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(samples, classes, generator=draw, dtype=torch.float64) * 3
    kl = logit.kd_loss(student, teacher, temperature)
    cross = logit.kd_cross_entropy(student, teacher, temperature)
    (of_kl,), (of_cross,) = (torch.autograd.grad(loss, student) for loss in (kl, cross))
    p = logit.softmax(teacher, temperature)
    entropy = -(p * p.log()).sum(dim=1).mean() * temperature**2
    return {
        "gradients": float((of_kl - of_cross).abs().max()),
        "values": float((cross - kl - entropy).detach().abs()),
    }


MAP_TEMPERATURES = (1, 2, 4, 8, 16)
MAP_WEIGHTS = (0.1, 0.3, 1, 3, 10)


@claim(
    "temperature-weight",
    notebook=2,
    statement="Which τ and λ? Validation accuracy over both (seeds of their own).",
    reason="A broad plateau: with the factor τ², λ and τ can be chosen almost independently.",
    toy=TOY,
)
def temperature_weight(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "plain8",
    teacher: str = "res16",
) -> dict[str, float]:
    """Validation accuracy of ``CE + λ · KD`` by τ and λ, and of labels alone."""
    data = experiment.splits()
    few, seed = data.train[:images], 1000 + seed
    alone = train(student, few, seed, epochs=epochs)
    measured = {"alone": accuracy(alone, data.validation)}
    for tau in MAP_TEMPERATURES:
        for weight in MAP_WEIGHTS:
            distilled = train(
                student,
                few,
                seed,
                CrossEntropy() + weight * LogitKD(tau),
                teacher=experiment.teacher(teacher),
                epochs=epochs,
            )
            measured[f"tau={tau} lambda={weight}"] = accuracy(distilled, data.validation)
    return measured


@claim(
    "kd-gain",
    notebook=2,
    statement="A student trained by CE + λ · KD beats the same student trained on labels alone.",
    effects=(
        Effect("test accuracy, distilled − alone (plain4)", "plain4 distilled", "plain4 alone"),
        Effect("test accuracy, distilled − alone (plain8)", "plain8 distilled", "plain8 alone"),
        Effect("test accuracy, distilled − alone (res8)", "res8 distilled", "res8 alone"),
    ),
    reason="Same images, same epochs, same initial weights: only the teacher's voice is added.",
    toy=TOY,
)
def kd_gain(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    teacher: str = "res16",
    students: tuple[str, ...] = ("plain4", "plain8", "res8"),
) -> dict[str, float]:
    """Test accuracy of students trained alone and distilled."""
    data = experiment.splits()
    few = data.train[:images]
    measured = {}
    for name in students:
        measured[f"{name} alone"] = accuracy(train(name, few, seed, epochs=epochs), data.test)
        distilled = distil(name, few, seed, teacher, epochs=epochs)
        measured[f"{name} distilled"] = accuracy(distilled, data.test)
    return measured


@claim(
    "closed-weight",
    notebook=2,
    statement="Logit distillation needs no internals: it works on closed-weight models.",
    effects=(
        Effect("test accuracy, probabilities − alone", "probabilities", "alone"),
        Effect("test accuracy, rounded to 4 decimals − alone", "4 decimals", "alone"),
        Effect("test accuracy, top 3 only − alone", "top 3", "alone"),
        Effect("test accuracy, top 3 rounded to 2 decimals − alone", "top 3, 2 decimals", "alone"),
    ),
    reason="500 images. Probabilities are logits up to a constant; even a few rounded ones teach.",
    toy={"images": 100, "epochs": 1},
)
def closed_weight(
    seed: int,
    *,
    images: int = 500,
    epochs: int = 40,
    batch: int = 32,
    teacher: str = "res16",
    student: str = "plain8",
) -> dict[str, float]:
    """Test accuracy of students of an open and of ever more closed teachers, few images."""
    few = experiment.splits().train[:IMAGES].subset(images, seed=seed, balanced=True)
    return closed_arms(seed, few, teacher, student, epochs=epochs, batch_size=batch)


@claim(
    "closed-weight-many",
    notebook=2,
    statement="… and it still does when there are 4,000 labelled images.",
    effects=(
        Effect("test accuracy, probabilities − alone", "probabilities", "alone"),
        Effect("test accuracy, rounded to 4 decimals − alone", "4 decimals", "alone"),
        Effect("test accuracy, top 3 only − alone", "top 3", "alone"),
        Effect("test accuracy, top 3 rounded to 2 decimals − alone", "top 3, 2 decimals", "alone"),
    ),
    reason="The less a service shows, the less it adds to many labels.",
    toy=TOY,
)
def closed_weight_many(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    teacher: str = "res16",
    student: str = "plain8",
) -> dict[str, float]:
    """Test accuracy of students of an open and of ever more closed teachers, many images."""
    few = experiment.splits().train[:images]
    return closed_arms(seed, few, teacher, student, epochs=epochs)


def closed_arms(
    seed: int, few: Images, teacher: str, student: str, **options: Any
) -> dict[str, float]:
    """Test accuracy of a student alone, and by what its teacher shows."""
    test, model = experiment.splits().test, experiment.teacher(teacher)
    teachers = {
        "logits": model,
        "probabilities": ClosedTeacher(model),
        "4 decimals": ClosedTeacher(model, decimals=4),
        "top 3": ClosedTeacher(model, top_k=3),
        "top 3, 2 decimals": ClosedTeacher(model, top_k=3, decimals=2),
    }
    return taught_arms(seed, few, teachers, student, test, **options)
