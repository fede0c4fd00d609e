"""Claims about teachers that learn along, and dense ones of compressed models."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdcourse import CrossEntropy, LogitKD, teachers
from kdcourse.augmentation import Compose, Flip, Noise, PadCrop, crop_flip
from kdcourse.course.claims.claim import Effect, Measured, claims_of
from kdcourse.course.claims.experiment import (
    IMAGES,
    TEMPERATURE,
    USUAL,
    Lab,
    labels_and_kd,
)
from kdcourse.data import Images, replay
from kdcourse.objective import Objective
from kdcourse.teachers.mutual import UPDATES
from kdcourse.tips import Independent
from kdcourse.training import constant

claim = claims_of(notebook="5b")


@claim(
    reason="The next claim keeps the paper's τ = 1 and λ = 1 all the same.",
    search=True,
    settings=USUAL | dict(student="res8"),
)
def mutual_search(lab: Lab) -> Measured:
    """How much do updates, τ and λ matter in mutual learning? Mean validation accuracy of two res8
    (seeds of their own).
    """
    yield "alone", loners(lab)
    for updates in UPDATES:
        for temperature, weight in ((1, 1), (1, 3), (4, 1), (4, 3)):
            mean = peers(lab, labels_and_kd(weight, temperature), updates)
            yield f"{updates} tau={temperature} lambda={weight}", mean


def two(lab: Lab) -> list[nn.Module]:
    """Make two students."""
    return [lab.net(seed=10 * lab.seed + n) for n in range(2)]


def loners(lab: Lab) -> float:
    """Mean accuracy of two students that learn alone, from the same batches."""
    return sum(lab.accuracy(lab.fit(student, seed=10 * lab.seed)) for student in two(lab)) / 2


def peers(lab: Lab, objective: Objective, updates: str) -> float:
    """Mean accuracy of two students that learn from each other, and from the loners' batches."""
    students, options = two(lab), lab.options | {"seed": 10 * lab.seed, "updates": updates}
    teachers.mutual_learning(students, lab.images, objective, **options)
    return sum(lab.accuracy(peer) for peer in students) / 2


@claim(
    Effect("test accuracy of two res8, mutual − alone", "alternating", "alone"),
    Effect("test accuracy of two res8, updated at once − alone", "simultaneous", "alone"),
    reason="The paper's τ = 1 and λ = 1; same initial weights and the same batches in both arms. "
    "Other settings may do as well or ruin it: see the search.",
    settings=USUAL | dict(student="res8"),
)
def mutual(lab: Lab) -> Measured:
    """Two students that distil from each other beat two that learn alone; no pretrained teacher is
    required.
    """
    yield "alone", loners(lab)
    for updates in UPDATES:
        yield updates, peers(lab, CrossEntropy() + LogitKD(1.0), updates)


@claim(
    Effect("test accuracy at constant learning rate, average − student", "average", "student"),
    reason="At a constant rate the student never settles; the average does. A falling rate has "
    "most of that effect, and then there is nothing left to average out.",
    settings=USUAL | dict(epochs=10, student="res8", learning_rate=0.05, decay=0.98),
)
def momentum(lab: Lab) -> Measured:
    """The exponential moving average of the student generalises better than the student."""
    for suffix, schedule in (("", constant), (" falling", None)):
        student = lab.net()
        average = teachers.MomentumTeacher(student, lab["decay"])
        lab.fit(student, teacher=average, scheduler=schedule)
        yield f"student{suffix}", student
        yield f"average{suffix}", average


NOISE = Compose(PadCrop(2), Flip(), Noise(0.1))
LABELS = 100


def labelled(lab: Lab) -> Images:
    """The few images with labels."""
    return lab.pool.subset(lab["labels"], seed=lab.seed, balanced=True)


def by_labels(lab: Lab, epochs: int) -> nn.Module:
    """Train a student on the labelled images alone."""
    return lab.train(images=labelled(lab), augment=NOISE, epochs=epochs, batch_size=32)


def consistent(lab: Lab, start: nn.Module, weight: float) -> nn.Module:
    """Go on from a student: agree with one's average on other images, under other noise.

    A fifth of every batch, on average, has labels. Returns the average.
    """
    few, mixed = labelled(lab), lab.images.unlabelled()
    for _ in range(len(lab.images) // (4 * len(few))):
        mixed = mixed + few
    student = copy.deepcopy(start)
    average = teachers.MomentumTeacher(student, 0.99)
    objective = CrossEntropy() + weight * LogitKD(1.0)
    views = Independent(NOISE)
    lab.fit(student, objective, mixed, teacher=average, views=views, learning_rate=0.03)
    return average.model


@claim(
    reason="The search behind the next claim.",
    search=True,
    settings=USUAL | dict(longest=600, labels=LABELS, student="res8"),
    toy=dict(images=128, labels=10, longest=1),
)
def mean_teacher_search(lab: Lab) -> Measured:
    """How long on labels alone, and which λ for Mean Teacher? Validation accuracy of res8 with 100
    labels (seeds of their own).
    """
    alone = {n: by_labels(lab, min(n, lab["longest"])) for n in (150, 300, 450, 600)}
    for epochs, net in alone.items():
        yield f"labels epochs={epochs}", net
    for weight in (1, 3, 10):
        yield f"average lambda={weight}", consistent(lab, alone[300], weight)


@claim(
    Effect("test accuracy with 100 labels, average − labels alone", "average", "labels"),
    Effect("test accuracy with 100 labels, average − labels as long", "average", "longer"),
    reason="It beats the student that it starts from. Against one that went on learning from the "
    "labels for as many steps, these seeds do not tell.",
    settings=USUAL | dict(before=300, longer=450, weight=3, labels=LABELS, student="res8"),
    toy=dict(images=128, labels=10, before=1, longer=1),
)
def mean_teacher(lab: Lab) -> Measured:
    """… applied together with noise: where labels are few, agreeing with one's average under other
    noise makes use of images without labels (Mean Teacher).
    """
    start = by_labels(lab, lab["before"])
    yield "labels", start
    yield "longer", by_labels(lab, lab["longer"])
    yield "average", consistent(lab, start, lab["weight"])


@claim(
    Effect("5-NN accuracy, self-supervised − random weights", "self-supervised", "random"),
    Effect("what a prediction tells, % of log K, both − no centring", "told", "uncentred told"),
    Effect("what a prediction tells, % of log K, both − no sharpening", "told", "unsharpened told"),
    reason="res8, 4,000 images without labels, in the style of DINO. Without centring it collapses "
    "to one output, without sharpening to all outputs alike. Features learned from labels remain "
    "far ahead.",
    settings=USUAL | dict(epochs=20, student="res8"),
)
def self_supervised(lab: Lab) -> Measured:
    """The momentum teacher is applied together with noise for self-supervised learning."""
    yield "random", lab.neighbours(lab.net(), 5)
    yield "supervised", lab.neighbours(lab.train(), 5)
    arms: dict[str, dict[str, Any]] = {
        "": {"centre_momentum": 0.5},
        "uncentred ": {"centre_momentum": 1.0},
        "unsharpened ": {"centre_momentum": 0.5, "teacher_temperature": 0.1},
    }
    for name, settings in arms.items():
        dist = teachers.SelfDistillation(**settings)
        net = teachers.self_distill(
            lab.net(), lab.images, augment=crop_flip(), dist=dist, **lab.options
        )
        said = teachers.spread(dist.sharpened(lab.predict(net)))
        yield f"{name}self-supervised", lab.neighbours(net, 5)
        yield f"{name}told", 100 * said.share


def retrained(lab: Lab, dense: nn.Module, compressed: Mapping[str, nn.Module]) -> Measured:
    """Compressed models as they are, retrained on labels, and taught by the dense one.

    With the non-zero parameters and the size of each, and of the dense model.
    """
    options = {"epochs": lab["retraining"], "learning_rate": 0.02}
    yield "dense", dense
    yield from cost("dense", dense)
    for name, model in compressed.items():
        taught = copy.deepcopy(model)
        yield f"{name} untrained", model
        yield f"{name} labels", lab.fit(model, **options)
        yield f"{name} taught", lab.fit(taught, labels_and_kd(), teacher=dense, **options)
        yield from cost(name, taught)


def cost(name: str, model: nn.Module) -> Measured:
    """Non-zero parameters and kilobytes on disk."""
    yield f"{name} parameters", teachers.count_nonzero(model)
    yield f"{name} kilobytes", teachers.size_on_disk(model) / 1000


@claim(
    Effect("test accuracy at 90 % sparsity, taught − labels", "90 % taught", "90 % labels"),
    Effect("test accuracy at 97 % sparsity, taught − labels", "97 % taught", "97 % labels"),
    Effect("test accuracy at half the width, taught − labels", "width taught", "width labels"),
    reason="res16, trained anew for every seed, pruned by magnitude and retrained for 5 epochs at "
    "a fifth of the learning rate.",
    settings=USUAL | dict(retraining=5, student="res16"),
    toy=dict(retraining=1, student="res4"),
)
def pruned(lab: Lab) -> Measured:
    """Use dense models as teachers to retrain pruned models."""
    dense = lab.train()
    small = {
        "90 %": teachers.prune(dense, 0.9),
        "97 %": teachers.prune(dense, 0.97),
        "width": teachers.prune_width(dense, lab.images[:2].inputs(), 0.5),
    }
    return retrained(lab, dense, small)


@claim(
    Effect("test accuracy at 2-bit weights, taught − labels", "2 bits taught", "2 bits labels"),
    reason="Weights of 2 bits take three values. At 8 and 4 bits hardly anything is lost, so "
    "there is hardly anything for a teacher to bring back.",
    settings=USUAL | dict(retraining=5, student="res16"),
    toy=dict(retraining=1, student="res4"),
)
def quantized(lab: Lab) -> Measured:
    """… and quantised ones."""
    dense = lab.train()
    small = {f"{bits} bits": teachers.quantize(dense, bits) for bits in (8, 4, 2)}
    small["90 % and 4 bits"] = teachers.quantize(teachers.prune(dense, 0.9), 4)
    return retrained(lab, dense, small)


def shifted(images: Images, contrast: float, noise: float, seed: int) -> Images:
    """Return images as another camera might see them: less contrast, more noise."""
    dull = (images.pixels.float() * contrast).round().to(torch.uint8)
    return replace(images, pixels=Noise(noise)(dull, replay(seed)))


@claim(
    Effect("test accuracy, KD from corrected − from original teacher", "corrected", "original"),
    Effect("test accuracy, KD while the teacher is corrected − original", "online", "original"),
    Effect("test accuracy, KD from corrected teacher − labels alone", "corrected", "labels"),
    reason="The distillation data are other images, at half the contrast and with noise. No label "
    "but through the teacher, as in the report.",
    settings=USUAL | dict(correction=5, contrast=0.5, noise=0.1, teacher="res16", student="res8"),
    toy=dict(correction=1),
)
def correction(lab: Lab) -> Measured:
    """Teacher correction: if the original training data is unavailable, fine-tuning the teacher on
    the distillation data is desirable.
    """
    shift, original = (lab["contrast"], lab["noise"]), lab.teacher
    others = shifted(lab.pool[IMAGES : IMAGES + lab["images"]], *shift, 2 * lab.seed)
    test = shifted(lab.judged, *shift, 2 * lab.seed + 1)
    corrected = teachers.correct(original, others, **lab.options | {"epochs": lab["correction"]})
    online, kd = lab.net(), LogitKD(TEMPERATURE)
    learning, _ = teachers.correct_online(original, online, others, kd, **lab.options)
    nets = {
        "teacher": original,
        "corrected teacher": corrected,
        "online teacher": learning,
        "labels": lab.train(images=others),
        "original": lab.distil(kd, images=others),
        "corrected": lab.distil(kd, corrected, images=others),
        "original, labels": lab.distil(images=others),
        "corrected, labels": lab.distil(teacher=corrected, images=others),
        "online": online,
    }
    for name, net in nets.items():
        yield name, lab.accuracy(net, test)
