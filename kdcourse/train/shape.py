"""Data sets by name, and what they hold."""

from dataclasses import dataclass, replace

from kdcourse import data
from kdcourse.data import Images
from kdcourse.train.language import unknown
from kdcourse.train.options import OptionError, Options


@dataclass(frozen=True)
class Shape:
    """What a data set holds.

    Attributes:
        images: in its training part, N.
        channels: C.
        size: height and width, pixels.
        classes: K.
        known: whether this is so; else it is a guess, until the data have been read.
    """

    images: int
    channels: int
    size: int
    classes: int
    known: bool = True


SHAPES = {
    "MNIST": Shape(60000, 1, 28, 10),
    "FashionMNIST": Shape(60000, 1, 28, 10),
    "KMNIST": Shape(60000, 1, 28, 10),
    "QMNIST": Shape(60000, 1, 28, 10),
    "USPS": Shape(7291, 1, 16, 10),
    "CIFAR10": Shape(50000, 3, 32, 10),
    "CIFAR100": Shape(50000, 3, 32, 100),
    "SVHN": Shape(73257, 3, 32, 10),
    "STL10": Shape(5000, 3, 96, 10),
}
GUESS = Shape(10000, 3, 32, 10, known=False)


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


def shape_of(options: Options, name: str) -> Shape:
    """Return what the data will hold, as far as is known before they are read."""
    shape = SHAPES.get(name, GUESS)
    size = shape.size if options.image_size is None else options.image_size
    left = shape.images - options.validation
    if shape.known and left < 1:
        raise OptionError(f"--validation: {name} has {shape.images} images to train on")
    if shape.known and options.images is not None and options.images > left:
        raise OptionError(f"--images: there are {left} to train on")
    return replace(shape, size=size, images=options.images or max(left, 1))


def shape_of_images(images: Images) -> Shape:
    """Return what a data set holds."""
    _, channels, size, _ = images.pixels.shape
    return Shape(len(images), channels, size, len(images.classes))
