"""``python -m tests.kill``."""

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from . import __doc__ as about
from .scenarios import scenarios
from .withstand import Tally, withstand


def table(tallies: Mapping[str, Tally]) -> str:
    """Return what came out, as a table."""
    heads = ("scenario", "kills", "at work", "in a write", "runs", "identical")
    rows = [
        (name, one.kills, one.at_work, one.in_a_write, one.runs, one.identical)
        for name, one in tallies.items()
    ]
    sums = [sum(column) for column in zip(*(row[1:] for row in rows), strict=True)]
    lines = [heads, *rows, ("together", *sums)]
    return "\n".join(f"{a:<16}" + "".join(f"{b:>12}" for b in rest) for a, *rest in lines)


def main() -> int:
    """Kill everything; return 1 if anything did not end as it should."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="NAME", help="this scenario only")
    options = parser.parse_args()
    chosen = [one for one in scenarios() if options.only in ("", one.name)]
    base, draw = Path(tempfile.mkdtemp(prefix="kdcourse-kill-")), random.Random(options.seed)
    tallies: dict[str, Tally] = {}
    for number, scenario in enumerate(chosen):
        kills = len(range(number, options.kills, len(chosen)))  # as even as can be
        if kills:
            tallies[scenario.name] = withstand(scenario, kills, base / str(number), draw)
    print(table(tallies))
    if any(tally.problems for tally in tallies.values()):
        return 1
    shutil.rmtree(base)
    return 0


if __name__ == "__main__":
    sys.exit(main())
