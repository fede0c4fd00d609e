"""Initial weights from a seed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdcourse.signatures import checked


@contextmanager
@checked
def seeded(seed: int | None) -> Iterator[None]:
    """Draw initial weights from a seed without disturbing torch's global generator."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
