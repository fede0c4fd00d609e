"""Claims about feature distillation: attention maps, hints, saliency."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdcourse import CrossEntropy, LogitKD, feature, fit_in_stages, relational
from kdcourse.course.claims.claim import Effect, Measured, claims_of
from kdcourse.course.claims.experiment import TEMPERATURE, USUAL, Lab, labels_and_kd
from kdcourse.data import Images
from kdcourse.models import capture
from kdcourse.modes import evaluation_mode
from kdcourse.objective import Objective

claim = claims_of(notebook="3")

STAGES = ("stage1", "stage2", "stage3")
BLOCK = 4  # pixels, high and wide
SEEN = 500  # test images on which maps, gradients and distances are compared
GRID = (0.1, 0.3, 1, 3, 10)  # of every family's weight: the same budget
# The best of "pros-cons-search", by mean validation accuracy.
WEIGHTS = {"logit": 1, "attention": 1, "hint": 10, "saliency": 1, "relational": 3}


def dist(family: str) -> Objective:
    """Return the lecture's ``dist(f, f_large)`` of a family, for res8 and res16."""
    terms = {
        "logit": LogitKD(TEMPERATURE),
        "attention": feature.AttentionTransfer(STAGES),
        "hint": feature.FeatureHint("stage2", seed=0),  # the same projection for every seed
        "saliency": feature.Saliency(),
        # 1 : 2 as the paper weighs them; the unit is ten times as large
        "relational": 10 * relational.RKDDistance() + 20 * relational.RKDAngle(),
    }
    return terms[family]


def by_family(lab: Lab, family: str, weight: float) -> nn.Module:
    """Train a student by ``CE + λ · dist``, with one family's dist."""
    return lab.distil(CrossEntropy() + weight * dist(family))


def closer(what: str, family: str, name: str) -> Effect:
    """Say that a student taught by a family is closer to its teacher than one trained alone."""
    label = f"{what} with the teacher's, taught − alone"
    return Effect(label, f"{family} {name}", f"alone {name}", unit="")


def attention_maps(net: nn.Module, images: Images) -> list[Tensor]:
    """Attention maps of three stages, ``(N, H, W)``."""
    with torch.no_grad(), evaluation_mode(net), capture(net, STAGES) as shown:
        net(images.inputs())
    layers = [shown[stage] for stage in STAGES]
    return [feature.attention_map(a).unflatten(1, a.shape[-2:]) for a in layers]


def gradients(net: nn.Module, images: Images) -> list[Tensor]:
    """Input gradients of the true class's log-probability, ``(N, C, H, W)``."""
    with evaluation_mode(net):
        return [feature.input_gradient(net, images.inputs(), images.target)]


def looks(net: nn.Module, images: Images) -> dict[str, Tensor]:
    """Where a net looks, ``(N, H, W)``: attention maps by stage, and saliency in blocks of pixels.

    Gradients of single pixels are noise to the eye; a block shows their mean size.
    """
    (gradient,) = gradients(net, images)
    blocks = nn.functional.avg_pool2d(gradient.abs().amax(dim=1), BLOCK)
    return dict(zip(STAGES, attention_maps(net, images), strict=True)) | {"saliency": blocks}


def likeness(maps: list[Tensor], others: list[Tensor]) -> float:
    """Return the mean cosine between two nets' maps of the same images, ``(N, …)``, over layers."""
    cosines = [
        # In float64, since a sure net's gradients are tiny.
        nn.functional.cosine_similarity(a.flatten(1).double(), b.flatten(1).double(), eps=1e-300)
        for a, b in zip(maps, others, strict=True)
    ]
    return float(torch.stack(cosines).mean())


def alone_and_taught(
    lab: Lab, family: str, what: str, look: Callable[[nn.Module, Images], list[Tensor]]
) -> Measured:
    """Students alone and taught by a family, and their mean cosine with the teacher at a look."""

    def seen(net: nn.Module) -> list[Tensor]:
        return [lab.note(maps) for maps in look(net, lab.judged[:SEEN])]

    nets = {"alone": lab.train(), family: by_family(lab, family, lab["weight"])}
    for arm, net in nets.items():
        yield arm, net
        yield f"{arm} {what}", likeness(seen(net), seen(lab.teacher))


@claim(
    reason="The search behind the next claim.",
    search=True,
    settings=USUAL | dict(student="res8", teacher="res16"),
)
def attention_search(lab: Lab) -> Measured:
    """Which layers and which weight for attention? Validation accuracy of res8 from res16 (seeds of
    their own).
    """
    yield "alone", lab.train()
    searched = {"all stages": STAGES, "stages 2, 3": STAGES[1:], "stage 3": STAGES[2:]}
    for name, layers in searched.items():
        for weight in (0.3, 1, 3):
            objective = CrossEntropy() + weight * feature.AttentionTransfer(layers)
            yield f"{name} {weight}", lab.distil(objective)


@claim(
    closer("cosine of attention maps", "attention", "maps"),
    Effect("test accuracy, attention − alone", "attention", "alone"),
    reason="Maps of three stages, the lecture's norm: the best of the search. The gain is small "
    "against the spread of seeds, so it takes more than ten of them to see it.",
    settings=USUAL | dict(student="res8", teacher="res16", weight=WEIGHTS["attention"]),
)
def attention(lab: Lab) -> Measured:
    """Student and teacher are made to have similar activations, and that helps."""
    return alone_and_taught(lab, "attention", "maps", attention_maps)


@claim(
    Effect("test accuracy, labels + hint − alone", "hint", "alone"),
    reason="The middle stage, 16 channels projected to the teacher's 32, trained jointly.",
    settings=USUAL | dict(student="res8", teacher="res16", weight=WEIGHTS["hint"]),
)
def hint(lab: Lab) -> Measured:
    """Where sizes do not match, a projection (hint) and L2 still transfer features."""
    yield "alone", lab.train()
    yield "hint", by_family(lab, "hint", lab["weight"])


@claim(
    Effect("test accuracy, two stages − joint (labels)", "stages", "joint"),
    Effect("test accuracy, two stages − joint (labels + KD)", "stages KD", "joint KD"),
    reason="15 epochs in every arm: 15 jointly, or 5 of the hint and 10 of the rest.",
    settings=USUAL | dict(epochs=(5, 10), student="res8", teacher="res16", weight=WEIGHTS["hint"]),
    toy=dict(epochs=(1, 1)),
)
def hint_stages(lab: Lab) -> Measured:
    """… and FitNets' two stages (first the hint, then the rest) beat joint training."""
    before, after = lab["epochs"]
    for name, rest in (("", CrossEntropy()), (" KD", labels_and_kd())):
        joint = rest + lab["weight"] * dist("hint")
        yield f"joint{name}", lab.distil(joint, epochs=before + after)
        staged, options = lab.net(), lab.options | {"hint_epochs": before, "epochs": after}
        hints = lab["weight"] * dist("hint")
        fit_in_stages(staged, lab.images, hints, rest, teacher=lab.teacher, **options)
        yield f"stages{name}", staged


@claim(
    closer("cosine of input gradients", "saliency", "gradients"),
    Effect("test accuracy, saliency − alone", "saliency", "alone"),
    reason="Gradients of the true class's log-probability, compared on 500 test images.",
    settings=USUAL | dict(student="res8", teacher="res16", weight=WEIGHTS["saliency"]),
)
def saliency(lab: Lab) -> Measured:
    """With input gradients matched, models make predictions based on similar pixels."""
    return alone_and_taught(lab, "saliency", "gradients", gradients)
