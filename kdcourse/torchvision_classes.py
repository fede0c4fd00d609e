"""The classes of ``torchvision.datasets``: which can be loaded, and what they call their parts.

A table says what the other sets are for, since nothing else tells before their files are there.
Somebody else's class is asked for the usual parts, and looked at when it is read.
"""

import inspect
from typing import Any

from kdcourse.errors import ArgumentError
from kdcourse.signatures import checked

# What tells a class which of its parts is meant: the values for training and for test.
USUAL = {"train": (True, False), "split": ("train", "test")}
PARTS = {  # where that is something else
    "CLEVRClassification": {"split": ("train", "val")},  # "test" has no labels
    "EMNIST": {"split": ("balanced", "balanced")},
    "FGVCAircraft": {"split": ("trainval", "test")},
    "ImageNet": {"split": ("train", "val")},
    "Imagenette": {"split": ("train", "val")},
    "INaturalist": {"version": ("2021_train", "2021_valid")},
    "OxfordIIITPet": {"split": ("trainval", "test")},
    "Places365": {"split": ("train-standard", "val")},  # "test" has no labels
}

OTHERS = {  # what is in torchvision's modules whose sets cannot be learned as images and classes
    **dict.fromkeys(("hmdb51", "kinetics", "moving_mnist", "ucf101"), "it has videos"),
    **dict.fromkeys(("kitti", "voc", "widerface"), "it has objects to be found"),
    **dict.fromkeys(("cityscapes", "sbd"), "it has outlines to be drawn"),
    **dict.fromkeys(("coco", "flickr", "sbu"), "it has captions, or objects to be found"),
    "_optical_flow": "it has motions to be estimated",
    "_stereo_matching": "it has depths to be estimated",
    "celeba": "an image has 40 attributes instead of a class",
    "lfw": "it has people to be recognised, none of whom is in both parts",
    "lsun": "torchvision keeps unchecked files in the working folder for it",
    "omniglot": "it has characters to be recognised, none of which is in both parts",
    "phototour": "it has pairs of patches to be compared",
}


@checked
def dataset_class(dataset: str | type) -> type:
    """Return a class of ``torchvision.datasets``, which may be given by its name.

    Raises:
        ValueError: There is no such class, or it is no classification set of images that has a
            training and a test part.
    """
    from torchvision import datasets  # nearly as slow to import as torch itself

    kind = getattr(datasets, dataset, None) if isinstance(dataset, str) else dataset
    if not isinstance(kind, type):
        raise ArgumentError("dataset", f"{dataset!r} is not a data set of torchvision")
    modules = {base.__module__ for base in kind.__mro__}
    reasons = [OTHERS[name] for name in OTHERS if f"torchvision.datasets.{name}" in modules]
    if not reasons and not parts_of(kind):
        reasons = ["it is not divided into a training and a test part"]
    if reasons:
        what = f"{kind.__name__} is not among the classification sets that can be loaded"
        raise ArgumentError("dataset", f"{what}: {reasons[0]}")
    return kind


def parameters_of(kind: type) -> set[str]:
    """Return the names of what a class takes, also through the ``**kwargs`` of its bases."""
    names: set[str] = set()
    for base in kind.__mro__:
        taken = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        names |= set(taken)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
            break
    return names


def parts_of(kind: type) -> dict[str, tuple[Any, Any]]:
    """Return the arguments that say which part is meant."""
    own = next((PARTS[base.__name__] for base in kind.__mro__ if base.__name__ in PARTS), {})
    accepted = parameters_of(kind)
    return {name: both for name, both in {**USUAL, **own}.items() if name in accepted}
