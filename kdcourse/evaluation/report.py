"""All of it together: what a student gained, what it cost, and what became of it elsewhere."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdcourse import files
from kdcourse.data import Images
from kdcourse.evaluation._answers import TEACHER, Answers, answers
from kdcourse.evaluation.accuracy import Accuracy, accuracy_of
from kdcourse.evaluation.calibration import Calibration, calibration_of, fit_temperature
from kdcourse.evaluation.classes import ClassChange, class_changes
from kdcourse.evaluation.cost import Cost, costs_of, device_of, pareto_front
from kdcourse.evaluation.export import Exported, exports_of
from kdcourse.evaluation.fidelity import Fidelity, fidelity_of
from kdcourse.evaluation.resampling import Resamples
from kdcourse.evaluation.robustness import Robustness, robustness_of
from kdcourse.metrics import Samples
from kdcourse.training.device import processor

# Those that may be left out, in the order in which they are measured.
PARTS = ("calibration", "fidelity", "classes", "cost", "robustness", "export")


@dataclass(frozen=True, repr=False)
class Report:
    """What was measured of students and their teacher.

    In a notebook it shows as a table and a picture; ``print`` gives the table as text.

    Attributes:
        students: Names of the students.
        baseline: The student that the others are compared with, if there are several.
        conditions: On what, by what and how it was measured, in words.
        left_out: Why a part is missing, by its name.
        accuracy: Of students and teacher, by name.
        fidelity: Of students to their teacher.
        calibration: Of students and teacher.
        robustness: Of students and teacher.
        classes: Changes by class, of each student against the baseline, and of that, or a single
            student, against the teacher.
        cost: Of students and teacher.
        export: Of students, by the form that they were exported to.
    """

    students: tuple[str, ...]
    baseline: str | None
    conditions: dict[str, str]
    left_out: dict[str, str]
    accuracy: dict[str, Accuracy]
    fidelity: dict[str, Fidelity] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    robustness: dict[str, Robustness] = field(default_factory=dict)
    classes: dict[str, tuple[ClassChange, ...]] = field(default_factory=dict)
    cost: dict[str, Cost] = field(default_factory=dict)
    export: dict[str, dict[str, Exported]] = field(default_factory=dict)

    def pareto(self, batch: int = 1) -> list[str]:
        """Return the nets that none is both faster and more accurate than, at this batch size."""
        names = list(self.cost)
        costs = [self.cost[name].latency[batch].median for name in names]
        return [
            names[n] for n in pareto_front(costs, [self.accuracy[x].top_1.value for x in names])
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all that was measured as plain dictionaries and numbers, as JSON takes them."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write the report: as one page that needs no network, or as JSON where the name ends so.

        Raises:
            FileError: It cannot be written.
        """
        from kdcourse.evaluation._page import page

        as_json = Path(path).suffix == ".json"
        content = (
            json.dumps(self.to_dict(), indent=1, ensure_ascii=False) if as_json else page(self)
        )
        files.write(path, content + "\n")

    def __str__(self) -> str:
        from kdcourse.evaluation._page import text

        return text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from kdcourse.evaluation._page import summary

        return summary(self)


class NotMeasuredError(Exception):
    """A part that cannot be measured here; the message says why."""


@dataclass
class Measurement:
    """Nets and images, and how to measure each part of a report; the test images come last."""

    students: Mapping[str, nn.Module]
    teacher: nn.Module | None
    test: Samples
    validation: Samples | None
    baseline: str | None
    layers: tuple[str, str]  # of the students, and of the teacher
    resamples: int
    seed: int
    progress: bool

    def report(self, without: Sequence[str] = ()) -> Report:
        """Measure all parts but those that are left out."""
        left_out = dict.fromkeys(without, "left out, as asked for")
        parts: dict[str, Any] = {}
        order = [part for part in PARTS if part not in left_out]
        for part in tqdm(order, "report", disable=not self.progress, leave=False):
            try:
                parts[part] = getattr(self, part)()
            except NotMeasuredError as reason:
                left_out[part] = str(reason)
        students = tuple(self.students)
        return Report(
            students, self.baseline, self.conditions(), left_out, self.accuracy(), **parts
        )

    @cached_property
    def nets(self) -> dict[str, nn.Module]:
        return {**self.students, **({} if self.teacher is None else {TEACHER: self.teacher})}

    @cached_property
    def seen(self) -> Answers:
        """What all nets answer on the test images, which are read here, once."""
        layers = {name: self.layers[name == TEACHER] for name in self.nets}
        return answers(self.nets, self.test, "test", layers, progress=self.progress)

    @cached_property
    def drawn(self) -> Resamples:
        return Resamples(len(self.seen.target), self.resamples, self.seed)

    def cost(self) -> dict[str, Cost]:
        return costs_of(self.nets, self.seen.inputs[:1])

    def calibration(self) -> dict[str, Calibration]:
        temperatures: dict[str, float] = {}
        if self.validation is not None:
            held = answers(self.nets, self.validation, "validation", progress=self.progress)
            temperatures = {
                name: fit_temperature(logits, held.target) for name, logits in held.logits.items()
            }
        return {
            name: calibration_of(logits, self.seen.target, self.drawn, temperatures.get(name))
            for name, logits in self.seen.logits.items()
        }

    def accuracy(self) -> dict[str, Accuracy]:
        logits = self.seen.logits

        def other(name: str | None, than: str) -> Tensor | None:
            return None if name in (None, than) or than == TEACHER else logits.get(str(name))

        return {
            name: accuracy_of(
                found,
                self.seen.target,
                self.drawn,
                other(TEACHER, name),
                other(self.baseline, name),
            )
            for name, found in logits.items()
        }

    def fidelity(self) -> dict[str, Fidelity]:
        if self.teacher is None:
            raise NotMeasuredError("there is no teacher to compare with")
        return {name: self._fidelity(name) for name in self.students}

    def _fidelity(self, student: str) -> Fidelity:
        shown, both, note = self.seen.embeddings, None, ""
        without = [name for name in (student, TEACHER) if name not in shown]
        if without:
            name = without[0]
            note = f"{name} has no layer {self.layers[name == TEACHER]!r} to show"
        else:
            both = shown[student], shown[TEACHER]
        logits = self.seen.logits
        return fidelity_of(logits[student], logits[TEACHER], self.drawn, both, note)

    def classes(self) -> dict[str, tuple[ClassChange, ...]]:
        logits = self.seen.logits
        others = {s: compared(s, self.baseline, logits) for s in self.students}
        if not any(others.values()):
            raise NotMeasuredError("there is no other net to compare with")
        count = next(iter(logits.values())).shape[1]
        known = isinstance(self.test, Images) and len(self.test.classes) == count
        names = self.test.classes if known else tuple(map(str, range(count)))  # type: ignore[union-attr]
        draws = self.resamples, self.seed
        return {
            s: class_changes(logits[s], logits[other], self.seen.target, names, *draws)
            for s, other in others.items()
            if other is not None
        }

    def robustness(self) -> dict[str, Robustness]:
        if not isinstance(self.test, Images):
            raise NotMeasuredError("it needs Images, of which the pixels are known")
        return robustness_of(
            self.nets,
            self.test,
            TEACHER if self.teacher is not None else None,
            self.baseline,
            resamples=self.resamples,
            seed=self.seed,
            progress=self.progress,
        )

    def export(self) -> dict[str, dict[str, Exported]]:
        return {name: exports_of(net, self.seen.inputs) for name, net in self.students.items()}

    def conditions(self) -> dict[str, str]:
        """Say on what, and by what, it was measured."""
        name = f" of {self.test.name}" if isinstance(self.test, Images) else ""
        places = {str(device_of(net)) for net in self.nets.values()}
        cuda = [torch.cuda.get_device_name(place) for place in places if place.startswith("cuda")]
        return {
            "test images": f"{len(self.seen.target):,}{name}",
            "bootstrap": f"{self.resamples:,} draws of the test images, seed {self.seed}",
            "device": ", ".join(sorted(places)) + "".join(f" ({gpu})" for gpu in cuda),
            "processor": f"{processor()}, {torch.get_num_threads()} thread(s)",
            "versions": f"torch {torch.__version__}, Python {platform.python_version()}",
            "date": date.today().isoformat(),
        }


def compared(student: str, baseline: str | None, nets: Mapping[str, object]) -> str | None:
    """Return the net with which a student is compared class by class, if there is one."""
    if baseline not in (None, student):
        return baseline
    return TEACHER if TEACHER in nets else None
