"""A process that runs a submission: started behind the fence, watched, and ended."""

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

from kdcourse import files
from kdcourse.homework import fence
from kdcourse.homework.wire import unpacked
from kdcourse.places import PACKAGE, image_folder

START = 120  # seconds to start a process
PATIENCE = 4  # seconds that one second of computing may take on a busy machine
MOST_TEXT = 2**20  # bytes of an answer beside its tensors
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")  # environment variables


@dataclass(frozen=True)
class Limits:
    """What a submission may use, in seconds of computing; waiting may take four times as long.

    Attributes:
        call: Seconds for one cell, or one call of a function.
        total: Seconds for the whole submission, not counting the start of its processes.
        memory: Bytes of memory.
        reply: Bytes of one answer.
        unsafe: Whether it runs without a fence, with all rights of whoever grades.
    """

    call: float = 60
    total: float = 240
    memory: int = 4 * 2**30
    reply: int = 64 * 2**20
    unsafe: bool = False


class EndedError(Exception):
    """The process of a submission has ended; the message says why."""


class Process:
    """One process, its folder, and two threads that watch it."""

    def __init__(self, limits: Limits):
        self.limits = limits
        with files.temporary_told():
            self.folder = tempfile.TemporaryDirectory(prefix="kdcourse-homework-")
        self.spent = 0.0  # seconds, of all requests
        self.allowed: float = START
        self.computed = 0.0
        self.began = time.monotonic(), 0.0
        self.reason = ""
        self.printed = 0
        self.first_words = b""  # of what it prints
        asked, self.requests = Pipe(duplex=False)
        self.replies, answered = Pipe(duplex=False)
        with asked, answered:
            self.process = self._start(asked.fileno(), answered.fileno())
        self.living = [psutil.Process(self.process.pid)]  # it, and later all it has started
        self.drain = threading.Thread(target=self._drain, daemon=True)
        self.drain.start()
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self._ask(("defines", ""))
        except EndedError as error:
            self.close()
            told = self.first_words.decode(errors="replace")
            raise RuntimeError(f"the process of a submission {error}: {told}") from None

    def _start(self, asked: int, answered: int) -> subprocess.Popen[bytes]:
        own = Path(self.folder.name)
        seconds = int(self.limits.total) + START
        need = fence.Need(own, _environment(own), self.limits.memory, seconds)
        self.fence = fence.none(need) if self.limits.unsafe else fence.around(need)
        return self.fence.start(
            [sys.executable, "-m", "kdcourse.homework.worker"],
            cwd=own,
            stdin=asked,
            stdout=answered,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

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
        most, answer = self.limits.reply, []
        try:
            self.requests.send_bytes(pickle.dumps(message))
            for most in (min(MOST_TEXT, self.limits.reply), self.limits.reply):
                answer.append(self.replies.recv_bytes(most))
        except (EOFError, BrokenPipeError):
            status = self.process.wait()
            killed = status - 128 if status > 128 else -status  # bubblewrap's word, and Popen's
            how = f"signal {killed}" if killed > 0 else f"exit status {status}"
            raise EndedError(self.reason or f"ended its process ({how})") from None
        except OSError:
            raise EndedError(self.reason or f"answered more than {most / 2**20:g} MB") from None
        try:
            return unpacked(*answer)
        except Exception:
            raise EndedError("gave an answer that cannot be read") from None

    def close(self) -> int:
        """End the process and everything it has started; return how many bytes it printed."""
        self._kill()
        self.process.wait()
        self.drain.join(10)  # seconds; whoever still prints then has left the fence
        self.requests.close()
        self.replies.close()
        self.folder.cleanup()
        return self.printed

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.fence.end:
            subprocess.run(self.fence.end, capture_output=True)

    def _watch(self) -> None:
        """Kill the process when its time is up or it uses too much of the machine."""
        while self.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                self.living = [self.living[0], *self.living[0].children(recursive=True)]
            if self._taken() > self.allowed:
                self.reason = "took too long"
            elif self._sum(lambda one: one.memory_info().rss) > self.limits.memory:
                self.reason = f"used more than {self.limits.memory / 2**30:.1f} GiB of memory"
            elif self._sum(psutil.Process.num_threads) > fence.THREADS:
                self.reason = f"ran more than {fence.THREADS} threads"
            if self.reason:
                self._kill()
            time.sleep(0.2)

    def _taken(self) -> float:
        """Return the seconds that the current request has taken."""
        waited, computed = time.monotonic() - self.began[0], self._computed() - self.began[1]
        return max(computed, waited / PATIENCE)

    def _computed(self) -> float:
        self.computed = max(self.computed, self._sum(lambda one: sum(one.cpu_times()[:2])))
        return self.computed

    def _sum(self, used: Any) -> float:
        """Add up what all living processes of the submission use."""
        total = 0.0
        for one in self.living:
            with contextlib.suppress(psutil.Error):  # it has ended since
                total += used(one)
        return total

    def _drain(self) -> None:
        """Read and count what the process prints, so that it never has to wait."""
        assert self.process.stderr is not None
        with self.process.stderr as printed:
            while part := os.read(printed.fileno(), 2**16):
                self.printed += len(part)
                self.first_words = (self.first_words + part)[:500]


def _environment(own: Path) -> dict[str, str]:
    """Return the environment variables that a submission sees."""
    course = {
        "PYTHONPATH": str(PACKAGE.parent),
        "KDCOURSE_DATA": str(image_folder().resolve()),
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    homes = dict.fromkeys(("HOME", "TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR"), str(own))
    return {name: os.environ[name] for name in KEPT if name in os.environ} | course | homes
