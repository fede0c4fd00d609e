"""Small files in the forms of torchvision's sets: three classes, 12 images to train and 6 to test.

An image shows its label: the mean of its pixels lies between 60 and 120 for label 1, and so on.
"""

import bz2
import csv
import gzip
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5

TRAIN, TEST = [0, 1, 2] * 4, [2, 1, 0] * 2
LABELS = (TRAIN, TEST)
FAKES: dict[str, Callable] = {}  # by the name of the class; called with a folder and monkeypatch


def fake(name):
    def keep(write):
        FAKES[name] = write
        return write

    return keep


def pixels(labels, *shape):
    random = np.random.default_rng(0).integers(10, 50, (len(labels), *shape))
    return (random + 60 * np.array(labels).reshape(-1, *[1] * len(shape))).astype(np.uint8)


def picture(path, label):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 9, 3), 60 * label + 30, np.uint8)).save(path)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else "\n".join(content))


def mat(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content)


# The MNIST family: archives.


def idx(array):
    kind = 8 if array.dtype == np.uint8 else 12
    sizes = np.array(array.shape, ">i4").tobytes()
    return gzip.compress(bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes())


@fake("MNIST")
def mnist(root, monkeypatch, name="MNIST"):
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    listed = []
    for part, labels in zip(("train", "t10k"), LABELS, strict=True):
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(pixels(labels, 28, 28)))
        (raw / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.array(labels, np.uint8)))
        listed += [f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"]
    sums = [(file, calculate_md5(raw / file)) for file in listed]
    monkeypatch.setattr(getattr(datasets, name), "resources", sums)


for name in ("FashionMNIST", "KMNIST"):
    FAKES[name] = lambda root, monkeypatch, name=name: mnist(root, monkeypatch, name)


@fake("QMNIST")
def qmnist(root, monkeypatch):
    raw, listed = root / "QMNIST/raw", {}
    raw.mkdir(parents=True)
    for part, labels in zip(("train", "test"), LABELS, strict=True):
        rows = np.array([[label, *[7] * 7] for label in labels], ">i4")
        contents = {"images-idx3-ubyte": pixels(labels, 28, 28), "labels-idx2-int": rows}
        listed[part] = []
        for name, content in contents.items():
            path = raw / f"qmnist-{part}-{name}.gz"
            path.write_bytes(idx(content))
            listed[part].append((f"https://somewhere/{path.name}", calculate_md5(path)))
    monkeypatch.setattr(datasets.QMNIST, "resources", listed)


@fake("EMNIST")
def emnist(root, monkeypatch):
    raw = root / "EMNIST/raw"
    raw.mkdir(parents=True)
    with zipfile.ZipFile(raw / "gzip.zip", "w") as file:
        for part, labels in zip(("train", "test"), LABELS, strict=True):
            images, targets = idx(pixels(labels, 28, 28)), idx(np.array(labels, np.uint8))
            file.writestr(f"gzip/emnist-balanced-{part}-images-idx3-ubyte.gz", images)
            file.writestr(f"gzip/emnist-balanced-{part}-labels-idx1-ubyte.gz", targets)
            file.writestr(f"gzip/emnist-letters-{part}-images-idx3-ubyte.gz", b"not asked for")
    monkeypatch.setattr(datasets.EMNIST, "md5", calculate_md5(raw / "gzip.zip"))


# Files of many images.


@fake("CIFAR10")
def cifar10(root, monkeypatch, kind=datasets.CIFAR10):
    fine = kind is datasets.CIFAR100
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    for name, labels in (("train_list", TRAIN), ("test_list", TEST)):
        files = [file for file, _ in getattr(kind, name)]
        shares = [labels[n :: len(files)] for n in range(len(files))]
        for file, share in zip(files, shares, strict=True):
            content = {"data": pixels(share, 3072), "fine_labels" if fine else "labels": share}
            (folder / file).write_bytes(pickle.dumps(content))
        sums = [[file, calculate_md5(folder / file)] for file in files]
        monkeypatch.setattr(kind, name, sums)
    file = kind.meta["filename"]
    names = [f"class {k}" for k in range(100 if fine else 10)]
    (folder / file).write_bytes(pickle.dumps({kind.meta["key"]: names}))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": calculate_md5(folder / file)})


@fake("CIFAR100")
def cifar100(root, monkeypatch):
    cifar10(root, monkeypatch, datasets.CIFAR100)


@fake("STL10")
def stl10(root, monkeypatch):
    folder = root / "stl10_binary"
    text(folder / "class_names.txt", ["airplane", "bird", "car"])
    for part, labels in zip(("train", "test", "unlabeled"), (*LABELS, [0]), strict=True):
        (folder / f"{part}_X.bin").write_bytes(pixels(labels, 3, 96, 96).tobytes())
        (folder / f"{part}_y.bin").write_bytes((np.array(labels, np.uint8) + 1).tobytes())
    (folder / "unlabeled_y.bin").unlink()
    for name in ("train_list", "test_list"):
        files = [file for file, _ in getattr(datasets.STL10, name)]
        sums = [[file, calculate_md5(folder / file)] for file in files]
        monkeypatch.setattr(datasets.STL10, name, sums)


def split_list(kind, root, monkeypatch):
    """Tell torchvision the checksums of what was written."""
    parts = {}
    for part in ("train", "test"):
        url, name, _ = kind.split_list[part]
        parts[part] = [url, name, calculate_md5(root / name)]
    monkeypatch.setattr(kind, "split_list", parts)


@fake("SVHN")
def svhn(root, monkeypatch):
    for part, labels in zip(("train", "test"), LABELS, strict=True):
        images = pixels(labels, 32, 32, 3).transpose(1, 2, 3, 0)
        digits = np.array([[label or 10] for label in labels], np.uint8)
        mat(root / f"{part}_32x32.mat", X=images, y=digits)
    split_list(datasets.SVHN, root, monkeypatch)


@fake("USPS")
def usps(root, monkeypatch):
    root.mkdir(exist_ok=True)
    for name, labels in (("usps.bz2", TRAIN), ("usps.t.bz2", TEST)):
        lines = []
        for label, image in zip(labels, pixels(labels, 256), strict=True):
            values = (f"{n}:{value / 127.5 - 1:.6f}" for n, value in enumerate(image, 1))
            lines.append(" ".join([str(label + 1), *values]))
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    split_list(datasets.USPS, root, monkeypatch)


@fake("FER2013")
def fer2013(root, monkeypatch):
    (root / "fer2013").mkdir(parents=True)
    path = root / "fer2013/icml_face_data.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["emotion", " Usage", " pixels"])
        for use, labels in zip(("Training", "PrivateTest"), LABELS, strict=True):
            for label, image in zip(labels, pixels(labels, 48 * 48), strict=True):
                rows.writerow([label, use, " ".join(map(str, image))])
    resources = {**datasets.FER2013._RESOURCES, "icml": (path.name, calculate_md5(path))}
    monkeypatch.setattr(datasets.FER2013, "_RESOURCES", resources)


@fake("PCAM")
def pcam(root, monkeypatch):
    def file(path):  # the package that reads these files is not among the course's
        return nullcontext(pickle.loads(Path(path).read_bytes()))

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=file))
    (root / "pcam").mkdir(parents=True)
    for part, labels in zip(("train", "test"), LABELS, strict=True):
        targets = np.array(labels).reshape(-1, 1, 1, 1)
        for what, content in (("x", pixels(labels, 96, 96, 3)), ("y", targets)):
            name = f"camelyonpatch_level_2_split_{part}_{what}.h5"
            (root / "pcam" / name).write_bytes(pickle.dumps({what: content}))


# A folder for each class.

WNIDS = ("n01440764", "n02102040", "n02979186")
SPECIES = [f"{k:05d}_Animalia_b_c_d_e_f_g{k}" for k in range(3)]
FOLDERS = {
    "Country211": ("country211/train", "country211/test", "abc", "jpg"),
    "Imagenette": ("imagenette2/train", "imagenette2/val", WNIDS, "JPEG"),
    "ImageNet": ("train", "val", WNIDS, "JPEG"),
    "INaturalist": ("2021_train", "2021_valid", SPECIES, "jpg"),
    "GTSRB": ("gtsrb/GTSRB/Training", "", ["00000", "00001", "00002"], "ppm"),
    "RenderedSST2": ("rendered-sst2/train", "rendered-sst2/test", ("negative", "positive"), "png"),
}


def folders(root, name):
    *parts, classes, ending = FOLDERS[name]
    for part, labels in zip(parts, LABELS, strict=True):
        for number, label in enumerate(labels if part else ()):
            if label < len(classes):
                picture(root / part / classes[label] / f"{number}.{ending}", label)


for name in FOLDERS:
    FAKES[name] = lambda root, monkeypatch, name=name: folders(root, name)


@fake("ImageNet")
def imagenet(root, monkeypatch):
    folders(root, "ImageNet")
    torch.save(({wnid: (f"class {wnid}", "other") for wnid in WNIDS}, []), root / "meta.bin")


@fake("GTSRB")
def gtsrb(root, monkeypatch):
    folders(root, "GTSRB")
    for number, label in enumerate(TEST):
        picture(root / f"gtsrb/GTSRB/Final_Test/Images/{number}.ppm", label)
    rows = [f"{number}.ppm;{label}" for number, label in enumerate(TEST)]
    text(root / "gtsrb/GT-final_test.csv", ["Filename;ClassId", *rows])


# Lists of files and labels.


def listed(images, part, labels, ending="jpg"):
    """Write images, and yield the name and the label of each."""
    for number, label in enumerate(labels):
        picture(images / f"{part}{number}.{ending}", label)
        yield f"{part}{number}", label


@fake("CLEVRClassification")
def clevr(root, monkeypatch):
    folder = root / "clevr/CLEVR_v1.0"
    for part, labels in zip(("train", "val"), LABELS, strict=True):
        found = listed(folder / "images" / part, part, labels, "png")
        scenes = [{"image_filename": f"{name}.png", "objects": [{}] * k} for name, k in found]
        text(folder / f"scenes/CLEVR_{part}_scenes.json", json.dumps({"scenes": scenes}))


@fake("DTD")
def dtd(root, monkeypatch):
    for part, labels in zip(("train", "test"), LABELS, strict=True):
        names = [f"{'abc'[label]}/{part}{number}.jpg" for number, label in enumerate(labels)]
        for name, label in zip(names, labels, strict=True):
            picture(root / "dtd/dtd/images" / name, label)
        text(root / f"dtd/dtd/labels/{part}1.txt", names)


@fake("FGVCAircraft")
def aircraft(root, monkeypatch):
    folder = root / "fgvc-aircraft-2013b/data"
    text(folder / "variants.txt", ["707", "DC 8", "Yak"])
    for part, labels in zip(("trainval", "test"), LABELS, strict=True):
        found = listed(folder / "images", part, labels)
        rows = [f"{name} {('707', 'DC 8', 'Yak')[label]}" for name, label in found]
        text(folder / f"images_variant_{part}.txt", rows)


@fake("Flowers102")
def flowers(root, monkeypatch):
    folder = root / "flowers-102"
    labels = TRAIN + TEST
    for number, label in enumerate(labels, 1):
        picture(folder / f"jpg/image_{number:05d}.jpg", label)
    mat(folder / "imagelabels.mat", labels=np.array(labels) + 1)
    mat(folder / "setid.mat", trnid=np.arange(1, 13), valid=[1], tstid=np.arange(13, 19))
    files = {
        name: (file, calculate_md5(folder / file) if file.endswith("mat") else md5)
        for name, (file, md5) in datasets.Flowers102._file_dict.items()
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)


@fake("Food101")
def food(root, monkeypatch):
    for part, labels in zip(("train", "test"), LABELS, strict=True):
        names = {kind: [] for kind in "abc"}
        for number, label in enumerate(labels):
            names["abc"[label]].append(f"{'abc'[label]}/{part}{number}")
            picture(root / f"food-101/images/{names['abc'[label]][-1]}.jpg", label)
        text(root / f"food-101/meta/{part}.json", json.dumps(names))


@fake("OxfordIIITPet")
def pets(root, monkeypatch):
    folder = root / "oxford-iiit-pet"
    for part, labels in zip(("trainval", "test"), LABELS, strict=True):
        rows = []
        for number, label in enumerate(labels):
            name = f"{('Bengal', 'great_pyrenees', 'pug')[label]}_{part}{number}"
            picture(folder / f"images/{name}.jpg", label)
            rows.append(f"{name} {label + 1} 1 1")
        text(folder / f"annotations/{part}.txt", rows)


@fake("Places365")
def places(root, monkeypatch):
    kind = datasets.Places365
    file = kind._CATEGORIES_META[0]
    text(root / file, ["/a/abbey 0", "/b/bar 1", "/c/cafe 2"])
    monkeypatch.setattr(kind, "_CATEGORIES_META", (file, calculate_md5(root / file)))
    meta, places = dict(kind._FILE_LIST_META), ("data_large_standard", "val_large")
    for part, place, labels in zip(("train-standard", "val"), places, LABELS, strict=True):
        file = meta[part][0]
        text(root / file, [f"/{n}.jpg {k}" for n, k in listed(root / place, part, labels)])
        meta[part] = (file, calculate_md5(root / file))
    monkeypatch.setattr(kind, "_FILE_LIST_META", meta)


@fake("StanfordCars")
def cars(root, monkeypatch):
    folder = root / "stanford_cars"
    lists = ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat")
    for part, name, labels in zip(("train", "test"), lists, LABELS, strict=True):
        found = listed(folder / f"cars_{part}", part, labels)
        rows = [(f"{file}.jpg", label + 1) for file, label in found]
        mat(folder / name, annotations=np.array(rows, [("fname", object), ("class", object)]))
    mat(folder / "devkit/cars_meta.mat", class_names=np.array(["a", "b", "c"], object))
