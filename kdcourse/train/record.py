"""What a training writes down after every epoch: JSON lines, and TensorBoard's files."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcourse.training.checkpoint import write

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
Row = dict[str, float]


class Record:
    """Writes one line an epoch, and the same numbers for TensorBoard where that is asked for.

    A run that was killed may have written more or less than its checkpoint holds. So both are
    written anew from the checkpoint's rows, and no epoch is missing or there twice.

    Args:
        folder: The folder to write into.
        rows: The rows of the epochs that are finished.
        tensorboard: Whether to write TensorBoard's files, too.
    """

    def __init__(self, folder: Path, rows: Sequence[Row] = (), *, tensorboard: bool = False):
        shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
        self.writer = summary_writer()(str(folder / TENSORBOARD)) if tensorboard else None
        write(folder / METRICS, b"")
        self.lines = open(folder / METRICS, "a", encoding="utf-8")  # noqa: SIM115 (closed below)
        for row in rows:
            self(row)

    def __call__(self, row: Row) -> None:
        """Write down one epoch."""
        self.lines.write(json.dumps(row) + "\n")
        self.lines.flush()
        if self.writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, int(row["epoch"]))
            self.writer.flush()

    def close(self) -> None:
        """Close all files."""
        self.lines.close()
        if self.writer is not None:
            self.writer.close()


def summary_writer() -> Any:
    """Return TensorBoard's writer.

    Raises:
        ValueError: TensorBoard is not installed; the message names the extra that brings it.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"TensorBoard is not installed ({error}): pip install 'kdcourse[train]'"
        ) from None
    return SummaryWriter
