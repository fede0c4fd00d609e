"""A process of its own for each part: it may crash or run out of time, and nothing else does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from kdcourse.course.bench.gpu.outcome import FAILED, LEFT_OUT, LINES, Journal, Outcome
from kdcourse.places import COURSE

PAUSE = 0.1  # seconds between two looks at the processes


class Child:
    """A module that runs as a program, writes a journal, and may wait for its turn."""

    def __init__(self, name: str, command: Sequence[str], folder: Path):
        self.name, self.killed, self.ended = name, False, 0.0
        self.journal, self.log = Journal(folder / f"{name}.jsonl"), folder / f"{name}.log"
        environment = {
            **{"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"},
            "TORCHINDUCTOR_COMPILE_THREADS": "4",  # there are other processes
            **os.environ,
            "KDCOURSE_JOURNAL": str(self.journal.path.absolute()),
            # Nothing is compiled yet, so that the first step takes as long as it does for the first
            # time.
            "TORCHINDUCTOR_CACHE_DIR": str((folder / "inductor").absolute()),
            "TRITON_CACHE_DIR": str((folder / "triton").absolute()),
        }
        self.start = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=COURSE,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its own processes end with it
            )

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    @property
    def ready(self) -> bool:
        """Whether it waits for its turn, or has ended."""
        return self.over or any("ready" in entry for entry in self.journal.read())

    def go(self) -> None:
        """Give it its turn."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended
            self.process.stdin.write(b"\n")
            self.process.stdin.close()

    def kill(self) -> None:
        """End it, with all processes that it has started."""
        self.killed = self.killed or not self.over
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def outcomes(self) -> list[Outcome]:
        """Return what became of all that it had planned, and of itself if it came to nothing."""
        found = self.journal.outcomes()
        if self.killed and not found:
            return [Outcome(self.name, "the process", LEFT_OUT)]
        told = any(one.status == FAILED for one in found)
        if self.process.returncode and not self.killed and not told:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES:]
            detail = "\n".join([f"ended with status {self.process.returncode}", *lines])
            found.append(Outcome(self.name, "the process", FAILED, 0.0, detail))
        return found


def wait(
    children: Iterable[Child],
    done: Callable[[Child], bool],
    until: float,
    tell: Callable[..., None],
) -> None:
    """Wait until all children are done, or it is too late (by :func:`time.perf_counter`)."""
    left = list(children)
    while left and time.perf_counter() < until:
        for child in [one for one in left if done(one)]:
            left.remove(child)
            tell(child)
        time.sleep(PAUSE)
