"""Checkpoints that survive a kill at any moment and never execute code when they are read."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcourse.errors import ArgumentError
from kdcourse.files import whole


class CorruptedCheckpointError(RuntimeError):
    """A checkpoint that cannot be read."""


class OtherRunError(ArgumentError):
    """A checkpoint of another run; ``setting`` is what differs, such as "teacher"."""

    def __init__(self, argument: str, message: str, setting: str):
        super().__init__(argument, message)
        self.args = (argument, message, setting)
        self.setting = setting


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write a checkpoint: all of it, or nothing."""
    with whole(path) as file:
        try:
            torch.save(_plain(state), file)
        except RuntimeError as error:
            raise _of_the_system(error) from None


def _of_the_system(error: BaseException) -> BaseException:
    """Return what has made torch fail, which it tells in words of its own."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__context__
    return found or error


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
