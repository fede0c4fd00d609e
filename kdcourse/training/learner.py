"""What the training loop needs of whoever learns: one model, or several that learn together."""

import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdcourse import processes
from kdcourse.batch import Batch, Inputs, are_classes, to_device
from kdcourse.errors import ArgumentError
from kdcourse.metrics import Samples, count_right
from kdcourse.objective import Objective
from kdcourse.training import checkpoint as checkpoints
from kdcourse.training.epochs import Epochs
from kdcourse.training.fingerprint import fingerprint
from kdcourse.training.history import History
from kdcourse.training.parallel import Counts

ACCURACY = "train_accuracy"  # counts samples with a label only


# What students began with, where a checkpoint was asked for: by now they have learned.
STARTS: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


class Learner:
    """Learns from batches, epoch by epoch, and can be saved and taken up again.

    A subclass sets ``students``, ``objectives``, ``device`` and ``counts``, and defines
    :meth:`step`, :meth:`rates`, :meth:`validate`, :attr:`settings` and :meth:`parts`.
    """

    students: Sequence[nn.Module]
    objectives: Sequence[Objective]
    device: torch.device
    counts: Counts
    taken: int = 0  # steps so far
    source: Epochs | None = None  # of its batches, which may have a state, too

    def step(self, inputs: Inputs, target: Tensor) -> dict[str, Tensor]:
        """Learn from one batch and return its measurements, detached."""
        raise NotImplementedError

    def start(self) -> None:
        """Look, before an epoch, at what may have changed since the last one."""

    def finish(self) -> None:
        """Look, after an epoch, at what no step has waited for."""

    def rates(self) -> dict[str, float]:
        """Return the present learning rates."""
        raise NotImplementedError

    def validate(self, samples: Samples) -> dict[str, float]:
        """Return the accuracies on a validation set."""
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

    def epoch(self, batches: Iterable[Batch], bar: tqdm) -> dict[str, float]:
        """Learn from every batch once and return the means over the epoch."""
        self.start()
        start, rates = time.perf_counter(), self.rates()
        totals: dict[str, Tensor] = {}
        seen, labelled, judged = torch.zeros((3,), device=self.device)
        for inputs, target in self.counts.known(batches):
            values = self.step(to_device(inputs, self.device), target)
            self.taken += 1
            samples, with_label = self.counts.of(target)  # everywhere the same
            for name, value in values.items():  # summed on the device: no stall for a number
                weight = with_label if name.endswith(ACCURACY) else samples
                totals[name] = totals.get(name, 0.0) + value * weight
            seen += samples
            labelled += with_label
            if are_classes(target):  # of which a prediction is right or wrong
                judged += with_label
            bar.update()
        row = self._row(totals, torch.stack([seen, labelled, judged]))
        self.finish()
        # Their batch norm has seen this process's samples only; the checkpoint is the main's.
        learned = (*self.students, *self.objectives)
        processes.copy_from_main(buffer for model in learned for buffer in model.buffers())
        return {**row, **rates, "seconds": time.perf_counter() - start}

    def _row(self, totals: dict[str, Tensor], counts: Tensor) -> dict[str, float]:
        """Return the means over the epoch, in all processes.

        Counted are its samples, those with a label, and those of which it is a class.
        """
        whole = processes.total(torch.stack([*counts, *totals.values()])).tolist()
        samples, labels, judged, *sums = whole
        terms = [term for objective in self.objectives for _, term in objective.parts()]
        if not labels and all(term.mean_over == "labels" for term in terms):
            raise ArgumentError(
                "train", f"train has no labels, and {self.objectives[0]!r} learns from nothing else"
            )
        return {
            name: total / (judged if name.endswith(ACCURACY) else samples)
            for name, total in zip(totals, sums, strict=True)
            if judged or not name.endswith(ACCURACY)  # nothing to say without labels
        }

    def _all_parts(self) -> dict[str, Any]:
        source = {} if self.source is None else {"batches": self.source}
        return {**self.parts(), **source}

    def begin(self) -> None:
        """Take note, before a run with a checkpoint, of what the students begin with."""
        for student in self.students:
            STARTS.setdefault(student, fingerprint(student))

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
        _check_whole(path, state, ["starts", *self._all_parts()])
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


def _check_whole(path: str | Path, state: object, parts: Sequence[str]) -> None:
    """Require of what was read that it is all that a run has saved."""
    names = ("settings", "rows", "taken", *parts)
    missing = [one for one in names if not (isinstance(state, dict) and one in state)]
    if missing:
        raise checkpoints.CorruptedCheckpointError(
            f"{path} is no checkpoint of such a training run: it has no {', '.join(missing)}"
        )
    rows = state["rows"]  # type: ignore[index]
    epochs = [row.get("epoch") if isinstance(row, dict) else None for row in rows]
    if epochs != list(range(1, len(rows) + 1)):
        raise checkpoints.CorruptedCheckpointError(
            f"{path} has a history of the epochs {epochs}; delete it to start anew"
        )


def shared_accuracy(model: nn.Module, samples: Samples) -> float:
    """Accuracy on a validation set, of whose batches every process looks at a part."""
    counts = count_right(model, samples, processes.part(), "validation")
    place = next(model.parameters()).device
    right, seen = processes.total(torch.tensor(counts, device=place)).tolist()
    return right / seen
