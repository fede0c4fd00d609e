"""What a training writes down after every epoch: JSON lines, and TensorBoard's files."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
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
        folder: to write into.
        rows: of the epochs that are finished.
        tensorboard: write its files, too.
    """

    def __init__(self, folder: Path, rows: Sequence[Row] = (), *, tensorboard: bool = False):
        self.writer = _summary_writer() if tensorboard else None
        shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
        if self.writer is not None:
            self.writer = self.writer(str(folder / TENSORBOARD))
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

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lines.close()
        if self.writer is not None:
            self.writer.close()


def check_tensorboard() -> None:
    """Require that TensorBoard is installed.

    Raises:
        ValueError: naming the extra that brings it.
    """
    _summary_writer()


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"TensorBoard is not installed ({error}): pip install 'kdcourse[train]'"
        ) from None
    return SummaryWriter
