"""What a result depends on, in short: the same for the same content, and another for any other."""

import hashlib
import re
import types
from collections.abc import Iterator, Mapping
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from kdcourse.randomness import own_randomness

DIGITS = 12  # of a fingerprint, in hexadecimal
SAMPLES = 16  # of a data set that may be too large to be read
PLAIN = (str, type(None), torch.dtype, torch.device)


def described(value: object) -> str:
    """Describe a setting the same way in every process: its ``repr``, and what that leaves out.

    >>> described(lambda pixels, generator: pixels.flip(-1))
    '<function <lambda>> [0c14e9a3b5d2]'
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (Real, *PLAIN)):
        return repr(value)
    text = _without_addresses(value)
    whole = _tells(value) and not (isinstance(value, nn.Module) and value.state_dict())
    return text if whole else f"{text} [{fingerprint(value)}]"


def fingerprint(*values: object) -> str:
    """Return a digest of values by their content, wherever in memory they are.

    Of models, these are weights and buffers; of functions, their code, defaults and what they hold
    from outside; of data sets, a few samples; of other objects, what their ``identity()`` returns,
    a ``repr`` of their own, or else their attributes. A number counts by its value, 4 as 4.0.
    """
    return _Digests().of(list(values)).hex()[:DIGITS]


class _Digests:
    """Digests of values and of all that they hold, each taken once."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[object, bytes]] = {}  # the values, too: they keep their places

    def of(self, value: object) -> bytes:
        """Return the digest of one value."""
        if isinstance(value, bytes):
            return hashlib.sha256(value).digest()
        if isinstance(value, Real) and not isinstance(value, bool):
            value = float(value) if float(value) == value else str(value)
        if isinstance(value, (Real, *PLAIN)):
            return hashlib.sha256(repr(value).encode()).digest()
        if id(value) not in self.known:
            self.known[id(value)] = value, b"itself"  # where it holds itself
            kind = type(value).__qualname__  # of whichever module: a script is "__main__"
            parts = [self.of(part) for part in (kind, *_parts(value))]
            self.known[id(value)] = value, hashlib.sha256(b"".join(parts)).digest()
        return self.known[id(value)][1]


def _parts(value: Any) -> Iterator[object]:
    """Yield what a value consists of."""
    if isinstance(value, Tensor):
        yield from (value.dtype, list(value.shape))
        if not value.is_meta:
            flat = value.detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield from (value.dtype.str, list(value.shape), value.tobytes())
    elif hasattr(value, "identity") and not isinstance(value, type):
        yield value.identity()
    elif isinstance(value, nn.Module):
        yield from (_without_addresses(value), dict(value.state_dict()))
    elif isinstance(value, torch.Generator):
        yield value.get_state()
    elif isinstance(value, DataLoader):  # but for the sampler, which may know its process
        yield from (value.dataset, value.batch_size, value.drop_last, value.collate_fn)
        yield type(value.sampler).__qualname__
    elif isinstance(value, Dataset) and not isinstance(value, (IterableDataset, TensorDataset)):
        yield from _samples(value)
    elif isinstance(value, Mapping):
        yield from (part for item in value.items() for part in item)
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, (set, frozenset)):
        yield from sorted(map(fingerprint, value))
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, types.FunctionType):
        yield from (value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__)
        held = (cell.cell_contents for cell in value.__closure__ or ())
        # Models only by their form: the function may hold the student, which learns.
        yield from (_without_addresses(one) if isinstance(one, nn.Module) else one for one in held)
    elif isinstance(value, types.CodeType):
        yield from (value.co_code, value.co_names, value.co_consts)
    elif getattr(value, "__dict__", None) and not isinstance(value, type) and not _tells(value):
        yield vars(value)
    else:
        yield _without_addresses(value)


def _tells(value: object) -> bool:
    """Whether an object says by a ``repr`` of its own, and in full, what it is."""
    own = type(value).__repr__ is not object.__repr__
    return own and not re.search(r" at 0x|\.\.\.|tensor\(|array\(", repr(value))


def _samples(data: Any) -> Iterator[object]:
    """Yield a few samples of a set, drawn as if nothing random had been drawn before."""
    count = len(data)
    with own_randomness() as seed:
        seed(0)
        yield from (count, *(data[number] for number in range(0, count, count // SAMPLES + 1)))


def _without_addresses(value: object) -> str:
    """Return a ``repr`` as it is in every process, in which 4.0 and NumPy's 4 are 4, too."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    return re.sub(r"(?<=\d)\.0\b", "", re.sub(r"np\.\w+\(([^()]*)\)", r"\1", text))
