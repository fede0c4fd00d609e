"""A wall around the files, built by the Linux kernel (Landlock, 5.13 or newer, no rights needed).

What native code opens does not pass Python's audit hooks; it does pass the kernel. A process that
encloses itself, and whatever it starts, can from then on only read and write below the folders it
named, start no program, open no TCP connection and signal nobody outside, for good.
"""

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

CREATE, ADD, RESTRICT = 444, 445, 446  # numbers of the system calls, on every architecture
NO_NEW_PRIVILEGES = 38  # of prctl, which the kernel asks for first
WRITE_FILE, READ_FILE, READ_FOLDER, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
EXECUTE = 1 << 0
# What each version of Landlock can forbid: of files, of the network, and beyond the process.
FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
NETWORK, OUTSIDE = {4: 0b11}, {6: 0b11}


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("outside", ctypes.c_uint64),
    )


class _Below(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def version() -> int:
    """Return the version of Landlock that this kernel has, 0 where it has none."""
    return max(0, _call(CREATE, None, 0, 1)) if sys.platform == "linux" else 0


def enclose(own: Path, readable: Iterable[Path]) -> bool:
    """Forbid this process whatever lies outside these folders; return whether the kernel can.

    Args:
        own: folder that may be read and written.
        readable: folders and files that may be read.
    """
    if not version():
        return False
    files = _newest(FILES)
    rules = _Ruleset(files, _newest(NETWORK), _newest(OUTSIDE))
    ruleset = _call(CREATE, ctypes.byref(rules), ctypes.sizeof(rules), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "Landlock refuses the rules")
    for path in readable:
        _allow(ruleset, path, READ_FILE | READ_FOLDER)
    _allow(ruleset, Path(os.devnull), READ_FILE | WRITE_FILE | TRUNCATE & files)
    _allow(ruleset, own, files & ~EXECUTE)
    _libc().prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if _call(RESTRICT, ruleset, 0) != 0:
        raise OSError(ctypes.get_errno(), "Landlock refuses to restrict this process")
    os.close(ruleset)
    return True


def _allow(ruleset: int, path: Path, rights: int) -> None:
    if not path.exists():
        return
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    allowed = rights if path.is_dir() else rights & ~READ_FOLDER
    below = _Below(allowed, folder)
    if _call(ADD, ruleset, 1, ctypes.byref(below), 0) != 0:
        raise OSError(ctypes.get_errno(), f"Landlock refuses {path}")
    os.close(folder)


def _newest(rights: dict[int, int]) -> int:
    """Return what this kernel can forbid."""
    return max((value for first, value in rights.items() if first <= version()), default=0)


def _call(number: int, *arguments: object) -> int:
    return _libc().syscall(number, *arguments)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
