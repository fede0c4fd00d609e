"""Batches from a source without a length, which know no epochs."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from kdcourse import processes
from kdcourse.batch import Batch
from kdcourse.data import replay_seed


class Stream:
    """Batches without end: pass after pass through a source, from where the last one was taken.

    Args:
        begin: Begins a pass, by its number from 0.
        generators: Those that the source draws from, by name.
        seed: Of what it draws from the global one.

    Attributes:
        number: That of the present pass.
        taken: The batches that were taken from it.
        begun: The states of the generators when it was begun.
    """

    def __init__(
        self,
        begin: Callable[[int], Iterable[Batch]],
        generators: Mapping[str, torch.Generator],
        seed: int,
    ):
        self.begin, self.generators, self.seed = begin, generators, seed
        self.number = self.taken = 0
        self.begun: dict[str, Tensor] = {}
        self.batches = self._endless()

    def __iter__(self) -> Iterator[Batch]:
        return self.batches

    def _endless(self) -> Generator[Batch, None, None]:
        while True:
            for batch in self._pass():
                self.taken += 1
                yield batch
            self.number, self.taken = self.number + 1, 0

    def _pass(self) -> Iterator[Batch]:
        """Begin a pass, and pass over what was taken from it already.

        Nothing is drawn for it from what dropout draws from: a resumed run begins it elsewhere.
        """
        self.begun = {name: one.get_state() for name, one in self.generators.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(replay_seed(self.seed, self.number, processes.rank()))
            batches = iter(self.begin(self.number))
            for _ in islice(batches, self.taken):
                pass
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Return where the present pass is."""
        return {"number": self.number, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there, before the first batch is taken."""
        self.number, self.taken = state["number"], state["taken"]
