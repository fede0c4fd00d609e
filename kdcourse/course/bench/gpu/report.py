"""What the run on a GPU has shown: stored as JSON, and as tables for the docs."""

import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

import torch

from kdcourse.course.bench.chunks import AT_ONCE, COMPILED
from kdcourse.course.bench.compare import Store
from kdcourse.course.bench.gpu.losses import NAIVE, OURS, LossCost
from kdcourse.course.bench.gpu.outcome import FAILED, LEFT_OUT, PASSED, SKIPPED, Outcome
from kdcourse.course.bench.gpu.steps import (
    BATCH_SIZES,
    CAPTURED,
    FIT,
    PAIRS,
    UNCAPTURED,
    WAYS,
    Step,
)
from kdcourse.course.claims.results import RESULTS
from kdcourse.course.claims.table import markdown
from kdcourse.training.device import processor

COMMAND = "benchmarks/gpu.sh"
FILE = "bench-gpu.json"
STORE = Store(RESULTS / FILE, COMMAND, Step)
UNKNOWN = "*to be measured*"
Criterion = tuple[str, str, float, bool, float]  # of, ratio, bound, whether it is the most, value


def save(
    folder: Path, steps: Sequence[Step], losses: Sequence[LossCost], tried: Sequence[Outcome]
) -> None:
    """Write all of it into a folder, with the machine and the versions."""
    store = Store(folder / FILE, COMMAND, Step)
    costs, outcomes = ([asdict(one) for one in rows] for rows in (losses, tried))
    store.save(steps, machine=machine(), losses=costs, tried=outcomes)


def machine() -> dict[str, str]:
    """Return what was computed on, and when."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        told = "no GPU"
    return {
        "gpu": told.strip(),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "processor": processor(),
        "system": platform.platform(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def stored() -> dict[str, Any]:
    """Return what is stored, or nothing."""
    try:
        return STORE.content()
    except FileNotFoundError:
        return {}


def about() -> str:
    """Say on which machine it was measured, and by which versions."""
    found = stored()
    if not found:
        return f"{UNKNOWN[1:-1].capitalize()} (`{COMMAND}`): there was no GPU at hand yet."
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    here = found["machine"]
    return f"{here['gpu']}; CUDA {here['cuda']}, {versions}; {here['processor']}; {here['date']}."


def steps_table(found: Iterable[Step] | None = None) -> str:
    """Return what a step costs; of what is stored, with a row for all that is to be measured."""
    places: dict[tuple[str, str, int, str], None] = {}
    if found is None:
        found = STORE.load() if stored() else ()
        grid = product(PAIRS, BATCH_SIZES, WAYS)
        places = {(*pair, size, way): None for pair, size, way in grid}
    known = {(one.student, one.teacher, one.batch_size, one.way): one for one in found}
    rows = []
    for place in places | dict.fromkeys(known):
        student, teacher, size, way = place
        best = known.get((student, teacher, size, CAPTURED))
        measured = _step_cells(known[place], best) if place in known else (UNKNOWN, *[""] * 5)
        rows.append((f"{student} ← {teacher}", f"{size}", way, *measured))
    head = ("student ← teacher", "batch", "a step", "ms", "÷ captured", "images/s", "memory, MB")
    return markdown((*head, "first step, s", "images"), rows)


def _step_cells(one: Step, best: Step | None) -> tuple[str, ...]:
    return (
        f"{one.milliseconds:.2f}",
        f"**{one.milliseconds / best.milliseconds:.2f}**" if best else "",
        f"{1000 * one.batch_size / one.milliseconds:,.0f}",
        f"{one.memory / 1e6:,.0f}",
        "" if one.first is None else f"{one.first:.1f}",
        "; ".join(filter(None, (one.images, one.remark))),
    )


def losses_table(found: Iterable[LossCost] | None = None) -> str:
    """Return what losses cost."""
    if found is None:
        found = [LossCost(**one) for one in stored().get("losses", ())]
    rows = [
        (
            one.loss,
            " × ".join(f"{size:,}" for size in one.shape),
            one.form,
            f"{one.milliseconds:.2f}",
            f"**{one.ratio:.2f}**",
            f"{one.memory / 1e6:,.1f}",
        )
        for one in found
    ]
    head = ("loss", "input", "form", "ms", "÷ reference", "memory, MB")
    return markdown(head, rows or [("angle, KD", "", "", UNKNOWN, "", "")])


def criteria_table(
    found: Iterable[Step] | None = None, costs: Iterable[LossCost] | None = None
) -> str:
    """Return whether what was measured is as fast, and takes as little, as it should."""
    if found is None or costs is None:
        found = STORE.load() if stored() else ()
        costs = [LossCost(**one) for one in stored().get("losses", ())]
    rows = [
        (of, what, f"{'≤' if most else '≥'} {bound:g}", f"{value:.2f}", _holds(value, bound, most))
        for of, what, bound, most, value in (*_of_steps(found), *_of_losses(costs))
    ]
    head = ("of", "ratio", "is to be", "is", "")
    return markdown(head, rows or [("steps, losses", "", "", UNKNOWN, "")])


def _holds(value: float, bound: float, most: bool) -> str:
    return "holds" if (value <= bound if most else value >= bound) else "**does not hold**"


def _of_steps(found: Iterable[Step]) -> Iterator[Criterion]:
    """Yield what is asked of ``fit``, where both sides of the ratio were measured."""
    known = {(one.student, one.teacher, one.batch_size, one.way): one.milliseconds for one in found}
    for (student, teacher, size, way), taken in known.items():
        place = f"{student} ← {teacher}, batch {size}"
        by_hand, eager = (
            known.get((student, teacher, size, other)) for other in (CAPTURED, UNCAPTURED)
        )
        if way == FIT and by_hand:
            yield place, f"{FIT} ÷ {CAPTURED}", 1.3, True, taken / by_hand
        if way == FIT and eager and (student, size) == ("resnet20", 64):
            yield place, f"{UNCAPTURED} ÷ {FIT}", 6, False, eager / taken


def _of_losses(costs: Iterable[LossCost]) -> Iterator[Criterion]:
    """Yield what is asked of losses: no slower than the naive form; KD in little memory."""
    known = list(costs)
    whole = {(one.loss, *one.shape): one.memory for one in known if one.form == AT_ONCE}
    for one in known:
        place = f"{one.loss}, {' × '.join(f'{size:,}' for size in one.shape)}"
        plain = whole.get((one.loss, *one.shape))
        if one.form == OURS:
            yield place, f"time of {OURS} ÷ {NAIVE}", 1, True, one.ratio
        elif plain and one.form not in (AT_ONCE, COMPILED):
            yield place, f"time {one.form} ÷ {COMPILED}", 1.5, True, one.ratio
            yield place, f"memory {one.form} ÷ {AT_ONCE}", 0.25, True, one.memory / plain


def tried_table(found: Iterable[Outcome] | None = None) -> str:
    """Return how many tests, schemes and cells passed, by part, and what did not."""
    if found is None:
        found = [Outcome(**one) for one in stored().get("tried", ())]
    counts: dict[str, Counter[str]] = {}
    for one in found:
        counts.setdefault(one.part, Counter())[one.status] += 1
    states = (PASSED, FAILED, SKIPPED, LEFT_OUT)
    rows = [(part, *(f"{count[state]}" for state in states)) for part, count in counts.items()]
    empty = [("tests, schemes, notebooks", UNKNOWN, "", "", "")]
    return markdown(("what was run", *states), rows or empty)
