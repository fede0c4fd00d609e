"""A process that runs a submission: started in a folder of its own, watched, and ended."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import psutil

from kdcourse.data import data_root
from kdcourse.homework import nursery
from kdcourse.homework.wire import unpacked

COURSE = Path(__file__).parents[2]
START = 120  # seconds to start a process
PATIENCE = 4  # seconds that one second of computing may take on a busy machine
KEPT = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH")  # environment variables


@dataclass(frozen=True)
class Limits:
    """What a submission may use, in seconds of computing; waiting may take four times as long.

    Attributes:
        call: Seconds for one cell, or one call of a function.
        total: Seconds for the whole submission, not counting the start of its processes.
        memory: Bytes of memory.
        reply: Bytes of one answer.
    """

    call: float = 60
    total: float = 240
    memory: int = 4 * 2**30
    reply: int = 64 * 2**20


class EndedError(Exception):
    """The process of a submission has ended; the message says why."""


class Process:
    """One process, its folder, and two threads that watch it."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.folder = tempfile.TemporaryDirectory(prefix="kdcourse-homework-")
        self.channel, theirs = Pipe()
        self.spent = 0.0  # seconds, of all requests
        self.allowed: float = START
        self.computed = 0.0
        self.began = time.monotonic(), 0.0
        self.reason = ""
        self.printed = 0
        self.stdout, printed = os.pipe()
        self.process = _start(theirs.fileno(), printed)
        theirs.close()
        os.close(printed)
        self.handle = psutil.Process(self.process.pid)
        for watch in (self._watch, self._drain):
            threading.Thread(target=watch, daemon=True).start()
        own_limits = limits.memory, int(limits.total) + START
        own = Path(self.folder.name)
        self.channel.send_bytes(pickle.dumps((own, _own(own), own_limits, _folders())))
        try:
            self._ask(("ready",))
        except EndedError:
            self.close()
            raise

    def request(self, message: Sequence[Any], seconds: float) -> dict[str, Any]:
        """Send a message, and return the answer, which is read as plain data."""
        self.began = time.monotonic(), self._computed()
        self.allowed = seconds
        try:
            return self._ask(message)
        finally:
            self.allowed = float("inf")
            self.spent += self._taken()

    def _ask(self, message: Sequence[Any]) -> dict[str, Any]:
        try:
            self.channel.send_bytes(pickle.dumps(message))
            answer = [self.channel.recv_bytes(self.limits.reply) for _ in range(2)]
        except EOFError:
            status = self.process.wait()
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise EndedError(self.reason or f"ended its process ({how})") from None
        except OSError:
            size = f"{self.limits.reply / 2**20:g} MB"
            raise EndedError(self.reason or f"answered more than {size}") from None
        try:
            return unpacked(*answer)
        except Exception:
            raise EndedError("gave an answer that cannot be read") from None

    def close(self) -> int:
        """End the process and everything it has started; return how many bytes it printed."""
        self._kill()
        self.process.wait()
        self.channel.close()
        self.folder.cleanup()
        return self.printed

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _watch(self) -> None:
        """Kill the process when its time is up or it uses too much memory."""
        while self.process.poll() is None:
            if self._taken() > self.allowed:
                self.reason = "took too long"
            elif self._memory() > self.limits.memory:
                self.reason = f"used more than {self.limits.memory / 2**30:.1f} GiB of memory"
            if self.reason:
                self._kill()
            time.sleep(0.1)

    def _taken(self) -> float:
        """Return the seconds that the current request has taken."""
        waited, computed = time.monotonic() - self.began[0], self._computed() - self.began[1]
        return max(computed, waited / PATIENCE)

    def _computed(self) -> float:
        with contextlib.suppress(psutil.Error):  # once it has ended, the last value counts
            self.computed = sum(self.handle.cpu_times()[:2])
        return self.computed

    def _memory(self) -> int:
        try:
            return self.handle.memory_info().rss
        except psutil.Error:
            return 0

    def _drain(self) -> None:
        """Read and count what the process prints, so that it never has to wait."""
        while part := os.read(self.stdout, 2**16):
            self.printed += len(part)
        os.close(self.stdout)


def environment() -> dict[str, str]:
    """Return the environment variables that a submission sees."""
    own = {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {name: os.environ[name] for name in KEPT if name in os.environ} | own


def _start(channel: int, printed: int) -> subprocess.Popen[bytes] | nursery.Forked:
    if nursery.FORKS:
        return nursery.fork(nursery.door(environment()), channel, printed)
    return subprocess.Popen(
        [sys.executable, "-m", "kdcourse.homework.worker", str(channel)],
        env=environment(),
        pass_fds=[channel],
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _own(folder: Path) -> dict[str, str]:
    """Return the environment variables that name folders."""
    homes = ("HOME", "TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR")
    return dict.fromkeys(homes, str(folder)) | {"KDCOURSE_DATA": str(data_root().resolve())}


def _folders() -> dict[Path, bool]:
    """Return folders, and whether a submission may read them, for :func:`.guard.lock`."""
    system = ("/usr", "/lib", "/lib64", "/dev/urandom")
    closed = [COURSE, COURSE / "kdcourse"]
    readable = [Path(sys.prefix), Path(sys.base_prefix), data_root(), *map(Path, system)]
    return dict.fromkeys(closed, False) | dict.fromkeys(readable, True)
