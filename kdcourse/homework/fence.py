"""The fence around a submission, built by bubblewrap (Debian's package ``bubblewrap``) on Linux.

Inside, a process finds Python with its packages, the course's images, and the modules of the course
that give no answer away, all read-only, and a folder of its own in memory. Network, processes,
users and devices of the machine do not exist there, and nothing outlives the grader.
"""

import shutil
import site
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdcourse.data import data_root
from kdcourse.homework.release import COURSE, DATA

ALLOWED = (
    *("__init__", "checks", "data", "metrics", "models"),
    *("homework/__init__", "homework/memory", "homework/wire", "homework/worker"),
)
SPACE = 256 * 2**20  # bytes that a submission may write, into each of two folders
PROCESSES, FILES = 100, 1024


class NoFenceError(RuntimeError):
    """Submissions cannot be fenced in on this machine; the message says what to do."""

    def __init__(self, reason: str):
        super().__init__(f"{reason}, or use --unsafe for notebooks that you would run yourself")


def check() -> None:
    """Try the fence.

    Raises:
        NoFenceError: It cannot be built here.
    """
    words = command(Path("/own"), 2**30, 60)
    tried = subprocess.run([*words, "true"], capture_output=True, text=True)
    if tried.returncode:
        raise NoFenceError(
            f"bubblewrap does not run here ({tried.stderr.strip()}); grade where unprivileged user "
            "namespaces are allowed"
        )


def command(own: Path, memory: int, seconds: int) -> list[str]:
    """Return the words to put before a command so that it runs inside the fence.

    Args:
        own: The folder that the command starts in, and may write to; it exists only inside.
        memory: Bytes of memory that each process may use.
        seconds: Seconds that each process may compute.

    Raises:
        NoFenceError: There is no bubblewrap.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise NoFenceError(
            "submissions run under bubblewrap, which is not installed: `apt install bubblewrap` "
            "(Linux)"
        )
    limits = {"data": memory, "cpu": seconds, "nproc": PROCESSES, "nofile": FILES, "core": 0}
    return [
        *(bwrap, "--die-with-parent", "--unshare-pid", "--dev-bind", "/", "/"),  # out of its reach
        *(bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
        *("--uid", "1000", "--gid", "1000", "--hostname", "homework", "--new-session"),
        *("--proc", "/proc", "--dev", "/dev", *_writable(Path("/dev/shm"))),
        *_seen(),
        *_writable(own),
        *(word for path in ("/dev", "/proc", "/") for word in ("--remount-ro", path)),
        *("--chdir", str(own)),
        "prlimit",
        *(f"--{name}={value}" for name, value in limits.items()),
        "--",
    ]


def _seen() -> Iterator[str]:
    """Yield what shows Python, its packages, the images, and of the course the allowed modules."""
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        python.add(site.getusersitepackages())
    images = [data_root().absolute() / part for part in DATA]
    folders = [Path("/usr"), *map(Path, sorted(python)), *images]
    folders += [path.resolve() for path in folders if path.exists()]
    outside = [path for path in folders if not path.is_relative_to(COURSE)]
    inside = [path for path in folders if path.is_relative_to(COURSE)]
    inside += [COURSE / "kdcourse" / f"{name}.py" for name in ALLOWED]
    for path in map(Path, ("/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")):
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        else:
            outside.append(path)
    yield from _read_only(outside)
    yield from ("--tmpfs", str(COURSE))  # also where it lies in one of those
    yield from _read_only(inside)
    yield from ("--remount-ro", str(COURSE))


def _read_only(paths: Iterable[Path]) -> Iterator[str]:
    bound: list[Path] = []
    for path in dict.fromkeys(paths):
        link = path.resolve() != path and any(map(path.is_relative_to, bound))
        if not link:  # a link inside a folder that is bound leads where it leads outside
            yield from ("--ro-bind-try", str(path), str(path))
            bound.append(path)


def _writable(folder: Path) -> tuple[str, ...]:
    return "--size", str(SPACE), "--tmpfs", str(folder)
