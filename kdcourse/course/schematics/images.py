"""The image that schematics show."""

import gzip

import numpy as np

from kdcourse.places import image_folder


def boot() -> np.ndarray:
    """Return the first test image of Fashion-MNIST, an ankle boot, as 28 × 28 values in 0…1."""
    with gzip.open(image_folder() / "FashionMNIST/raw/t10k-images-idx3-ubyte.gz") as file:
        file.seek(16)  # of header
        pixels = file.read(28 * 28)
    return np.frombuffer(pixels, np.uint8).reshape(28, 28) / 255
