"""Batches from a source without a length, which know no epochs."""

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from kdcourse.batch import Batch


class Stream:
    """Batches without end: pass after pass through a source, from where the last one was taken.

    Args:
        begin: Begins a pass, by its number from 0 and that of the batches to pass over.

    Attributes:
        number: That of the present pass.
        taken: The batches that were taken from it.
    """

    def __init__(self, begin: Callable[[int, int], Iterable[Batch]]):
        self.begin = begin
        self.number = self.taken = 0
        self.batches = self._endless()

    def __iter__(self) -> Iterator[Batch]:
        return self.batches

    def _endless(self) -> Generator[Batch, None, None]:
        while True:
            for batch in self.begin(self.number, self.taken):
                self.taken += 1
                yield batch
            self.number, self.taken = self.number + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return where the present pass is."""
        return {"number": self.number, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there, before the first batch is taken: those before it are passed over."""
        self.number, self.taken = state["number"], state["taken"]
