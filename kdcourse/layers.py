"""Which layers of two nets belong together: how alike they are, and pairs that are proposed.

For terms that compare features, such as :class:`kdcourse.FeatureHint`, where the two nets are built
differently: a convolutional student, say, and a transformer as the teacher.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse.checks import check_integer
from kdcourse.errors import ArgumentError
from kdcourse.metrics import Samples, answered, in_batches
from kdcourse.models.capture import capture, first_tensor
from kdcourse.signatures import checked

# Layers of a net: fewer leave nothing to choose, more cannot be read in a picture.
LEAST, MOST = 5, 40
FEWEST = 3  # samples: of two, any layer is like any other
RULES = "cka", "stage"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerMap:
    """The layers of two nets, in the order in which they are called, and how alike they are.

    Attributes:
        student: Names of the S layers of the student.
        teacher: Names of the T layers of the teacher.
        likeness: ``(S, T)``: linear CKA of each with each, in [0, 1].
        shapes: The shapes of what they return for one sample: the student's, the teacher's.
    """

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    likeness: Tensor
    shapes: tuple[tuple[Shape, ...], tuple[Shape, ...]]

    def proposed(self, count: int = 3, by: str = "cka") -> list[tuple[str, str]]:
        """Propose pairs of layers, the student's first, in the order of both nets.

        Args:
            count: Number of pairs.
            by: ``"stage"`` proposes the ends of stages, the last ones with each other: a stage ends
                where the positions become fewer. The layers of a net with fewer stages than pairs,
                such as a transformer, are divided into as many. ``"cka"`` proposes for the ends of
                the student's stages those layers of the teacher whose CKA is largest in sum.
        """
        check_integer("count", count, 1, min(self.likeness.shape))
        if by not in RULES:
            raise ArgumentError("by", f"by must be one of {', '.join(RULES)}, got {by!r}")
        own, theirs = (ends_of_stages(shapes, count) for shapes in self.shapes)
        if by == "cka":
            theirs = best_in_order(self.likeness[own])
        return [(self.student[s], self.teacher[t]) for s, t in zip(own, theirs, strict=True)]


@checked
def compare_layers(student: nn.Module, teacher: nn.Module, samples: Samples | Tensor) -> LayerMap:
    """Compare the layers of two nets, in eval mode, by what they make of some samples.

    Modules count as layers if they are called once, and return numbers of their own; and down to
    the depth at which there are some to choose among: a ResNet's stages, a transformer's layers.

    Args:
        student: Any module, best one that has learned: at random weights, nearly everything is most
            like the teacher's first layers.
        teacher: Any module.
        samples: As for :func:`kdcourse.metrics.predict`, at least 3; some hundred tell enough.

    Raises:
        ArgumentError: There are fewer samples, or a layer returns NaN or infinity.

    Source: linear CKA, Kornblith et al. 2019 (arXiv 1905.00414), section 3.
    """
    own, theirs = _features({"student": student, "teacher": teacher}, samples)
    products = [torch.stack([*map(_products, net.values())]) for net in (own, theirs)]
    likeness = torch.einsum("sij, tij -> st", *products).clamp(0, 1).float()
    shapes = [tuple(tuple(one.shape[1:]) for one in net.values()) for net in (own, theirs)]
    return LayerMap(tuple(own), tuple(theirs), likeness, (shapes[0], shapes[1]))


def _products(features: Tensor) -> Tensor:
    """Return the inner products ``(N, N)`` of centred features ``(N, …)``, as a unit matrix.

    Of two nets' layers, the inner product of these is their linear CKA. That of a layer that makes
    the same of all samples is zero with all others.
    """
    x = features.flatten(1).double()
    x = x - x.mean(dim=0)
    products = x @ x.T
    return products / products.norm().clamp(min=torch.finfo(x.dtype).tiny)


def best_in_order(values: Tensor) -> list[int]:
    """Return a column for each row of ``(R, C)``, R ≤ C, each further right, of the largest sum."""
    rows, columns = values.shape
    best = torch.zeros(rows + 1, columns + 1, dtype=torch.float64)  # of the first rows and columns
    best[1:, 0] = -torch.inf
    for r in range(rows):
        taken = best[r, :-1] + values[r]
        best[r + 1, 1:] = taken.cummax(dim=0).values
    found, column = [], columns
    for r in range(rows, 0, -1):
        column = int((best[r, : column + 1] == best[r, column]).int().argmax()) - 1
        found.append(column)
    return found[::-1]


def ends_of_stages(shapes: Sequence[Shape], count: int) -> list[int]:
    """Return the last layers of as many stages as wanted, from the shapes of all layers."""
    positions = [shape[1:] if len(shape) > 2 else shape[:-1] for shape in shapes]
    placed = [n for n, size in enumerate(positions) if math.prod(size) > 1]
    following = [positions[n] for n in placed[1:]] + [()]
    ends = [n for n, size in zip(placed, following, strict=False) if positions[n] != size]
    if len(ends) < count:
        layers = placed if len(placed) >= count else range(len(shapes))
        ends = [layers[math.ceil(k * len(layers) / count) - 1] for k in range(1, count + 1)]
    return ends[-count:]


def _features(
    nets: Mapping[str, nn.Module], samples: Samples | Tensor
) -> Iterator[dict[str, Tensor]]:
    """Yield of each net what its layers make of samples, ``(N, …)`` each, by their names.

    All nets see each batch in turn: the next time, samples may come in another order.
    """
    kept: dict[str, dict[str, list[Tensor]]] = {}
    count = 0
    for inputs, target in in_batches(samples):
        batch = inputs if target is None else [(inputs, target)]
        for who, net in nets.items():
            if who not in kept:
                kept[who] = {name: [] for name in _layers(net, batch, who)}
            with capture(net, [*kept[who]]) as shown:
                for outputs, *_ in answered(net, batch, who=who):
                    count += len(outputs)
                    for name, features in kept[who].items():
                        features.append(shown[name].float().cpu())
    if count < FEWEST * len(nets):
        got = count // len(nets)
        raise ArgumentError("samples", f"samples must be {FEWEST} or more, got {got}")
    for who, layers in kept.items():
        found = {name: torch.cat(features) for name, features in layers.items()}
        for name, whole in found.items():
            if not bool(whole.isfinite().all()):
                raise ArgumentError(who, f"layer {name} of the {who} returns NaN or infinity")
        yield found


def _layers(model: nn.Module, samples: Samples | Tensor, who: str) -> list[str]:
    """Return the names of a model's layers, in the order in which they are called."""
    calls: list[str] = []
    returned: dict[str, Any] = {}

    def record(module: nn.Module, inputs: Any, output: Any, name: str) -> None:
        output = first_tensor(output)
        for inner in [one for one in returned if one.startswith(f"{name}.")]:
            if returned[inner] is output:  # a container returns what its last module has
                del returned[inner]
        calls.append(name)
        returned[name] = output

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hook = partial(record, name=name)
                hooks.enter_context(module.register_forward_hook(hook))
        outputs, *_ = next(answered(model, samples, batch_size=2, who=who))
    often = Counter(calls)
    layers = [
        name
        for name, output in returned.items()
        if often[name] == 1
        and isinstance(output, Tensor)
        and output is not outputs
        and output.is_floating_point()
        and output.dim() > 1
        and len(output) == len(outputs)  # samples come first
    ]
    if not layers:
        raise ArgumentError(who, f"{type(model).__name__} has no layers that return a tensor")
    chosen: list[str] = []
    for depth in range(max(name.count(".") for name in layers) + 1):
        down_to = [name for name in layers if name.count(".") <= depth]
        if len(chosen) >= LEAST or (len(down_to) > MOST and chosen):
            break
        chosen = down_to
    return chosen
