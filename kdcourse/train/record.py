"""What a training writes down after every epoch."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcourse import files

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
Row = dict[str, float]
MEASURES = {  # of a student on the test set, by their names in the result
    "test_accuracy": "test accuracy {:.2f} %",
    "test_nats": "{:.4f} nats a character in the test",
}


def told(result: Mapping[str, Any]) -> str:
    """Say how good a student is on the test set."""
    (name,) = MEASURES.keys() & result.keys()
    return MEASURES[name].format(result[name])


class Record:
    """Writes one line an epoch, and the same numbers for TensorBoard where that is asked for.

    A run that was killed may have written more or less than its checkpoint holds, and files may be
    removed while it runs. So both are written from all rows, and no epoch is missing or there
    twice.
    """

    def __init__(self, folder: Path, rows: Sequence[Row], *, tensorboard: bool):
        self.folder, self.rows = folder, list(rows)
        self.writer: Any = None
        self._write_lines()
        shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
        if tensorboard:
            self._begin()

    def __call__(self, row: Row) -> None:
        self.rows.append(row)
        self._write_lines()
        if self.writer is None:
            return
        if any((self.folder / TENSORBOARD).glob("events*")):
            self._show([row])
        else:
            self._begin()

    def _write_lines(self) -> None:
        files.write(self.folder / METRICS, "".join(json.dumps(row) + "\n" for row in self.rows))

    def _begin(self) -> None:
        path = self.folder / TENSORBOARD
        with files.told(path):
            self.writer = summary_writer()(str(path))
            self._show(self.rows)

    def _show(self, rows: Sequence[Row]) -> None:
        for row in rows:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, int(row["epoch"]))
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def summary_writer() -> Any:
    """Return TensorBoard's writer, or say how to install it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"TensorBoard is not installed ({error}): pip install 'kdcourse[train]'"
        ) from None
    return SummaryWriter
