"""The methods that take part, each as the command line says it, with what is tuned of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from kdcourse.methods.reused_classifier import reuse_classifier

PREDICTIONS, FEATURES, RELATIONS = "predictions", "features", "relations"


@dataclass(frozen=True)
class Method:
    """A method with what is tuned of it.

    Attributes:
        family: Of what it looks at.
        term: The distance, in the words of ``python -m kdcourse train --loss``; ``{knob}`` is what
            is tuned beside the weight, and ``{layer}``, ``{layers}`` and ``{sides}`` are a board's.
        knob: What else is tuned.
        choices: The values that it may have.
        labels: The loss on labels; empty for a method that learns from none.
        rebuild: Makes another student of a student and its teacher.
        needs: What it needs of the nets beside what its family looks at, if anything.
    """

    family: str
    term: str
    knob: str
    choices: tuple[float | str, ...]
    labels: str = "CrossEntropy()"
    rebuild: Callable[[nn.Module, nn.Module], nn.Module] | None = None
    needs: str = ""

    def dist(self, knob: float | str, words: Mapping[str, str]) -> str:
        """Return the distance in the words of the command line."""
        return self.term.format(**words, knob=str(knob).format(**words))

    def loss(
        self, weights: tuple[float, float], knob: float | str, words: Mapping[str, str]
    ) -> str:
        """Return the objective in the words of the command line, by its two weights."""
        dist = f"{weights[1]:.3g} * {self.dist(knob, words)}"
        if not self.labels:
            return dist
        return f"{weights[0]:.3g} * {self.labels.format(knob=knob)} + {dist}"


TEMPERATURES = (1, 2, 4, 8)
KD = "KD"
METHODS: dict[str, Method] = {
    KD: Method(PREDICTIONS, "LogitKD(temperature={knob})", "τ", TEMPERATURES),
    "reverse KL": Method(
        PREDICTIONS,
        "LogitKD(temperature={knob}, divergence='reverse')",
        "τ",
        TEMPERATURES,
    ),
    "generalised JSD": Method(
        PREDICTIONS, "GeneralizedJSD({knob}, temperature=4)", "β", (0.1, 0.5, 0.9)
    ),
    "skewed KL": Method(PREDICTIONS, "SkewedKL({knob}, temperature=4)", "α", (0.1, 0.3)),
    "standardised": Method(PREDICTIONS, "StandardizedKD(temperature={knob})", "τ", (1, 1.5, 2, 3)),
    "DKD": Method(PREDICTIONS, "DecoupledKD(alpha=1, beta={knob})", "β", (1, 2, 4, 8)),
    "DIST": Method(PREDICTIONS, "DIST(temperature={knob})", "τ", TEMPERATURES),
    "TTM": Method(PREDICTIONS, "TTM(temperature={knob})", "τ", TEMPERATURES),
    "WTTM": Method(PREDICTIONS, "WTTM(temperature={knob})", "τ", TEMPERATURES),
    "MLLD": Method(
        PREDICTIONS,
        "MultiLevelKD({knob})",
        "temperatures",
        ("(2, 3, 4, 5, 6)", "(1, 2, 4)", "(4,)"),
    ),
    "CTKD": Method(PREDICTIONS, "CTKD(span={knob}, epochs=5)", "range of τ", (5, 10, 20)),
    "SDD": Method(
        PREDICTIONS,
        "ScaleDecoupledKD({logit_map}, temperature={knob})",
        "τ",
        TEMPERATURES,
        needs="the last maps of both nets",
    ),
    "teacher-free": Method(PREDICTIONS, "TeacherFreeKD(correct={knob})", "a", (0.9, 0.95, 0.99)),
    "hard labels": Method(
        PREDICTIONS,
        "HardDistillation()",
        "label smoothing",
        (0.0, 0.1, 0.2),
        "CrossEntropy(label_smoothing={knob})",
    ),
    "attention": Method(
        FEATURES,
        "AttentionTransfer({layers}, power={knob}, squared=True{sides})",
        "p",
        (1, 2, 4),
    ),
    "hint": Method(
        FEATURES,
        "FeatureHint({layer}, nonlinearity={knob}{sides})",
        "after it",
        ("'none'", "'norm-relu'"),
    ),
    "NST": Method(
        FEATURES,
        "NeuronSelectivity([{layer}], {knob}{sides})",
        "kernel",
        ("'polynomial'", "'linear'"),
    ),
    "VID": Method(
        FEATURES, "VariationalInformation({layer}, variance={knob}{sides})", "σ²", (1, 5, 25)
    ),
    "ND": Method(FEATURES, "NormAndDirection('embedding')", "nothing", ("",)),
    "CWD": Method(FEATURES, "ChannelWise({layer}, {knob}{sides})", "τ", TEMPERATURES),
    "SimKD": Method(
        FEATURES,
        "SimKD(('projection', 'stage3'))",
        "nothing",
        ("",),
        labels="",
        rebuild=partial(reuse_classifier, seed=0),
    ),
    "ReviewKD": Method(
        FEATURES, "KnowledgeReview({review}, width={knob})", "width", ("None", 16, 64)
    ),
    "OFA-KD": Method(FEATURES, "OneForAll({layers}, {knob}{own_side})", "γ", (1, 1.5, 2)),
    "VkD": Method(
        FEATURES, "OrthogonalProjection({knob})", "layer", ("{layer}{sides}", "'embedding'")
    ),
    "similarity": Method(
        RELATIONS, "SimilarityPreserving([{knob}])", "layer", ("{layer}", "'embedding'")
    ),
    "RKD": Method(RELATIONS, "(RKDDistance() + {knob} * RKDAngle())", "angles", (0.5, 1, 2, 4)),
    "PKT": Method(RELATIONS, "Neighbours([{knob}])", "layer", ("{layer}", "'embedding'")),
    "CC": Method(RELATIONS, "CorrelationCongruence(gamma={knob})", "γ", (0.2, 0.4, 0.8)),
    "CRD": Method(
        RELATIONS,
        "CRD(temperature={knob}, memory=2048)",
        "τ",
        (0.05, 0.07, 0.1, 0.2),
    ),
}
