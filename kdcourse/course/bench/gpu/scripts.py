"""Runs scripts of ``examples/`` for an epoch: each is one scheme of the lecture."""

import runpy
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from unittest.mock import patch

from kdcourse.course.bench.gpu import absent
from kdcourse.course.bench.gpu.outcome import Journal, own_journal
from kdcourse.places import COURSE
from kdcourse.training.capture import Steps

EXAMPLES = COURSE / "examples"
PART = "scheme"


def run(paths: Sequence[Path], journal: Journal, images: int) -> None:
    """Train each scheme, one after the other, and note what became of it."""
    journal.plan(PART, [path.stem for path in paths])
    for path in paths:
        journal.attempt(PART, path.stem, partial(_train, path, images))


def _train(path: Path, images: int) -> str:
    """Train for an epoch and return, in words, which of its steps were captured."""
    main = runpy.run_path(str(path))["main"]
    usual = signature(main).parameters
    if usual["epochs"].default == 1:  # it is as long as it has to be
        images = min(images, usual["images"].default)
    with capturing() as told:
        main(images=images, epochs=1)
    return "; ".join(f"{count} × {outcome}" for outcome, count in told.items())


@contextmanager
def capturing() -> Iterator[Counter[str]]:
    """Count what becomes of the steps of every training, in words."""
    told: Counter[str] = Counter()
    tell = vars(Steps)["outcome"].fget

    def outcome(steps: Steps) -> str:
        told[said := tell(steps)] += 1
        return str(said)

    with patch.object(Steps, "outcome", property(outcome)):
        yield told


if __name__ == "__main__":
    absent.allow()
    images, *names = sys.argv[1:]
    run([Path(name) for name in names], own_journal(), int(images))
