"""Randomness that can be replayed, whichever global generator somebody's code draws from."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from numpy import random as numpy_random

from kdcourse.signatures import checked


@contextmanager
def own_randomness(*devices: torch.device) -> Iterator[Callable[[int], None]]:
    """Leave the global generators as they were.

    Args:
        devices: The GPUs whose generators are meant, too.

    Yields:
        What seeds all of them.
    """
    python, numpy = random.getstate(), numpy_random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[one for one in devices if one.type == "cuda"]):
            yield seed_all
    finally:
        random.setstate(python)
        numpy_random.set_state(numpy)  # noqa: NPY002


@checked
def seed_all(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python."""
    torch.manual_seed(seed)
    numpy_random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
