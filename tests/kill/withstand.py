"""Kill a scenario again and again, and see how it ends."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcourse.training.checkpoint import CorruptedCheckpointError

from .calls import LOG, Call, call, moment, to_its_end, writes
from .remains import contents, differences, saved, survivors
from .scenarios import OUT, TEMPORARY, Scenario

MOST = 3  # kills before a run may come to its end


@dataclass
class Whole:
    """An undisturbed run: the seconds before its work and of it, what it left, and who ran it."""

    start: float
    work: float
    contents: dict[str, Any]
    finish: Callable[[Scenario, Path], Call]


@dataclass
class Tally:
    """What has come of the kills of a scenario."""

    kills: int = 0
    at_work: int = 0
    in_a_write: int = 0
    runs: int = 0
    problems: list[str] = field(default_factory=list)

    def count(self, at_work: bool, in_a_write: bool) -> None:
        """Count a kill."""
        self.kills += 1
        self.at_work += at_work
        self.in_a_write += in_a_write

    @property
    def identical(self) -> int:
        """The number of runs that ended as if nothing was."""
        return self.runs - len(self.problems)

    def __str__(self) -> str:
        kills = f"{self.kills} killed, {self.at_work} at work, {self.in_a_write} in a write"
        return f"{kills}; {self.identical} of {self.runs} ended as if nothing was"


def room_of(scenario: Scenario, folder: Path) -> Path:
    """Make a new room for a run."""
    for name in (OUT, TEMPORARY):
        (folder / name).mkdir(parents=True)
    scenario.prepare(folder)
    return folder


def disturbed(
    scenario: Scenario, whole: Whole, room: Path, draw: random.Random, most: int, tally: Tally
) -> Iterator[str]:
    """Kill a run up to ``most`` times, let it end, and name what is not as it should be."""
    left, before = whole.work, {}
    for kills in range(most, -1, -1):
        due = moment(draw, whole.start, left, room)
        done = call(scenario, room, due) if kills else whole.finish(scenario, room)
        after = saved(room / OUT)
        for name, rows in before.items():
            if after.get(name, [])[: len(rows)] != rows:
                yield f"{name} has lost epochs, or trained them again"
        if not done.killed:
            if kills == most and done.begun is not None:  # the machine is faster than it was
                whole.work = done.ended - done.begun
            break
        before = after
        at_work, in_a_write = done.begun is not None, writes(room)
        tally.count(at_work, in_a_write)
        where = "in a write" if in_a_write else "at work" if at_work else "before its work"
        print(f"{scenario.name:<16} killed after {done.ended:5.2f} s, {where}", flush=True)
        if done.begun is not None:
            left = max(left - (done.ended - done.begun), whole.work / 10)
    if done.status:
        yield f"it ended with status {done.status}, see {LOG}"
    yield from differences(whole.contents, contents(room / OUT))
    yield from survivors(room)


def withstand(
    scenario: Scenario,
    kills: int,
    folder: Path,
    draw: random.Random,
    finish: Callable[[Scenario, Path], Call] = to_its_end,
) -> Tally:
    """Kill a scenario so many times, in as many runs as that takes.

    What comes to its end does so by ``finish``.
    """
    tally, room = Tally(), room_of(scenario, folder / "whole")
    done = finish(scenario, room)
    if done.status or done.begun is None:
        raise RuntimeError(f"{scenario.name} cannot be run, see {room / LOG}")
    whole = Whole(done.begun, done.ended - done.begun, contents(room / OUT), finish)
    while tally.kills < kills:
        room = room_of(scenario, folder / str(tally.runs))
        most = draw.randint(1, min(MOST, kills - tally.kills))
        try:
            found = list(disturbed(scenario, whole, room, draw, most, tally))
        except (CorruptedCheckpointError, ValueError) as error:  # half of a file
            found = [str(error)]
        tally.runs += 1
        if found:
            tally.problems.append("; ".join(found))
            print(f"{scenario.name}: {tally.problems[-1]}; see {room}", flush=True)
        else:
            shutil.rmtree(room)
    return tally
