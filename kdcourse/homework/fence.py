"""The fence around a submission, on Linux: bubblewrap, or else a container.

Inside, a process finds Python with its packages, the course's images, and the modules of the course
that give no answer away, all read-only, and a folder of its own in memory. Network, processes,
users and devices of the machine do not exist there, and nothing outlives the grader.

Bubblewrap is Debian's package ``bubblewrap``. Where systemd obeys whoever grades, it also limits
memory and tasks of all processes of a submission together. Where bubblewrap does not work, podman
or docker run the same Python in a container of an empty image. Both filter system calls
(:mod:`kdcourse.homework.syscalls`).
"""

import os
import shutil
import site
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kdcourse import files
from kdcourse.homework import syscalls
from kdcourse.homework.grader import GIVEN
from kdcourse.places import COURSE, INSTALLED, PACKAGE, image_folder
from kdcourse.teachers.shipped import TEACHERS

WORKER = ("__init__", "memory", "wire", "worker")
ALLOWED = [  # files of the course
    path
    for name in ("__init__", *GIVEN, *(f"homework/{one}" for one in WORKER))
    for path in (PACKAGE / f"{name}.py", *sorted((PACKAGE / name).glob("*.py")))
    if path.is_file()
]
SPACE = 256 * 2**20  # bytes that a submission may write, into each of two folders
PROCESSES, THREADS, FILES = 100, 500, 1024
IMAGE = "kdcourse-homework"  # of containers
LONGEST = 3600  # seconds after which podman ends one, should the grader be gone
HIDDEN = PACKAGE if INSTALLED else COURSE  # what homework asks for is written there


class NoFenceError(RuntimeError):
    """Submissions cannot be fenced in on this machine; the message says what to do."""

    def __init__(self, reason: str):
        super().__init__(f"{reason}, or use --unsafe for notebooks that you would run yourself")


@dataclass(frozen=True)
class Need:
    """What a command has, inside a fence or without one.

    Attributes:
        own: The folder that it starts in, and may write to; behind a fence it is another one, in
            memory, at the same path.
        environment: Its environment variables.
        memory: Bytes of memory that each of its processes may use.
        seconds: Seconds that each of its processes may compute.
    """

    own: Path
    environment: Mapping[str, str]
    memory: int
    seconds: int


@dataclass(frozen=True)
class Fence:
    """A fence for one command.

    Attributes:
        words: Words to put before the command.
        files: Descriptors of the files that they read; closed once the command has started.
        end: A command that ends what runs inside, where that is not a child of the first word.
        trial: A command that succeeds inside if the fence is what it should be.
    """

    words: Sequence[str]
    files: Sequence[int] = ()
    end: Sequence[str] = ()
    trial: Sequence[str] = ("true",)

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        """Start the command, once; ``options`` are those of :class:`subprocess.Popen`."""
        try:
            return subprocess.Popen([*self.words, *command], pass_fds=self.files, **options)
        finally:
            for file in self.files:
                os.close(file)


def check() -> str:
    """Try the fence, and return the name of the program that builds it.

    Raises:
        NoFenceError: None can be built here.
    """
    paths = {name: path for name in KINDS if (path := shutil.which(name))}
    if not paths:
        raise NoFenceError(
            "submissions run under bubblewrap, which is not installed: `apt install bubblewrap` "
            "(Linux)"
        )
    problems = {name: _problem(name, path) for name, path in paths.items()}
    for name, problem in problems.items():
        if not problem:
            return name
    told = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    raise NoFenceError(
        f"no fence can be built here ({told}); grade where unprivileged user namespaces are allowed"
    )


def around(need: Need) -> Fence:
    """Return a fence, of the first kind that works here.

    Raises:
        NoFenceError: None can be built here.
    """
    name = check()
    return KINDS[name](str(shutil.which(name)), need)


def none(need: Need) -> Fence:
    """Return no fence at all: a command that has the rights of whoever grades."""
    return Fence(["env", "-i", *_assigned(need)])


@cache
def _problem(name: str, path: str) -> str:
    """Try a kind of fence; return what is wrong, and nothing if it works."""
    with files.temporary_told(), tempfile.TemporaryDirectory(prefix="kdcourse-homework-") as own:
        fence = KINDS[name](path, Need(Path(own), {}, 2**30, 60))
        tried = fence.start(fence.trial, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, error = tried.communicate()
    return error.decode(errors="replace").strip() or "it fails" if tried.returncode else ""


def _bubblewrap(path: str, need: Need) -> Fence:
    files = _readable(syscalls.program())
    words = [
        *_scope(need.memory),
        *("env", "-i", *_assigned(need)),
        *(path, "--die-with-parent", "--unshare-pid", "--dev-bind", "/", "/"),  # out of its reach
        *(path, "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
        *("--uid", "1000", "--gid", "1000", "--hostname", "homework", "--new-session"),
        *(word for file in files for word in ("--seccomp", str(file))),
        *("--proc", "/proc", "--dev", "/dev", *_writable(Path("/dev/shm"))),
    ]
    for kind, shown in _shown():
        if kind == "link":
            words += ["--symlink", str(shown.readlink()), str(shown)]
        elif kind == "hide":
            words += ["--tmpfs", str(shown)]
        else:
            words += ["--ro-bind", str(shown), str(shown)]
    words += [
        *_writable(need.own),
        *(word for shut in (HIDDEN, "/dev", "/proc", "/") for word in ("--remount-ro", str(shut))),
        *("--chdir", str(need.own)),
        *_limited(need, f"--nproc={PROCESSES}"),
    ]
    return Fence(words, files)


def _limited(need: Need, *more: str) -> tuple[str, ...]:
    """Return the words that limit each process."""
    limits = f"--data={need.memory}", f"--cpu={need.seconds}", f"--nofile={FILES}", "--core=0"
    return "prlimit", *limits, *more, "--"


def _readable(program: bytes) -> list[int]:
    """Return the descriptor of a pipe that a filter can be read from; none for no filter."""
    if not program:
        return []
    source, sink = os.pipe()
    os.write(sink, program)  # it is small, so that nobody has to read meanwhile
    os.close(sink)
    return [source]


def _writable(folder: Path) -> tuple[str, ...]:
    return "--size", str(SPACE), "--tmpfs", str(folder)


@cache
def _manager() -> tuple[str, ...]:
    """Return the words that put a command under limits of systemd's; none where it does not run."""
    whose = "--user" if os.getuid() else "--system"
    words = ("systemd-run", whose, "--scope", "--quiet", "--collect", "--no-ask-password")
    try:
        tried = subprocess.run([*words, "true"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return () if tried.returncode else words


def _scope(memory: int) -> list[str]:
    """Return the words that limit all processes of a command together, where systemd runs."""
    limits = f"MemoryMax={memory}", "MemorySwapMax=0", f"TasksMax={THREADS}"
    return [*_manager(), *(f"--property={one}" for one in limits)] if _manager() else []


def _container(path: str, need: Need) -> Fence:
    """Return the words for podman and docker, which differ little.

    A container ends by the engine's command, or once the program in it does. Time is counted by the
    wall clock alone, as its processes are not the client's children.
    """
    name = f"{IMAGE}-{uuid.uuid4().hex}"
    filter = need.own / "filter.json"  # not seen inside
    filter.write_text(syscalls.profile())
    words = [
        *(path, "run", "--interactive", "--rm", "--name", name, "--hostname", "homework"),
        *("--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only"),
        f"--security-opt=seccomp={filter}",
        *(f"--pids-limit={PROCESSES}", f"--memory={need.memory}", f"--memory-swap={need.memory}"),
        *(f"--tmpfs={need.own}:size={SPACE}", f"--shm-size={SPACE}", f"--workdir={need.own}"),
        *("--log-driver=none", "--pull=never", "--entrypoint="),
        *(f"--env={one}" for one in _assigned(need)),
    ]
    if Path(path).name == "podman":  # its root is whoever grades, without the capabilities
        words += ["--ulimit=host", "--read-only-tmpfs=false", f"--timeout={LONGEST}"]
    else:
        words += [f"--user={os.getuid()}:{os.getgid()}"]
    for kind, shown in _shown():
        if kind == "hide":
            words += [f"--tmpfs={shown}:ro,size=1m"]
        else:
            words += [f"--mount=type=bind,source={shown},target={shown},readonly"]
    words += [_image(path), *_limited(need)]
    # Where an engine cannot limit memory, it warns, and goes on.
    limits = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    limited = ("grep", "--quiet", "--no-messages", f"^{need.memory}$", *limits)
    return Fence(words, end=(path, "kill", name), trial=limited)


@cache
def _image(path: str) -> str:
    """Return the name of an empty image, which is made where there is none."""
    if subprocess.run([path, "image", "inspect", IMAGE], capture_output=True).returncode:
        archive = bytes(10240)  # an empty tar archive
        subprocess.run([path, "import", "-", IMAGE], input=archive, capture_output=True)
    return IMAGE


KINDS = {"bwrap": _bubblewrap, "podman": _container, "docker": _container}  # the best one first


def _assigned(need: Need) -> list[str]:
    return [f"{name}={value}" for name, value in need.environment.items()]


def _shown() -> Iterator[tuple[str, Path]]:
    """Yield what shows Python, its packages, the images, and of the course the allowed modules.

    Each is a path, and what to do there: show what it holds, hide that, or make the same link.
    """
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        python.add(site.getusersitepackages())
    data = [image_folder().absolute() / "FashionMNIST", TEACHERS]
    folders = [Path("/usr"), *map(Path, sorted(python)), *data]
    folders += [path.resolve() for path in folders if path.exists()]
    outside = [path for path in folders if not path.is_relative_to(HIDDEN)]
    inside = [path for path in folders if path.is_relative_to(HIDDEN)]
    inside += ALLOWED
    for path in map(Path, ("/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")):
        if path.is_symlink():
            yield "link", path
        else:
            outside.append(path)
    yield from (("show", path) for path in _each_once(outside))
    yield "hide", HIDDEN  # also where it lies in one of those
    yield from (("show", path) for path in _each_once(inside))


def _each_once(paths: Sequence[Path]) -> Iterator[Path]:
    seen: list[Path] = []
    for path in dict.fromkeys(path for path in paths if path.exists()):
        link = path.resolve() != path and any(map(path.is_relative_to, seen))
        if not link:  # a link inside a folder that is shown leads where it leads outside
            yield path
            seen.append(path)
