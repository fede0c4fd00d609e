"""Losses of other libraries, each as a function of student, teacher and temperature.

A library is imported when one of its losses is asked for. What is said of a loss says nothing
against it: another convention is a convention, and which one it is should be known.
"""

import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class ForeignLoss:
    """A loss of another library.

    Attributes:
        library: The name of the library's distribution.
        written: How it is made, in the library's own words.
        like: The loss of ours that it is compared with, as for :func:`kdcourse.check`.
        make: Imports the library, and returns the loss as a function that can be checked.
    """

    library: str
    written: str
    like: str
    make: Callable[[], Loss]


def _torch(**options: Any) -> Loss:
    kl = nn.KLDivLoss(**options)
    return lambda student, teacher: kl(student.log_softmax(1), teacher.softmax(1))


def _torchdistill(name: str, shows: Callable = lambda one: one, **options: Any) -> Loss:
    """Return a loss that finds by a path what it compares, in dictionaries of what nets put out."""
    kind = getattr(importlib.import_module("torchdistill.losses.mid_level"), name)
    parameters = inspect.signature(kind).parameters
    told = {key: "output" for key in parameters if key.endswith("_io")}
    told |= {key: "layer" for key in parameters if key.endswith("_path")}
    tau = next((key for key in ("temperature", "tau") if key in parameters), None)

    def loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        more = {tau: temperature} if tau else {}
        own, theirs = ({"layer": {"output": one}} for one in (shows(student), teacher))
        return kind(**told, **options, **more)(own, theirs)

    return loss if tau else lambda student, teacher: loss(student, teacher, 1.0)


def _with_labels(name: str, **options: Any) -> Loss:
    """Return what a loss adds to the cross-entropy where it is given labels."""
    kind = getattr(importlib.import_module("torchdistill.losses.mid_level"), name)

    def loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        labels = torch.zeros(len(student)).long()
        own, theirs = ({"layer": {"output": one}} for one in (student, teacher))
        made = kind(*("layer", "output") * 2, temperature, alpha=1.0, **options)
        return made(own, theirs, labels) - nn.functional.cross_entropy(student, labels)

    return loss


LAYER = {"io": "output", "path": "layer"}
PAIRS = {"pair": {"student": LAYER, "teacher": LAYER}}


class _Shows(nn.Module):
    """A net that has put out what it is given, for tasks that ask nets themselves."""

    num_classes, in_chans = 2, 3
    pretrained_cfg: ClassVar = {"mean": (0.0,) * 3, "std": (1.0,) * 3}

    def __init__(self, shown: Any):
        super().__init__()
        self.shown = shown

    def forward(self, inputs: Tensor) -> Any:
        return self.shown

    def set_distilled_training(self, enable: bool = True) -> None:
        pass


def _timm(name: str, entry: str, shows: Callable = lambda one: one, **options: Any) -> Loss:
    """Return the part of a training task's loss that is between student and teacher."""
    task = getattr(importlib.import_module("timm.task"), name)
    options["criterion"], options["verbose"] = nn.CrossEntropyLoss(), False

    def loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        nets = _Shows(shows(student)), _Shows(teacher)
        images, labels = torch.zeros(len(student), 3, 1, 1), torch.zeros(len(student)).long()
        return task(*nets, temperature=temperature, **options)(images, labels)[entry]

    return loss


def _two_heads(student: Tensor) -> tuple[Tensor, Tensor]:
    return student.detach(), student


def _torchmetrics(name: str) -> Loss:
    divergence = getattr(importlib.import_module("torchmetrics.functional.regression"), name)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return divergence(teacher.softmax(1), student.softmax(1))

    return loss


def _keras(name: str, **losses: str) -> Loss:
    """Return a loss of Keras on torch, which is told another loss by the name of its class."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = importlib.import_module("keras")
    if keras.backend.backend() != "torch":
        raise ModuleNotFoundError("keras must run on torch (KERAS_BACKEND=torch)", name="keras")
    kind = getattr(keras.distillation, name)
    options = {key: getattr(keras.losses, value)() for key, value in losses.items()}
    if "temperature" not in inspect.signature(kind).parameters:
        return lambda student, teacher: kind(**options).compute_loss(teacher, student)

    def loss(student: Tensor, teacher: Tensor, temperature: float = 3.0) -> Tensor:
        made = kind(temperature=temperature, **options)
        return made.compute_loss(teacher, student)

    return loss


def _modelopt(**options: Any) -> Loss:
    kind = importlib.import_module("modelopt.torch.distill.losses").LogitsDistillationLoss

    def loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return kind(temperature=temperature, **options)(student, teacher)

    return loss


def _trl(**options: Any) -> Loss:
    trainer = importlib.import_module("trl.experimental.gkd").GKDTrainer

    def loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return trainer.generalized_jsd_loss(student, teacher, temperature=temperature, **options)

    return loss


def _module(module: str, name: str) -> Loss:
    return getattr(importlib.import_module(module), name)


def _torchtune(name: str) -> Loss:
    made = getattr(importlib.import_module("torchtune.modules.loss"), name)()
    return lambda student, teacher: made(student, teacher, torch.zeros(len(student)).long())


def _kd_lib(name: str) -> Loss:
    """Return the loss of a distiller that gives all weight to the teacher, none to the labels."""
    kind = getattr(importlib.import_module("KD_Lib.KD"), name)
    default = inspect.signature(kind).parameters["loss_fn"].default

    def loss(student: Tensor, teacher: Tensor, temperature: float = 20.0) -> Tensor:
        distiller = kind.__new__(kind)
        distiller.temp, distiller.distil_weight, distiller.loss_fn = temperature, 1.0, default
        distiller.ce_fn, distiller.log_softmax = nn.CrossEntropyLoss(), nn.LogSoftmax(dim=1)
        return distiller.calculate_kd_loss(student, teacher, torch.zeros(len(student)).long())

    return loss


def _rows(library: str, *rows: tuple[str, str, Callable[[], Loss]]) -> tuple[ForeignLoss, ...]:
    return tuple(ForeignLoss(library, *row) for row in rows)


td, tm = partial(partial, _torchdistill), partial(partial, _torchmetrics)
LOSSES = (
    *_rows(
        "torch",
        ("KLDivLoss()", "kd", _torch),
        ("KLDivLoss(reduction='batchmean')", "kd", partial(_torch, reduction="batchmean")),
        ("KLDivLoss(reduction='sum')", "kd", partial(_torch, reduction="sum")),
    ),
    *_rows(
        "torchdistill",
        ("KDLoss(…, temperature=τ, alpha=0.5), without labels", "kd", td("KDLoss", alpha=0.5)),
        (
            "KDLoss(…, temperature=τ, alpha=1, beta=1), less its cross-entropy",
            "kd",
            partial(_with_labels, "KDLoss", beta=1.0),
        ),
        (
            "ATLoss(…, mode='paper')",
            "attention_transfer",
            td("ATLoss", at_pairs=PAIRS, mode="paper"),
        ),
        ("ATLoss(…)", "attention_transfer(squared=True)", td("ATLoss", at_pairs=PAIRS)),
        (
            "RKDLoss(…, dist_factor=1, angle_factor=0)",
            "rkd_distance",
            td("RKDLoss", dist_factor=1.0, angle_factor=0.0, reduction="mean"),
        ),
        (
            "RKDLoss(…, dist_factor=0, angle_factor=1)",
            "rkd_angle",
            td("RKDLoss", dist_factor=0.0, angle_factor=1.0, reduction="mean"),
        ),
        (
            "SPKDLoss(…, reduction='batchmean')",
            "similarity_preserving",
            td("SPKDLoss", reduction="batchmean"),
        ),
        ("PKTLoss(…)", "neighbour", td("PKTLoss")),
        (
            "CCKDLoss(…, gaussian, gamma=0.4, max_p=2)",
            "correlation_congruence",
            td(
                "CCKDLoss",
                reduction="batchmean",
                kernel_config={"type": "gaussian", "gamma": 0.4, "max_p": 2},
            ),
        ),
        ("DISTLoss(…, tau=τ)", "dist", td("DISTLoss")),
        (
            "HierarchicalContextLoss(…)",
            "hierarchical_context",
            td("HierarchicalContextLoss", lambda one: (one, None)),
        ),
    ),
    *_rows(
        "timm",
        (
            "LogitDistillationTask(…, temperature=τ)",
            "kd",
            partial(_timm, "LogitDistillationTask", "kd_loss"),
        ),
        (
            "TokenDistillationTask(…, distill_type='soft', temperature=τ)",
            "kd",
            partial(
                _timm, "TokenDistillationTask", "distill_loss", _two_heads, distill_type="soft"
            ),
        ),
        (
            "TokenDistillationTask(…, distill_type='hard')",
            "hard_distillation",
            partial(
                _timm, "TokenDistillationTask", "distill_loss", _two_heads, distill_type="hard"
            ),
        ),
    ),
    *_rows(
        "torchmetrics",
        ("kl_divergence(teacher.softmax(1), student.softmax(1))", "kd", tm("kl_divergence")),
        (
            "jensen_shannon_divergence(teacher.softmax(1), student.softmax(1))",
            "kd(divergence='jensen-shannon')",
            tm("jensen_shannon_divergence"),
        ),
    ),
    *_rows(
        "keras",
        ("LogitsDistillation(temperature=τ)", "kd", partial(_keras, "LogitsDistillation")),
        (
            "LogitsDistillation(temperature=τ, loss=KLDivergence())",
            "kd",
            partial(_keras, "LogitsDistillation", loss="KLDivergence"),
        ),
        ("FeatureDistillation()", "matched_features", partial(_keras, "FeatureDistillation")),
    ),
    *_rows(
        "nvidia-modelopt",
        ("LogitsDistillationLoss(temperature=τ)", "kd", _modelopt),
        (
            "LogitsDistillationLoss(temperature=τ, reduction='batchmean')",
            "kd",
            partial(_modelopt, reduction="batchmean"),
        ),
    ),
    *_rows(
        "trl",
        ("GKDTrainer.generalized_jsd_loss(…, temperature=τ)", "generalized_jsd", _trl),
        ("GKDTrainer.generalized_jsd_loss(…, beta=0, temperature=τ)", "kd", partial(_trl, beta=0)),
    ),
    *_rows(
        "textbrewer",
        ("kd_ce_loss(…, temperature=τ)", "kd", partial(_module, "textbrewer.losses", "kd_ce_loss")),
        (
            "hid_mse_loss(…)",
            "matched_features",
            partial(_module, "textbrewer.losses", "hid_mse_loss"),
        ),
    ),
    *_rows(
        "torchtune",
        ("ForwardKLLoss()", "kd", partial(_torchtune, "ForwardKLLoss")),
        ("ReverseKLLoss()", "kd(divergence='reverse')", partial(_torchtune, "ReverseKLLoss")),
    ),
    *_rows(
        "KD_Lib",
        ("VanillaKD(…, temp=τ, distil_weight=1)", "kd", partial(_kd_lib, "VanillaKD")),
        ("TAKD(…, temp=τ, distil_weight=1)", "kd", partial(_kd_lib, "TAKD")),
        ("RCO(…, temp=τ, distil_weight=1)", "kd", partial(_kd_lib, "RCO")),
    ),
)
