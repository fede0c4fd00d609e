"""A file of one's own: a text a line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.files import FileError, why
from kdcourse.language.definitions import Texts, check_no_end
from kdcourse.language.vocabulary import END
from kdcourse.signatures import check_is, checked

TENTH = 10


@dataclass(frozen=True)
class Lines(Texts):
    """Texts that are written from their first character: all that is given is the end of a line.

    Attributes:
        lines: The texts, without their ends.
    """

    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        check_is("lines", self.lines, Sequence[str])
        check_no_end("lines", self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, places: slice) -> "Lines":
        return Lines(self.lines[places])

    @property
    def prompts(self) -> list[str]:
        """The end of the line before."""
        return [END] * len(self)

    @property
    def texts(self) -> list[str]:
        """Lines with that end before, and their own behind."""
        return [f"{END}{line}{END}" for line in self.lines]


class LineSplits(NamedTuple):
    """Lines to learn from, to choose settings by, and to test with: none is in two."""

    train: Lines
    validation: Lines
    test: Lines


@checked
def read_lines(path: str | Path, *, seed: int = 0) -> LineSplits:
    """Read a text file in UTF-8: a tenth of its lines to validate on, another one to test.

    Empty lines are left out, and of equal ones there is one.

    Args:
        path: The file.
        seed: Of the order of the lines, by which they are shared out.

    Raises:
        FileError: The file cannot be read.
        ValueError: It has fewer than three different lines.
    """
    try:
        text = Path(path).read_text("utf-8-sig")  # some editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read as lines of text: {why(error)}") from None
    lines = [*dict.fromkeys(filter(None, map(str.strip, text.split(END))))]
    if len(lines) < 3:
        raise ArgumentError(
            "path", f"path must be a file of at least three different lines, got {len(lines)}"
        )
    order = torch.randperm(len(lines), generator=replay(seed)).tolist()
    held = -(-len(lines) // TENTH)
    parts = order[2 * held :], order[:held], order[held : 2 * held]
    return LineSplits(*(Lines(tuple(lines[n] for n in part)) for part in parts))
