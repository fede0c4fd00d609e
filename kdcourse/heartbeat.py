"""A process that is stopped, or whose launcher has ended, is found out by the others."""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from torch import distributed

EVERY, PATIENCE = 2.0, 40.0  # seconds between beats, and without one


@contextmanager
def meanwhile(look: Callable[[], None], every: float) -> Iterator[None]:
    """Call a function every so many seconds, in a thread of its own, as long as this lasts."""
    over = threading.Event()

    def again() -> None:
        while not over.wait(every):
            look()

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def watched() -> Iterator[None]:
    """Watch the processes that ``torchrun`` has started, as long as this lasts.

    Who waits in a collective operation for a process that is stopped (not ended, which breaks the
    connection) would wait for half an hour. So every process writes down every few seconds that it
    is there, by a thread of its own, and ends with a message if another one is silent, or if the
    launcher has been killed and nobody would end it.
    """
    store = distributed.distributed_c10d._get_default_store()
    own, count = distributed.get_rank(), distributed.get_world_size()
    launcher, beats = os.getppid(), itertools.count(1)
    last = {rank: (b"", time.monotonic()) for rank in range(count) if rank != own}

    def look() -> None:
        """Beat, and listen to the others."""
        if os.getppid() != launcher:
            _end("its launcher has ended")
        with suppress(RuntimeError, OSError):  # the store ends with the launcher
            store.set(_key(own), str(next(beats)))
            for rank, (beat, since) in last.items():
                now = store.get(_key(rank)) if store.check([_key(rank)]) else beat
                if now != beat:
                    last[rank] = now, time.monotonic()
                elif time.monotonic() - since > PATIENCE:
                    _end(f"process {rank} has not answered for {PATIENCE:.0f} seconds")

    with meanwhile(look, EVERY):
        yield


def _key(rank: int) -> str:
    return f"kdcourse beat {rank}"


def _end(reason: str) -> None:
    """End this process at once: its main thread may wait for something that never comes."""
    print(f"kdcourse: ended, since {reason}; the same command resumes", file=sys.stderr, flush=True)
    os._exit(1)
