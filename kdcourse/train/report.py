"""``python -m kdcourse report``: what finished runs are worth, on one page."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from kdcourse import files, metrics
from kdcourse.data import Splits
from kdcourse.evaluation import PARTS, TEACHER, Report
from kdcourse.train import command
from kdcourse.train.folder import SAME, read_options
from kdcourse.train.options import OptionError, Options, blaming, unknown
from kdcourse.train.plan import trained
from kdcourse.training import choose_device


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, and the options it was trained with."""

    folder: Path
    options: Options

    def nets(self, splits: Splits, device: torch.device) -> tuple[nn.Module, nn.Module | None]:
        """Return its student and its teacher, on a device."""
        try:
            weights = str(self.folder / command.STUDENT)
            student, teacher = trained(self.options, splits.train[:2], weights)
        except OptionError as error:
            raise OptionError(f"{self.folder}: {error}") from error
        return student.to(device), None if teacher is None else teacher.to(device)


def main(asked: argparse.Namespace) -> int:
    """Measure finished runs, write the report, print its main numbers, return the exit status.

    Raises:
        OptionError: These runs cannot be measured, or not together.
    """
    without = _parts(asked.without)
    out = Path(asked.out)
    if out.is_dir():
        raise OptionError(f"--out: {out} is a folder; name a file in it")
    with blaming("out"):
        files.check_writable(out.parent)
    runs = named([finished(Path(folder)) for folder in asked.runs])
    with blaming("device"):
        device = choose_device(asked.device)
    baseline = _baseline(runs, asked.baseline)
    report = measured(runs, device, baseline=baseline, without=without)
    report.save(out)
    print(report)
    print(f"report: {out}")
    return 0


def finished(folder: Path) -> Finished:
    """Return a run, if it is a finished one of images."""
    options = read_options(folder, command.STUDENT, command.RESULT)
    if options.reads_texts:
        raise OptionError(
            f"{folder} was trained on texts ({options.data}); a report is for image classifiers"
        )
    return Finished(folder, options)


def named(runs: Sequence[Finished]) -> dict[str, Finished]:
    """Return runs by the names of their folders, or by whole paths where these are not unique."""
    first, *others = runs
    for other in others:
        for name in SAME:
            one, two = getattr(first.options, name), getattr(other.options, name)
            if one != two:
                raise OptionError(
                    f"{first.folder} and {other.folder} are not tested alike: --{name} is {one} "
                    f"and {two}"
                )
    times = Counter(run.folder.resolve().name for run in runs)
    found = {}
    for run in runs:
        name = run.folder.resolve().name
        found[name if times[name] == 1 and name != TEACHER else str(run.folder)] = run
    if len(found) < len(runs):
        raise OptionError(f"a run is named twice: {', '.join(str(run.folder) for run in runs)}")
    return found


def measured(
    runs: dict[str, Finished], device: torch.device, *, baseline: str | None, without: Sequence[str]
) -> Report:
    """Measure runs beside the teacher of the first that has one."""
    splits = command.load(next(iter(runs.values())).options)
    assert isinstance(splits, Splits)
    nets = {name: run.nets(splits, device) for name, run in runs.items()}
    taught = [name for name, (_, teacher) in nets.items() if teacher is not None]
    report: Report = metrics.report(
        {name: student for name, (student, _) in nets.items()},
        nets[taught[0]][1] if taught else None,
        splits.test,
        validation=splits.validation if len(splits.validation) else None,
        baseline=baseline,
        without=without,
    )
    told = {f"teacher of {name}": _teacher(runs[name]) for name in taught}
    if len(set(told.values())) > 1:
        told["teacher"] = f"that of {taught[0]}"
    return replace(report, conditions={**report.conditions, **told})


def _teacher(run: Finished) -> str:
    return " ".join([run.options.teacher, *run.options.teacher_weights])


def _parts(text: str) -> list[str]:
    """Return the parts that ``"export,robustness"`` names."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if part not in PARTS:
            raise OptionError(f"--without: {unknown('part', part, PARTS)}")
    return parts


def _baseline(runs: dict[str, Finished], asked: str | None) -> str | None:
    """Return what others are compared with: what is asked for, or the first without a teacher."""
    if asked is not None:
        by_path = {run.folder.resolve(): name for name, run in runs.items()}
        found = asked if asked in runs else by_path.get(Path(asked).resolve())
        if found is None:
            raise OptionError(f"--baseline: {unknown('run', asked, runs)}")
        return found
    if len(runs) == 1:
        return None
    alone = (name for name, run in runs.items() if run.options.teacher == "none")
    return next(alone, next(iter(runs)))
