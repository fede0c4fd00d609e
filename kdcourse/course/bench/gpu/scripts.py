"""Runs scripts of ``examples/`` for an epoch: each is one scheme of the lecture."""

import runpy
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdcourse.course.bench.gpu import absent
from kdcourse.course.bench.gpu.outcome import Journal, own_journal
from kdcourse.places import COURSE

EXAMPLES = COURSE / "examples"
PART = "scheme"


def run(paths: Sequence[Path], journal: Journal, **size: Any) -> None:
    """Train each scheme, one after the other, and note what became of it."""
    journal.plan(PART, [path.stem for path in paths])
    for path in paths:
        journal.attempt(PART, path.stem, partial(_train, path, size))


def _train(path: Path, size: dict[str, Any]) -> None:
    runpy.run_path(str(path))["main"](**size, epochs=1)


if __name__ == "__main__":
    absent.allow()
    images, *names = sys.argv[1:]
    run([Path(name) for name in names], own_journal(), images=int(images))
