import dataclasses
import gzip
import itertools
import shutil
from itertools import chain

import numpy as np
import pytest
import torch

from kdcourse import augmentation, data, tips
from kdcourse.places import COURSE

RAW = COURSE / "data" / "FashionMNIST" / "raw"


@pytest.fixture(scope="module")
def splits():
    return data.fashion_mnist()


def test_fashion_mnist_is_complete_and_normalised(splits):
    assert [len(part) for part in vars(splits).values()] == [55_000, 5_000, 10_000]
    assert splits.train.classes[9] == "Ankle boot"
    assert splits.train.mean == pytest.approx((0.2860,), abs=1e-4)
    assert splits.train.std == pytest.approx((0.3530,), abs=1e-4)
    assert splits.train.pixels.dtype == torch.uint8
    inputs = torch.cat([splits.train.inputs(), splits.validation.inputs()])
    assert inputs.dtype == torch.float32
    assert inputs.mean().abs() < 1e-3
    assert inputs.std() == pytest.approx(1, abs=1e-3)


def test_train_and_validation_are_the_training_set_once(splits):
    with gzip.open(RAW / "train-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(), np.uint8, offset=16).reshape(60_000, -1)
    ours = torch.cat([splits.train.pixels, splits.validation.pixels]).flatten(1).numpy()
    assert sorted(map(bytes, ours)) == sorted(map(bytes, raw))


def test_the_test_images_are_the_files_own(splits):
    with gzip.open(RAW / "t10k-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(), np.uint8, offset=16).reshape(10_000, 1, 28, 28)
    with gzip.open(RAW / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    assert np.array_equal(splits.test.pixels.numpy(), raw)
    assert np.array_equal(splits.test.target.numpy(), labels)


def test_the_split_is_a_function_of_its_seed(splits):
    same, other = data.fashion_mnist(), data.fashion_mnist(seed=1, validation=100)
    assert torch.equal(same.validation.pixels, splits.validation.pixels)
    assert len(other.validation) == 100
    assert not torch.equal(other.validation.pixels, splits.validation.pixels[:100])


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(RAW, tmp_path / "FashionMNIST" / "raw")
    return tmp_path


def test_the_environment_says_where_data_is(copy, monkeypatch):
    monkeypatch.setenv("KDCOURSE_DATA", str(copy))
    assert data.data_root() == copy
    monkeypatch.setenv("KDCOURSE_DATA", str(copy / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.fashion_mnist()


# Subsets and batches.


@pytest.fixture
def images():
    """Images that carry their own number in their pixels."""
    pixels = torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 6, 6).clone()
    return data.Images(pixels, torch.arange(50) % 5, tuple("abcde"), (0.0,), (1 / 255,))


def numbers(batches):
    """The numbers of the images in each batch (a pixel's value is kept by this normalisation)."""
    return [inputs.flatten(1).amax(1).round().int().tolist() for inputs, _ in batches]


def test_a_batch_holds_normalised_images_with_their_labels(images):
    for inputs, target in images.batches(8):
        assert inputs.dtype == torch.float32
        assert torch.equal(inputs[:, 0, 0, 0].int() % 5, target.int())


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_come_back_from_inputs(channels):
    pixels = torch.arange(256).view(-1, 1, 1, 1).expand(-1, channels, 2, 2).byte()
    mean, std = (0.2, 0.5, 0.7)[:channels], (0.1, 0.3, 0.4)[:channels]
    known = data.Images(pixels, torch.zeros(256).long(), ("a",), mean, std)
    for channel in range(channels):
        expected = (torch.arange(256) / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(known.inputs()[:, channel, 0, 0], expected)
    assert torch.equal(known.denormalize(known.inputs()), pixels)
    beyond = known.denormalize(torch.tensor([-1e3, 1e3]).view(2, 1, 1, 1).expand(2, channels, 2, 2))
    assert beyond[0].unique().tolist() == [0]
    assert beyond[1].unique().tolist() == [255]


def test_every_image_once_and_the_last_batch_smaller(images):
    batches = numbers(images.batches(8))
    assert [len(batch) for batch in batches] == [8] * 6 + [2]
    assert sorted(chain(*batches)) == list(range(50))
    assert numbers(images.batches(20, shuffle=False)) == [
        list(range(20)),
        list(range(20, 40)),
        list(range(40, 50)),
    ]


@pytest.mark.parametrize("augment", [None, augmentation.pad_crop_flip(), augmentation.Noise()])
def test_an_epoch_can_be_replayed(images, augment):
    def epoch(seed, epoch):
        batches = images.batches(8, seed=seed, epoch=epoch, augment=augment)
        return torch.cat([inputs for inputs, _ in batches])

    state = torch.get_rng_state()
    assert torch.equal(epoch(3, 5), epoch(3, 5))
    assert not torch.equal(epoch(3, 5), epoch(3, 6))
    assert not torch.equal(epoch(3, 5), epoch(4, 5))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("views", [None, tips.FunctionMatching(augmentation.pad_crop_flip())])
def test_parts_of_many_processes_add_up_to_the_batches_of_one(images, views):
    """Without overlap, without loss, and augmented alike."""
    options = {"seed": 1, "epoch": 2, "views": views}
    if views is None:
        options["augment"] = augmentation.pad_crop_flip()
    parts = [images.batches(8, part=(number, 3), **options) for number in range(3)]
    for whole, *shares in zip(images.batches(8, **options), *parts, strict=True):
        sizes = [len(target) for _, target in shares]
        assert max(sizes) - min(sizes) <= 1
        assert torch.equal(torch.cat([target for _, target in shares]), whole[1])
        inputs = [one if views is None else torch.cat(one, dim=1) for one, _ in [whole, *shares]]
        assert torch.equal(torch.cat(inputs[1:]), inputs[0])


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-3, ValueError), (1.5, ValueError), ("8", TypeError)]
)
def test_bad_batch_sizes_are_named(images, size, error):
    with pytest.raises(error, match="batch_size"):
        next(images.batches(size))


@pytest.mark.parametrize("bits", [63, 32], ids=["torch", "NumPy"])
def test_no_two_runs_epochs_or_processes_share_a_seed(bits):
    told = list(itertools.product(range(50), range(50), range(16)))
    assert len({data.replay_seed(*one) % 2**bits for one in told}) == len(told)
    assert data.replay_seed(0, 0) == 0
    assert 0 <= data.replay_seed(10**15, 3) < 2**63


def test_subsets(images):
    part = images.subset(20, seed=1, balanced=True)
    assert part.target.bincount().tolist() == [4] * 5
    assert len(set(part.pixels[:, 0, 0, 0].tolist())) == 20
    assert torch.equal(images.subset(9, seed=2).pixels, images.subset(9, seed=2).pixels)
    assert not torch.equal(images.subset(9, seed=2).pixels, images.subset(9, seed=3).pixels)
    few = [images.subset(10, seed=seed, balanced=True).pixels.unique() for seed in range(20)]
    assert len({tuple(one.tolist()) for one in few}) == 20  # every seed draws its own
    assert torch.cat(few).unique().tolist() == list(range(50))  # from all images
    without = images[images.target != 3]
    assert without.target.unique().tolist() == [0, 1, 2, 4]
    assert len(images[10:20]) == 10
    assert images[torch.tensor([7, 7])].pixels[:, 0, 0, 0].tolist() == [7, 7]


@pytest.mark.parametrize(
    ("size", "balanced", "words"),
    [
        (0, False, "size must be an integer"),
        (51, False, "size must be an integer"),
        (7, True, "split equally"),
    ],
)
def test_impossible_subsets(images, size, balanced, words):
    with pytest.raises(ValueError, match=words):
        images.subset(size, balanced=balanced)


def test_a_class_with_too_few_images_is_named(images):
    few = images[(images.target != 2) | (torch.arange(50) < 10)]
    with pytest.raises(ValueError, match="fewer than 5 images"):
        few.subset(25, balanced=True)


@pytest.mark.parametrize(
    ("pixels", "target", "words"),
    [
        (torch.zeros(3, 1, 4, 4), torch.zeros(3).long(), "pixels must be torch.uint8"),
        (torch.zeros(3, 4, 4).byte(), torch.zeros(3).long(), r"\(N, C, H, W\)"),
        (torch.zeros(3, 1, 4, 4).byte(), torch.zeros(2).long(), "one per image"),
        (torch.zeros(3, 1, 4, 4).byte(), torch.zeros(3), "target must be torch.int64"),
    ],
)
def test_bad_tensors_are_named(pixels, target, words):
    with pytest.raises(ValueError, match=words):
        data.Images(pixels, target, ("a",), (0.5,), (0.5,))


def test_batches_come_from_the_device_of_the_images(images, device):
    inputs, target = next(images.to(device).batches(8, augment=augmentation.pad_crop_flip()))
    assert inputs.device.type == target.device.type == device.type


def test_labels_can_be_taken_away(images):
    bare = images.unlabelled()
    assert (bare.target == -1).all()
    assert torch.equal(bare.pixels, images.pixels)


def test_two_sets_become_one(images):
    both = images[:30] + images[10:]
    assert len(both) == 70
    assert torch.equal(both.pixels[30:], images.pixels[10:])
    assert torch.equal(both.target[:30], images.target[:30])
    with pytest.raises(ValueError, match="classes differ"):
        images + dataclasses.replace(images, classes=tuple(f"{name}?" for name in images.classes))
