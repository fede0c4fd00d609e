"""Processes for submissions at once: one process imports what they all need and forks the rest.

To import torch and its optimisers takes seconds, to fork takes milliseconds. The nursery never sees
what a submission does, so a child of it is as clean as a process of its own. All graders of a run
share one, and ask for a child by sending the ends of its channels.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection, Pipe, wait

FORKS = sys.platform == "linux"  # elsewhere libraries of the system may not survive a fork


class Forked:
    """A process that the nursery started, as :class:`subprocess.Popen` is one of our own."""

    def __init__(self, life: Connection):
        self.life = life
        self.pid: int = life.recv()
        self.returncode: int | None = None
        self.lock = threading.Lock()

    def poll(self) -> int | None:
        """Return how the process ended, None while it runs."""
        with self.lock:
            if self.returncode is None and self.life.poll():
                try:
                    self.returncode = self.life.recv()
                except EOFError:  # who would have told was killed, too
                    self.returncode = -signal.SIGKILL
            return self.returncode

    def wait(self) -> int:
        """Return how the process ended, when it has."""
        while (status := self.poll()) is None:
            wait([self.life])
        return status


_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None
_door: socket.socket | None = None


def door(environment: Mapping[str, str]) -> socket.socket:
    """Return where children are asked for, and start the nursery if there is none."""
    global _door, _process
    with _lock:
        if _door is None or (_process and _process.poll() is not None):
            _door, theirs = socket.socketpair()
            with theirs:
                _process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(theirs.fileno())],
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        return _door


def share(door: socket.socket) -> None:
    """Ask, in this process, the nursery of another one."""
    global _door
    _door = door


def fork(door: socket.socket, channel: int, printed: int) -> Forked:
    """Ask for a worker that answers on ``channel`` and prints to ``printed``."""
    life, theirs = Pipe(duplex=False)
    with theirs:
        socket.send_fds(door, [b"!"], [channel, printed, theirs.fileno()])
    return Forked(life)


def main() -> None:
    """Prepare, and fork a worker whenever asked, until all who could ask are gone."""
    from kdcourse.homework import worker

    worker.prepare()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    asked = socket.socket(fileno=int(sys.argv[1]))
    while fds := socket.recv_fds(asked, 1, 3)[1]:
        if os.fork() == 0:
            asked.close()
            channel, printed = _attended(*fds)
            os.dup2(printed, 1)
            os.dup2(printed, 2)
            os.close(printed)
            return worker.begin(channel)
        for fd in fds:
            os.close(fd)


def _attended(channel: int, printed: int, life: int) -> tuple[int, int]:
    """Go on in a child of which this process will tell, as its parent, how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told = Connection(life, readable=False)
    if child := os.fork():
        os.close(channel)
        os.close(printed)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(BrokenPipeError):  # nobody is left to tell
            told.send(status)
        os._exit(0)
    os.setsid()
    told.send(os.getpid())
    told.close()  # what follows can forge nothing
    return channel, printed


if __name__ == "__main__":
    main()
