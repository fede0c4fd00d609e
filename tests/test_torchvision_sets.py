"""Loading: Fashion-MNIST's own files, and every set of torchvision on small files of its form."""

import re
import shutil
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from fake_sets import FAKES, TEST, TRAIN
from fake_sets import pixels as pixels_of
from PIL import Image
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5

from kdcourse import data, torchvision_sets
from kdcourse.errors import ArgumentError
from kdcourse.places import COURSE
from kdcourse.train.images import data_set
from kdcourse.train.options import OptionError

RAW = COURSE / "data" / "FashionMNIST" / "raw"
CLASSES = [name for name in datasets.__all__ if isinstance(getattr(datasets, name), type)]
EMNIST = [
    f"{part}-{what}"
    for part in ("train", "test")
    for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write the files of a set, and return its folder."""

    def write(name):
        FAKES[name](tmp_path, monkeypatch)
        return tmp_path

    return write


def shown(images):
    """The labels that the images show."""
    return (images.pixels.double().mean((1, 2, 3)) // 60).long()


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_torchvision_loads_or_is_refused_by_name(name, files):
    if name not in FAKES:
        for refuse, blame in ((data.from_torchvision, ""), (data_set, "--data: ")):
            with pytest.raises(ValueError, match=f"^{blame}{name} is not among the class") as error:
                refuse(name)
            assert isinstance(error.value, ArgumentError | OptionError)
        return
    assert data_set(name) == name
    splits = data.from_torchvision(name, files(name), validation=2)
    fewer = 2 if name == "RenderedSST2" else 3
    train = splits.train + splits.validation
    assert len(train) == 4 * fewer
    assert len(splits.test) == 2 * fewer
    for part in (train, splits.test):
        assert torch.equal(shown(part), part.target)
        assert part.target.bincount().tolist() == [len(part) // fewer] * fewer


@pytest.mark.parametrize("name", FAKES)
def test_missing_files_are_told(name, tmp_path, monkeypatch):
    FAKES[name](tmp_path / "elsewhere", monkeypatch)
    folder = tmp_path / "here"
    for _ in range(2):  # without the folder, and with an empty one
        with pytest.raises(FileNotFoundError, match=re.escape(str(folder))) as error:
            data.from_torchvision(name, folder)
        assert "Errno" not in str(error.value)
        folder.mkdir(exist_ok=True)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", FAKES)
def test_damaged_files_are_told(name, files):
    folder = files(name)
    each = {(path.parent, path.suffix): path for path in folder.rglob("*") if path.is_file()}
    for path in each.values():
        content = path.read_bytes()
        path.write_bytes(b"damaged \xff\0")
        with pytest.raises((FileNotFoundError, data.CorruptedFileError)) as error:
            data.from_torchvision(name, folder, validation=2)
        picture = path.suffix in (".jpg", ".png", ".JPEG")
        assert str(path if picture else folder) in str(error.value)
        assert "Errno" not in str(error.value)
        path.write_bytes(content)
    data.from_torchvision(name, folder, validation=2)


# Files that are not as they should be.


def listing(folder):
    return sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*"))


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(RAW, tmp_path / "FashionMNIST" / "raw")
    return tmp_path


def test_loading_leaves_the_folder_as_it_was(copy):
    before = listing(copy)
    data.fashion_mnist(copy)
    assert listing(copy) == before


def test_a_missing_file_is_named(copy):
    path = copy / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    path.unlink()
    with pytest.raises(FileNotFoundError, match="download=True") as error:
        data.fashion_mnist(copy)
    assert str(path) in str(error.value)
    assert "25c81989df183df01b3e8a0aad5dffbe" in str(error.value)


def test_a_corrupted_file_is_named_with_both_checksums(copy):
    path = copy / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(data.CorruptedFileError, match="download=True") as error:
        data.fashion_mnist(copy)
    message = str(error.value)
    assert str(path) in message
    assert "bb300cfdad3c16e7a12a480ee83cd310" in message
    assert calculate_md5(path) in message


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    path = tmp_path / "images.zip"
    path.touch()
    for download in (False, True):
        with pytest.raises(NotADirectoryError, match=r"images\.zip is a file; name a folder"):
            data.fashion_mnist(path, download=download)


def test_advice_fits_the_set(tmp_path):
    told = {}
    for load in (data.fashion_mnist, data.cifar10):
        with pytest.raises(FileNotFoundError) as error:
            load(tmp_path)
        told[load] = "git checkout -- data" in str(error.value)
    assert told == {data.fashion_mnist: True, data.cifar10: False}


@pytest.mark.parametrize("load", [data.fashion_mnist, data.cifar10])
def test_a_failed_download_is_told_in_one_line(load, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise URLError(OSError(-2, "Name or service not known"))

    for module in (datasets.mnist, datasets.cifar):
        monkeypatch.setattr(module, "download_and_extract_archive", fail)
    with pytest.raises(
        RuntimeError, match=r"^\w+ could not be downloaded: Name or service not known$"
    ):
        load(tmp_path, download=True)


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def broken(self):
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / "train-images-idx3-ubyte.gz").write_bytes(b"half")
        raise RuntimeError("connection lost")

    monkeypatch.setattr(datasets.FashionMNIST, "download", broken)
    with pytest.raises(RuntimeError, match="connection lost"):
        data.fashion_mnist(tmp_path, download=True)
    assert listing(tmp_path) == []


def test_a_download_moves_complete_files_into_place(tmp_path, monkeypatch):
    def works(self):
        shutil.copytree(RAW, self.raw_folder, dirs_exist_ok=True)
        for name, md5 in self.resources:
            datasets.mnist.download_and_extract_archive(
                "nowhere", download_root=self.raw_folder, filename=name, md5=md5
            )

    monkeypatch.setattr(datasets.FashionMNIST, "download", works)
    assert len(data.fashion_mnist(tmp_path, download=True).test) == 10_000
    assert not list(tmp_path.glob("*.partial"))


# Sets of one's own.


def splits(kind, root, **options):
    return data.from_torchvision(kind, root, **{"validation": 2, **options})


class Pictures:
    """A set in torchvision's manner, of PIL images of two sizes."""

    classes = ("dark", "light")
    sizes = (10, 12)

    def __init__(self, root, split="train", transform=None):
        self.split = split
        self.length = 8 if split == "train" else 4

    def __len__(self):
        return self.length

    def __getitem__(self, n):
        return Image.new("L", (self.sizes[n % 2],) * 2, color=200 * (n % 2)), n % 2


def test_any_torchvision_set_of_pictures(tmp_path):
    found = splits(Pictures, tmp_path, image_size=9)
    assert found.train.pixels.shape == (6, 3, 9, 9)
    assert found.test.target.tolist() == [0, 1, 0, 1]
    assert found.test.pixels.amax((1, 2, 3)).tolist() == [0, 200, 0, 200]
    with pytest.raises(ValueError, match=r"images differ in size .* pass image_size"):
        splits(Pictures, tmp_path)


@pytest.mark.parametrize("name", ["NoSuchSet", "folder", "wrap_dataset_for_transforms_v2"])
def test_what_is_no_set_is_named(name):
    with pytest.raises(ArgumentError, match=f"{name!r} is not a data set of torchvision"):
        data.from_torchvision(name)


@pytest.mark.parametrize("validation", [-1, 8, 100])
def test_validation_must_leave_something_to_train_on(validation, tmp_path):
    with pytest.raises(ValueError, match=rf"validation must lie in \[0, 8\), got {validation}"):
        splits(Pictures, tmp_path, validation=validation, image_size=9)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (lambda image: (image, None), "has no labels"),
        (lambda image: (image, -1), "has no labels"),
        (lambda image: (image, 0.7), "must give PIL images and integer labels, but gives .*0.7"),
        (lambda image: (image, torch.zeros(40)), "integer labels, but gives .*Tensor"),
        (lambda image: (image, (0, 1)), "integer labels, but gives .*tuple"),
        (lambda image: (image, image, 1, None), "integer labels, but gives "),
        (lambda image: (np.zeros((9, 9)), 1), "must give PIL images"),
        (lambda image: {"image": image, "label": 1}, "integer labels, but gives dict"),
    ],
)
def test_what_cannot_be_classified_is_refused(item, words, tmp_path):
    class Odd(Pictures):
        def __getitem__(self, n):
            image, label = super().__getitem__(n)
            return (image, label) if self.split == "train" else item(image)

    with pytest.raises(ArgumentError, match=f"the test part of Odd in .*{words}"):
        splits(Odd, tmp_path, image_size=9)


def test_parts_of_other_names_are_told(tmp_path):
    class Halves(Pictures):
        def __init__(self, root, split="first"):
            datasets.utils.verify_str_arg(split, "split", ("first", "second"))

    with pytest.raises(ArgumentError, match=r"the training part of Halves .*'first', 'second'"):
        splits(Halves, tmp_path)


@pytest.mark.parametrize("classes", [("dark", "grey", "light"), ("light", "dark"), None])
def test_parts_must_have_the_same_classes(classes, tmp_path):
    class Partial(Pictures):
        def __init__(self, root, split="train"):
            super().__init__(root, split)
            self.classes = classes if split == "test" else Pictures.classes

    with pytest.raises(data.CorruptedFileError, match="its parts differ in their classes"):
        splits(Partial, tmp_path, image_size=9)


def test_reading_one_by_one_shows_how_far_it_is(tmp_path, monkeypatch):
    shown = []

    def bar(numbers, what, **options):
        shown.append((len(numbers), what))
        return numbers

    monkeypatch.setattr(torchvision_sets, "tqdm", bar)
    splits(Pictures, tmp_path, image_size=9)
    where = f"part of Pictures in {tmp_path}"
    assert shown == [(8, f"the training {where}"), (4, f"the test {where}")]


# What is special in some sets.


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST", "QMNIST", "EMNIST"])
def test_unpacked_files_beside_the_archives_are_not_read(name, files):
    folder = files(name)
    raw = folder / name / "raw"
    expected = splits(name, folder)
    names = [path.stem for path in raw.glob("*.gz")]
    names += [f"emnist-balanced-{part}" for part in EMNIST]
    for file in names:
        (raw / file).write_bytes(b"foreign")
    (raw.parent / "processed").mkdir()
    for file in ("training.pt", "test.pt"):  # torchvision still reads those of its first versions
        black = torch.zeros(9, 28, 28).byte(), torch.zeros(9).long()
        torch.save(black, raw.parent / "processed" / file)
    found = splits(name, folder)
    assert torch.equal(found.test.pixels, expected.test.pixels)
    assert torch.equal(found.train.pixels, expected.train.pixels)


def test_class_names_of_cifar_are_checked(files):
    folder = files("CIFAR10")
    path = folder / "cifar-10-batches-py/batches.meta"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(data.CorruptedFileError, match=f"{re.escape(str(path))} is corrupted: its"):
        splits("CIFAR10", folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{re.escape(str(path))} is missing"):
        splits("CIFAR10", folder)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar(name, files):
    load = {"CIFAR10": data.cifar10, "CIFAR100": data.cifar100}[name]
    found = load(files(name), validation=5)
    assert found.train.pixels.shape == (len(TRAIN) - 5, 3, 32, 32)
    assert found.test.pixels.shape == (len(TEST), 3, 32, 32)
    assert found.test.target.tolist() == TEST
    assert found.train.classes[3] == "class 3"
    pixels = torch.cat([found.train.pixels, found.validation.pixels]).double() / 255
    assert found.train.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-9)
    deviation = pixels.var((0, 2, 3), unbiased=False).sqrt().tolist()
    assert found.train.std == pytest.approx(deviation, rel=1e-9)
    assert len(set(found.train.mean)) == 3
    raw = pixels_of(TEST, 3072)  # rows of the file: all of red, then green, then blue
    assert np.array_equal(found.test.pixels.numpy().reshape(len(TEST), -1), raw)


@pytest.mark.parametrize(("name", "classes"), [("ImageNet", 3), ("EMNIST", 47), ("SVHN", 3)])
def test_names_of_classes(name, classes, files):
    names = splits(name, files(name)).test.classes
    assert len(names) == classes
    assert names[1] == {"ImageNet": "class n02102040, other", "EMNIST": "1", "SVHN": "1"}[name]


def test_a_truncated_image_is_named_where_torchvision_lets_us(files):
    folder = files("Places365")
    path = folder / "val_large/val4.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(data.CorruptedFileError, match=f"^{re.escape(str(path))} cannot be read: "):
        splits("Places365", folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(str(path))} is missing. "):
        splits("Places365", folder)
    path = files("OxfordIIITPet") / "oxford-iiit-pet/images/Bengal_test2.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(data.CorruptedFileError, match=r"^image 2 of the test part of Ox"):
        splits("OxfordIIITPet", folder)


def test_a_class_without_a_folder_is_noticed(files):
    folder = files("Country211")
    shutil.rmtree(folder / "country211/test/b")
    with pytest.raises(data.CorruptedFileError, match="its parts differ in their classes"):
        splits("Country211", folder)


def test_a_missing_package_is_named(files, monkeypatch):
    folder = files("PCAM")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"PCAM in .* without the package h5py; install it"):
        splits("PCAM", folder)
    folder = files("SVHN")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"SVHN in .* without the package scipy"):
        splits("SVHN", folder)


def test_what_cannot_be_downloaded_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"It cannot be downloaded; see the page of torchv"):
        splits("ImageNet", tmp_path, download=True)
    with pytest.raises(RuntimeError, match=r"^StanfordCars could not be downloaded: The original"):
        splits("StanfordCars", tmp_path, download=True)
    assert not list(tmp_path.iterdir())


def test_many_images_are_resized_a_few_at_a_time(files, monkeypatch):
    seen = []

    def resized(pixels, size):
        seen.append(len(pixels))
        return pixels[..., :size, :size]

    monkeypatch.setattr(torchvision_sets, "_resized", resized)
    data.fashion_mnist(image_size=4)
    assert sum(seen) == 70_000
    assert max(seen) == 1000
