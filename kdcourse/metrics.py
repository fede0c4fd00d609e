"""How good is a model, and how close is it to another?"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdcourse.checks import check_matrix, check_same_shape, check_target
from kdcourse.data import Images
from kdcourse.models import capture


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and afterwards put every part of it back into its old mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(model: nn.Module, images: Images | Tensor, batch_size: int = 250) -> Tensor:
    """Return a model's outputs for a whole set, batch by batch, in eval mode.

    Args:
        model: Any module; its mode is restored afterwards.
        images: A set of images, or inputs ``(N, C, H, W)``.
        batch_size: Number of samples per forward pass.

    Returns:
        The outputs ``(N, K)``, on the device of the model.
    """
    return _batchwise(model, images, lambda outputs: outputs, batch_size)


def accuracy(model: nn.Module, images: Images) -> float:
    """Share of images that a model classifies correctly, in [0, 1]."""
    return share_correct(predict(model, images), images.target)


def share_correct(predictions: Tensor, target: Tensor) -> float:
    """Share of predictions ``(N, K)`` whose largest entry is the target ``(N,)``, in [0, 1]."""
    check_matrix("predictions", predictions)
    check_target(target, *predictions.shape)
    return _share(predictions.argmax(dim=1) == target.to(predictions.device))


def agreement(predictions: Tensor, others: Tensor) -> float:
    """Share of samples on which two predictions ``(N, K)`` agree on the class, in [0, 1]."""
    check_matrix("predictions", predictions)
    check_matrix("others", others)
    check_same_shape("predictions", predictions, "others", others)
    return _share(predictions.argmax(dim=1) == others.argmax(dim=1).to(predictions.device))


def _share(same: Tensor) -> float:
    return float(same.float().mean())


def recall(predictions: Tensor, target: Tensor, label: int) -> float:
    """Share of the samples of class ``label`` that are classified as such, in [0, 1]."""
    of_class = target == label
    if not bool(of_class.any()):
        raise ValueError(f"no sample of class {label}")
    return share_correct(predictions[of_class.to(predictions.device)], target[of_class])


def embed(model: nn.Module, images: Images | Tensor, layer: str = "embedding") -> Tensor:
    """Return the outputs of a layer for a whole set, flattened to ``(N, D)``, in eval mode.

    Args:
        model: Any module.
        images: A set of images, or inputs ``(N, C, H, W)``.
        layer: Name of the layer, as for :func:`kdcourse.models.capture`.
    """
    with capture(model, [layer]) as shown:
        return _batchwise(model, images, lambda _: shown[layer].flatten(1))


def nearest(embeddings: Tensor, count: int) -> Tensor:
    """Return the indices ``(N, count)`` of each sample's nearest neighbours, nearest first.

    Args:
        embeddings: Embeddings ``(N, D)``, N > count.
        count: Number of neighbours to find; no sample is its own neighbour.
    """
    from sklearn.neighbors import NearestNeighbors  # slow to import, and fit does not need it

    found = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(embeddings.cpu().numpy())
    return torch.from_numpy(found.kneighbors(return_distance=False))


def recall_at(k: int, embeddings: Tensor, target: Tensor) -> float:
    """Share of queries with one of their own class among their k nearest, in [0, 1].

    This is image retrieval: every sample is the query once, and all others are searched.

    Args:
        k: Number of neighbours that are looked at.
        embeddings: Embeddings ``(N, D)``, N > k.
        target: Class indices ``(N,)``.
    """
    target = target.cpu()
    same = target[nearest(embeddings, k)] == target[:, None]  # (N, k)
    return float(same.any(dim=1).float().mean())


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

    classifier = KNeighborsClassifier(n_neighbors=k, algorithm="brute")
    classifier.fit(train.cpu().numpy(), train_target.cpu().numpy())
    return float(classifier.score(test.cpu().numpy(), test_target.cpu().numpy()))


def neighbour_accuracy(model: nn.Module, known: Images, asked: Images, k: int = 5) -> float:
    """Accuracy, in [0, 1], of classifying images by their nearest known ones in an embedding.

    Args:
        model: Any module with a layer ``embedding``.
        known: Images whose labels vote.
        asked: Images to classify.
        k: Number of neighbours that vote.
    """
    return knn_accuracy(embed(model, known), known.target, embed(model, asked), asked.target, k)


def distance_correlation(embeddings: Tensor, others: Tensor) -> float:
    """Pearson correlation of the distances between samples in two embeddings, in [−1, 1].

    Args:
        embeddings: Embeddings ``(N, D)``, N ≥ 3.
        others: Embeddings ``(N, D')`` of the same samples.
    """
    pairs = [torch.pdist(e.cpu().double()) for e in (embeddings, others)]
    return float(torch.corrcoef(torch.stack(pairs))[0, 1])


def linear_cka(embeddings: Tensor, others: Tensor) -> float:
    r"""Centred kernel alignment of two embeddings with linear kernels, in [0, 1].

    .. math:: \|Y^\top X\|_F^2 \,/\, (\|X^\top X\|_F \, \|Y^\top Y\|_F)

    where the columns of X and Y are centred: 1 if they are equal up to rotation, scale and offset.

    Args:
        embeddings: Embeddings X ``(N, D)``, N ≥ 2.
        others: Embeddings Y ``(N, D')`` of the same samples.

    Source: Kornblith et al. 2019 (arXiv 1905.00414), section 3.
    """
    x, y = ((e - e.mean(dim=0)).cpu().double() for e in (embeddings, others))
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


@torch.no_grad()
def _batchwise(
    model: nn.Module,
    images: Images | Tensor,
    keep: Callable[[Tensor], Tensor],
    batch_size: int = 250,
) -> Tensor:
    """Run a model batch by batch, in eval mode, and collect what ``keep`` makes of its outputs."""
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    outputs = []
    with evaluation_mode(model):
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            inputs = part if isinstance(part, Tensor) else part.inputs()
            outputs.append(keep(model(inputs.to(device))))
    return torch.cat(outputs)
