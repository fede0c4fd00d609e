r"""Why does a teacher of the student's own size help? A data set on which the answer can be seen.

Every class has two features, its *views* (the lecture's headlight and window). A training sample
shows both, so a net that has learned one of them is right already and stops learning; its seed
decides which one that is. A test sample that shows a single view asks whether the net knows it.

Weaker features of other classes leak into every sample (headlights that look like a cat's eyes).
A net that knows such a feature shows it in its soft predictions; that is how one net can teach
another a view.

Source: Allen-Zhu, Li 2020 (arXiv 2012.09816), section 2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from kdcourse.checks import (
    check_integer,
    check_number,
    check_positive,
    check_same_samples,
    check_target,
)
from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.metrics import predict
from kdcourse.signatures import checked

VIEWS = 2


@checked
@dataclass(frozen=True)
class TwoViews:
    """Samples of P patches, in which both features of a class appear, or one of them.

    Attributes:
        classes: Number of classes K.
        width: Length D of a patch; at least 2K, since the features are orthonormal.
        patches: Number of patches P of a sample.
        strength: Range of a feature's size in a sample of its class, spread over two patches.
        leakage: Range of the size of another class's feature where it leaks in.
        leaks: Probability that it leaks in.
        noise: Standard deviation of the noise on every number.
        seed: Seed of the features.
    """

    classes: int = 10
    width: int = 100
    patches: int = 8
    strength: tuple[float, float] = (1.0, 1.4)
    leakage: tuple[float, float] = (0.3, 0.8)
    leaks: float = 0.2
    noise: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("classes", self.classes, 2)
        check_positive(patches=self.patches, width=self.width)
        check_number("leaks", self.leaks, 0.0, 1.0)
        check_number("noise", self.noise, 0.0)
        if self.width < VIEWS * self.classes:
            raise ArgumentError(
                "width",
                f"width must be at least {VIEWS * self.classes}, twice the classes, "
                f"for orthonormal features, got {self.width}",
            )

    @property
    def features(self) -> Tensor:
        """The orthonormal features, ``(K, 2, D)``."""
        square = torch.randn(self.width, VIEWS * self.classes, generator=replay(self.seed))
        return torch.linalg.qr(square).Q.T.reshape(self.classes, VIEWS, self.width)

    def draw(self, samples: int, seed: int = 0, view: int | None = None) -> tuple[Tensor, Tensor]:
        """Draw samples of all classes in turn.

        Args:
            samples: Number of samples N.
            seed: Seed of the samples.
            view: The only view that the samples show, 0 or 1; by default they show both.

        Returns:
            Inputs ``(N, P, D)`` and target ``(N,)``.
        """
        check_positive(samples=samples)
        if view not in (None, *range(VIEWS)):
            raise ArgumentError("view", f"view must be 0, 1 or None for both, got {view!r}")
        draw, everyone = replay(self.seed, 1 + seed), torch.arange(samples)
        target = everyone % self.classes
        size = self._between(self.leakage, (samples, self.classes, VIEWS), draw)
        size *= torch.rand(size.shape, generator=draw) < self.leaks
        own = self._between(self.strength, (samples, VIEWS), draw)
        if view is not None:
            own[:, 1 - view] = 0
        size[everyone, target] = own
        inputs = self.noise * torch.randn(samples, self.patches, self.width, generator=draw)
        for sizes, feature in zip(size.flatten(1).T, self.features.flatten(0, 1), strict=True):
            half = sizes[:, None] / 2 * feature  # (N, D)
            for _ in range(2):
                where = torch.randint(self.patches, (samples,), generator=draw)
                inputs[everyone, where] += half
        return inputs, target

    @staticmethod
    def _between(limits: tuple[float, float], shape: tuple[int, ...], draw: torch.Generator):
        return limits[0] + (limits[1] - limits[0]) * torch.rand(shape, generator=draw)


@checked
class PatchNet(nn.Module):
    r"""The net of the paper: :math:`f_k(x) = \sum_r \sum_p \sigma(\langle w_{kr}, x_p \rangle)`.

    :math:`\sigma` is a smoothed ReLU: :math:`z^3 / 3 b^2` up to b, then a line of slope 1. Since a
    small response grows slowly, the view that happens to be ahead at the start wins.

    Args:
        classes: Number of classes K.
        width: Length D of a patch.
        neurons: Number of neurons r per class.
        bend: The size b of a response at which σ becomes a line.
        deviation: Standard deviation of the initial weights.
        seed: Seed of the initial weights.
    """

    def __init__(
        self,
        classes: int = 10,
        width: int = 100,
        neurons: int = 4,
        *,
        bend: float = 3.0,
        deviation: float = 0.3,
        seed: int = 0,
    ):
        super().__init__()
        check_positive(classes=classes, width=width, neurons=neurons)
        check_number("bend", bend, 0.0, open_low=True)
        check_number("deviation", deviation, 0.0)
        weight = torch.randn(width, classes * neurons, generator=replay(seed))
        self.weight = nn.Parameter(deviation * weight)
        self.neurons = neurons
        self.bend = bend

    def forward(self, inputs: Tensor) -> Tensor:
        """Map samples ``(N, P, D)`` to logits ``(N, K)``."""
        z = (inputs @ self.weight).relu()  # (N, P, K · neurons)
        bent = torch.where(z < self.bend, z**3 / (3 * self.bend**2), z - 2 * self.bend / 3)
        return bent.sum(dim=1).unflatten(1, (-1, self.neurons)).sum(dim=2)


@checked
def batches(inputs: Tensor, target: Tensor, batch_size: int = 50) -> DataLoader:
    """Return a loader that shuffles samples ``(N, P, D)`` and yields whole batches at once."""
    check_same_samples("inputs", inputs, "target", target)
    check_target(target, len(target))
    check_positive(batch_size=batch_size)
    order = BatchSampler(RandomSampler(range(len(target))), batch_size, drop_last=False)
    return DataLoader(TensorDataset(inputs, target), sampler=order, batch_size=None)


@checked
def learned_views(model: nn.Module, data: TwoViews, samples: int = 4000, seed: int = 1) -> Tensor:
    """Which views has a net learned? Return its accuracy on samples that show a single view.

    Args:
        model: Any module that maps samples ``(N, P, D)`` to logits ``(N, K)``.
        data: The data set from which samples are drawn.
        samples: Number of samples of each view, all classes together.
        seed: Seed of the samples.

    Returns:
        The accuracy in [0, 1] by class and view, ``(K, 2)``.
    """
    check_positive(samples=samples)
    shares = []
    for view in range(VIEWS):
        inputs, target = data.draw(samples, seed, view)
        right = (predict(model, inputs).argmax(dim=1).cpu() == target).float()
        shares.append(torch.stack([right[target == k].mean() for k in range(data.classes)]))
    return torch.stack(shares, dim=1)
