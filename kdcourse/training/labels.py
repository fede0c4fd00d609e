"""Which samples of a training set have a label, as far as can be told without going through it."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kdcourse.batch import are_classes
from kdcourse.data import Images, Views


def labels_of(train: object, views: Views | None) -> str:
    """Whether ``"all"`` samples have a label, ``"some"``, or ``"none"``, as far as can be told."""
    if not getattr(train, "labelled", True) or not getattr(views, "labelled", True):
        return "none"
    targets = [one for one in _targets(train) if isinstance(one, Tensor) and not one.is_meta]
    if not targets or not all(map(are_classes, targets)):
        return "all"
    known = torch.cat([(target >= 0).flatten().cpu() for target in targets])
    return "all" if bool(known.all()) else "some" if bool(known.any()) else "none"


def _targets(train: object) -> list[object]:
    """Return the targets of a set whose samples are all in memory."""
    if isinstance(train, Images):
        return [train.target]
    if isinstance(train, DataLoader) and isinstance(train.dataset, TensorDataset):
        return [train.dataset.tensors[-1]]
    if type(train) is list:  # one of another kind may act when it is gone through
        batches = (batch for batch in train if isinstance(batch, (tuple, list)))
        return [batch[1] for batch in batches if len(batch) in (2, 3)]
    return []
