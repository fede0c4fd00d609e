"""What a run leaves: files, which are compared, and processes, of which there must be none."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from kdcourse.training import checkpoint

PATIENCE = 20  # seconds in which processes must have ended


def contents(folder: Path) -> dict[str, Any]:
    """Return what a run has left in a folder, by the names of the files, without any seconds."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): timeless(read(path)) for path in files}


def read(path: Path) -> Any:
    """Return what stands in a file."""
    if is_checkpoint(path):
        return checkpoint.load(path)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return path.read_bytes()


def is_checkpoint(path: Path) -> bool:
    """Whether this is a checkpoint, maybe of an earlier link of a chain."""
    return ".pt" in path.suffixes and path.suffix != ".partial"


def timeless(value: Any) -> Any:
    """Leave out all seconds that were measured, and make tensors comparable bit by bit."""
    if isinstance(value, Mapping):
        return {str(name): timeless(one) for name, one in value.items() if name != "seconds"}
    if isinstance(value, list | tuple):
        return [timeless(one) for one in value]
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).numpy().tobytes()
    return value


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Name what differs between two contents."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            place = f"{where} › {name}" if where else name
            if name not in one or name not in other:
                yield f"{place} {'is missing' if name in one else 'is too much'}"
            else:
                yield from differences(one[name], other[name], place)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, pair in enumerate(zip(one, other, strict=True), 1):
            yield from differences(*pair, f"{where} › {place}")
    elif one != other:
        yield f"{where} differs"


def saved(folder: Path) -> dict[str, list[Any]]:
    """Return the rows in the checkpoints of a folder, with their seconds."""
    paths = (path for path in sorted(folder.rglob("*")) if is_checkpoint(path))
    return {path.name: checkpoint.load(path)["rows"] for path in paths}


def survivors(room: Path) -> list[str]:
    """Return the processes that were started in a room and do not end."""

    def belongs(process: psutil.Process) -> bool:
        try:
            return str(room) in " ".join([*process.cmdline(), *process.environ().values()])
        except psutil.Error:  # it has ended since, or is nobody's here
            return False

    own = [process for process in psutil.process_iter() if belongs(process)]
    return [f"process {one.pid} is still alive" for one in psutil.wait_procs(own, PATIENCE)[1]]
