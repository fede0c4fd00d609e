"""The fence around a submission, built by bubblewrap (Debian's package ``bubblewrap``) on Linux.

Inside, a process finds Python with its packages, the course's images, and the modules of the course
that give no answer away, all read-only, and a folder of its own in memory. Network, processes,
users and devices of the machine do not exist there, and nothing outlives the grader.
"""

import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from kdcourse.data import data_root
from kdcourse.homework.release import COURSE, DATA

ALLOWED = (
    *("__init__", "checks", "data", "metrics", "models"),
    *("homework/__init__", "homework/memory", "homework/wire", "homework/worker"),
)
CLOSED = ("kdcourse", "notebooks", "tests")  # parts of the course that hold solutions
SPACE = 256 * 2**20  # bytes that a submission may write, into each of two folders
PROCESSES = 100


class NoFenceError(RuntimeError):
    """Submissions cannot be fenced in on this machine; the message says what to do."""


def check() -> None:
    """Try the fence.

    Raises:
        NoFenceError: It cannot be built here.
    """
    own = Path("/own")
    tried = subprocess.run([*command(own, 2**30, 60), "true"], capture_output=True, text=True)
    if tried.returncode:
        raise NoFenceError(
            f"bubblewrap does not run here ({tried.stderr.strip()}); grade where unprivileged user "
            "namespaces are allowed, or use --unsafe for notebooks that you would run yourself"
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
            "(Linux), or use --unsafe for notebooks that you would run yourself"
        )
    limits = {"data": memory, "cpu": seconds, "nproc": PROCESSES, "core": 0}
    return [
        bwrap,
        *("--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"),
        *("--cap-drop", "ALL", "--new-session", "--die-with-parent", "--hostname", "homework"),
        *("--proc", "/proc", "--dev", "/dev", *_writable(Path("/dev/shm")), "--remount-ro", "/dev"),
        *(word for path in _folders() for word in ("--ro-bind", str(path), str(path))),
        *_system_links(),
        *_course(),
        *_writable(own),
        *("--chdir", str(own)),
        *("--remount-ro", "/"),
        "prlimit",
        *(f"--{name}={value}" for name, value in limits.items()),
        "--",
    ]


def _folders() -> Iterator[Path]:
    """Yield the folders of Python, its packages and the course's images."""
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        python.append(site.getusersitepackages())
    images = [data_root() / part for part in DATA]
    for path in dict.fromkeys([Path("/usr"), *map(Path, python), *images]):
        if path.exists():
            yield path.absolute()
            if path.resolve() != path.absolute():
                yield path.resolve()


def _system_links() -> Iterator[str]:
    """Yield what makes ``/bin``, ``/lib`` and the like lead where they lead outside."""
    for path in (Path("/bin"), Path("/lib"), Path("/lib32"), Path("/lib64")):
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.exists():
            yield from ("--ro-bind", str(path), str(path))
    yield from ("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")


def _course() -> Iterator[str]:
    """Yield what hides the course, wherever it is installed, except for the allowed modules."""
    closed = [str(COURSE / part) for part in CLOSED if (COURSE / part).exists()]
    allowed = [str(COURSE / "kdcourse" / f"{name}.py") for name in ALLOWED]
    yield from (word for path in closed for word in ("--tmpfs", path))
    yield from (word for path in allowed for word in ("--ro-bind", path, path))
    yield from (word for path in closed for word in ("--remount-ro", path))


def _writable(folder: Path) -> tuple[str, ...]:
    return "--size", str(SPACE), "--tmpfs", str(folder)
