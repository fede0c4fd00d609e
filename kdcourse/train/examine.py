"""``python -m kdcourse doctor``: a run's folder is read, and examined."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from kdcourse.checks import check_positive
from kdcourse.doctor.findings import Findings
from kdcourse.doctor.student import judge_behind
from kdcourse.modes import training_mode
from kdcourse.objective import Objective
from kdcourse.train.command import CHECKPOINT, DIAGNOSIS, OPTIONS, STUDENT, load
from kdcourse.train.folder import SAME, read_options, require
from kdcourse.train.nets import load_weights
from kdcourse.train.options import OptionError, Options, blaming
from kdcourse.train.plan import Plan, prepare
from kdcourse.train.record import METRICS, Row
from kdcourse.training import Knobs, Run, checkpoint, choose_device
from kdcourse.training.epochs import Epochs

NATS = "validation_nats"  # by which language models are rated


def examine(
    folder: Path, alone: Path | None = None, *, batches: int = 4, device: str | None = None
) -> Findings:
    """Examine a run: on a few batches, and by its history and what was found while it trained.

    Args:
        folder: What ``train`` has written, or is still writing.
        alone: The same of a run on labels alone.
        batches: The number of batches to look at.
        device: Where to do so; by default where the run was told to train.

    Raises:
        ValueError: There is no such run, or it cannot be made again.
    """
    check_positive(batches=batches)
    # The teacher itself is asked.
    options = replace(read_options(folder), out=str(folder), cache=0, compile=False, capture=False)
    if device is not None:
        options = replace(options, device=device)
    rows = _rows(folder)
    other = None if alone is None else _rows_alone(alone, options)
    splits = load(options)
    plan = prepare(options, splits.train)
    run, source = _run(plan, splits.train, folder)
    with training_mode([run.student]) as enter:
        enter()
        for inputs, target in islice(source.batches(0), batches):
            run.look(inputs, target)
    by, lowest = run.rating.best_by, run.rating.lowest
    samples: int | None = len(splits.validation)
    if any(NATS in row for row in rows):
        by, lowest, samples = NATS, True, None
    (diagnosis,) = run.diagnoses
    found = diagnosis.report(rows, by, lowest, samples)
    if other is not None:
        if not any(by in row for row in other):
            raise OptionError(f"--alone: the run in {alone} has no {by}")
        behind = judge_behind(rows, other, by, lowest, samples)
        found |= Findings(behind or [], ["labels alone"] if behind is not None else [])
    return found | _stored(folder)


def _rows_alone(folder: Path, options: Options) -> list[Row]:
    """Return the history of a run to compare with, if it is one of the same by labels alone."""
    rows = _rows(folder)
    if not (folder / OPTIONS).is_file():
        return rows
    other = read_options(folder)
    if other.teacher != "none":
        raise OptionError(f"--alone: the run in {folder} has a teacher: {other.teacher}")
    names = [*SAME, *(["student"] if "(" not in options.student else [])]  # not made of its teacher
    for name in names:
        one, two = getattr(options, name), getattr(other, name)
        if one != two:
            raise OptionError(f"--alone: the run in {folder} has --{name} {two}, and not {one}")
    return rows


def _rows(folder: Path) -> list[Row]:
    """Return the history of a run so far."""
    require(folder, METRICS)
    path = folder / METRICS
    try:
        return [dict(json.loads(line)) for line in path.read_text().splitlines()]
    except (ValueError, TypeError) as error:
        raise OptionError(f"{path} is damaged: {error}") from None


def _stored(folder: Path) -> Findings:
    """Return what was found while the run trained, if it was looked at."""
    path = folder / DIAGNOSIS
    try:
        return Findings.from_dict(json.loads(path.read_text())) if path.is_file() else Findings()
    except (ValueError, TypeError, KeyError) as error:
        raise OptionError(f"{path} is damaged: {error}") from None


def _run(plan: Plan, train: Any, folder: Path) -> tuple[Run, Epochs]:
    """Make again what trains, as far as it came."""
    device = choose_device(plan.knobs["device"])
    plan.knobs |= {"device": device, "diagnose": True, "progress": False}
    plan.student.to(device)
    _load(plan, folder)
    lessons = plan.lessons(train.to(device))
    given, teacher = lessons.pop("train"), lessons.pop("teacher")
    source = Epochs(given, device, Knobs(**lessons))
    lessons["steps"], lessons["epochs"] = source.steps, None
    run = Run(plan.student, plan.objective, teacher, source=source, **lessons)
    return run, source


def _load(plan: Plan, folder: Path) -> None:
    """Give student and terms the weights that they have reached."""
    state = checkpoint.load(folder / CHECKPOINT) if (folder / CHECKPOINT).is_file() else {}
    if "objective_weights" in state:
        _take(plan.objective, state["objective_weights"], folder)
    if (folder / STUDENT).is_file():
        with blaming("student"):
            load_weights(plan.student, folder / STUDENT)
    elif "student_weights" in state:
        plan.student.load_state_dict(state["student_weights"])
    else:
        raise OptionError(f"{folder} holds no weights: neither {STUDENT} nor {CHECKPOINT}")


def _take(objective: Objective, weights: dict[str, Any], folder: Path) -> None:
    try:
        objective.load_state_dict(weights)
    except RuntimeError as error:
        raise OptionError(f"{folder / CHECKPOINT} holds another run: {error}") from None
