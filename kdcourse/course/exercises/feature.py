"""Checks of the exercises of notebook 3, feature distillation."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kdcourse import feature
from kdcourse.course import claims
from kdcourse.course.claims.feature import GRID, WEIGHTS
from kdcourse.course.exercises.exercise import exercise
from kdcourse.homework import expect


@exercise
def one_channel(answer: Callable[[Tensor], Tensor]) -> str:
    """Features of a single channel, ``(N, 1, H, W)``, with the attention map of others."""
    for samples, channels, height, width in ((2, 3, 4, 6), (3, 8, 5, 5)):
        features = expect.normal(channels, samples, channels, height, width)
        found = expect.tensor(answer(features.clone()), (samples, 1, height, width))
        squares = features.double().square().sum(dim=1, keepdim=True)
        mistakes = {
            "the map squares your channel once more: a root is missing": squares,
            "|A| was added over the channels, but the map adds |A|²": features.abs().mean(1, True),
            "signs cancel where channels are added before they are squared": features.mean(1, True),
        }
        maps = {words: feature.attention_map(wrong) for words, wrong in mistakes.items()}
        problem = "the attention map of your channel is not that of the features"
        expect.close(feature.attention_map(found), feature.attention_map(features), problem, maps)
    return (
        "The loss on attention maps is zero for this student, although it cannot tell an edge from "
        "a corner: the map says where, never what."
    )


@exercise
def same_pull(answer: Callable[[int, float], float]) -> str:
    """The weight at which the mean squared form pulls a map as strongly as the norm does."""
    for seed, size in enumerate((3, 7, 14)):
        student, teacher = expect.normal(seed, 1, 4, size, size), expect.normal(9, 1, 6, size, size)
        distance = float(feature.attention_transfer_loss(student, teacher))
        norm, squared = _pull(student, teacher, False), _pull(student, teacher, True)
        places = size * size
        expect.value(
            answer(places, distance),
            norm / squared,
            f"for {places} places and a distance of {distance:.2f}, the weight",
            {
                "that makes the losses equal; their slopes differ": places / distance,
                "the mean over the places divides by their number": 1 / (2 * distance),
                "it is upside down": squared / norm,
                "the pull of a square depends on the distance": places / 2,
            },
        )
    return (
        "The weight has no single translation: as the maps come closer, the squared form lets go, "
        "and the norm pulls as hard as before."
    )


def _pull(student: Tensor, teacher: Tensor, squared: bool) -> float:
    """Return the length of a loss's gradient at the student's features."""

    def loss(features: Tensor) -> Tensor:
        return feature.attention_transfer_loss(features, teacher, squared=squared)

    return float(expect.gradient(loss, student).norm())


@exercise
def least_hint(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """The smallest hint loss that any 1×1 projection with a bias reaches."""
    student, noise = expect.normal(0, 6, 3, 4, 5), expect.normal(1, 6, 7, 4, 5)
    projected = torch.einsum("nchw,dc->ndhw", student, expect.normal(2, 7, 3)) + 2
    expect.value(
        answer(student, projected),
        0,
        "where the teacher's features are a projection of the student's, the least loss",
        {"is the bias missing, a column of ones?": _residual(student, projected, bias=False)},
    )
    teacher = projected + noise
    right = _residual(student, teacher)
    each = [_residual(*both) for both in zip(student.split(1), teacher.split(1), strict=True)]
    expect.value(
        answer(student, teacher),
        right,
        "with noise in the teacher's features, the least loss",
        {
            "is the bias missing, a column of ones?": _residual(student, teacher, bias=False),
            "that is the sum of the squares, not their mean": right * teacher.numel(),
            "the mean runs over the channels as well": right * 7,
            "every image had a projection of its own; one must do for all": sum(each) / len(each),
        },
    )
    return "What the projection cannot explain is what the student's own layers have to learn."


def _residual(student: Tensor, teacher: Tensor, *, bias: bool = True) -> float:
    """Return the mean squared error of the best projection."""
    known, wanted = (a.double().movedim(1, -1).flatten(0, 2) for a in (student, teacher))
    if bias:
        known = torch.cat([known, torch.ones_like(known[:, :1])], dim=1)
    projection = torch.linalg.lstsq(known, wanted).solution
    return float((known @ projection - wanted).square().mean())


@exercise
def linear_gradient(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """The input gradient of a linear net, without autograd."""
    weight, inputs = expect.normal(0, 4, 6), expect.normal(1, 5, 6)
    target = torch.tensor([0, 1, 2, 3, 1])
    found = expect.tensor(answer(weight, inputs, target), inputs.shape)
    net = torch.nn.Linear(6, 4, bias=False)
    net.weight.data = weight
    right = feature.input_gradient(net, inputs, target).double()
    mistakes = {
        "that is the gradient of the logit; log p has a denominator, which depends on x as well": (
            weight[target].double()
        ),
        "the sign is that of the loss, −log p": -right,
        "that is the gradient of p; the logarithm's divides by p": (
            (inputs @ weight.T).softmax(1).gather(1, target[:, None]).double() * right
        ),
    }
    expect.close(found, right, "autograd finds another gradient", mistakes)
    return (
        "A sure net has p close to 1 for the true class, and the two parts cancel: its gradients "
        "are tiny everywhere, which is why the loss normalises them."
    )


@exercise
def lone_choices(
    answer: Callable[[Sequence[Mapping[str, float]], str], Sequence[float]],
) -> str:
    """The weight that every seed of a search, on its own, would have chosen."""
    runs = list(claims.load("pros-cons-search").runs.values())
    agreed, factors = 0, []
    for family in ("attention", "hint", "saliency"):
        right = [max(GRID, key=lambda w: run[f"{family} {w:g}"]) for run in runs]
        found = expect.returned(answer(runs, family))
        assert isinstance(found, (list, tuple)), (
            f"the result should be a list, but yours is of type {type(found).__name__}"
        )
        assert len(found) == len(runs), (
            f"there are {len(runs)} seeds, but you gave {len(found)} choices"
        )
        both = list(zip(map(expect.number, found), right, strict=True))
        assert any(choice in GRID for choice, _ in both), (
            "the choices should be weights of GRID, not the accuracies that they reach"
        )
        assert len({*found}) > 1, (
            f"the choice for {family} is always {found[0]:g}: is it that of the mean of all seeds?"
        )
        assert all(choice == best for choice, best in both), (
            f"for {family}, another weight has the highest validation accuracy of its seed"
        )
        agreed += right.count(WEIGHTS[family])
        factors.append(max(right) / min(right))
    return (
        f"Of all {3 * len(runs)} choices for attention, hint and saliency, {agreed} agree with the "
        f"mean's, and those for one family differ by factors of {min(factors):.0f} to "
        f"{max(factors):.0f}: a search this small finds a region, not a weight."
    )
