r"""Which properties? — how well the teacher's features can be told from the student's (VID).

The more a student's layer tells about its teacher's, the larger the mutual information of the
two. That cannot be computed, but it is at least the entropy of the teacher's features, which is
given, plus their mean log-likelihood under any guess made from the student's. So a guesser is
trained with the student: a small net that says what it expects each entry to be, and a variance for
each channel, which makes a channel that cannot be told count less than in a hint.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.checks import (
    check_floating,
    check_number,
    check_same_device,
    check_same_shape,
)
from kdcourse.errors import ArgumentError
from kdcourse.feature import CONVOLUTIONS, FeatureHint, Hint
from kdcourse.objective import Layer
from kdcourse.precision import at_least_float32, readable
from kdcourse.signatures import checked

LEAST = 1e-5  # ε, below which no variance falls


def variational_loss(student_means: Tensor, teacher_features: Tensor, variances: Tensor) -> Tensor:
    r"""Negative log-likelihood of the teacher's features, of which the student tells the means.

    .. math:: \frac{1}{N C P} \sum_{n, c, p} \left( \log \sigma_c
              + \frac{(t_{ncp} - \mu_{ncp})^2}{2 \sigma_c^2} \right)

    over N samples, C channels and P positions, without the constant :math:`\frac12 \log 2\pi`. With
    variances that are all one it is half of the mean squared error.

    Args:
        student_means: What is expected of the teacher's features given the student's, μ
            ``(N, C, …)``.
        teacher_features: ``(N, C, …)``; receives no gradient.
        variances: ``(C,)``, σ² > 0.

    Returns:
        Scalar, which may be below zero, as a density may be above one.

    Source: Ahn et al. 2019 (arXiv 1904.05835), section 2, there the sum over channels and
    positions: C·P times this. The benchmark by Tian et al. 2020 (arXiv 1910.10699) has this mean.
    """
    for name, features in (
        ("student_means", student_means),
        ("teacher_features", teacher_features),
    ):
        check_floating(name, features)
        if features.dim() < 2 or features.numel() == 0:
            raise ArgumentError(
                name,
                f"{name} must have shape (N, C, …) and not be empty, got {tuple(features.shape)}",
            )
    check_same_shape("student_means", student_means, "teacher_features", teacher_features)
    check_floating("variances", variances)
    check_same_device("variances", variances, "student_means", student_means)
    if variances.shape != student_means.shape[1:2]:
        raise ArgumentError(
            "variances",
            f"variances must have shape ({student_means.shape[1]},), one a channel, got "
            f"{tuple(variances.shape)}",
        )
    if readable(variances) and not bool((variances > 0).all()):  # also false for NaN
        raise ArgumentError("variances", f"variances must be above zero, got {variances.min()}")
    means, teacher = at_least_float32(student_means), at_least_float32(teacher_features.detach())
    variances = at_least_float32(variances)
    off = (means - teacher).square().transpose(0, 1).flatten(1).mean(dim=1)  # of each channel
    return (off / variances + variances.log()).mean() / 2


class VariationalHint(Hint):
    r"""The one who guesses: a net for the means, and the variances, of the teacher's features.

    The net is that of three 1×1 convolutions, from C to C' channels and then twice from C' to C',
    with ReLUs between them. The variances are :math:`\sigma_c^2 = \log(1 + e^{\alpha_c}) +
    \varepsilon` with weights :math:`\alpha_c` and ε = 10⁻⁵.

    Args:
        student_channels: The number C of the student's channels.
        teacher_channels: The number C' of the teacher's channels.
        variance: The variance of each channel before it has learned, > 10⁻⁵.
        dimensions, channel_dim, class_token: As of :class:`Hint <kdcourse.feature.Hint>`, which
            also says how different sizes are bridged: behind the net, by interpolation.

    Source: Ahn et al. 2019 (arXiv 1904.05835), section 2, for the variances. The net, and where
    variances begin, are those of the benchmark by Tian et al. 2020 (arXiv 1910.10699), whose
    convolutions have no biases, and which pools the larger features of the two nets before.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        variance: float = 5.0,
        dimensions: int = 2,
        channel_dim: int | tuple[int, int] = 1,
        class_token: bool | tuple[bool, bool] = False,
    ):
        super().__init__(
            student_channels,
            teacher_channels,
            dimensions=dimensions,
            channel_dim=channel_dim,
            class_token=class_token,
        )
        check_number("variance", variance, LEAST, open_low=True)
        layer = partial(CONVOLUTIONS[dimensions], teacher_channels, teacher_channels, 1)
        self.nonlinearity = nn.Sequential(nn.ReLU(), layer(), nn.ReLU(), layer())
        excess = variance - LEAST
        start = excess + math.log(-math.expm1(-excess))  # of which softplus makes the excess
        self.alpha = nn.Parameter(torch.full((teacher_channels,), start))

    def variances(self) -> Tensor:
        """Return the variances σ² of the teacher's channels, ``(C',)``."""
        return F.softplus(self.alpha) + LEAST

    def forward(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Return the negative log-likelihood of the teacher's features, a scalar."""
        means, teacher = self.aligned(student_features, teacher_features)
        return variational_loss(means, teacher, self.variances())


@checked
class VariationalInformation(FeatureHint):
    """A layer of the teacher that the student's is to predict: :class:`VariationalHint`.

    Without one who guesses, the term makes one that fits what the two nets show on the first batch.

    >>> VariationalInformation("stage2")
    >>> VariationalInformation(("stage2", "layer2"), VariationalHint(16, 128))

    Args:
        layer: Name of a layer in both nets, or the student's and the teacher's as a pair.
        hint: The one who guesses; its weights are trained with the student.
        variance: As of :class:`VariationalHint`, for the one that the term makes.
        seed: Seed of its weights; that of the training by default.
        channel_dim: As of :class:`VariationalHint`, for the one that the term makes.
        class_token: As of :class:`VariationalHint`, for the one that the term makes.

    Source: Ahn et al. 2019 (arXiv 1904.05835).
    """

    def __init__(
        self,
        layer: Layer,
        hint: VariationalHint | None = None,
        *,
        variance: float = 5.0,
        seed: int | None = None,
        channel_dim: int | tuple[int, int] = 1,
        class_token: bool | tuple[bool, bool] = False,
    ):
        super().__init__(layer, hint, seed=seed, channel_dim=channel_dim, class_token=class_token)
        check_number("variance", variance, LEAST, open_low=True)
        self._variance = variance

    def _hint_between(self, student: Tensor, teacher: Tensor) -> VariationalHint:
        """Make one who guesses between features on one grid, ``(N, C, …)``."""
        return VariationalHint(
            student.shape[1],
            teacher.shape[1],
            variance=self._variance,
            dimensions=student.dim() - 2,
            channel_dim=self._channel_dim,
            class_token=self._class_token,
        )
