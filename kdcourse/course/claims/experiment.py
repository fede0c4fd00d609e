"""What the experiments share: the data, the teachers, and a lab that trains, judges and notes."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse import CrossEntropy, LogitKD, fit, metrics, models
from kdcourse.course.claims.claim import Claim, Measured
from kdcourse.data import Images, fashion_mnist
from kdcourse.objective import Objective
from kdcourse.teachers import pretrained

IMAGES = 4000  # training images, unless an experiment says otherwise: what the teacher saw
USUAL: dict[str, Any] = {"images": IMAGES, "epochs": 15}  # settings
# Chosen on validation data: within one standard error of the best of "temperature-weight".
TEMPERATURE = 4
WEIGHT = 3.0
# Enough to see that an experiment runs, beside what its claim says.
TOY = {"images": 256, "epochs": 1}
JUDGED_IN_A_TOY = 200  # images
# Of every training in an experiment.
OPTIONS: dict[str, Any] = {"progress": False, "on_interrupt": "raise"}
KNOBS = ("epochs", "batch_size", "learning_rate", "weight_decay")  # of fit, among the settings

splits = cache(fashion_mnist)
teacher = cache(pretrained)


def labels_and_kd(weight: float = WEIGHT, temperature: float = TEMPERATURE) -> Objective:
    """Return the lecture's ``CE + λ · KD``, by default at the course's τ and λ."""
    return CrossEntropy() + weight * LogitKD(temperature)


class Lab:
    """Where a claim is measured with one seed: its settings, its images, and what was seen.

    >>> lab = Lab(CLAIMS["kd-gain"], seed=0)
    >>> lab.accuracy(lab.distil(student="plain4"))

    What a net predicts or embeds while it is judged here is noted, and so is its loss when it is
    trained here. Of anything else that it looks at, an experiment says so (:meth:`note`).

    Args:
        claim: The claim; ``lab["epochs"]`` is one of its settings.
        seed: The seed of the measurement.
        toy: Whether to run small: at the claim's toy settings, judged on few images.
        device: Where nets are trained. They come home to the CPU, where all else is measured.

    Attributes:
        seed: The seed that the experiment uses; a search has seeds of its own.
        trial: The seed of the measurement, which counts the trials of a search.
        settings: Those of the claim, or of its small run.
        trace: What was noted.
    """

    def __init__(
        self, claim: Claim, seed: int, *, toy: bool = False, device: torch.device | str = "cpu"
    ):
        self.claim = claim
        self.trial = seed
        self.seed = 1000 + seed if claim.search else seed
        self.toy, self.device = toy, device
        small = {**TOY, **claim.toy} if toy else {}
        self.settings = {name: small.get(name, value) for name, value in claim.settings.items()}
        self.trace: list[tuple[float, float]] = []

    def __getitem__(self, setting: str) -> Any:
        return self.settings[setting]

    @property
    def pool(self) -> Images:
        """All images that may be trained on."""
        return splits().train

    @property
    def images(self) -> Images:
        """Those that are, if there is nothing else said."""
        return self.pool[: self["images"]]

    @property
    def judged(self) -> Images:
        """The images on which nets are judged: those of the test, or of validation for a search."""
        judged = splits().validation if self.claim.search else splits().test
        return judged[:JUDGED_IN_A_TOY] if self.toy else judged

    @property
    def teacher(self) -> nn.Module:
        """The trained teacher that the settings name."""
        return teacher(self["teacher"])

    @property
    def options(self) -> dict[str, Any]:
        """Knobs of every training, as the settings have them."""
        knobs = {name: self[name] for name in KNOBS if name in self.settings}
        return {"seed": self.seed, "device": self.device, **knobs, **OPTIONS}

    def net(self, seed: int | None = None, name: str | None = None) -> nn.Module:
        """Make a student with fresh weights, drawn by the lab's seed unless another is given."""
        return models.by_name(name or self["student"], seed=self.seed if seed is None else seed)

    def fit(
        self, net: nn.Module, objective: Objective | None = None, images: Any = None, **options: Any
    ) -> nn.Module:
        """Train a net, on the lab's images unless others are given, and return it."""
        source = self.images if images is None else images
        history = fit(net, source, objective, **self.options | options)
        self.note(history["loss"])
        return net

    def train(
        self, objective: Objective | None = None, *, student: str | None = None, **options: Any
    ) -> nn.Module:
        """Train a student from scratch; the seed draws its weights and the order of images."""
        return self.fit(self.net(options.get("seed"), student), objective, **options)

    def distil(
        self, objective: Objective | None = None, teacher: nn.Module | None = None, **options: Any
    ) -> nn.Module:
        """Train a student from scratch by ``CE + λ · KD`` and the claim's teacher, or others."""
        objective = labels_and_kd() if objective is None else objective
        teacher = self.teacher if teacher is None else teacher
        return self.train(objective, teacher=teacher, **options)

    def taught(self, teachers: Mapping[str, nn.Module], images: Images | None = None) -> Measured:
        """Train a student alone, and by each teacher at the course's τ and λ."""
        yield "alone", self.train(images=images)
        for name, teacher in teachers.items():
            yield name, self.distil(teacher=teacher, images=images)

    def predict(self, net: nn.Module, images: Images | Tensor | None = None) -> Tensor:
        """Return what a net predicts of the judged images, or of others."""
        return self.note(metrics.predict(net, self.judged if images is None else images))

    def embed(self, net: nn.Module, images: Images | None = None) -> Tensor:
        """Return a net's embedding of the judged images, or of others."""
        return self.note(metrics.embed(net, self.judged if images is None else images))

    def accuracy(self, net: nn.Module, images: Images | None = None) -> float:
        """Accuracy in percent on the judged images, or on others."""
        images = self.judged if images is None else images
        return 100 * metrics.share_correct(self.predict(net, images), images.target)

    def loss(self, net: nn.Module, images: Images) -> float:
        """Cross-entropy with the labels of images, in eval mode, in nats."""
        return float(nn.functional.cross_entropy(self.predict(net, images), images.target))

    def neighbours(self, net: nn.Module, k: int = 1) -> float:
        """Accuracy in percent of naming judged images by their k nearest training images."""
        known, asked = self.embed(net, self.images), self.embed(net)
        return 100 * metrics.knn_accuracy(known, self.images.target, asked, self.judged.target, k)

    def note(self, values: Any) -> Any:
        """Note values in two numbers, and return them: root mean square, and a fixed projection."""
        x = torch.as_tensor(values, dtype=torch.float64).detach().flatten()
        waves = torch.arange(len(x), dtype=torch.float64).cos()
        self.trace.append((float(x.square().mean().sqrt()), float(x @ waves) / len(x) ** 0.5))
        return values

    def measure(self) -> dict[str, float]:
        """Run the claim's experiment."""
        return {
            name: self.accuracy(found) if isinstance(found, nn.Module) else found
            for name, found in self.claim.measure(self)
        }
