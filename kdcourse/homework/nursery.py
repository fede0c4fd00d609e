"""Processes for submissions without the wait: one imports what they all need, and forks the rest.

Importing torch and its optimisers takes seconds, forking takes milliseconds. The nursery never sees
what a submission does, so its children are as clean as processes started afresh. All graders of a
run share one nursery, and ask for a child by sending the ends of its channels.
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

FORKS = sys.platform == "linux"  # elsewhere, system libraries may not survive a fork


class Forked:
    """A process that the nursery has started, with the interface of :class:`subprocess.Popen`."""

    def __init__(self, life: Connection):
        self.life = life
        self.pid: int = life.recv()
        self.returncode: int | None = None
        self.lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit status of the process, or None while it runs."""
        with self.lock:
            if self.returncode is None and self.life.poll():
                try:
                    self.returncode = self.life.recv()
                except EOFError:  # whoever would have reported it was killed as well
                    self.returncode = -signal.SIGKILL
            return self.returncode

    def wait(self) -> int:
        """Wait until the process has ended, and return its exit status."""
        while (status := self.poll()) is None:
            wait([self.life])
        return status


_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None
_door: socket.socket | None = None


def door(environment: Mapping[str, str]) -> socket.socket:
    """Return the socket on which to ask for children; start the nursery if there is none."""
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
    """Make this process use the nursery of another one."""
    global _door
    _door = door


def fork(door: socket.socket, channel: int, printed: int) -> Forked:
    """Ask for a worker that answers on ``channel`` and prints to ``printed``."""
    life, theirs = Pipe(duplex=False)
    with theirs:
        socket.send_fds(door, [b"!"], [channel, printed, theirs.fileno()])
    return Forked(life)


def main() -> None:
    """Prepare, then fork a worker whenever asked, until all processes that could ask are gone."""
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
    """Fork a child, which goes on; this process stays as its parent and reports how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told = Connection(life, readable=False)
    if child := os.fork():
        os.close(channel)
        os.close(printed)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(BrokenPipeError):  # nobody is left to report to
            told.send(status)
        os._exit(0)
    os.setsid()
    told.send(os.getpid())
    told.close()  # so that the submission cannot forge a report
    return channel, printed


if __name__ == "__main__":
    main()
