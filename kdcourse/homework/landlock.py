"""A wall around the files, built by the Linux kernel: Landlock, since 5.13, for any user.

Files that native code opens are not seen by Python's audit hooks, but they are by the kernel. From
the moment a process encloses itself, it and whatever it starts can only read and write below the
folders it has named; they can start no program, open no TCP connection and signal no process
outside. There is no way back.
"""

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

CREATE, ADD, RESTRICT = 444, 445, 446  # numbers of the system calls, on every architecture
NO_NEW_PRIVILEGES = 38  # an option of prctl, which the kernel requires first
WRITE_FILE, READ_FILE, READ_FOLDER, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
EXECUTE = 1 << 0
# What each version of Landlock can forbid: access to files, to the network, to other processes.
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
    """Return the kernel's version of Landlock, or 0 if it has none."""
    return max(0, _call(CREATE, None, 0, 1)) if sys.platform == "linux" else 0


def enclose(own: Path, readable: Iterable[Path]) -> bool:
    """Deny this process whatever lies outside these folders; return whether the kernel can do so.

    Args:
        own: The folder that may be read and written.
        readable: Folders and files that may be read.
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
    """Return the rights that this kernel's version can forbid."""
    return max((value for first, value in rights.items() if first <= version()), default=0)


def _call(number: int, *arguments: object) -> int:
    return _libc().syscall(number, *arguments)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
