"""Data sets by name, and what is known of them before they are read."""

import torch

from kdcourse import data
from kdcourse.data import Images
from kdcourse.train.options import OptionError, Options, unknown

SHAPES = {  # training images, channels, height and width, classes
    "MNIST": (60000, 1, 28, 10),
    "FashionMNIST": (60000, 1, 28, 10),
    "KMNIST": (60000, 1, 28, 10),
    "QMNIST": (60000, 1, 28, 10),
    "USPS": (7291, 1, 16, 10),
    "CIFAR10": (50000, 3, 32, 10),
    "CIFAR100": (50000, 3, 32, 100),
    "SVHN": (73257, 3, 32, 10),
    "STL10": (5000, 3, 96, 10),
}
GUESS = (10000, 3, 32, 10)


def data_set(name: str) -> str:
    """Return the name of torchvision's class: ``fashion-mnist`` is ``FashionMNIST``."""
    from torchvision import datasets  # see data.dataset_class

    known = {key.lower(): key for key in datasets.__all__ if _has_two_parts(key)}
    found = known.get(name.lower().replace("-", ""))
    if found is None:
        raise OptionError(f"--data: {unknown('data set', name, known.values())}")
    return found


def _has_two_parts(name: str) -> bool:
    """Whether a class of torchvision holds training and test images."""
    try:
        data.dataset_class(name)
    except ValueError:
        return False
    return True


def blank(options: Options) -> tuple[Images, bool]:
    """Return a training set with nothing on its images, which take no memory.

    Args:
        options: The options of the training.

    Returns:
        The images, and whether their shape is a guess, until the data have been read.
    """
    name = data_set(options.data)
    count, channels, size, classes = SHAPES.get(name, GUESS)
    guessed, left = name not in SHAPES, count - options.validation
    if left < 1 and not guessed:
        raise OptionError(f"--validation: {name} has {count} images to train on")
    if options.images is not None and options.images > left and not guessed:
        raise OptionError(f"--images: there are {left} to train on")
    count, size = options.images or max(left, 1), options.image_size or size
    images = Images(
        torch.zeros((), dtype=torch.uint8).expand(count, channels, size, size),
        torch.zeros((), dtype=torch.int64).expand(count),
        tuple(map(str, range(classes))),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    return images, guessed
