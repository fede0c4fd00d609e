"""Where a teacher's answers are kept: in memory, or in a folder that other programs find again."""

import hashlib
import json
import math
import os
import tempfile
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from kdcourse import files, processes
from kdcourse.errors import ArgumentError

MOST_IN_MEMORY = 2**30  # bytes of answers; more are kept in a temporary file, mapped into memory
CARD, ANSWERS, CHECKSUMS = "card.json", "answers.bin", "checksums.bin"
UNKNOWN = bytes(hashlib.sha256().digest_size)  # in place of an epoch's checksum


class WrongCacheError(ValueError):
    """A folder of answers that another teacher gave, or to other views of other images.

    Attributes:
        differs: What differs, such as "teacher"; empty if the folder is damaged.
    """

    def __init__(self, message: str, differs: str = ""):
        super().__init__(message)
        self.differs = differs


class Answers:
    """Answers ``(R, N, K)`` of R epochs, each epoch's known once it is complete.

    In a folder, every epoch has a checksum, and is asked for again if its answers were damaged.

    Args:
        shape: ``(R, N, K)``.
        belongs_to: What the answers depend on, by name.
        folder: Where to keep them; it must be new, empty, or hold such answers. In memory, or in a
            temporary file if they are many, without one.
        dtype: Of the numbers.

    Raises:
        ArgumentError: The folder holds something else, or the disk is too small.
        WrongCacheError: It holds other answers; the message says what differs.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        belongs_to: dict[str, str],
        folder: Path | None,
        dtype: DTypeLike = np.float32,
    ):
        self.folder = folder
        size = np.dtype(dtype).itemsize * math.prod(shape)
        self.known = np.zeros(shape[0], bool)
        if folder is not None:
            sizes = {ANSWERS: size, CHECKSUMS: len(UNKNOWN) * shape[0]}
            processes.from_main(lambda: _make(folder, sizes, belongs_to))
            seen = processes.from_each((folder / ANSWERS).is_file())
            if not all(seen):
                raise ArgumentError(
                    "path",
                    f"{folder}, where the teacher's answers are kept, is not there for process "
                    f"{seen.index(False)}: choose a folder that all machines share, or keep none",
                )
            mode: Literal["r+", "r"] = "r+" if os.access(folder / ANSWERS, os.W_OK) else "r"
            self.values: np.ndarray = np.memmap(folder / ANSWERS, dtype, mode, shape=shape)
        elif size <= MOST_IN_MEMORY:
            self.values = np.zeros(shape, dtype)
        else:
            with files.temporary_told(), tempfile.TemporaryFile() as aside:
                where = f"the temporary folder {tempfile.gettempdir()} ($TMPDIR)"
                _reserve(aside.fileno(), size, where)
                self.values = np.memmap(aside, dtype, "r+", shape=shape)
        self._looked_at: set[int] = set()  # epochs whose checksum was compared

    def knows(self, epoch: int) -> bool:
        """Whether the answers of an epoch are there, and as they were written."""
        if self.folder is not None and epoch not in self._looked_at:
            folder = self.folder
            self.known[epoch] = processes.from_main(lambda: self._sound(folder, epoch))
            self._looked_at.add(epoch)
        return bool(self.known[epoch])

    def keep(self, epoch: int, first: int, answers: Tensor) -> None:
        """Write down the answers to some samples."""
        if not self.values.flags.writeable:
            raise ArgumentError(
                "path", f"{self.folder} cannot be written to, and does not hold epoch {epoch}"
            )
        self.values[epoch, first : first + len(answers)] = answers.cpu().numpy()

    def repeat(self, epoch: int, samples: slice | np.ndarray) -> Tensor:
        """Return the answers to some samples."""
        return torch.from_numpy(np.array(self.values[epoch, samples]))

    def complete(self, epoch: int) -> None:
        """Declare that the answers of an epoch are all there."""
        if isinstance(self.values, np.memmap):
            self.values.flush()  # they reach the disk before they count as known
        processes.wait()
        if self.folder is not None and processes.is_main():
            try:
                with open(self.folder / CHECKSUMS, "r+b") as file:
                    file.seek(epoch * len(UNKNOWN))
                    file.write(self._checksum(epoch))
            except OSError as error:  # they are still in memory, as long as this program runs
                warnings.warn(
                    f"the answers to epoch {epoch} cannot be kept in {self.folder} "
                    f"({files.why(error)}): another program asks the teacher again",
                    stacklevel=2,
                )
        processes.wait()
        self.known[epoch] = True

    def _checksum(self, epoch: int) -> bytes:
        return hashlib.sha256(self.values[epoch]).digest()

    def _sound(self, folder: Path, epoch: int) -> bool:
        try:
            with open(folder / CHECKSUMS, "rb") as file:
                file.seek(epoch * len(UNKNOWN))
                stored = file.read(len(UNKNOWN))
        except OSError:  # gone while this program runs; what can no longer be kept is told then
            return False
        if stored == UNKNOWN:
            return False
        sound = stored == self._checksum(epoch)
        if not sound:
            warnings.warn(
                f"the answers to epoch {epoch} in {folder} are damaged: the teacher is asked again",
                stacklevel=2,
            )
        return sound


def _make(folder: Path, sizes: dict[str, int], belongs_to: dict[str, str]) -> None:
    """Make the folder, unless it is there and belongs to these lessons."""
    if folder.exists() and not folder.is_dir():
        raise ArgumentError("path", f"{folder} is a file: path must be a folder for the answers")
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    others = names - {CARD, ANSWERS, CHECKSUMS, CARD + ".partial"}
    if others:
        raise ArgumentError(
            "path",
            f"{folder} holds other files ({', '.join(sorted(others)[:3])}): choose a folder "
            "of its own for the answers",
        )
    if CARD in names:  # which is written last
        _check_card(folder, belongs_to, sizes)
        return
    with files.told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, size in sizes.items():
            with open(folder / name, "wb") as file:
                _reserve(file.fileno(), size, str(folder))
    files.write(folder / CARD, json.dumps(belongs_to, indent=1))


def _check_card(folder: Path, belongs_to: dict[str, str], sizes: dict[str, int]) -> None:
    """Require that a folder's answers are those of these lessons."""
    try:
        stored = dict(json.loads((folder / CARD).read_text()))
    except ValueError as error:
        raise WrongCacheError(
            f"{folder / CARD} is damaged: delete the folder, and the teacher is asked anew"
        ) from error
    for name, value in belongs_to.items():
        if stored.get(name) != value:
            raise WrongCacheError(
                f"{folder} holds other answers: {name} was {stored.get(name)}, is {value}", name
            )
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if found != size:
            raise WrongCacheError(
                f"{folder / name} has {found} bytes in place of {size}: delete the folder, and the "
                "teacher is asked anew"
            )


def _reserve(file: int, size: int, where: str) -> None:
    """Take the space of a file now: a disk that is full later would end the program by a signal."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
        else:
            os.truncate(file, size)
    except OSError as error:
        raise ArgumentError(
            "path",
            f"the answers take {size:,} bytes, for which {where} has no space: {files.why(error)}",
        ) from error
