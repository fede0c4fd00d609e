"""Checkpoints that survive a kill at any moment and never execute code when they are read."""

import errno
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch


class CorruptedCheckpointError(RuntimeError):
    """A checkpoint that cannot be read."""


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write a checkpoint: all of it, or nothing."""
    with whole(path) as file:
        torch.save(_plain(state), file)


def _plain(state: Any) -> Any:
    """Return NumPy's numbers as Python's: an optimiser or a schedule may hold some of a sweep."""
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, dict):
        plain = {_plain(key): _plain(value) for key, value in state.items()}
        return plain if type(state) is dict else type(state)(plain)
    if type(state) in (list, tuple):
        return type(state)(_plain(value) for value in state)
    return state


@contextmanager
def whole(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file to write all of it, or nothing.

    The content is written aside, forced to disk, and then takes the place of the old file in one
    step of the file system, so that a reader finds the old or the new content, never half of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        space = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if space or "file write failed" in str(error):  # as torch says it
            raise OSError(
                errno.ENOSPC, f"{path} cannot be written, the disk is full; what was there stays"
            ) from error
        raise


def write(path: str | Path, content: str | bytes) -> None:
    """Write a file: all of it, or nothing."""
    with whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def load(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values only, no code is executed.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptedCheckpointError: The file is no checkpoint, is damaged, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # by the checksums that torch.save writes
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise CorruptedCheckpointError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); delete it to start anew"
        ) from error
