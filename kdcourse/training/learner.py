"""What the training loop needs of whoever learns: one model, or several that learn together."""

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdcourse import processes
from kdcourse.batch import Inputs
from kdcourse.doctor.doctor import FIRST
from kdcourse.doctor.findings import Findings
from kdcourse.errors import ArgumentError
from kdcourse.metrics import Samples, known_length
from kdcourse.objective import Objective
from kdcourse.training import checkpoint as checkpoints
from kdcourse.training.best import Best
from kdcourse.training.capture import Steps, why_not
from kdcourse.training.device import wait_for
from kdcourse.training.diagnosis import Diagnosis
from kdcourse.training.epochs import Epochs
from kdcourse.training.fingerprint import described, fingerprint
from kdcourse.training.history import History
from kdcourse.training.parallel import Counts
from kdcourse.training.rating import Rating
from kdcourse.training.tally import ACCURACY, Tally

# What students began with, where a checkpoint was asked for: by now they have learned.
STARTS: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
# What objectives were then, by their terms, which may have learned, too: by the checkpoint, and by
# what the objective says of itself, since a term may be added up anew.
BEGAN: WeakKeyDictionary[nn.Module, dict[tuple[Path, str], str]] = WeakKeyDictionary()


class Learner:
    """Learns from batches, epoch by epoch, and can be saved and taken up again.

    A subclass sets ``students``, ``objectives``, ``device`` and ``counts``, and defines
    :meth:`learn`, :attr:`watched`, :meth:`rates`, :attr:`ratings`, :meth:`validate`,
    :attr:`settings` and :meth:`parts`.
    """

    students: Sequence[nn.Module]
    objectives: Sequence[Objective]
    device: torch.device
    counts: Counts
    taken: int = 0  # steps so far
    began: float | None = None  # when the first step was done
    unreplayable: str = ""  # why no step can be captured, if it is because of who learns
    source: Epochs | None = None  # of its batches, which may have a state, too
    diagnoses: Sequence[Diagnosis] = ()  # of each student, where that is asked for
    best: Best | None = None  # its best weights so far, where they are kept

    @cached_property
    def tally(self) -> Tally:
        """What is measured, summed up over an epoch."""
        return Tally(self.device)

    def step(self, inputs: Inputs, target: Tensor) -> dict[str, Tensor]:
        """Take a step: learn from one batch and return its measurements, detached."""
        self.ready()
        values = self.learn(inputs, target)
        self.advance()
        return values

    def ready(self) -> None:
        """Send to the device, before a step, what differs in it."""

    def learn(self, inputs: Inputs, target: Tensor) -> dict[str, Tensor]:
        """Do all of a step that is done on the device: this may be replayed."""
        raise NotImplementedError

    def advance(self) -> None:
        """Do what is to be done on the host after a step."""

    def captured(self) -> None:
        """Take note, when :meth:`learn` has been captured, of what a replay writes."""

    @property
    def watched(self) -> dict[str, object]:
        """What :meth:`learn` reads in Python, by name: a replay reads it no more."""
        raise NotImplementedError

    def start(self) -> None:
        """Look, before an epoch, at what may have changed since the last one."""

    def finish(self) -> None:
        """Look, after an epoch, at what no step has waited for."""

    def rates(self) -> dict[str, float]:
        """Return the present learning rates."""
        raise NotImplementedError

    @property
    def ratings(self) -> list[Rating]:
        """What is measured of each student on a validation set."""
        raise NotImplementedError

    def validate(self, samples: Samples) -> dict[str, float]:
        """Return what is measured on a validation set."""
        raise NotImplementedError

    @property
    def rated(self) -> dict[str, list[nn.Module]]:
        """All that learns together, by the column of the history that rates it."""
        raise NotImplementedError

    @property
    def open_ended(self) -> bool:
        """Whether more epochs than were planned at first go on as the same run."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """What distinguishes this training from others, for the checkpoint."""
        raise NotImplementedError

    def parts(self) -> dict[str, Any]:
        """Return everything that has a state, by name."""
        raise NotImplementedError

    def steps_from(self, source: Epochs) -> Steps:
        """Return what takes the steps of this training, from what the batches are made of."""
        knobs = source.knobs
        reason = why_not(knobs.capture, self.device, source.steps)

        def take(given: Any) -> None:
            inputs, target = source.draw(given) if processes.count() == 1 else given
            self.tally.add(self.learn(inputs, target), self.counts.measured(inputs, target))

        return Steps(
            take,
            self.device,
            generators=[source.generator] if source.generator.device.type == "cuda" else [],
            watched=lambda: self.watched,
            captured=self.captured,
            reason=reason or self.unreplayable,
            must=knobs.capture is True,
        )

    def take(self, steps: Steps, given: Any) -> None:
        """Take the next step, plainly or by a replay."""
        self.ready()
        steps(given)
        self.advance()
        self.taken += 1
        for one in self.diagnoses:
            one.after_step(self.taken)
        if self.taken == FIRST:
            self.tell((), 2)

    def epoch(self, source: Epochs, number: int, steps: Steps, bar: tqdm) -> dict[str, float]:
        """Learn from every batch of an epoch and return the means over it."""
        self.start()
        start, rates = time.perf_counter(), self.rates()
        self.tally.clear()
        steps.begin_epoch()
        given: Iterable[Any] = source.given(number)
        if processes.count() > 1:  # what a batch counts in all of them is known before its step
            given = self.counts.known(map(source.draw, given))
        for one in given:
            self.take(steps, one)
            if self.began is None:
                wait_for(self.device)
                self.began = time.perf_counter()
            bar.update()
        row = self._row()
        self.finish()
        for one in self.diagnoses:
            one.look()
        # Their batch norm has seen this process's samples only; the checkpoint is the main's.
        learned = (*self.students, *self.objectives)
        processes.copy_from_main(buffer for model in learned for buffer in model.buffers())
        return {**row, **rates, "seconds": time.perf_counter() - start}

    def reports(self, rows: Sequence[Mapping[str, float]]) -> list[Findings]:
        """Return what was found so far with each student, if that was asked for."""
        assert self.source is not None
        count = known_length(self.source.knobs.validation)
        return [
            one.report(rows, by, rating.lowest, count if by.endswith("accuracy") else None)
            for one, by, rating in zip(self.diagnoses, self.rated, self.ratings, strict=False)
        ]

    def tell(self, rows: Sequence[Mapping[str, float]], deeper: int = 0) -> None:
        """Warn of what was found and not told before, in the main process, at the call of fit."""
        if self.diagnoses and processes.is_main():
            for one, report in zip(self.diagnoses, self.reports(rows), strict=True):
                one.tell(report, stacklevel=6 + deeper)

    def _row(self) -> dict[str, float]:
        """Return the means over the epoch, in all processes."""
        (samples, labels, judged), sums = self.tally.totals()
        terms = [term for objective in self.objectives for _, term in objective.parts()]
        if not labels and all(term.mean_over == "labels" for term in terms):
            raise ArgumentError(
                "train", f"train has no labels, and {self.objectives[0]!r} learns from nothing else"
            )
        return {
            name: total / (judged if name.endswith(ACCURACY) else samples)
            for name, total in sums.items()
            if judged or not name.endswith(ACCURACY)  # nothing to say without labels
        }

    def _all_parts(self) -> dict[str, Any]:
        more = {"batches": self.source, "best_weights": self.best}
        return {**self.parts(), **{name: part for name, part in more.items() if part is not None}}

    def begin(self, path: str | Path, resumed: bool) -> None:
        """Take note, before a run with a checkpoint, of what students and terms begin with."""
        for student in self.students:
            STARTS.setdefault(student, fingerprint(student))
        file = Path(path).resolve()
        for objective in self.objectives:
            key = file, repr(objective)
            text = (resumed and _began(objective, key)) or described(objective)
            for _, term in objective.parts():
                BEGAN.setdefault(term, {})[key] = text

    def as_it_began(self, objective: Objective, path: str | Path | None) -> str:
        """Describe an objective as it was when the run with this checkpoint began, or as it is."""
        known = path and _began(objective, (Path(path).resolve(), repr(objective)))
        return known or described(objective)

    def save(self, path: str | Path, settings: dict[str, Any], history: History) -> None:
        """Write a checkpoint."""
        if not processes.is_main():
            return
        parts = {name: part.state_dict() for name, part in self._all_parts().items()}
        state = {
            "settings": settings,
            "rows": history.rows,
            "taken": self.taken,
            "starts": [STARTS[student] for student in self.students],
        }
        checkpoints.save(path, {**state, **parts})

    def resume(self, path: str | Path, settings: dict[str, Any]) -> list[dict[str, float]]:
        """Take up a checkpoint of a run with the same settings and return its history."""
        state = processes.from_main(
            lambda: checkpoints.load(path, self.device if processes.count() == 1 else "cpu")
        )
        _check_whole(path, state)
        for name, value in settings.items():
            stored = state["settings"].get(name, value)  # an older version may not know it
            more = name == "epochs" and isinstance(stored, int) and value > stored
            if stored != value and not (more and self.open_ended):
                hint = (
                    "; its schedule of learning rates ends there: train the result further under "
                    "another checkpoint, or use scheduler=constant from the start"
                )
                raise checkpoints.OtherRunError(
                    "checkpoint",
                    f"{path} belongs to another run: its {name} is {stored!r}, here it is {value!r}"
                    + hint * more,
                    name,
                )
        _check_there(path, state, ["starts", *self._all_parts()])
        for name, part in self._all_parts().items():
            try:
                part.load_state_dict(state[name])
            except Exception as error:
                raise checkpoints.CorruptedCheckpointError(
                    f"{path} holds other {name.replace('_', ' ')} than this run has; delete it to "
                    "start anew"
                ) from error
        self.taken = state["taken"]
        now = [STARTS[student] for student in self.students]
        if len(state["rows"]) == settings["epochs"] and state["starts"] != now:
            warnings.warn(
                f"the run in {path} is finished, and nothing is trained now; it began with other "
                "weights than this student: choose another checkpoint for a run of its own",
                stacklevel=7,
            )
        return state["rows"]


def _began(objective: Objective, key: tuple[Path, str]) -> str | None:
    """Return what an objective was when the run with a checkpoint began here, if it did."""
    known = (BEGAN.get(term, {}).get(key) for _, term in objective.parts())
    return next(filter(None, known), None)


def _check_there(path: str | Path, state: object, names: Iterable[str]) -> None:
    """Require of what was read that it holds all of these."""
    missing = [one for one in names if not (isinstance(state, dict) and one in state)]
    if missing:
        raise checkpoints.CorruptedCheckpointError(
            f"{path} is no checkpoint of such a training run: it has no {', '.join(missing)}"
        )


def _check_whole(path: str | Path, state: object) -> None:
    """Require of what was read that it tells of a training run from its first epoch."""
    _check_there(path, state, ["settings", "rows", "taken"])
    rows = state["rows"]  # type: ignore[index]
    epochs = [row.get("epoch") if isinstance(row, dict) else None for row in rows]
    if epochs != list(range(1, len(rows) + 1)):
        raise checkpoints.CorruptedCheckpointError(
            f"{path} has a history of the epochs {epochs}; delete it to start anew"
        )
