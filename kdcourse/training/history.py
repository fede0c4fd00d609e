"""What happened in training: one row an epoch, with every term of the objective."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from kdcourse.doctor.findings import Findings

COLUMNS = (  # beside those of the terms
    *("epoch", "loss", "train_accuracy", "validation_accuracy", "teacher_validation_accuracy"),
    *("learning_rate", "seconds"),
)


@dataclass
class History:
    """The record of a training run.

    Attributes:
        rows: One dictionary per epoch (of a stream, per tenth of the training): ``epoch``,
            ``loss``, each term by its name (unweighted; like the loss, a mean over the batches,
            weighted by their samples), ``train_accuracy`` (in train mode, while the weights were
            changing), where there is a validation set ``validation_accuracy`` (or another measure:
            ``validation_r2``), ``learning_rate``, ``seconds``.
        keep: Which weights the student has in the end, the ``"last"`` or the ``"best"``.
        best_by: The column that tells which epoch was best.
        lowest: Whether less of it is better.
        interrupted: Whether the run was stopped by hand before its last epoch.
        capture: Whether a step was captured as a CUDA graph, or why not.
        seconds_to_first_step: From the call to the end of the first step, compiling included; None
            if no step was taken.
        diagnoses: What a doctor has found with each student, where that was asked for.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    keep: str = "last"
    interrupted: bool = False
    best_by: str = "validation_accuracy"
    lowest: bool = False
    capture: str = ""
    seconds_to_first_step: float | None = None
    diagnoses: list[Findings] = field(default_factory=list)

    @property
    def diagnosis(self) -> Findings:
        """What a doctor has found in this run (``fit(..., diagnose=True)``)."""
        if not self.diagnoses:
            raise AttributeError("nothing was diagnosed: train with diagnose=True")
        return self.diagnoses[0]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        """Return the names of the columns; ``"loss" in history``."""
        return iter(self.rows[0] if self.rows else ())

    def __getitem__(self, column: str) -> list[float]:
        """Return one column, such as ``history["loss"]``."""
        if self.rows and column not in self.rows[0]:
            raise KeyError(f"no column {column!r}; there are {', '.join(self.rows[0])}")
        return [row[column] for row in self.rows]

    @property
    def last(self) -> dict[str, float]:
        """The last epoch's row."""
        if not self.rows:
            raise IndexError("no epoch was finished")
        return self.rows[-1]

    @property
    def kept(self) -> dict[str, float]:
        """The row of the epoch whose weights the student has in the end."""
        if self.keep == "last" or not self.rows:
            return self.last
        best = min if self.lowest else max
        return best(self.rows, key=lambda row: row[self.best_by])  # of several, the first

    def __repr__(self) -> str:
        if not self.rows:
            return "History(no epoch finished)"
        hidden = ("epoch", "learning_rate", "seconds")
        values = ", ".join(f"{k} {v:.4f}" for k, v in self.last.items() if k not in hidden)
        state = "interrupted after" if self.interrupted else "after"
        return f"History({state} {len(self)} epochs: {values})"
