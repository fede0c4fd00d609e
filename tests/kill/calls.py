"""One call of a command, which may be killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdcourse.__main__ import main

from .scenarios import HERE, OUT, TEMPORARY, Scenario

LOG = "log.txt"
EARLY, WRITING = 0.1, 0.2  # share of the kills before any work is done, and in a write if possible

# Says, from the seconds since a call's start and those at which its work began, when to kill it.
Kill = Callable[[float, float | None], bool]


@dataclass(frozen=True)
class Call:
    """How a call went: the seconds at which its work began, if it did, and ended; its status."""

    begun: float | None
    ended: float
    status: int

    @property
    def killed(self) -> bool:
        """Whether it was killed before it came to its end."""
        return self.status == -signal.SIGKILL


def signs(scenario: Scenario, room: Path) -> set[tuple[Path, int]]:
    """Return the files that show that work has begun."""
    found = set()
    for path in room.glob(scenario.sign):
        try:
            found.add((path, path.stat().st_mtime_ns))
        except FileNotFoundError:  # it was a temporary one
            continue
    return found


def call(scenario: Scenario, room: Path, kill: Kill) -> Call:
    """Call a command in its room, and kill its process group once ``kill(now, begun)`` says so."""
    before, begun, start = signs(scenario, room), None, time.monotonic()
    paths = os.pathsep.join([*map(str, HERE.parents[:2]), os.environ.get("PYTHONPATH", "")])
    own = {"TMPDIR": str(room / TEMPORARY), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with (room / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *scenario.command],
            cwd=room,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            now = time.monotonic() - start
            if begun is None and signs(scenario, room) != before:
                begun = now
            if kill(now, begun):
                break
            time.sleep(0.001)
    finally:
        if process.returncode is None:  # so that the group is still its own
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Call(begun, time.monotonic() - start, process.returncode)


def writes(room: Path) -> bool:
    """Whether a file in a room is being written, or was when its writer was killed."""
    return any((room / OUT).rglob("*.partial"))


def to_its_end(scenario: Scenario, room: Path) -> Call:
    """Call a command, and do nothing to it."""
    return call(scenario, room, lambda now, begun: False)


def in_this_process(scenario: Scenario, room: Path) -> Call:
    """Call a command where everything is imported already."""
    from . import trainings

    home, start = Path.cwd(), time.monotonic()
    os.chdir(room)
    try:
        first, *given = scenario.command
        status = main(given[1:]) if first == "-m" else trainings.main(*given)
    finally:
        os.chdir(home)
    return Call(0.0, time.monotonic() - start, status or 0)


def moment(draw: random.Random, start: float, work: float, room: Path) -> Kill:
    """Draw the moment of a kill: mostly during the work, sometimes before it has begun.

    Writes are short, and would hardly ever be hit: some kills wait for the next one.
    """
    kind, share = draw.random(), draw.random()

    def due(now: float, begun: float | None) -> bool:
        if kind < EARLY:
            return now >= share * start
        reached = begun is not None and now - begun >= share * work
        return reached and (kind < 1 - WRITING or writes(room))

    return due
