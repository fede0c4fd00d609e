import itertools

import pytest
import torch
from torch.nn import functional as F

from kdcourse.augmentation import (
    Compose,
    Flip,
    Noise,
    PadCrop,
    ResizedCrop,
    crop_flip,
    pad_crop_flip,
)
from kdcourse.data import replay
from kdcourse.rand_augment import RandAugment

PIXELS = torch.randint(1, 256, (32, 3, 7, 9), dtype=torch.uint8, generator=replay(0))


def shift_of(image, cropped, padding):
    """The one shift at which a crop of the padded image is what came out, or None."""
    padded = F.pad(image, (padding,) * 4)
    _, height, width = image.shape
    for y, x in itertools.product(range(2 * padding + 1), repeat=2):
        if torch.equal(padded[:, y : y + height, x : x + width], cropped):
            return y, x
    return None


def test_pad_crop_crops_every_image_at_a_shift_of_its_own():
    shifts = set()
    for seed in range(8):
        out = PadCrop(2)(PIXELS, replay(seed))
        assert out.dtype == torch.uint8
        assert out.shape == PIXELS.shape
        found = [shift_of(a, b, 2) for a, b in zip(PIXELS, out, strict=True)]
        assert None not in found
        assert len(set(found)) > 5
        shifts |= set(found)
    assert len(shifts) == 25


def pixel_by_pixel(pixels, generator, padding):
    """The crop as an index for every pixel, by which the stored measurements were made."""
    samples, _, height, width = pixels.shape
    shift = torch.randint(2 * padding + 1, (2, samples, 1), generator=generator)
    rows, columns = shift[0] + torch.arange(height), shift[1] + torch.arange(width)
    sample = torch.arange(samples)[:, None, None]
    padded = F.pad(pixels, (padding,) * 4)
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [0, 2, 4])
def test_stored_measurements_stay_reproducible(channels, padding):
    """Same draws, same pixels."""
    pixels, one, other = PIXELS[:, :channels], replay(3), replay(3)
    for _ in range(2):
        out, expected = PadCrop(padding)(pixels, one), pixel_by_pixel(pixels, other, padding)
        assert torch.equal(out, expected)


def test_flip_mirrors_about_half_of_the_images():
    out = Flip()(PIXELS, replay(1))
    mirrored = [torch.equal(a.flip(-1), b) for a, b in zip(PIXELS, out, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(PIXELS, out, strict=True)]
    assert [a != b for a, b in zip(mirrored, kept, strict=True)] == [True] * 32
    assert 6 < sum(mirrored) < 26


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        (PadCrop(0), PIXELS),
        (Flip(0.0), PIXELS),
        (Flip(1.0), PIXELS.flip(-1)),
        (Compose(), PIXELS),
        (Compose(Flip(1.0), Flip(1.0)), PIXELS),
        (Noise(0.0), PIXELS),
        (ResizedCrop((1.0, 1.0)), PIXELS),
    ],
)
def test_what_must_come_out(augment, expected):
    assert torch.equal(augment(PIXELS, replay(0)), expected)


def test_a_crop_lies_anywhere_in_the_image():
    """Half as high and wide, on ramps: its mean brightness tells where, its range how large."""
    ramp = torch.linspace(5, 245, 49).byte()  # 5 a pixel
    across = ramp.expand(2000, 1, 49, 49)
    pixels = torch.cat([across, across.mT], dim=1).contiguous()
    crops = ResizedCrop((0.25, 0.25))(pixels, replay(0)).float()
    centres = crops.mean(dim=(2, 3))  # 125 in the middle, and up to 49 / 4 pixels from there
    for centre in centres.T:
        assert centre.min() == pytest.approx(125 - 61.25, abs=1)
        assert centre.max() == pytest.approx(125 + 61.25, abs=1)
        assert centre.mean() == pytest.approx(125, abs=3)
        assert centre.std() == pytest.approx(2 * 61.25 / 12**0.5, rel=0.05)  # uniform
    assert abs(torch.corrcoef(centres.T)[0, 1]) < 0.1
    extent = crops[:, 0].amax((1, 2)) - crops[:, 0].amin((1, 2))
    assert extent.mean() == pytest.approx(5 * (49 / 2 - 0.5), abs=2)


def test_the_area_of_a_crop_is_uniform_within_its_limits():
    ramp = torch.linspace(5, 245, 49).byte()
    pixels = ramp.expand(2000, 1, 49, 49).contiguous()
    crops = ResizedCrop((0.25, 0.81))(pixels, replay(1)).float()
    extent = crops.amax((1, 2, 3)) - crops.amin((1, 2, 3))
    area = ((extent / 5) / (49 - 1)).square()
    assert area.min() == pytest.approx(0.25, abs=0.03)
    assert area.max() == pytest.approx(0.81, abs=0.03)
    assert area.mean() == pytest.approx(0.53, abs=0.03)


def test_noise_is_drawn_for_every_image_and_pixel():
    grey = torch.full((50, 2, 20, 20), 128, dtype=torch.uint8)
    out = Noise(0.05)(grey, replay(0)).float()
    for dimensions in ((0,), (1,), (2, 3)):  # over images, channels, places
        deviation = out.var(dim=dimensions).mean().sqrt()
        assert deviation == pytest.approx(255 * 0.05, rel=0.05)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: PadCrop(-1), "padding"),
        (lambda: Flip(-0.1), "probability"),
        (lambda: Flip(1.1), "probability"),
        (lambda: ResizedCrop((0.0, 1.0)), "lower scale"),
        (lambda: ResizedCrop((0.5, 0.4)), "lower scale"),
        (lambda: ResizedCrop((0.0, 0.0)), "upper scale"),
        (lambda: ResizedCrop((0.5, 1.1)), "upper scale"),
        (lambda: Noise(-0.1), "deviation"),
    ],
)
def test_bad_settings_are_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()


@pytest.mark.parametrize(
    "augment", [PadCrop(1), Flip(), ResizedCrop(), Noise(), RandAugment()], ids=repr
)
def test_only_stored_pixels_are_augmented(augment):
    with pytest.raises(ValueError, match=r"pixels must be torch\.uint8"):
        augment(PIXELS.float(), replay(0))


def test_noise_has_its_deviation():
    grey = torch.full((50, 1, 20, 20), 128, dtype=torch.uint8)
    out = Noise(0.05)(grey, replay(0))
    assert out.dtype == torch.uint8
    assert out.float().mean() == pytest.approx(128, abs=0.5)
    assert out.float().std() == pytest.approx(255 * 0.05, rel=0.03)
    extremes = Noise(9.0)(grey, replay(0)).unique()
    assert (extremes[0], extremes[-1]) == (0, 255)


@pytest.mark.parametrize(
    "augment",
    [PadCrop(1), Flip(), Noise(), pad_crop_flip(), crop_flip(), RandAugment()],
    ids=repr,
)
def test_a_function_of_the_generator_on_any_layout_and_device(augment, device):
    pixels = PIXELS.to(device)
    out = augment(pixels, replay(4, device=device))
    assert torch.equal(out, augment(pixels, replay(4, device=device)))
    assert not torch.equal(out, augment(pixels, replay(5, device=device)))
    strided = pixels.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(augment(strided, replay(4, device=device)), out)
    assert out.device == pixels.device


def test_compose_keeps_the_order():
    steps = Compose(lambda p, g: p + 1, lambda p, g: p * 2)
    assert steps(torch.tensor([3]), replay(0)).item() == 8
    for augment, words in (
        (pad_crop_flip(4), "PadCrop(padding=4), Flip(probability=0.5)"),
        (pad_crop_flip(), "PadCrop(padding=2), Flip(probability=0.5)"),
        (crop_flip((0.2, 0.8)), "ResizedCrop(scale=(0.2, 0.8)), Flip(probability=0.5)"),
        (crop_flip(), "ResizedCrop(scale=(0.3, 1.0)), Flip(probability=0.5)"),
        (Compose(ResizedCrop(), Noise()), "ResizedCrop(scale=(0.3, 1.0)), Noise(deviation=0.1)"),
    ):
        assert repr(augment) == f"Compose({words})"
