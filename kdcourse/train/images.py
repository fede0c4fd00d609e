"""What is known of the sets of images before they are read."""

import torch

from kdcourse import data
from kdcourse.data import Images
from kdcourse.train.options import OptionError, Options, unknown

SHAPES = {  # training images, channels, height and width, classes
    **dict.fromkeys(("MNIST", "FashionMNIST", "KMNIST", "QMNIST"), (60000, 1, 28, 10)),
    "EMNIST": (112800, 1, 28, 47),
    "USPS": (7291, 1, 16, 10),
    "CIFAR10": (50000, 3, 32, 10),
    "CIFAR100": (50000, 3, 32, 100),
    "SVHN": (73257, 3, 32, 10),
    "STL10": (5000, 3, 96, 10),
}
GUESS = (10000, 3, 32, 10)


def data_set(name: str) -> str:
    """Return the name of torchvision's class: ``fashion-mnist`` is ``FashionMNIST``."""
    from torchvision import datasets  # only now, see data.dataset_class

    known, refused = {}, {}
    for key in datasets.__all__:
        try:
            data.dataset_class(key)
            known[key.lower()] = key
        except ValueError as error:
            refused[key.lower()] = error
    asked = name.lower().replace("-", "")
    if asked not in known:
        reason = refused.get(asked, unknown("data set", name, known.values()))
        raise OptionError(f"--data: {reason}")
    return known[asked]


def blank(options: Options) -> tuple[Images, bool]:
    """Return blank images, which take no memory, and whether their shape is a guess."""
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
