r"""Which properties? — features.

The student is asked for the teacher's inner view of an image, not only for its answer: where the
teacher looks (attention maps), what a hidden layer holds (hints), and which pixels its answer
depends on (saliency).

Features may be images ``(N, C, H, W)``, sequences, volumes or a transformer's tokens
(:mod:`kdcourse.grid` says how they are told apart). Every function computes in float32 at least,
returns a scalar and sends no gradient to the teacher. Bad input raises ``ValueError`` or
``TypeError`` naming the argument.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.batch import logits_of
from kdcourse.checks import (
    check_choice,
    check_flag,
    check_floating,
    check_integer,
    check_matrix,
    check_module,
    check_number,
    check_positive,
    check_same_device,
    check_same_shape,
    check_target,
    check_tensor,
)
from kdcourse.errors import ArgumentError
from kdcourse.grid import (
    both_sides,
    channels_first,
    check_channel_dim,
    check_channels,
    interpolated,
    on_one_grid,
)
from kdcourse.map_term import MapTerm, both_maps
from kdcourse.models import seeded
from kdcourse.objective import Layer, LayerTerm, Lesson, Term
from kdcourse.precision import (
    at_least_float32,
    in_one_precision,
    readable,
    row_norms,
    unit_rows,
    widest,
)
from kdcourse.signatures import check_is, checked


def attention_map(
    features: Tensor, power: float = 2, *, channel_dim: int = 1, class_token: bool = False
) -> Tensor:
    r"""Pool the channels of a feature map: where does the layer look?

    .. math:: q_{hw} = \frac1C \sum_c |A_{chw}|^p, \qquad \text{map} = q / \|q\|_2

    A larger power attends more to the strongest channel.

    Args:
        features: ``(N, C, H, W)``, or any other grid of positions: ``(N, C, T)``,
            ``(N, C, D, H, W)``.
        power: The power p > 0.
        channel_dim: −1 where the channels come last, as in tokens ``(N, T, C)``.
        class_token: Whether the first token stands for the whole, and is left out.

    Returns:
        ``(N, H * W)``, or one column a position, rows of unit norm, float32 at least; zeros where
        all features are zero.

    Source: Zagoruyko, Komodakis 2017 (arXiv 1612.03928), section 3.1. Their code has p = 2 only;
    that of the benchmark by Tian et al. 2020 (arXiv 1910.10699) takes other powers without the
    absolute value: the same for even p, and behind a ReLU, but for odd p features of opposite sign
    cancel there, and maps have negative entries.
    """
    check_channel_dim(channel_dim)
    check_flag("class_token", class_token)
    features = channels_first("features", features, channel_dim, class_token)
    check_number("power", power, 0.0, open_low=True)
    features = at_least_float32(features)
    return _attention(features, power).to(features.dtype)


def attention_transfer_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    power: float = 2,
    *,
    squared: bool = False,
    channel_dim: int | tuple[int, int] = 1,
    class_token: bool | tuple[bool, bool] = False,
) -> Tensor:
    r"""Distance between the attention maps of student and teacher.

    .. math:: \frac1N \sum_n \left\| \frac{Z_T}{\|Z_T\|_2} - \frac{Z_S}{\|Z_S\|_2} \right\|_2

    the lecture's form, and the paper's. With ``squared=True`` that of the authors' code: the mean
    of the squared difference over samples *and positions*. It divides by H·W, so its weight
    must grow with the size of the map (the authors take 1000 in place of the paper's 0.1).

    Args:
        student_features: ``(N, C, H, W)``, ``(N, C, T)`` or ``(N, C, D, H, W)``.
        teacher_features: ``(N, C', H', W')``, with positions in as many dimensions as the
            student's; receives no gradient. Where sizes differ, the larger features are
            average-pooled to the smaller size.
        power: The power p > 0 of :func:`attention_map`.
        squared: Whether to take the authors' form in place of the lecture's.
        channel_dim: −1 where the channels come last, as in tokens ``(N, T, C)``; or a pair, the
            student's and the teacher's. Tokens whose number differs from that of the other net's
            positions lie on a square grid (:mod:`kdcourse.grid`).
        class_token: Whether the first token stands for the whole, and is left out; or a pair.

    Returns:
        Scalar ≥ 0.

    Source: Zagoruyko, Komodakis 2017 (arXiv 1612.03928), eq. 2, where the weight of this is β/2.
    """
    student, teacher = both_maps(student_features, teacher_features, channel_dim, class_token)
    check_number("power", power, 0.0, open_low=True)
    check_flag("squared", squared)
    difference = _attention(student, power) - _attention(teacher, power)
    if squared:
        return difference.square().mean().to(student.dtype)
    return torch.linalg.vector_norm(difference, dim=1).mean().to(student.dtype)


CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Hint(nn.Module):
    r"""A projection from the student's features to the teacher's, and their distance.

    .. math:: \frac{1}{N C' H' W'} \left\| A_T - r(A_S) \right\|_2^2

    The regressor r is a convolution with weights of its own, learned with the student and thrown
    away afterwards: 1×1 where only the channels differ. Where the student's map is larger, FitNets
    take a kernel of H − H' + 1 pixels, without padding, which has the teacher's size as its output;
    any other difference of sizes is bridged by interpolation behind the convolution.

    >>> Hint(192, 768, dimensions=1, channel_dim=-1)    # tokens to tokens, as many of them
    >>> Hint(64, 384, channel_dim=(1, -1), class_token=(False, True))    # (N, C, H, W) to patches

    Args:
        student_channels: The number C of the student's channels.
        teacher_channels: The number C' of the teacher's channels.
        kernel_size: Size of the convolution's kernel in pixels, or one in every dimension,
            (height, width).
        nonlinearity: What is applied to the projection, such as ``nn.ReLU()`` where the hint comes
            from behind one; nothing by default.
        dimensions: In how many dimensions the positions lie: 2 in images, and in tokens that lie on
            a square grid (:mod:`kdcourse.grid`); 1 in sequences, other tokens and vectors
            ``(N, C)``, which have one position; 3 in volumes.
        channel_dim: −1 where the channels come last, as in tokens ``(N, T, C)``; or a pair, the
            student's and the teacher's.
        class_token: Whether the first token stands for the whole, and is left out; or a pair.

    Source: Romero et al. 2015 (arXiv 1412.6550), eq. 3; there ½ times the sum over C', H', W'.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        kernel_size: int | tuple[int, ...] = 1,
        nonlinearity: nn.Module | None = None,
        dimensions: int = 2,
        channel_dim: int | tuple[int, int] = 1,
        class_token: bool | tuple[bool, bool] = False,
    ):
        super().__init__()
        check_positive(student_channels=student_channels, teacher_channels=teacher_channels)
        check_is("kernel_size", kernel_size, int | tuple[int, ...])
        check_is("nonlinearity", nonlinearity, nn.Module | None)
        check_integer("dimensions", dimensions, 1, 3)
        if isinstance(kernel_size, (tuple, list)):
            sizes = tuple(kernel_size)
        else:
            sizes = (kernel_size,) * dimensions
        for size in sizes:
            check_positive(kernel_size=size)
        if len(sizes) != dimensions:
            raise ArgumentError(
                "kernel_size", f"kernel_size must have {dimensions} dimensions, got {len(sizes)}"
            )
        self.sides = both_sides(channel_dim, class_token)
        self.projection = CONVOLUTIONS[dimensions](student_channels, teacher_channels, sizes)
        self.nonlinearity = nonlinearity

    def project(self, student_features: Tensor, size: Sequence[int]) -> Tensor:
        """Map the student's features, channels first, ``(N, C, …)`` to ``(N, C', *size)``."""
        projected = self.projection(student_features.to(self.projection.weight.dtype))
        if self.nonlinearity is not None:
            projected = self.nonlinearity(projected)
        return interpolated(at_least_float32(projected), size)

    def forward(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Return the mean squared error between projected student and teacher, a scalar."""
        return F.mse_loss(*in_one_precision(*self.aligned(student_features, teacher_features)))

    def aligned(self, student_features: Tensor, teacher_features: Tensor) -> tuple[Tensor, Tensor]:
        """Check both, and return the projected student and the teacher, ``(N, C', …)``."""
        student, teacher = on_one_grid(student_features, teacher_features, self.sides, vectors=True)
        self.check(student, teacher)
        teacher = at_least_float32(teacher.detach())
        return self.project(student, teacher.shape[2:]), teacher

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Require features, channels first, for which this hint was made."""
        kernel = self.projection.kernel_size
        if student.dim() - 2 != len(kernel):
            raise ArgumentError(
                "student_features",
                f"student_features must have positions in {len(kernel)} dimension(s), as this hint "
                f"was made for (dimensions), got {tuple(student.shape)}, channels first",
            )
        check_channels("student_features", student, self.projection.in_channels)
        check_channels("teacher_features", teacher, self.projection.out_channels)
        if any(k > size for k, size in zip(kernel, student.shape[2:], strict=True)):
            raise ArgumentError(
                "student_features",
                f"student_features must be at least as large as the kernel {kernel}, "
                f"got {tuple(student.shape[2:])}",
            )


def input_gradient(
    model: nn.Module, inputs: Tensor, target: Tensor, *, create_graph: bool = False
) -> Tensor:
    r"""Saliency: how the prediction of the target class depends on every pixel.

    .. math:: \nabla_x \log p^{(y)}(x)

    To *match* saliency, the student's is needed with ``create_graph=True``: the loss is then
    differentiated through it. The teacher's is not, and costs one ordinary backward pass.

    *What ReLU does.* A ReLU net is piecewise linear: its second derivative is zero wherever it
    exists, so the loss cannot learn by moving the kinks. It learns through the weights that the
    first derivative is made of (and through softmax and batch norm, which are curved). A smooth
    activation, such as softplus, would lift that; the loss works for either.

    Args:
        model: A module that maps inputs to logits ``(N, K)``, in whatever mode it is in (in train
            mode, batch norm makes a sample's prediction depend on the others' pixels too).
        inputs: ``(N, C, H, W)``, floating point.
        target: ``(N,)``, int64 class indices.
        create_graph: Whether to keep the graph, so that the result can be differentiated again.

    Returns:
        ``(N, C, H, W)``; without a graph unless ``create_graph``. Weights receive no gradient.

    Source: Simonyan et al. 2014 (arXiv 1312.6034), section 3; matched in Zagoruyko, Komodakis 2017
    (arXiv 1612.03928), section 3.2.
    """
    check_module("model", model)
    check_floating("inputs", inputs)
    check_flag("create_graph", create_graph)
    weight = next(model.parameters(), inputs)
    if inputs.is_meta:  # any other device may be the model's own choice
        check_same_device("inputs", inputs, "model", weight)
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        logits = logits_of(model(inputs))
        return prediction_gradient(logits, inputs, target, create_graph=create_graph)


def prediction_gradient(
    logits: Tensor, inputs: Tensor, target: Tensor, *, create_graph: bool = False
) -> Tensor:
    """Return :func:`input_gradient` where the logits ``(N, K)`` of the inputs are there already.

    The inputs must have required a gradient when the logits were made of them.
    """
    check_matrix("logits", logits)
    check_target(target, *logits.shape)
    check_same_device("target", target, "logits", logits)
    check_tensor("inputs", inputs)
    check_flag("create_graph", create_graph)
    if inputs.is_meta:
        check_same_device("inputs", inputs, "logits", logits)
    if not inputs.requires_grad:
        raise ArgumentError(
            "inputs", "inputs must have required a gradient when the logits were made of them"
        )
    log_p = F.log_softmax(at_least_float32(logits), dim=1).gather(1, target[:, None])
    (gradient,) = torch.autograd.grad(log_p.sum(), inputs, create_graph=create_graph)
    return gradient


def saliency_loss(student_gradient: Tensor, teacher_gradient: Tensor) -> Tensor:
    r"""Distance between normalised input gradients.

    .. math:: \frac1N \sum_n \left\| \frac{g_T}{\|g_T\|_2} - \frac{g_S}{\|g_S\|_2} \right\|_2

    Normalised, since a sure model's gradients are small everywhere: what is matched is *which*
    pixels matter, not how much. A gradient of zero counts as zeros.

    Args:
        student_gradient: ``(N, …)``, from :func:`input_gradient` with ``create_graph=True``.
        teacher_gradient: A tensor of the same shape; receives no gradient.

    Returns:
        Scalar in [0, 2].

    Source: Zagoruyko, Komodakis 2017 (arXiv 1612.03928), section 3.2, there without normalising.
    """
    for name, gradient in (
        ("student_gradient", student_gradient),
        ("teacher_gradient", teacher_gradient),
    ):
        check_floating(name, gradient)
        if gradient.dim() < 2 or gradient.numel() == 0:
            raise ArgumentError(
                name, f"{name} must have shape (N, …) and not be empty, got {tuple(gradient.shape)}"
            )
    check_same_shape("student_gradient", student_gradient, "teacher_gradient", teacher_gradient)
    student = unit_rows(at_least_float32(student_gradient).flatten(1))
    teacher = unit_rows(at_least_float32(teacher_gradient.detach()).flatten(1))
    return torch.linalg.vector_norm(student - teacher, dim=1).mean()


class AttentionTransfer(MapTerm):
    """Attention maps, summed over layers: :func:`attention_transfer_loss`, which explains the rest.

    Args:
        layers: Names of layers with features ``(N, C, H, W)``, or any that
            :func:`attention_transfer_loss` takes, or pairs of names.
        power: The power p > 0 of :func:`attention_map`, which says where other code differs for
            odd p.
        squared: Whether to take the authors' form in place of the lecture's.
        channel_dim: −1 where the channels come last, as in tokens ``(N, T, C)``; or a pair, the
            student's and the teacher's.
        class_token: Whether the first token stands for the whole, and is left out; or a pair.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        power: float = 2,
        *,
        squared: bool = False,
        channel_dim: int | tuple[int, int] = 1,
        class_token: bool | tuple[bool, bool] = False,
    ):
        super().__init__(layers, channel_dim=channel_dim, class_token=class_token)
        check_number("power", power, 0.0, open_low=True)
        check_flag("squared", squared)
        self.power, self.squared = power, squared

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the sum of the distances between attention maps."""
        loss = partial(
            attention_transfer_loss,
            power=self.power,
            squared=self.squared,
            channel_dim=self.channel_dim,
            class_token=self.class_token,
        )
        return self.compared(lesson, loss)


@checked
class FeatureHint(LayerTerm):
    """A hidden layer of the teacher, reached by a learned projection: :class:`Hint`.

    Without a projection, the term makes one that fits what the two nets show on the first batch.

    >>> FeatureHint("stage2")
    >>> FeatureHint(("stage2", "layer2"), Hint(16, 128))
    >>> FeatureHint("encoder.layer.-1", channel_dim=-1)    # hidden states of a transformer

    Args:
        layer: Name of the student's guided layer and the teacher's hint layer, or a pair of names.
        hint: The projection between them; its weights are trained with the student.
        kernel_size: Size of a projection that the term makes, in pixels; by default FitNets'
            choice, in each direction H − H' + 1 where the student's map is larger, else 1.
        nonlinearity: What follows that projection: ``"none"``, ``"relu"``, or ``"norm-relu"``
            (batch norm, then ReLU).
        seed: Seed of its weights; that of the training by default.
        channel_dim: As of :class:`Hint`, for the one that the term makes.
        class_token: As of :class:`Hint`, for the one that the term makes.

    Source: Romero et al. 2015 (arXiv 1412.6550), section 2.2.
    """

    def __init__(
        self,
        layer: Layer,
        hint: Hint | None = None,
        *,
        kernel_size: int | None = None,
        nonlinearity: str = "none",
        seed: int | None = None,
        channel_dim: int | tuple[int, int] = 1,
        class_token: bool | tuple[bool, bool] = False,
    ):
        super().__init__([layer])
        check_choice("nonlinearity", nonlinearity, ("none", "relu", "norm-relu"))
        if kernel_size is not None:
            check_positive(kernel_size=kernel_size)
        self.hint = hint
        self._kernel_size, self._nonlinearity, self._seed = kernel_size, nonlinearity, seed
        self._channel_dim, self._class_token = channel_dim, class_token
        both_sides(channel_dim, class_token)  # checks them
        self.prepared = hint is not None

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Make a projection from the student's channels to the teacher's."""
        ((student, teacher),) = self.shown(lesson)
        sides = both_sides(self._channel_dim, self._class_token)
        student, teacher = on_one_grid(student, teacher, sides, vectors=True)
        with seeded(seed if self._seed is None else self._seed):
            hint = self._hint_between(student, teacher)
        self.hint = hint.to(student.device, at_least_float32(student).dtype)
        self.prepared = True

    def _hint_between(self, student: Tensor, teacher: Tensor) -> Hint:
        """Make the projection between features on one grid, ``(N, C, …)``."""
        sizes = zip(student.shape[2:], teacher.shape[2:], strict=True)
        fitting = tuple(max(1, own - theirs + 1) for own, theirs in sizes)
        channels, dimensions = teacher.shape[1], len(fitting)
        hint = Hint(
            student.shape[1],
            channels,
            kernel_size=self._kernel_size or fitting,
            dimensions=dimensions,
            channel_dim=self._channel_dim,
            class_token=self._class_token,
        )
        if self._nonlinearity != "none":
            norm = [NORMS[dimensions](channels)] if self._nonlinearity == "norm-relu" else []
            hint.nonlinearity = nn.Sequential(*norm, nn.ReLU())
        return hint

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the distance between projected student and teacher."""
        if self.hint is None:
            self.prepare(lesson)
        assert self.hint is not None
        return self.compared(lesson, self.hint)


class Saliency(Term):
    """Input gradients of the true class's prediction: :func:`saliency_loss`.

    Costs a second backward pass through the student and one through the teacher.
    """

    needs_input_gradient = True
    needs_labels = True

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the distance between the normalised input gradients."""
        student, teacher = lesson.student.input_gradient, lesson.taught.input_gradient
        assert student is not None
        if teacher is None:
            raise ArgumentError(
                "teacher", "this term needs the teacher's input gradient, and it shows none"
            )
        return saliency_loss(student, teacher)


def _attention(features: Tensor, power: float) -> Tensor:
    """Maps of features ``(N, C, …)``, one column a position, of unit norm.

    In float64 where a map may hardly vary: at a large offset all positions are nearly alike, and
    what tells them apart would be lost in rounding.
    """
    if readable(features):
        mean = _channel_mean(features, power, features.dtype)
        norm, flatness = row_norms(mean)
        # The root itself where all entries are equal.
        if not bool((flatness > 0.9 * mean.shape[1] ** 0.5).any()):
            return mean / norm
    return unit_rows(_channel_mean(features, power, widest(features)))


def _channel_mean(features: Tensor, power: float, dtype: torch.dtype) -> Tensor:
    """Mean of ``|A|^p`` over the channels, one column a position."""
    if power == 2:
        return _MeanSquare.apply(features, dtype).flatten(1)
    size = features.abs()  # where() before the power: for p < 1 its slope at zero is not finite
    values = torch.where(size > 0, size, 1.0).pow(power) * (size > 0)
    return values.mean(dim=1, dtype=dtype).flatten(1)


class _MeanSquare(torch.autograd.Function):
    """Mean of squares over the channels; its gradient is one product, and keeps nothing else."""

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor, dtype: torch.dtype) -> Tensor:
        return features.square().mean(dim=1, dtype=dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, torch.dtype], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        each = gradient * (2 / features.shape[1])
        return features * each.to(features.dtype)[:, None], None
