"""How good is a model, and how close is it to another?"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from kdcourse.batch import Batch, Inputs, Output, blaming_model, call, read_batch, share, to_device
from kdcourse.checks import (
    check_choice,
    check_integer,
    check_matrix,
    check_module,
    check_outputs,
    check_positive,
    check_same_samples,
    check_same_shape,
    check_target,
    check_values,
)
from kdcourse.data import Images
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.models import capture
from kdcourse.modes import evaluation_mode
from kdcourse.precision import at_least_float32
from kdcourse.signatures import check_is, checked

# Images, inputs and target as a pair of tensors, a Dataset, a DataLoader, or any other batches.
Samples = Images | tuple[Tensor, Tensor] | Dataset | Iterable[Batch]


def predict(
    model: nn.Module,
    samples: Samples | Tensor,
    batch_size: int = 250,
    output: Output | None = None,
) -> Tensor:
    """Return a model's outputs for a whole set, batch by batch, in eval mode.

    Args:
        model: Any module; its mode is restored afterwards.
        samples: Images, a pair ``(inputs, target)`` of tensors, a ``Dataset``, a ``DataLoader`` or
            any other batches ``(inputs, target)``; or inputs alone, ``(N, …)``.
        batch_size: Number of samples per forward pass; batches that are batches already stay so.
        output: Finds the logits in what the model returns, as in
            :class:`kdcourse.training.Knobs`.

    Returns:
        The outputs ``(N, K)``, on the device of the model.
    """
    return _collected(model, samples, lambda outputs: outputs, batch_size, output)


def accuracy(model: nn.Module, samples: Samples, output: Output | None = None) -> float:
    """Share of samples that a model classifies correctly, in [0, 1].

    Args:
        model: Any module; its mode is restored afterwards.
        samples: As for :func:`predict`, with class indices ``(N,)`` as the target.
        output: As for :func:`predict`.
    """
    right, seen = count_right(model, samples, output=output)
    return right / seen


def count_right(
    model: nn.Module,
    samples: Samples,
    part: tuple[int, int] = (0, 1),
    name: str = "samples",
    who: str = "model",
    output: Output | None = None,
) -> tuple[int, int]:
    """Count the samples that a model classifies correctly, and all samples.

    Args:
        model: Any module; its mode is restored afterwards.
        samples: As for :func:`accuracy`.
        part: ``(i, P)`` to look only at the i-th of P parts of every batch, i from 0.
        name: What the samples are called in errors.
        who: What the model is called in errors.
        output: As for :func:`predict`.
    """
    right, seen = 0, 0
    batches = answered(model, samples, part=part, name=name, who=who, output=output)
    for outputs, _, target in batches:
        if target is None:
            raise ArgumentTypeError(name, f"{name} must have targets, got inputs alone")
        check_matrix(f"the outputs of the {who}", outputs)
        check_numbers(who, f"the outputs of the {who}", outputs)
        check_target(target, len(outputs), outputs.shape[1], f"the target of {name}")
        right += int((outputs.argmax(dim=1) == target.to(outputs.device)).sum())
        seen += len(target)
    if not seen and part == (0, 1):
        raise ArgumentError(name, f"{name} must hold at least one sample")
    return right, seen


def in_batches(
    samples: Samples | Tensor, batch_size: int = 250, name: str = "samples"
) -> Iterator[tuple[Inputs, Tensor | None]]:
    """Yield ``(inputs, target)`` in batches, whatever the samples come as.

    Args:
        samples: As for :func:`predict`; there is no target where they are inputs alone.
        batch_size: Number of samples per batch, unless they are batches already.
        name: What the samples are called in errors.
    """
    check_positive(batch_size=batch_size)
    if isinstance(samples, Tensor):
        yield from ((inputs, None) for inputs in samples.split(batch_size))
    elif isinstance(samples, Images):
        for start in range(0, len(samples), batch_size):
            images = samples[start : start + batch_size]
            yield images.inputs(), images.target
    elif _is_pair(samples):
        inputs, target = read_batch(samples, name)
        yield from zip(inputs.split(batch_size), target.split(batch_size), strict=True)
    else:
        if isinstance(samples, Dataset) and not isinstance(samples, IterableDataset):
            samples = DataLoader(samples, batch_size)
        if not isinstance(samples, Iterable) or isinstance(samples, (Iterator, str, Mapping)):
            raise ArgumentTypeError(
                name,
                f"{name} must be Images, a pair of tensors, a Dataset, or batches that can be "
                f"taken again and again (a DataLoader), got {type(samples).__name__}",
            )
        yield from (read_batch(batch, name) for batch in samples)


def known_length(samples: object) -> int | None:
    """Return the number of samples, if that can be told without going through them."""
    counted = samples[1] if _is_pair(samples) else samples  # type: ignore[index]
    if isinstance(counted, DataLoader):
        counted = counted.dataset
    if isinstance(counted, (Tensor, Images, Dataset)) and hasattr(counted, "__len__"):
        return len(counted)
    return None


def _is_pair(samples: object) -> bool:
    return (
        isinstance(samples, (tuple, list))
        and len(samples) == 2
        and all(isinstance(one, Tensor) for one in samples)
        and not (samples[1].is_floating_point() and samples[1].dim() > 2)  # that is no target
    )


def share_correct(predictions: Tensor, target: Tensor) -> float:
    """Share of predictions ``(N, K)`` whose largest entry is the target ``(N,)``, in [0, 1]."""
    _check_predictions("predictions", predictions)
    check_target(target, *predictions.shape)
    check_values("target", target)
    return _share(predictions.argmax(dim=1) == target.to(predictions.device))


def agreement(predictions: Tensor, others: Tensor) -> float:
    """Share of samples on which two predictions ``(N, K)`` agree on the class, in [0, 1]."""
    _check_predictions("predictions", predictions)
    _check_predictions("others", others)
    others = others.to(predictions.device)
    check_same_shape("predictions", predictions, "others", others)
    return _share(predictions.argmax(dim=1) == others.argmax(dim=1))


def _check_predictions(name: str, predictions: Tensor) -> None:
    """Require predictions ``(N, K)`` that can be read."""
    check_matrix(name, predictions)
    check_values(name, predictions)
    check_numbers(name, name, predictions)


def check_numbers(argument: str, what: str, predictions: Tensor) -> None:
    """Refuse NaN, which would count as the first class."""
    if bool(predictions.isnan().any()):
        raise ArgumentError(argument, f"{what} must be numbers, got NaN")


def _share(same: Tensor) -> float:
    return float(same.float().mean())


@checked
def recall(predictions: Tensor, target: Tensor, label: int) -> float:
    """Share of the samples of class ``label`` that are classified as such, in [0, 1]."""
    _check_predictions("predictions", predictions)
    check_target(target, *predictions.shape)
    check_values("target", target)
    of_class = target == label
    if not bool(of_class.any()):
        raise ArgumentError("label", f"label must be that of some sample, got {label}")
    return share_correct(predictions[of_class.to(predictions.device)], target[of_class])


def embed(model: nn.Module, samples: Samples | Tensor, layer: str = "embedding") -> Tensor:
    """Return the outputs of a layer for a whole set, flattened to ``(N, D)``, in eval mode.

    Args:
        model: Any module.
        samples: As for :func:`predict`.
        layer: Name of the layer, as for :func:`kdcourse.models.capture`.
    """
    check_is("layer", layer, str)
    with capture(model, [layer]) as shown:
        return _collected(model, samples, lambda _: shown[layer].flatten(1))


@checked
def nearest(embeddings: Tensor, count: int) -> Tensor:
    """Return the indices ``(N, count)`` of each sample's nearest neighbours, nearest first.

    Args:
        embeddings: Embeddings ``(N, D)``, N > count.
        count: Number of neighbours to find; no sample is its own neighbour.
    """
    from sklearn.neighbors import NearestNeighbors  # slow to import, and fit does not need it

    embeddings = _embeddings("embeddings", embeddings, least=2)
    check_integer("count", count, 1, len(embeddings) - 1)
    found = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(embeddings.numpy())
    return torch.from_numpy(found.kneighbors(return_distance=False))


@checked
def recall_at(k: int, embeddings: Tensor, target: Tensor) -> float:
    """Share of queries with one of their own class among their k nearest, in [0, 1].

    This is image retrieval: every sample is the query once, and all others are searched.

    Args:
        k: Number of neighbours that are looked at.
        embeddings: Embeddings ``(N, D)``, N > k.
        target: Class indices ``(N,)``.
    """
    embeddings = _embeddings("embeddings", embeddings, least=2)
    check_integer("k", k, 1, len(embeddings) - 1)
    target = _labels("target", target, embeddings)
    same = target[nearest(embeddings, k)] == target[:, None]  # (N, k)
    return float(same.any(dim=1).float().mean())


@checked
def knn_accuracy(
    train: Tensor, train_target: Tensor, test: Tensor, test_target: Tensor, k: int = 1
) -> float:
    """Accuracy, in [0, 1], of classifying test embeddings by a vote of their k nearest in training.

    Args:
        train: Training embeddings ``(N, D)``.
        train_target: Class indices ``(N,)``.
        test: Test embeddings ``(M, D)``.
        test_target: Class indices ``(M,)``.
        k: Number of neighbours that vote.
    """
    from sklearn.neighbors import KNeighborsClassifier

    known = _embeddings("train", train)
    asked = _embeddings("test", test)
    if known.shape[1] != asked.shape[1]:
        raise ArgumentError(
            "test",
            f"train and test must be as wide as each other, got {tuple(train.shape)} and "
            f"{tuple(test.shape)}",
        )
    check_integer("k", k, 1, len(known))
    classifier = KNeighborsClassifier(n_neighbors=k, algorithm="brute")
    classifier.fit(known.numpy(), _labels("train_target", train_target, known).numpy())
    return float(
        classifier.score(asked.numpy(), _labels("test_target", test_target, asked).numpy())
    )


@checked
def neighbour_accuracy(model: nn.Module, known: Images, asked: Images, k: int = 5) -> float:
    """Accuracy, in [0, 1], of classifying images by their nearest known ones in an embedding.

    Args:
        model: Any module with a layer ``embedding``.
        known: Images whose labels vote.
        asked: Images to classify.
        k: Number of neighbours that vote.
    """
    return knn_accuracy(embed(model, known), known.target, embed(model, asked), asked.target, k)


@checked
def distance_correlation(embeddings: Tensor, others: Tensor) -> float:
    """Pearson correlation of the distances between samples in two embeddings, in [−1, 1].

    Args:
        embeddings: Embeddings ``(N, D)``, N ≥ 3.
        others: Embeddings ``(N, D')`` of the same samples.
    """
    pairs = [torch.pdist(e.double()) for e in _both(embeddings, others, least=3)]
    for name, distances in zip(("embeddings", "others"), pairs, strict=True):
        _check_varies(name, distances, "distances between samples that differ")
    return float(torch.corrcoef(torch.stack(pairs))[0, 1])


@checked
def linear_cka(embeddings: Tensor, others: Tensor) -> float:
    r"""Centred kernel alignment of two embeddings with linear kernels, in [0, 1].

    .. math:: \|Y^\top X\|_F^2 \,/\, (\|X^\top X\|_F \, \|Y^\top Y\|_F)

    where the columns of X and Y are centred: 1 if they are equal up to rotation, scale and offset.

    Args:
        embeddings: Embeddings X ``(N, D)``, N ≥ 2.
        others: Embeddings Y ``(N, D')`` of the same samples.

    Source: Kornblith et al. 2019 (arXiv 1905.00414), section 3.
    """
    x, y = (e.double() - e.double().mean(dim=0) for e in _both(embeddings, others, least=2))
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


@checked
def report(
    student: nn.Module | Mapping[str, nn.Module],
    teacher: nn.Module | None,
    test: Samples,
    *,
    validation: Samples | None = None,
    baseline: str | None = None,
    without: Sequence[str] = (),
    layer: str | tuple[str, str] = "embedding",
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Any:
    """Measure a student beyond its accuracy, beside its teacher and perhaps other students.

    >>> found = metrics.report({"labels": alone, "KD": taught}, teacher, splits.test,
    ...                        validation=splits.validation)
    >>> found                                   # a table, and accuracy against latency
    >>> found.accuracy["KD"].minus_baseline     # its gain, with a 95 % interval
    >>> found.save("report.html")               # everything, on one page

    Intervals are from a bootstrap over the test images: they cover what other images might have
    shown of these nets, not what other seeds of training would have changed.

    Args:
        student: A classifier of images, or several by name; they stay where they are.
        teacher: The classifier that taught them, if there is one.
        test: Images with labels, as for :func:`predict`, which are read once, after the validation.
            They are corrupted, for robustness, if they are :class:`kdcourse.data.Images`.
        validation: Images with labels on which temperatures are fitted; without them, calibration
            is measured as it is.
        baseline: Name of the student that others are compared with; by default, the first of
            several.
        without: Parts to leave out: ``"fidelity"``, ``"calibration"``, ``"robustness"``,
            ``"classes"``, ``"cost"``, ``"export"``.
        layer: The layer whose outputs are compared by CKA; a pair where the teacher's has another
            name. Where a net has no such layer, the report says so.
        resamples: Number of draws of the bootstrap.
        seed: Seed of the bootstrap and of the corruptions.
        progress: Whether to show progress bars.

    Returns:
        A :class:`kdcourse.evaluation.Report`.

    Raises:
        ArgumentError: A name or a part is unknown, or these are no classifiers of images.
    """
    from kdcourse.evaluation import PARTS, TEACHER, Measurement  # which build on this module

    students = dict(student) if isinstance(student, Mapping) else {"student": student}
    if not students or TEACHER in students:
        raise ArgumentError(
            "student", f"student must name at least one, and none of them {TEACHER!r}"
        )
    for part in without:
        check_choice("without", part, PARTS)
    if baseline is not None:
        check_choice("baseline", baseline, tuple(students))
    elif len(students) > 1:
        baseline = next(iter(students))
    check_integer("resamples", resamples, 2)
    layers = (layer, layer) if isinstance(layer, str) else (layer[0], layer[1])
    how = (test, validation, baseline, layers, resamples, seed, progress)
    return Measurement(students, teacher, *how).report(without)


def _embeddings(name: str, embeddings: Tensor, least: int = 1) -> Tensor:
    """Return embeddings ``(N, D)`` on the CPU, in a precision that NumPy has."""
    check_matrix(name, embeddings, "D", least)
    check_values(name, embeddings)
    if not bool(embeddings.isfinite().all()):
        raise ArgumentError(name, f"{name} must be finite numbers: nothing is near to others")
    return at_least_float32(embeddings.detach().cpu())


def _labels(name: str, target: Tensor, embeddings: Tensor) -> Tensor:
    """Return the labels ``(N,)`` of embeddings on the CPU."""
    check_target(target, len(embeddings), name=name)
    check_values(name, target)
    if bool((target < 0).any()):
        raise ArgumentError(name, f"{name} must be classes, got {int(target.min())}")
    return target.cpu()


def _both(embeddings: Tensor, others: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Return two embeddings of the same samples on the CPU, of samples that are not all alike."""
    x = _embeddings("embeddings", embeddings, least)
    y = _embeddings("others", others, least)
    check_same_samples("embeddings", x, "others", y)
    for name, one in (("embeddings", x), ("others", y)):
        _check_varies(name, one, "samples that differ")
    return x, y


def _check_varies(name: str, rows: Tensor, what: str) -> None:
    """Refuse what is constant: it has no correlation with anything."""
    if bool((rows == rows[0]).all()):
        raise ArgumentError(name, f"{name} must hold {what}, got all alike")


def _collected(
    model: nn.Module,
    samples: Samples | Tensor,
    keep: Callable[[Tensor], Tensor],
    batch_size: int = 250,
    output: Output | None = None,
) -> Tensor:
    """Run a model batch by batch and collect what ``keep`` makes of its outputs."""
    # Copies: some models answer in the same place every time.
    batches = answered(model, samples, batch_size, output=output)
    kept = [keep(outputs).clone() for outputs, _, _ in batches]
    if not kept:
        raise ArgumentError("samples", "samples must hold at least one sample")
    return torch.cat(kept)


@torch.no_grad()
def answered(
    model: nn.Module,
    samples: Samples | Tensor,
    batch_size: int = 250,
    part: tuple[int, int] = (0, 1),
    name: str = "samples",
    who: str = "model",
    output: Output | None = None,
) -> Iterator[tuple[Tensor, Inputs, Tensor | None]]:
    """Yield, for every batch, what a model returns in eval mode, the inputs and the target.

    Args:
        model: Any module; its mode is restored afterwards.
        samples: As for :func:`predict`.
        batch_size: Number of samples per forward pass; batches that are batches already stay so.
        part: ``(i, P)`` to look only at the i-th of P parts of every batch, i from 0.
        name: What the samples are called in errors.
        who: What the model is called in errors.
        output: As for :func:`predict`.
    """
    check_module("model", model)
    check_is("output", output, Callable | None)
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    first = True
    with evaluation_mode(model):
        for inputs, target in in_batches(samples, batch_size, name):
            if target is not None:
                inputs, target = share(inputs, part, len(target)), share(target, part)
            if target is not None and len(target) == 0:  # fewer samples than parts
                continue
            with blaming_model(who, inputs, name, first):
                outputs = call(model, to_device(inputs, device), who, output)
            first = False
            check_outputs(who, who, outputs)
            yield outputs, inputs, target
