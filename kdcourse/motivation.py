r"""Why do small nets get stuck? Better weights exist: what is hard is to find them.

:class:`NarrowNet` is about as narrow as a net that approximates any function can be. The rest of
this module looks at the loss around the weights that training has found:

.. math:: L(\theta + x\, d_1 + y\, d_2)

The directions are random and *filter-normalised*: every filter of a direction has the norm of the
filter that it moves. Otherwise a net with large weights would look flat.

>>> found = landscape(model, inputs, target, points=31)
>>> plots.contours({"my net": found})

Source: Li et al. 2018 (arXiv 1712.09913), sections 4 and 6.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from tqdm.auto import tqdm

from kdcourse.checks import check_choice, check_integer, check_number, check_positive, check_values
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.modes import evaluation_mode
from kdcourse.signatures import checked, describe

Direction = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@checked
class NarrowNet(nn.Module):
    r"""A ReLU net of any depth, by default of width :math:`\max(d_x + 1, d_y)`.

    Nets of that width come arbitrarily close (in :math:`L^p`) to any function on all of
    :math:`\mathbb R^{d_x}` *if they may be as deep as it takes*, and narrower ones do not. On a
    bounded set :math:`\max(d_x, d_y, 2)` suffices. Both theorems bound the width, not the number of
    weights, and do not say that training finds them.

    Args:
        inputs: Number of inputs d_x. None should be negative, since they pass through ReLUs.
        outputs: Number of outputs d_y.
        depth: Number of hidden layers.
        width: Width of the hidden layers; by default the least that suffices on all of
            :math:`\mathbb R^{d_x}`.
        start: How weights are initialised. ``"carrying"``: the first d_x channels pass the inputs
            on, the others add a random bend in every layer. ``"random"``: as in He et al. 2015.
        seed: Seed of the initial weights.

    Source: Park et al. 2021 (arXiv 2006.08859), theorem 1; on a bounded set Kim et al. 2024
    (arXiv 2309.10402).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        depth: int,
        *,
        width: int | None = None,
        start: str = "carrying",
        seed: int = 0,
    ):
        super().__init__()
        check_positive(inputs=inputs, outputs=outputs, depth=depth)
        check_choice("start", start, ("carrying", "random"))
        width = max(inputs + 1, outputs) if width is None else width
        check_integer("width", width, inputs if start == "carrying" else 1)
        generator = torch.Generator().manual_seed(seed)
        sizes = [inputs] + [width] * depth
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        with torch.no_grad():
            for layer in layers:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(layer.bias)
                if start == "carrying":
                    self._carry(layer, inputs, generator)
        self.hidden = nn.ModuleList(layers)
        self.last = nn.Linear(width, outputs)
        nn.init.normal_(self.last.weight, std=0.5, generator=generator)
        nn.init.zeros_(self.last.bias)

    @staticmethod
    def _carry(layer: nn.Linear, inputs: int, generator: torch.Generator) -> None:
        """Pass the inputs on, and bend the other channels at random points of the unit cube."""
        bends = layer.out_features - inputs
        slopes = torch.randn(bends, inputs, generator=generator)
        places = torch.rand(bends, inputs, generator=generator)
        layer.weight.copy_(torch.eye(layer.out_features, layer.in_features))
        layer.weight[inputs:, :inputs] = slopes
        layer.bias[inputs:] = -(slopes * places).sum(dim=1)
        if layer.in_features == layer.out_features:  # earlier bends are added or subtracted
            up = torch.rand(bends, generator=generator) < 0.5
            layer.weight[inputs:, inputs:] *= torch.where(up, 1.0, -1.0)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, d_x)`` to ``(N, d_y)``."""
        for layer in self.hidden:
            x = layer(x).relu()
        return self.last(x)


@dataclass(frozen=True)
class Landscape:
    """The loss over a plane through a net's weights.

    Attributes:
        x: Steps along the first direction, ``(P,)``, in units of the norm of the filters.
        y: Steps along the second direction, ``(P,)``.
        loss: The loss ``(P, P)``: ``loss[i, j]`` is that at ``x[i]``, ``y[j]``.
    """

    x: Tensor
    y: Tensor
    loss: Tensor


@checked
def filter_normalized_direction(model: nn.Module, seed: int = 0) -> Direction:
    """Draw a random direction in which every filter has the norm of the model's own filter.

    A filter is what computes one output channel of a convolution or one neuron of a linear layer.
    Biases and the weights of normalisation layers do not move. A direction has one tensor for each
    of ``model.named_parameters()``.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = {}
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            direction[name] = torch.zeros_like(weight)
            continue
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        rows, own = drawn.flatten(1), weight.detach().flatten(1)
        scale = own.norm(dim=1) / (rows.norm(dim=1) + 1e-10)
        direction[name] = (rows * scale[:, None]).view_as(weight)
    return direction


@checked
def moved(model: nn.Module, directions: Sequence[Direction], steps: Sequence[float]) -> nn.Module:
    """Return a copy of a model whose weights are moved along each direction by its step."""
    if len(directions) != len(steps):
        raise ArgumentError(
            "directions",
            f"directions must be as many as steps, got {len(directions)} and {len(steps)}",
        )
    other = copy.deepcopy(model)
    with torch.no_grad():
        for direction, step in zip(directions, steps, strict=True):
            for name, weight in other.named_parameters():
                weight.add_(direction[name].to(weight.device), alpha=step)
    return other


@checked
def main_directions(trajectory: Sequence[Mapping[str, Tensor]]) -> tuple[list[Direction], Tensor]:
    """Return the two main directions of a training, and its path along them.

    Args:
        trajectory: T ≥ 3 states of the weights (copies of ``dict(model.named_parameters())``), from
            the start of training to its end.

    Returns:
        Two directions of length 1, and the coordinates ``(T, 2)`` of the states, relative to the
        end.
    """
    if len(trajectory) < 3:
        raise ArgumentError(
            "trajectory", f"trajectory needs at least three states, got {len(trajectory)}"
        )
    *before, end = (_flat(state.values()) for state in trajectory)
    away = torch.stack(before) - end
    axes = torch.linalg.svd(away, full_matrices=False).Vh[:2]
    places = torch.cat([away @ axes.T, away.new_zeros(1, 2)])
    return [_like(trajectory[-1], axis) for axis in axes], places


@checked
def landscape(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    *,
    directions: Sequence[Direction] | None = None,
    extent: float = 1.0,
    points: int = 31,
    loss: Loss = F.cross_entropy,
    seed: int = 0,
    together: int | None = None,
    progress: bool = True,
) -> Landscape:
    """Compute the loss on a square grid around a model's weights, in eval mode.

    The model itself does not change: it is called with the weights of the grid
    (:func:`torch.func.functional_call`), of several grid points at a time where that is faster.

    Args:
        model: Any module that maps inputs to predictions.
        inputs: Inputs ``(N, …)``.
        target: Class indices ``(N,)``, or whatever the loss takes.
        directions: Two directions, on any device; by default random filter-normalised ones.
        extent: The grid extends from −extent to extent along both directions.
        points: Number of grid points P along each direction.
        loss: Maps predictions and target to a scalar.
        seed: Seed of the default directions.
        together: Number of grid points that are computed at once; by default one on a CPU, where
            more would be slower, and eight elsewhere.
        progress: Whether to show a progress bar.

    Source: Li et al. 2018 (arXiv 1712.09913), section 4.
    """
    check_number("extent", extent, 0.0, open_low=True)
    check_integer("points", points, 2)
    check_values("inputs", inputs)
    check_values("target", target)
    if together is None:
        together = 1 if inputs.device.type == "cpu" else 8
    check_positive(together=together)
    if directions is None:
        directions = [filter_normalized_direction(model, 2 * seed + n) for n in range(2)]
    if len(directions) != 2:
        raise ArgumentError("directions", f"there must be two directions, got {len(directions)}")
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    if any(d.keys() != weights.keys() for d in directions):
        raise ArgumentError(
            "directions", "directions must have one tensor for each of the model's parameters"
        )

    for name, weight in weights.items():
        if any(direction[name].shape != weight.shape for direction in directions):
            raise ArgumentError(
                "directions", f"directions must have the model's shapes, not so {name}"
            )
    # What was noted during a training on a GPU is there still; the model has come home.
    first, second = (
        {name: d[name].to(w.device) for name, w in weights.items()} for d in directions
    )

    def at(x: Tensor, y: Tensor) -> Tensor:
        moved = {name: w + x * first[name] + y * second[name] for name, w in weights.items()}
        value = loss(functional_call(model, moved, (inputs,)), target)
        if not isinstance(value, Tensor) or value.dim() != 0:
            raise ArgumentTypeError("loss", f"loss must return a scalar, got {describe(value)}")
        return value

    steps = torch.linspace(-extent, extent, points, device=inputs.device)
    places = torch.cartesian_prod(steps, steps)  # (P², 2)
    found = []
    bar = tqdm(total=len(places), disable=not progress)
    with evaluation_mode(model), torch.no_grad(), bar:
        for chunk in places.split(together):
            found.append(vmap(at)(*chunk.T) if together > 1 else at(*chunk[0])[None])
            bar.update(len(chunk))
    return Landscape(steps, steps, torch.cat(found).view(points, points))


@dataclass(frozen=True)
class Curvature:
    """The extreme eigenvalues of the loss's Hessian in the weights.

    The smallest is below zero if the loss curves downwards in some direction.
    """

    smallest: float
    largest: float

    @property
    def negative(self) -> float:
        """The strongest downward curvature relative to the strongest upward one; 0 if convex."""
        return max(0.0, -self.smallest) / max(abs(self.largest), 1e-12)


@checked
def curvature(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    *,
    loss: Loss = F.cross_entropy,
    tolerance: float = 0.01,
) -> Curvature:
    """Find the extreme eigenvalues of the Hessian from products with vectors (Lanczos).

    The arguments are those of :func:`landscape`, for a model that can be differentiated twice, in
    eval mode, too; ``tolerance`` is the relative accuracy of the eigenvalues.

    Source: Li et al. 2018 (arXiv 1712.09913), section 6.
    """
    check_number("tolerance", tolerance, 0.0, 1.0, open_low=True)
    check_values("inputs", inputs)
    check_values("target", target)
    parameters = [p for p in model.parameters() if p.requires_grad]
    count = sum(p.numel() for p in parameters)
    if not parameters:
        raise ArgumentError("model", "model must have a weight that can be trained")
    with evaluation_mode(model), torch.enable_grad():
        value = loss(model(inputs), target)
        gradient = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
        flat = _flat(gradient)

        def product(vector: np.ndarray) -> np.ndarray:
            v = torch.from_numpy(np.asarray(vector).ravel()).to(flat)
            rows = torch.autograd.grad(
                flat, parameters, v, retain_graph=True, materialize_grads=True
            )
            return _flat(rows).double().cpu().numpy()

        ends = _extremes(product, count, tolerance)
    return Curvature(float(ends.min()), float(ends.max()))


def _extremes(
    product: Callable[[np.ndarray], np.ndarray], count: int, tolerance: float
) -> np.ndarray:
    """Return the least and largest eigenvalue of a symmetric matrix, known by its products."""
    if count < 4:
        return np.linalg.eigvalsh(np.stack([product(row) for row in np.eye(count)]))[[0, -1]]
    start = np.random.default_rng(0).standard_normal(count)
    options = {"tol": tolerance, "v0": start, "return_eigenvectors": False}
    matrix = LinearOperator((count, count), matvec=product, dtype=np.float64)
    try:
        return eigsh(matrix, k=2, which="BE", **options)
    except ArpackNoConvergence:  # the least is zero, in many directions, as of a convex loss
        (most,) = eigsh(matrix, k=1, which="LM", **options)
        moved = LinearOperator(
            (count, count), matvec=lambda v: product(v) - most * v.ravel(), dtype=np.float64
        )
        (other,) = eigsh(moved, k=1, which="LM", **options) + most
        return np.sort([most, other])


def _flat(values: Iterable[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values])


def _like(state: Mapping[str, Tensor], flat: Tensor) -> Direction:
    """Cut a vector into tensors with the shapes of a state."""
    parts = flat.split([value.numel() for value in state.values()])
    return {name: part.view_as(state[name]) for name, part in zip(state, parts, strict=True)}
