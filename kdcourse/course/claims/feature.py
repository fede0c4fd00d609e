"""Claims about feature distillation: attention maps, hints, saliency."""

import torch
from torch import Tensor, nn

from kdcourse import feature
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import IMAGES, TEMPERATURE, TOY, WEIGHT, accuracy, train
from kdcourse.course.claims.properties import SEEN, STAGES, WEIGHTS, by_family, dist
from kdcourse.data import Images
from kdcourse.metrics import evaluation_mode
from kdcourse.models import by_name, capture
from kdcourse.training import AttentionTransfer, CrossEntropy, LogitKD, fit_in_stages


def attention_cosine(student: nn.Module, teacher: nn.Module, images: Images) -> float:
    """Mean cosine between the attention maps of two nets, over images and stages."""
    maps = []
    for net in (student, teacher):
        with evaluation_mode(net), torch.no_grad(), capture(net, STAGES) as shown:
            net(images.inputs())
        maps.append([feature.attention_map(shown[stage]) for stage in STAGES])
    return float(torch.stack([cosine(s, t) for s, t in zip(*maps, strict=True)]).mean())


def saliency_cosine(student: nn.Module, teacher: nn.Module, images: Images) -> float:
    """Mean cosine between the input gradients of two nets, over images."""
    gradients = []
    for net in (student, teacher):
        with evaluation_mode(net):
            gradient = feature.input_gradient(net, images.inputs(), images.target)
        gradients.append(gradient.flatten(1))
    return float(cosine(*gradients))


def cosine(rows: Tensor, others: Tensor) -> Tensor:
    """Mean cosine between rows; computed in float64, since a sure net's gradients are tiny."""
    return nn.functional.cosine_similarity(rows.double(), others.double(), eps=1e-300).mean()


SEARCHED_LAYERS = {"all stages": STAGES, "stages 2, 3": STAGES[1:], "stage 3": STAGES[2:]}
SEARCHED_WEIGHTS = (0.3, 1, 3)


@claim(
    "attention-search",
    notebook=3,
    statement="Which layers and which weight for attention? Validation accuracy of res8 from "
    "res16 (seeds of their own).",
    reason="The search behind the next claim.",
    toy=TOY,
)
def attention_search(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "res8",
    teacher: str = "res16",
) -> dict[str, float]:
    """Validation accuracy by layers and weight of the attention term."""
    data, seed = experiment.splits(), 1000 + seed
    few = data.train[:images]
    measured = {"alone": accuracy(train(student, few, seed, epochs=epochs), data.validation)}
    for name, layers in SEARCHED_LAYERS.items():
        for weight in SEARCHED_WEIGHTS:
            objective = CrossEntropy() + weight * AttentionTransfer(layers)
            model = experiment.teacher(teacher)
            taught = train(student, few, seed, objective, teacher=model, epochs=epochs)
            measured[f"{name} {weight}"] = accuracy(taught, data.validation)
    return measured


@claim(
    "attention",
    notebook=3,
    statement="Student and teacher are made to have similar activations, and that helps.",
    effects=(
        Effect(
            "cosine of attention maps with the teacher's, taught − alone",
            "attention maps",
            "alone maps",
        ),
        Effect("test accuracy, attention − alone", "attention", "alone"),
    ),
    reason="Maps of three stages, the lecture's norm: the best of the search. The gain is small "
    "against the spread of seeds, so it takes more than ten of them to see it.",
    toy=TOY,
)
def attention(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "res8",
    teacher: str = "res16",
    weight: float = WEIGHTS["attention"],
) -> dict[str, float]:
    """Test accuracy and attention maps of a student alone and taught by attention."""
    data, model = experiment.splits(), experiment.teacher(teacher)
    few, seen = data.train[:images], data.test[:SEEN]
    alone = train(student, few, seed, epochs=epochs)
    taught = by_family("attention", weight, student, few, seed, teacher, epochs)
    return {
        "alone": accuracy(alone, data.test),
        "attention": accuracy(taught, data.test),
        "alone maps": attention_cosine(alone, model, seen),
        "attention maps": attention_cosine(taught, model, seen),
    }


@claim(
    "hint",
    notebook=3,
    statement="Where sizes do not match, a projection (hint) and L2 still transfer features.",
    effects=(Effect("test accuracy, labels + hint − alone", "hint", "alone"),),
    reason="The middle stage, 16 channels projected to the teacher's 32, trained jointly.",
    toy=TOY,
)
def hint(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "res8",
    teacher: str = "res16",
    weight: float = WEIGHTS["hint"],
) -> dict[str, float]:
    """Test accuracy of a student alone and with a hint."""
    data = experiment.splits()
    few = data.train[:images]
    taught = by_family("hint", weight, student, few, seed, teacher, epochs)
    return {
        "alone": accuracy(train(student, few, seed, epochs=epochs), data.test),
        "hint": accuracy(taught, data.test),
    }


@claim(
    "hint-stages",
    notebook=3,
    statement="… and FitNets' two stages (first the hint, then the rest) beat joint training.",
    effects=(
        Effect("test accuracy, two stages − joint (labels)", "stages", "joint"),
        Effect("test accuracy, two stages − joint (labels + KD)", "stages KD", "joint KD"),
    ),
    reason="15 epochs in every arm: 15 jointly, or 5 of the hint and 10 of the rest.",
    toy={"images": 256, "epochs": (1, 1)},
)
def hint_stages(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: tuple[int, int] = (5, 10),
    student: str = "res8",
    teacher: str = "res16",
    weight: float = WEIGHTS["hint"],
) -> dict[str, float]:
    """Test accuracy of joint and two-stage training, with labels and with labels and KD."""
    data, model = experiment.splits(), experiment.teacher(teacher)
    few = data.train[:images]
    measured = {}
    for name, kd in (("", False), (" KD", True)):
        rest = CrossEntropy() + WEIGHT * LogitKD(TEMPERATURE) if kd else CrossEntropy()
        joint = train(
            student, few, seed, rest + weight * dist("hint"), teacher=model, epochs=sum(epochs)
        )
        measured[f"joint{name}"] = accuracy(joint, data.test)
        staged = by_name(student, seed=seed)
        fit_in_stages(
            staged,
            few,
            weight * dist("hint"),
            rest,
            teacher=model,
            hint_epochs=epochs[0],
            epochs=epochs[1],
            seed=seed,
            device="cpu",
            progress=False,
            on_interrupt="raise",
        )
        measured[f"stages{name}"] = accuracy(staged, data.test)
    return measured


@claim(
    "saliency",
    notebook=3,
    statement="With input gradients matched, models make predictions based on similar pixels.",
    effects=(
        Effect(
            "cosine of input gradients with the teacher's, taught − alone",
            "saliency gradients",
            "alone gradients",
        ),
        Effect("test accuracy, saliency − alone", "saliency", "alone"),
    ),
    reason="Gradients of the true class's log-probability, compared on 500 test images.",
    toy=TOY,
)
def saliency(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "res8",
    teacher: str = "res16",
    weight: float = WEIGHTS["saliency"],
) -> dict[str, float]:
    """Test accuracy and input gradients of a student alone and taught by saliency."""
    data, model = experiment.splits(), experiment.teacher(teacher)
    few, seen = data.train[:images], data.test[:SEEN]
    alone = train(student, few, seed, epochs=epochs)
    taught = by_family("saliency", weight, student, few, seed, teacher, epochs)
    return {
        "alone": accuracy(alone, data.test),
        "saliency": accuracy(taught, data.test),
        "alone gradients": saliency_cosine(alone, model, seen),
        "saliency gradients": saliency_cosine(taught, model, seen),
    }
