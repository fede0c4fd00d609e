"""Claims about feature distillation: attention maps, hints, saliency."""

import torch
from torch import Tensor, nn

from kdcourse import (
    AttentionTransfer,
    CrossEntropy,
    FeatureHint,
    LogitKD,
    RKDAngle,
    RKDDistance,
    Saliency,
    feature,
    fit_in_stages,
)
from kdcourse.course.claims.claim import Effect, Measured, claims_of
from kdcourse.course.claims.experiment import IMAGES, TEMPERATURE, USUAL, Lab, labels_and_kd
from kdcourse.metrics import evaluation_mode
from kdcourse.models import capture
from kdcourse.objective import Objective

claim = claims_of(notebook=3)

STAGES = ("stage1", "stage2", "stage3")
SEEN = 500  # test images on which maps, gradients and distances are compared
GRID = (0.1, 0.3, 1, 3, 10)  # of every family's weight: the same budget
# The best of "pros-cons-search", by mean validation accuracy.
WEIGHTS = {"logit": 1, "attention": 1, "hint": 10, "saliency": 1, "relational": 3}


def dist(family: str) -> Objective:
    """Return the lecture's ``dist(f, f_large)`` of a family, for res8 and res16."""
    terms = {
        "logit": LogitKD(TEMPERATURE),
        "attention": AttentionTransfer(STAGES),
        "hint": FeatureHint("stage2", seed=0),  # the same projection for every seed
        "saliency": Saliency(),
        # 1 : 2 as the paper weighs them; the unit is ten times as large
        "relational": 10 * RKDDistance() + 20 * RKDAngle(),
    }
    return terms[family]


def by_family(lab: Lab, family: str, weight: float) -> nn.Module:
    """Train a student by ``CE + λ · dist``, with one family's dist."""
    return lab.distil(CrossEntropy() + weight * dist(family))


def attention_cosine(lab: Lab, student: nn.Module) -> float:
    """Mean cosine between the attention maps of student and teacher, over images and stages."""
    inputs = lab.judged[:SEEN].inputs()
    maps = []
    for net in (student, lab.teacher):
        with evaluation_mode(net), torch.no_grad(), capture(net, STAGES) as shown:
            net(inputs)
        maps.append([lab.note(feature.attention_map(shown[stage])) for stage in STAGES])
    return float(torch.stack([cosine(s, t) for s, t in zip(*maps, strict=True)]).mean())


def saliency_cosine(lab: Lab, student: nn.Module) -> float:
    """Mean cosine between the input gradients of student and teacher, over images."""
    seen = lab.judged[:SEEN]
    gradients = []
    for net in (student, lab.teacher):
        with evaluation_mode(net):
            gradient = feature.input_gradient(net, seen.inputs(), seen.target)
        gradients.append(lab.note(gradient.flatten(1)))
    return float(cosine(*gradients))


def cosine(rows: Tensor, others: Tensor) -> Tensor:
    """Mean cosine between rows; computed in float64, since a sure net's gradients are tiny."""
    return nn.functional.cosine_similarity(rows.double(), others.double(), eps=1e-300).mean()


SEARCHED_LAYERS = {"all stages": STAGES, "stages 2, 3": STAGES[1:], "stage 3": STAGES[2:]}
SEARCHED_WEIGHTS = (0.3, 1, 3)


@claim(
    "attention-search",
    statement="Which layers and which weight for attention? Validation accuracy of res8 from "
    "res16 (seeds of their own).",
    reason="The search behind the next claim.",
    search=True,
    settings=USUAL | dict(student="res8", teacher="res16"),
)
def attention_search(lab: Lab) -> Measured:
    """Validation accuracy by layers and weight of the attention term."""
    yield "alone", lab.accuracy(lab.train())
    for name, layers in SEARCHED_LAYERS.items():
        for weight in SEARCHED_WEIGHTS:
            taught = lab.distil(CrossEntropy() + weight * AttentionTransfer(layers))
            yield f"{name} {weight}", lab.accuracy(taught)


@claim(
    "attention",
    statement="Student and teacher are made to have similar activations, and that helps.",
    effects=(
        Effect(
            "cosine of attention maps with the teacher's, taught − alone",
            "attention maps",
            "alone maps",
            unit="",
        ),
        Effect("test accuracy, attention − alone", "attention", "alone"),
    ),
    reason="Maps of three stages, the lecture's norm: the best of the search. The gain is small "
    "against the spread of seeds, so it takes more than ten of them to see it.",
    settings=USUAL | dict(student="res8", teacher="res16", weight=WEIGHTS["attention"]),
)
def attention(lab: Lab) -> Measured:
    """Test accuracy and attention maps of a student alone and taught by attention."""
    nets = {"alone": lab.train(), "attention": by_family(lab, "attention", lab["weight"])}
    for arm, net in nets.items():
        yield arm, lab.accuracy(net)
        yield f"{arm} maps", attention_cosine(lab, net)


@claim(
    "hint",
    statement="Where sizes do not match, a projection (hint) and L2 still transfer features.",
    effects=(Effect("test accuracy, labels + hint − alone", "hint", "alone"),),
    reason="The middle stage, 16 channels projected to the teacher's 32, trained jointly.",
    settings=USUAL | dict(student="res8", teacher="res16", weight=WEIGHTS["hint"]),
)
def hint(lab: Lab) -> Measured:
    """Test accuracy of a student alone and with a hint."""
    yield "alone", lab.accuracy(lab.train())
    yield "hint", lab.accuracy(by_family(lab, "hint", lab["weight"]))


@claim(
    "hint-stages",
    statement="… and FitNets' two stages (first the hint, then the rest) beat joint training.",
    effects=(
        Effect("test accuracy, two stages − joint (labels)", "stages", "joint"),
        Effect("test accuracy, two stages − joint (labels + KD)", "stages KD", "joint KD"),
    ),
    reason="15 epochs in every arm: 15 jointly, or 5 of the hint and 10 of the rest.",
    settings=dict(
        images=IMAGES, epochs=(5, 10), student="res8", teacher="res16", weight=WEIGHTS["hint"]
    ),
    toy=dict(epochs=(1, 1)),
)
def hint_stages(lab: Lab) -> Measured:
    """Test accuracy of joint and two-stage training, with labels and with labels and KD."""
    before, after = lab["epochs"]
    for name, rest in (("", CrossEntropy()), (" KD", labels_and_kd())):
        joint = lab.distil(rest + lab["weight"] * dist("hint"), epochs=before + after)
        yield f"joint{name}", lab.accuracy(joint)
        staged, options = lab.net(), lab.options | {"hint_epochs": before, "epochs": after}
        hints = lab["weight"] * dist("hint")
        fit_in_stages(staged, lab.images, hints, rest, teacher=lab.teacher, **options)
        yield f"stages{name}", lab.accuracy(staged)


@claim(
    "saliency",
    statement="With input gradients matched, models make predictions based on similar pixels.",
    effects=(
        Effect(
            "cosine of input gradients with the teacher's, taught − alone",
            "saliency gradients",
            "alone gradients",
            unit="",
        ),
        Effect("test accuracy, saliency − alone", "saliency", "alone"),
    ),
    reason="Gradients of the true class's log-probability, compared on 500 test images.",
    settings=USUAL | dict(student="res8", teacher="res16", weight=WEIGHTS["saliency"]),
)
def saliency(lab: Lab) -> Measured:
    """Test accuracy and input gradients of a student alone and taught by saliency."""
    nets = {"alone": lab.train(), "saliency": by_family(lab, "saliency", lab["weight"])}
    for arm, net in nets.items():
        yield arm, lab.accuracy(net)
        yield f"{arm} gradients", saliency_cosine(lab, net)
