"""Claims about logit distillation, and about what soft targets say beside the right answer."""

from collections.abc import Sequence

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from kdcourse import LogitKD, logit
from kdcourse.course.claims.claim import Bound, Effect, Measured, claims_of
from kdcourse.course.claims.experiment import IMAGES, TEMPERATURE, USUAL, Lab, labels_and_kd
from kdcourse.data import Images, replay
from kdcourse.metrics import recall
from kdcourse.objective import Outputs
from kdcourse.teachers import ClosedTeacher
from kdcourse.training import Teacher

claim = claims_of(notebook="2")


@claim(
    Bound("τ = 10⁶ against the uniform distribution", "hot", 1e-4),
    Bound("τ = 10⁻³ against zero/one on the largest logit", "cold", 1e-9),
    Bound("entropy never falls as τ rises", "fall of entropy", 1e-12),
    reason="Analytic: dividing logits by τ shrinks every margin by τ.",
    settings=dict(samples=64, classes=10),
)
def temperature(lab: Lab) -> Measured:
    """High temperature → uniform (low confidence); low temperature → zero/one."""
    shape = lab["samples"], lab["classes"]
    order = torch.rand(shape, generator=replay(lab.seed)).argsort(dim=1).double()
    logits = order + torch.rand(shape, generator=replay(lab.seed, 1)) / 2
    one_hot = nn.functional.one_hot(logits.argmax(dim=1), lab["classes"])
    softened = [logit.softmax(logits, tau) for tau in torch.logspace(-1, 2, 31).tolist()]
    entropies = lab.note(torch.stack([-torch.xlogy(p, p).sum(dim=1) for p in softened]))
    yield "hot", float((logit.softmax(logits, 1e6) - 1 / lab["classes"]).abs().max())
    yield "cold", float((logit.softmax(logits, 1e-3) - one_hot).abs().max())
    yield "fall of entropy", max(float(-entropies.diff(dim=0).min()), 0.0)


@claim(
    Bound("gradient of KL and of cross-entropy", "gradients", 1e-12),
    Bound("cross-entropy − KL against τ² × the teacher's entropy", "values", 1e-9),
    reason="Analytic: the teacher's entropy does not depend on the student.",
    settings=dict(samples=64, classes=10, temperature=4.0),
)
def same_gradient(lab: Lab) -> Measured:
    """The KD term −Σ p_T log p_S, called KL, is a cross-entropy: it has KL's gradient."""
    tau, shape = lab["temperature"], (2, lab["samples"], lab["classes"])
    student, teacher = torch.randn(shape, generator=replay(lab.seed), dtype=torch.float64)
    student.requires_grad_()
    teacher *= 3
    kl = logit.kd_loss(student, teacher, tau)
    cross = logit.kd_cross_entropy(student, teacher, tau)
    (of_kl,), (of_cross,) = (torch.autograd.grad(loss, student) for loss in (kl, cross))
    for seen in (kl, cross, of_kl, of_cross):
        lab.note(seen)
    p = logit.softmax(teacher, tau)
    entropy = -(p * p.log()).sum(dim=1).mean() * tau**2
    yield "gradients", float((of_kl - of_cross).abs().max())
    yield "values", float((cross - kl - entropy).detach().abs())


MAP_TEMPERATURES = (1, 2, 4, 8, 16)
MAP_WEIGHTS = (0.1, 0.3, 1, 3, 10)


@claim(
    reason="A broad plateau: with the factor τ², λ and τ can be chosen almost independently.",
    search=True,
    settings=USUAL | dict(student="plain8", teacher="res16"),
)
def temperature_weight(lab: Lab) -> Measured:
    """Which τ and λ? Validation accuracy over both (seeds of their own)."""
    yield "alone", lab.train()
    for tau in MAP_TEMPERATURES:
        for weight in MAP_WEIGHTS:
            yield f"tau={tau} lambda={weight}", lab.distil(labels_and_kd(weight, tau))


STUDENTS = ("plain4", "plain8", "res8")


@claim(
    *(
        Effect(f"test accuracy, distilled − alone ({s})", f"{s} distilled", f"{s} alone")
        for s in STUDENTS
    ),
    reason="Same images, same epochs, same initial weights: only the teacher's voice is added.",
    settings=USUAL | dict(teacher="res16", students=STUDENTS),
)
def kd_gain(lab: Lab) -> Measured:
    """A student trained by CE + λ · KD beats the same student trained on labels alone."""
    for name in lab["students"]:
        yield f"{name} alone", lab.train(student=name)
        yield f"{name} distilled", lab.distil(student=name)


CLOSED = (
    Effect("test accuracy, probabilities − alone", "probabilities", "alone"),
    Effect("test accuracy, rounded to 4 decimals − alone", "4 decimals", "alone"),
    Effect("test accuracy, top 3 only − alone", "top 3", "alone"),
    Effect("test accuracy, top 3 rounded to 2 decimals − alone", "top 3, 2 decimals", "alone"),
)


def few_of_those_the_teacher_saw(lab: Lab) -> Images:
    """As many images as the settings say, drawn from those that the teacher saw, class by class."""
    return lab.pool[:IMAGES].subset(lab["images"], seed=lab.seed, balanced=True)


@claim(
    *CLOSED,
    reason="500 images. Probabilities are logits up to a constant; even a few rounded ones teach.",
    settings=dict(images=500, epochs=40, batch_size=32, teacher="res16", student="plain8"),
    toy=dict(images=100),
)
def closed_weight(lab: Lab, images: Images | None = None) -> Measured:
    """Logit distillation needs no internals: it works on closed-weight models."""
    teachers = {
        "logits": lab.teacher,
        "probabilities": ClosedTeacher(lab.teacher),
        "4 decimals": ClosedTeacher(lab.teacher, decimals=4),
        "top 3": ClosedTeacher(lab.teacher, top_k=3),
        "top 3, 2 decimals": ClosedTeacher(lab.teacher, top_k=3, decimals=2),
    }
    return lab.taught(teachers, images or few_of_those_the_teacher_saw(lab))


@claim(
    *CLOSED,
    reason="The less a service shows, the less it adds to many labels.",
    settings=USUAL | dict(teacher="res16", student="plain8"),
)
def closed_weight_many(lab: Lab) -> Measured:
    """… and it still does when there are 4,000 labelled images."""
    return closed_weight(lab, lab.images)


class ScrambledTeacher(Teacher):
    """A teacher as sure as the real one, that has forgotten which classes are close.

    Its largest logit stays; the others are shuffled anew for every image (``"shuffled"``) or
    share their softened probability equally (``"uniform"``).
    """

    def __init__(self, model: nn.Module, how: str, seed: int):
        super().__init__()
        self.model = model
        self.how = how
        self.draw = replay(seed)

    @torch.no_grad()
    def show(self, inputs: Tensor, layers: Sequence[str] = ()) -> Outputs:
        """Show scrambled logits."""
        logits = self.model(inputs)
        order = logits.argsort(dim=1, descending=True)
        others = logits.gather(1, order[:, 1:])  # (N, K-1)
        if self.how == "shuffled":
            shuffle = torch.rand(others.shape, generator=self.draw).argsort(dim=1)
            others = others.gather(1, shuffle)
        else:
            mean = (others / TEMPERATURE).exp().mean(dim=1, keepdim=True).log()
            others = (mean * TEMPERATURE).expand_as(others)
        return Outputs(logits=logits.scatter(1, order[:, 1:], others))


@claim(
    Effect("test accuracy, true soft targets − labels alone", "true", "alone"),
    Effect("test accuracy, true − non-target classes shuffled", "true", "shuffled"),
    Effect("test accuracy, true − non-target classes uniform", "true", "uniform"),
    reason="500 images. Most of the gain is confidence, which the scrambled teachers keep; the "
    "rest is which classes are close.",
    settings=dict(
        images=500, epochs=40, batch_size=32, teacher="res16-augmented", student="plain8"
    ),
    toy=dict(images=100),
)
def dark_knowledge(lab: Lab, images: Images | None = None) -> Measured:
    """What is distilled is dark knowledge: which classes are close, besides confidence."""
    seen = images or few_of_those_the_teacher_saw(lab)
    scrambled = {
        how: ScrambledTeacher(lab.teacher, how, lab.seed) for how in ("shuffled", "uniform")
    }
    return lab.taught({"true": lab.teacher, **scrambled}, seen)


@claim(
    Effect("test accuracy, true − non-target classes shuffled", "true", "shuffled"),
    Effect("test accuracy, true − non-target classes uniform", "true", "uniform"),
    reason="With many labels, and a teacher that is sure of each of them, hardly anything is left "
    "to be told about close classes: what helps is the softness.",
    settings=USUAL | dict(teacher="res16", student="plain8"),
)
def dark_knowledge_many(lab: Lab) -> Measured:
    """… and it still counts when there are 4,000 labelled images."""
    return dark_knowledge(lab, lab.images)


@claim(
    Effect("recall of Ankle boot, distilled − labels", "boot distilled", "boot labels"),
    Effect("recall of Bag, distilled − labels", "bag distilled", "bag labels"),
    Effect("recall of Shirt, distilled − labels", "shirt distilled", "shirt labels"),
    reason="Both arms never see the class; in both, its bias is then raised until the mean "
    "predicted mass on their training images is 1/K.",
    settings=USUAL | dict(teacher="res16-augmented", student="plain8"),
)
def missing_class(lab: Lab) -> Measured:
    """A student that never saw a class still names it, from the teacher's doubts alone."""
    target = lab.judged.target
    for label, name in ((9, "boot"), (8, "bag"), (6, "shirt")):
        few = lab.images[lab.images.target != label]
        arms = {
            "labels": lab.train(images=few),
            "distilled": lab.distil(LogitKD(TEMPERATURE), images=few),
        }
        for arm, net in arms.items():
            logits, bias = lab.predict(net), missing_bias(lab.predict(net, few), label)
            yield f"{name} {arm}, no bias", 100 * recall(logits, target, label)
            logits[:, label] += bias
            yield f"{name} {arm}", 100 * recall(logits, target, label)


def missing_bias(logits: Tensor, label: int) -> float:
    """Find what to add to a class's logit to make its mean predicted mass 1/K."""

    def excess(bias: float) -> float:
        shifted = logits.double()
        shifted[:, label] += bias
        return float(shifted.softmax(dim=1)[:, label].mean()) - 1 / logits.shape[1]

    return float(brentq(excess, -50.0, 50.0))


@claim(
    Effect("test accuracy, distilled − alone, 100 images", "100 distilled", "100 alone"),
    Effect("test accuracy, distilled − alone, 500 images", "500 distilled", "500 alone"),
    Effect("gain with 100 images − gain with 4,000", "100 gain", "4000 gain"),
    Effect("gain with 500 images − gain with 4,000", "500 gain", "4000 gain"),
    reason="Both arms see the same few images; the teacher saw 4,000 labels.",
    settings=dict(
        sizes=((100, 100, 32), (500, 40, 32), (4000, 15, 128)), teacher="res16", student="plain8"
    ),
    toy=dict(sizes=((100, 1, 50), (500, 1, 250), (4000, 1, 2000))),  # two steps of each
)
def few_labels(lab: Lab) -> Measured:
    """Soft targets carry more per image than labels: the gain grows as images become fewer."""
    for size, epochs, batch_size in lab["sizes"]:
        few = lab.pool[:IMAGES].subset(size, seed=lab.seed, balanced=size < IMAGES)
        options = {"images": few, "epochs": epochs, "batch_size": batch_size}
        alone = lab.accuracy(lab.train(**options))
        distilled = lab.accuracy(lab.distil(**options))
        yield f"{size} alone", alone
        yield f"{size} distilled", distilled
        yield f"{size} gain", distilled - alone
