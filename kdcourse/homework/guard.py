"""What a submission may touch while it is graded: its process locks itself in before running it.

There are two locks. An audit hook sees every file that Python opens, every program it starts and
every connection it makes, and refuses what is not available. Where the kernel supports it,
:mod:`.landlock` also stops what bypasses Python.
"""

import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcourse.homework import landlock

FILE_SIZE = 100 * 2**20  # bytes that a submission may write to one file

# Events of Python's audit table that homework has no use for.
FORBIDDEN = {
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile"),
    *("os.fork", "os.forkpty", "pty.spawn", "os.kill", "os.killpg", "signal.pthread_kill"),
    *("os.chdir", "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"),
    *("ctypes.dlopen", "ctypes.dlsym", "resource.setrlimit", "resource.prlimit"),
}
READING = {"os.listdir", "os.scandir"}
WRITING = {
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr", "sqlite3.connect"),
}
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def limit(memory: int, seconds: int) -> None:
    """Limit the memory of this process, in bytes, and its computing time, in seconds.

    An allocation beyond the limit fails. Writable memory counts, not the address space, of which
    torch reserves gigabytes; on systems without this limit (macOS), the grader watches the process
    from outside. After its time the process ends, even if nobody watches it any more.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def lock(own: Path, folders: Mapping[Path, bool]) -> None:
    """Refuse, from now on, whatever homework does not need.

    Args:
        own: The folder that may be read and written.
        folders: Other folders, and whether they may be read; the innermost one decides.
    """
    landlock.enclose(own, [folder for folder, allowed in folders.items() if allowed])
    home = _real(own)
    rules = {_real(folder): allowed for folder, allowed in folders.items()} | {home: True}

    def check(path: Any, writing: bool) -> None:
        if isinstance(path, int):  # the descriptor of a file or folder that is already open
            return
        real = _real(path)
        around = [folder for folder in rules if real == folder or real.startswith(folder + os.sep)]
        innermost = max(around, key=len, default="")
        allowed = innermost == home if writing else rules.get(innermost, False)
        if not allowed and real != os.devnull:
            raise PermissionError(f"not available while homework is graded: {real}")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            check(path, bool(set(mode) & set("wax+")) if mode else bool(flags & WRITE_FLAGS))
        elif event in READING:
            check("." if arguments[0] is None else arguments[0], False)
        elif event in WRITING:
            for path in arguments:
                if isinstance(path, str | bytes | os.PathLike):
                    check(path, True)
        elif event in FORBIDDEN:
            raise PermissionError(f"not available while homework is graded: {event}")

    sys.addaudithook(hook)


def _real(path: Any) -> str:
    return os.path.realpath(os.fsdecode(path))
