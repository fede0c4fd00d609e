r"""Which properties? — where each channel of a layer is active: neuron selectivity transfer (NST).

A channel is a detector of something; its map of activations shows where that is. The channels of a
layer are samples of such maps, drawn from some distribution; a student's layer should have its
teacher's, as far as a kernel can tell the two apart. Numbers of channels may differ, and it does
not matter which channel detects what.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from kdcourse.checks import check_choice
from kdcourse.map_term import MapTerm, both_maps
from kdcourse.objective import Layer, Lesson
from kdcourse.precision import gram_matrix, inner_products, not_below_zero, row_norms, unit_rows

KERNELS = ("polynomial", "linear")


def neuron_selectivity_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    kernel: str = "polynomial",
    *,
    channel_dim: int | tuple[int, int] = 1,
    class_token: bool | tuple[bool, bool] = False,
) -> Tensor:
    r"""Squared maximum mean discrepancy (MMD) between the maps of the channels of two layers.

    .. math:: \frac1N \sum_n \left( \frac1{C^2} \sum_{i, j} k(x_i, x_j)
              + \frac1{C'^2} \sum_{i, j} k(y_i, y_j)
              - \frac2{C C'} \sum_{i, j} k(x_i, y_j) \right), \quad
              x_i = \frac{A_S^{(n, i)}}{\|A_S^{(n, i)}\|_2}, \quad
              y_i = \frac{A_T^{(n, i)}}{\|A_T^{(n, i)}\|_2}

    with the map of a channel, all its positions, as a vector of unit norm; a channel that is zero
    counts as zeros. The kernel is

    * *polynomial*: :math:`k(x, y) = (x^\top y)^2`, which compares which positions are active
      together: with the maps as rows of matrices X and Y, each sample adds
      :math:`\left\| \frac1C X^\top X - \frac1{C'} Y^\top Y \right\|_F^2`. It is computed by these
      matrices, or by the products of channels, whichever takes less.
    * *linear*: :math:`k(x, y) = x^\top y`, which compares the mean maps,
      :math:`\left\| \frac1C \sum_i x_i - \frac1{C'} \sum_i y_i \right\|_2^2`.

    Args:
        student_features: ``(N, C, H, W)``, ``(N, C, T)`` or ``(N, C, D, H, W)``.
        teacher_features: ``(N, C', H', W')``, with positions in as many dimensions as the
            student's; receives no gradient. Where sizes differ, the larger features are
            average-pooled to the smaller size.
        kernel: ``"polynomial"`` or ``"linear"``.
        channel_dim, class_token: As in :func:`kdcourse.feature.attention_transfer_loss`.

    Returns:
        Scalar from 0 to 4, with the polynomial kernel to 2.

    Source: Huang, Wang 2017 (arXiv 1707.01219), section 4, with d = 2 and c = 0 in the polynomial
    kernel; the Gaussian one is left out. There the weight of this is λ/2. The benchmark by Tian et
    al. 2020 (arXiv 1910.10699) has the same means, with a weight of λ.
    """
    check_choice("kernel", kernel, KERNELS)
    student, teacher = both_maps(student_features, teacher_features, channel_dim, class_token)
    if kernel == "linear":
        difference = _mean_map(student) - _mean_map(teacher)
        return difference.square().sum(dim=(1, 2)).mean()
    return _polynomial(_unit_maps(student), _unit_maps(teacher))


def _unit_maps(features: Tensor) -> Tensor:
    """Scale the maps of features ``(N, C, …)`` to unit norm, as rows ``(N, C, P)``."""
    maps = features.flatten(2)
    return unit_rows(maps.flatten(0, 1)).view(maps.shape)


def _mean_map(features: Tensor) -> Tensor:
    """Return the mean of the same maps, ``(N, 1, P)``, without making them."""
    maps = features.flatten(2)
    norms, scaled = row_norms(maps.flatten(0, 1))
    inverse = (scaled / norms).detach() / scaled  # the slope of 1 / norms would leave the range
    return inner_products(inverse.view(len(maps), 1, -1), maps.mT) / maps.shape[1]


def _polynomial(x: Tensor, y: Tensor) -> Tensor:
    """Return the discrepancy of unit maps ``(N, C, P)`` and ``(N, C', P)`` by their products."""
    own, theirs, positions = x.shape[1], y.shape[1], x.shape[2]
    if positions * (own + theirs) <= own**2 + theirs**2 + own * theirs:
        difference = gram_matrix(x.mT) / own - gram_matrix(y.mT) / theirs
        return difference.square().sum(dim=(1, 2)).mean()
    within = gram_matrix(x).square().mean() + gram_matrix(y).square().mean()
    loss = within - 2 * inner_products(x, y).square().mean()
    return not_below_zero(loss)


class NeuronSelectivity(MapTerm):
    """Where channels are active, summed over layers: :func:`neuron_selectivity_loss`.

    Args:
        layers: Names of layers with features ``(N, C, H, W)``, or any that
            :func:`neuron_selectivity_loss` takes, or pairs of names.
        kernel: ``"polynomial"`` or ``"linear"``.
        channel_dim: As of every :class:`MapTerm <kdcourse.map_term.MapTerm>`.
        class_token: As of every :class:`MapTerm <kdcourse.map_term.MapTerm>`.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        kernel: str = "polynomial",
        *,
        channel_dim: int | tuple[int, int] = 1,
        class_token: bool | tuple[bool, bool] = False,
    ):
        super().__init__(layers, channel_dim=channel_dim, class_token=class_token)
        check_choice("kernel", kernel, KERNELS)
        self.kernel = kernel

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the sum of the discrepancies."""
        loss = partial(
            neuron_selectivity_loss,
            kernel=self.kernel,
            channel_dim=self.channel_dim,
            class_token=self.class_token,
        )
        return self.compared(lesson, loss)
