r"""Which properties? — logits of parts of an image: scale decoupled distillation.

A net that averages its features over all positions, and then applies a linear layer, may as well do
this the other way round: it has logits at every position, and its prediction is their mean. That of
the teacher hides what it sees where. Here its logits are averaged over parts of the image, too, and
the student learns each of them.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_number, check_positive, check_same_samples, check_temperature
from kdcourse.errors import ArgumentError
from kdcourse.grid import channels_first, pooled
from kdcourse.objective import Layer, LayerTerm, Lesson
from kdcourse.precision import HOTTEST, at_least_float32, dtype_for, not_below_zero
from kdcourse.predictions import kl_of_rows
from kdcourse.signatures import checked

SCALES = (1, 2, 4)


def scale_decoupled_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    *,
    scales: Sequence[int] = SCALES,
    beta: float = 2.0,
) -> Tensor:
    r"""Scale decoupled distillation (SDD): KD in every cell of several grids.

    .. math:: \frac{\tau^2}{N} \sum_n \sum_{m \in M} \sum_{c=1}^{m^2} w_{nmc}\,
              KL\left(\sigma(\pi_T^{(n,m,c)} / \tau) \,\|\, \sigma(\pi_S^{(n,m,c)} / \tau)\right),
              \quad w = \begin{cases} 1 & \text{consistent} \\ \beta & \text{complementary}
              \end{cases}

    with the means π of logits over the cells of a grid of m × m. A cell is consistent if the
    teacher finds the same class most likely there as in the whole image, and complementary if not.
    The grid of one cell is plain KD; it is always consistent.

    *Sizes.* The two maps may differ in size, as grids do not. A map that m does not divide has
    cells that overlap, and a smaller one than the grid has the same position in several cells.

    Args:
        student_logits: Logits at every position ``(N, K, H, W)``, or of another grid:
            ``(N, K, T)``, ``(N, K, D, H, W)``.
        teacher_logits: ``(N, K, H', W')``, with positions in as many dimensions; receives no
            gradient.
        temperature: τ, for both student and teacher, from 10⁻⁹ to 10⁶.
        scales: M, cells of each grid in one direction.
        beta: Weight of complementary cells, ≥ 0.

    Returns:
        Scalar ≥ 0 in nats.

    Source: Wei, Luo, Luo 2024 (arXiv 2403.13512), eq. 6 to 10, with KD in each cell (SD-KD);
    M = {1, 2} for nets of one family, and a warm-up of 30 epochs
    (:class:`kdcourse.objective.WarmUp`), as a sum over 21 cells is large. The authors' code takes
    the mean over the cells, this loss over their number, without a warm-up. Complementary is there
    a cell in which the teacher is right, but not on the whole, or the other way round: two
    different mistakes are consistent. And it makes the coarser grids from 4 × 4 cells, which
    differs where these overlap.
    """
    check_temperature(temperature, high=HOTTEST)
    check_number("beta", beta, 0.0)
    _check_scales(scales)
    student = channels_first("student_logits", student_logits, 1)
    teacher = channels_first("teacher_logits", teacher_logits, 1).detach()
    check_same_samples("student_logits", student, "teacher_logits", teacher)
    if student.shape[1] != teacher.shape[1] or student.dim() != teacher.dim():
        raise ArgumentError(
            "student_logits",
            "student_logits and teacher_logits must have the same classes, and positions in as "
            f"many dimensions, got {tuple(student.shape)} and {tuple(teacher.shape)}",
        )
    dtype = dtype_for(student, temperature)
    own, theirs = (_cells(logits.to(dtype), scales) for logits in (student, teacher))
    whole = _cells(teacher.to(dtype), (1,)).argmax(dim=-1)
    log_q, log_p = (F.log_softmax(z.flatten(0, 1) / temperature, dim=1) for z in (own, theirs))
    each = kl_of_rows(log_p, log_q).view(theirs.shape[:2])
    each = torch.where(theirs.argmax(dim=-1) == whole, each, beta * each)
    loss = temperature**2 * each.sum(dim=1).mean()
    loss = not_below_zero(loss)
    return loss.to(at_least_float32(student_logits).dtype)


@checked
class ScaleDecoupledKD(LayerTerm):
    """KD in cells of several grids: :func:`scale_decoupled_loss`, which explains the arguments.

    >>> ScaleDecoupledKD("stage3|classifier")    # of a net that averages over positions between

    Args:
        layer: A layer that returns logits at every position, or how to make them
            (:func:`kdcourse.models.capture`); or a pair, the student's and the teacher's.
    """

    def __init__(
        self,
        layer: Layer,
        temperature: float = 4.0,
        *,
        scales: Sequence[int] = SCALES,
        beta: float = 2.0,
    ):
        super().__init__([layer])
        check_temperature(temperature, high=HOTTEST)
        _check_scales(scales)
        check_number("beta", beta, 0.0)
        self.temperature = temperature
        self.scales = tuple(scales)
        self.beta = beta

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence between teacher and student, summed over cells."""
        loss = partial(
            scale_decoupled_loss,
            temperature=self.temperature,
            scales=self.scales,
            beta=self.beta,
        )
        return self.compared(lesson, loss)


def _check_scales(scales: Sequence[int]) -> None:
    if not isinstance(scales, (tuple, list)) or len(scales) == 0:
        raise ArgumentError("scales", f"scales must be a list of at least one, got {scales!r}")
    for scale in scales:
        check_positive(scales=scale)


def _cells(logits: Tensor, scales: Sequence[int]) -> Tensor:
    """Return the mean logits of all cells of all grids, ``(N, cells, K)``."""
    dimensions = logits.dim() - 2
    grids = [pooled(logits, (scale,) * dimensions).flatten(2) for scale in scales]
    return torch.cat(grids, dim=2).mT
