"""RandAugment on batches, against Pillow image by image."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from kdcourse.augmentation import Compose, pad_crop_flip
from kdcourse.data import replay
from kdcourse.rand_augment import GREY, OPERATIONS, RandAugment

IMAGES = 40
SIZE = 24, 20  # width and height


def within(low, high):
    return lambda share: low + (high - low) * share


def affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


MIXED, MOVED = within(0.05, 0.95), within(-0.3, 0.3)
PILLOWS = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "brightness": lambda image, share: ImageEnhance.Brightness(image).enhance(MIXED(share)),
    "colour": lambda image, share: ImageEnhance.Color(image).enhance(MIXED(share)),
    "contrast": lambda image, share: ImageEnhance.Contrast(image).enhance(MIXED(share)),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "posterize": lambda image, share: ImageOps.posterize(image, int(within(4, 8)(share))),
    "rotate": lambda image, share: image.rotate(within(-30, 30)(share)),
    "sharpness": lambda image, share: ImageEnhance.Sharpness(image).enhance(MIXED(share)),
    "shear x": lambda image, share: affine(image, 1, MOVED(share), 0, 0, 1, 0),
    "shear y": lambda image, share: affine(image, 1, 0, 0, MOVED(share), 1, 0),
    "solarize": lambda image, share: ImageOps.solarize(image, 256 * share),
    "translate x": lambda image, share: affine(image, 1, 0, SIZE[0] * MOVED(share), 0, 1, 0),
    "translate y": lambda image, share: affine(image, 1, 0, 0, 0, 1, SIZE[1] * MOVED(share)),
}


def some_images(channels):
    """Smooth images of many brightnesses, one in ten of a single one."""
    generator = replay(3)
    coarse = torch.rand(IMAGES, channels, 5, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, SIZE[::-1], mode="bilinear")
    noisy = smooth + 0.1 * torch.rand(smooth.shape, generator=generator)
    noisy[::10] = noisy[::10, :, :1, :1]
    return (230 * noisy).to(torch.uint8)


def as_pillow(image):
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array if array.shape[-1] == 3 else array[..., 0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_that_of_pillow(name, channels):
    images, shares = some_images(channels), torch.rand(IMAGES, generator=replay(1))
    found = OPERATIONS[name](images, shares.view(-1, 1, 1, 1))
    assert found.dtype == torch.uint8
    assert found.shape == images.shape
    changed = 0.0
    for image, share, ours in zip(images, shares.tolist(), found, strict=True):
        theirs = torch.tensor(np.asarray(PILLOWS[name](as_pillow(image), share)))
        theirs = theirs.view(*SIZE[::-1], channels).permute(2, 0, 1)
        apart = (ours.int() - theirs.int()).abs()
        # A rounding of theirs: by one, or of a place that lies between two pixels.
        assert (apart > 1).float().mean() < 0.01
        changed += (ours != image).float().mean().item()
    assert (changed > 0) != (name == "colour" and channels == 1)


def test_every_image_gets_operations_of_its_own():
    alike = some_images(3)[1:2].expand(200, -1, -1, -1)
    once = RandAugment(1, cutout=0.0)(alike, replay(0))
    same = (once == alike).flatten(1).all(dim=1).float().mean().item()
    assert same < 0.25  # one in fourteen is left as it is, and some change little
    assert len(once.unique(dim=0)) > 120
    assert len(RandAugment(3)(alike, replay(0)).unique(dim=0)) > 190


def test_the_square_covers_up_to_its_share():
    black = torch.zeros(2000, 1, 20, 20, dtype=torch.uint8)
    seen = RandAugment(1, cutout=0.5)(black, replay(0))
    covered = (seen == GREY).flatten(1).float().mean(dim=1)
    assert covered.max() <= 0.26
    # The mean square of what is uniform up to half, less what sticks out: of a side s, 1 - s / 4.
    sides = torch.linspace(0, 0.5, 1001)
    assert covered.mean().item() == pytest.approx(
        (sides * (1 - sides / 4)).square().mean().item(), rel=0.1
    )
    assert not (RandAugment(1, cutout=0.0)(black, replay(0)) == GREY).any()


def test_it_goes_beside_other_augmentations():
    augment = Compose(pad_crop_flip(2), RandAugment())
    assert repr(augment).endswith("RandAugment(operations=2, cutout=0.5))")
    one_pixel = torch.zeros(3, 3, 1, 1, dtype=torch.uint8)
    assert augment(one_pixel, replay(0)).shape == one_pixel.shape
    assert RandAugment()(one_pixel[:0], replay(0)).shape == (0, 3, 1, 1)
