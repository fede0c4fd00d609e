"""The files of torchvision's classification sets: checked, and read into memory.

A file that is read as it was published is compared with its checksum first, where torchvision knows
one. The single images of many sets have none; one that cannot be read is named. The archives of the
MNIST family are unpacked elsewhere: the data folder may be read-only, and what else lies in it is
not read. A download appears in it only once it is complete.
"""

import operator
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from kdcourse import files
from kdcourse.errors import ArgumentError
from kdcourse.places import INSTALLED, RESTORE
from kdcourse.signatures import describe
from kdcourse.torchvision_classes import parameters_of, parts_of

ADVICE = (
    "Fetch it where there is a network (download=True, on the command line --download), or name a "
    "folder that has it (root=, --data-root, $KDCOURSE_DATA)."
)
OURS = "A clone of the course has it in data/." if INSTALLED else f"Or restore it: {RESTORE}."


class CorruptedFileError(RuntimeError):
    """A data file whose checksum is not the published one, or that cannot be read."""


def read_set(
    kind: type, folder: Path, *, download: bool = False, image_size: int | None = None
) -> tuple[list[tuple[Tensor, Tensor]], tuple[str, ...]]:
    """Read a set from its folder: pixels and target of both parts, and the names of the classes.

    The arguments and errors are those of :func:`kdcourse.data.from_torchvision`.
    """
    try:
        parts = _open(kind, folder)
    except (FileNotFoundError, CorruptedFileError):
        if not download:
            raise
        _download(kind, folder)
        parts = _open(kind, folder)
    read = [
        _read(part, _where(kind, folder, number), _advice(kind), image_size)
        for number, part in enumerate(parts)
    ]
    names = _class_names(parts, max(int(target.max()) for _, target in read) + 1)
    if names is None:
        raise CorruptedFileError(
            f"{kind.__name__} in {folder} is not complete: its parts differ in their classes, or "
            f"there are labels of none. {_advice(kind)}"
        )
    return read, names


def _construct(kind: type, folder: Path, number: int, **options: Any) -> Any:
    """Let torchvision make the training part, number 0, or the test part, number 1."""
    options |= {name: both[number] for name, both in parts_of(kind).items()}
    if "loader" in parameters_of(kind):
        options["loader"] = _picture
    return kind(str(folder), **options)


def _picture(path: str | Path) -> Any:
    """Read an image file as torchvision does, but name it if that fails."""
    from torchvision.datasets.folder import default_loader

    try:
        return default_loader(str(path))
    except FileNotFoundError:  # which names it
        raise
    except Exception as error:
        raise _explained(error, str(path), "Put a good copy in its place.") from error


# What goes wrong inside of torchvision, in our words.


def _where(kind: type, folder: Path, number: int) -> str:
    return f"the {('training', 'test')[number]} part of {kind.__name__} in {folder}"


def _advice(kind: type) -> str:
    if "download" in parameters_of(kind):
        return f"{ADVICE} {OURS}" if kind.__name__ == "FashionMNIST" else ADVICE
    if kind.__module__.startswith("torchvision."):
        return f"It cannot be downloaded; see the page of torchvision.datasets.{kind.__name__}."
    return ""


@contextmanager
def _explaining(what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (ArgumentError, CorruptedFileError, MemoryError):
        raise
    except Exception as error:  # damaged files are not expected there, and fail in any way
        if files.is_full(error):  # the temporary folder: nothing is written elsewhere
            raise
        raise _explained(error, what, advice) from error


def _explained(error: Exception, what: str, advice: str) -> Exception:
    needed = error.__context__ if "installed" in str(error) else error
    if isinstance(needed, ImportError):
        return ImportError(f"{what} cannot be read without the package {needed.name}; install it")
    if isinstance(error, ValueError) and str(error).startswith("Unknown value"):
        return ArgumentError("dataset", f"{what} has another name there: {error}")
    path = getattr(error, "filename", None)
    words = re.sub(r"<.* name=(.*)>", r"\1", str(error))  # of an open file
    reason = getattr(error, "strerror", None) or re.split(r"\.?\s*$|\. |\n", words)[0]
    if isinstance(error, FileNotFoundError):
        text = f"{path} is missing" if path else reason
        return FileNotFoundError(f"{text}. {advice}".rstrip())
    if isinstance(error, RuntimeError) and re.search("not (exist|found|present)", reason):
        return FileNotFoundError(f"{what} is missing, or not complete: {reason}. {advice}".rstrip())
    reason = reason or type(error).__name__
    return CorruptedFileError(f"{path or what} cannot be read: {reason}. {advice}".rstrip())


# Files.


def _archives(kind: Any) -> list[tuple[str, str]]:
    """Return paths below the root and md5 sums of what has to be unpacked: the MNIST family."""
    from torchvision import datasets

    if not issubclass(kind, datasets.MNIST):
        return []
    files = kind.resources
    if issubclass(kind, datasets.EMNIST):
        files = [(kind.url, kind.md5)]
    elif issubclass(kind, datasets.QMNIST):
        files = files["train"] + files["test"]
    return [(f"{kind.__name__}/raw/{name.rpartition('/')[2]}", md5) for name, md5 in files]


def _published_files(kind: Any, folder: Path) -> list[tuple[str, str]]:
    """Return paths below the root and md5 sums of all files that are read as they were published.

    torchvision lists them under many names.
    """
    if hasattr(kind, "split_list"):  # SVHN, USPS
        return [tuple(kind.split_list[part][1:]) for part in ("train", "test")]
    if hasattr(kind, "train_list"):  # CIFAR, STL10
        files = [*kind.train_list, *kind.test_list]
        if hasattr(kind, "meta"):
            files.append((kind.meta["filename"], kind.meta["md5"]))
        return [(f"{kind.base_folder}/{name}", md5) for name, md5 in files]
    if kind.__name__ == "Flowers102":
        files = [kind._file_dict[name] for name in ("label", "setid")]
        return [(f"flowers-102/{name}", md5) for name, md5 in files]
    if kind.__name__ == "Places365":
        return [kind._CATEGORIES_META, *map(kind._FILE_LIST_META.get, parts_of(kind)["split"])]
    if kind.__name__ == "FER2013":  # either will do; there are others, without labels
        either = map(kind._RESOURCES.get, ("fer", "icml"))
        files = [(f"fer2013/{name}", md5) for name, md5 in either]
        return [next((file for file in files if (folder / file[0]).is_file()), files[0])]
    return _archives(kind)


def _check_files(kind: type, folder: Path) -> None:
    """Require the files of a set, as they were published."""
    from torchvision.datasets.utils import calculate_md5

    if folder.is_file():
        raise NotADirectoryError(
            f"{folder} is a file; name a folder (root=, --data-root, $KDCOURSE_DATA)"
        )
    for name, expected in _published_files(kind, folder):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing (md5 {expected}). {_advice(kind)}")
        with _explaining(str(path), _advice(kind)):
            found = calculate_md5(path)
        if found != expected:
            raise CorruptedFileError(
                f"{path} is corrupted: its md5 is {found}, expected {expected}. {_advice(kind)}"
            )
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing. {_advice(kind)}")


def _open(kind: type, folder: Path) -> list[Any]:
    """Let torchvision make both parts, after a look at their files."""
    _check_files(kind, folder)
    with files.temporary_told(), tempfile.TemporaryDirectory() as aside:
        place = folder
        if _archives(kind):
            place = Path(aside)
            with _explaining(f"{kind.__name__} in {folder}", _advice(kind)):
                _unpack(kind, folder, place / kind.__name__ / "raw")
        parts = []
        for number in (0, 1):
            with _explaining(_where(kind, folder, number), _advice(kind)):
                parts.append(_construct(kind, place, number))
        return parts


def _unpack(kind: type, folder: Path, raw: Path) -> None:
    """Unpack archives, and nothing else that lies in the folder."""
    from torchvision.datasets.utils import extract_archive

    raw.mkdir(parents=True)
    for name, _ in _archives(kind):
        if not name.endswith(".zip"):
            extract_archive(folder / name, raw)
            continue
        with zipfile.ZipFile(folder / name) as file:  # EMNIST, of whose six divisions one is read
            for member in file.namelist():
                if "-balanced-" in member:
                    extract_archive(file.extract(member, raw), raw)


def _download(kind: type, folder: Path) -> None:
    """Let torchvision download into a temporary folder, then move complete files into place."""
    if "download" not in parameters_of(kind):
        raise FileNotFoundError(f"{_where(kind, folder, 0)} is not complete. {_advice(kind)}")
    files.check_writable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, suffix=".partial") as name:
            aside = Path(name)
            for number in (0, 1):
                _construct(kind, aside, number, download=True)
            packed = [aside / archive for archive, _ in _archives(kind)]
            for path in packed or sorted(filter(Path.is_file, aside.rglob("*"))):
                place = folder / path.relative_to(aside)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, place)
    except Exception as error:  # of the network, of the disk, of the page
        reason = getattr(error, "reason", None) or files.why(error)
        full = f" ({folder})" * files.is_full(error)
        told = f"{kind.__name__} could not be downloaded: {_short(reason)}{full}"
        raise RuntimeError(told) from error


def _short(reason: object) -> str:
    """Return in one line, without the system's numbers, what torchvision tells try by try."""
    last = " ".join(str(reason).rpartition(", got:\n")[2].split())
    return re.sub(r"\[Errno -?\d+\] ", "", re.sub("<urlopen error (.*)>", r"\1", last))


# Images.


def _read(part: Any, where: str, advice: str, image_size: int | None) -> tuple[Tensor, Tensor]:
    """Read one part of a set: pixels and target."""
    if not len(part):
        raise FileNotFoundError(f"{where} has no images. {advice}".rstrip())
    found = _in_memory(part)
    if found is None:
        return _read_one_by_one(part, where, advice, image_size)
    pixels, target = found
    if image_size is not None:  # a few at a time: on the way they are float32
        pixels = torch.cat([_resized(few, image_size) for few in pixels.split(1000)])
    return pixels.contiguous(), _labels(target, where)


def _in_memory(part: Any) -> tuple[Tensor, Tensor] | None:
    """Return pixels and target of a set that torchvision itself keeps in memory."""
    pixels = getattr(part, "data", None)
    target = getattr(part, "targets", getattr(part, "labels", None))
    if not isinstance(pixels, (Tensor, np.ndarray)) or pixels.ndim not in (3, 4) or target is None:
        return None
    pixels, target = torch.as_tensor(pixels), torch.as_tensor(target)
    if pixels.dim() == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] in (1, 3):
        pixels = pixels.movedim(-1, 1)
    return pixels, target if target.dim() == 1 else target[:, 0]  # QMNIST also says who wrote it


def _read_one_by_one(
    part: Any, where: str, advice: str, image_size: int | None
) -> tuple[Tensor, Tensor]:
    pixels = torch.empty(0)
    target: list[int] = []
    silent = os.environ.get("RANK", "0") != "0"
    for number in tqdm(range(len(part)), where, unit="image", delay=1, disable=silent):
        with _explaining(f"image {number} of {where}", advice):
            image, label = _pair(part[number], where)
            image = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0)
        if image_size is not None:
            image = _resized(image, image_size)
        if not target:
            pixels = torch.empty(len(part), *image.shape, dtype=torch.uint8)
        if image.shape != pixels.shape[1:]:
            raise ArgumentError(
                "image_size",
                f"images differ in size ({tuple(pixels.shape[1:])}, {tuple(image.shape)}): "
                "pass image_size",
            )
        pixels[number] = image
        target.append(label)
    return pixels, _labels(torch.tensor(target), where)


def _pair(item: Any, where: str) -> tuple[Any, int]:
    """Require a PIL image and an integer; a label that is not known is −1."""
    try:
        image, label = item
        if hasattr(image, "convert"):
            return image, -1 if label is None else operator.index(label)
    except (TypeError, ValueError):
        pass
    kinds = " and ".join(map(describe, item)) if isinstance(item, tuple) else describe(item)
    raise ArgumentError(
        "dataset", f"{where} must give PIL images and integer labels, but gives {kinds}"
    )


def _labels(target: Tensor, where: str) -> Tensor:
    if bool((target < 0).all()):
        raise ArgumentError("dataset", f"{where} has no labels")
    return target.long()


def _class_names(parts: list[Any], count: int) -> tuple[str, ...] | None:
    """Return the names of the classes, unless the parts differ, or have labels beyond them."""
    first, second = (getattr(part, "classes", None) for part in parts)
    if first is None and second is None:
        return tuple(map(str, range(count)))
    if first is None or second is None or list(first) != list(second) or len(first) < count:
        return None
    return tuple(", ".join(name) if isinstance(name, tuple) else str(name) for name in first)


def _resized(pixels: Tensor, size: int) -> Tensor:
    """Return images ``(…, C, H, W)`` resized to ``(…, C, size, size)``."""
    from torchvision.transforms.v2.functional import resize

    return resize(pixels, [size, size], antialias=True)
