"""Where to compute, and in which precision."""

import platform
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from kdcourse.batch import blaming_argument
from kdcourse.errors import ArgumentError


def choose_device(device: torch.device | str | None = None) -> torch.device:
    """Return ``device``, or the best there is: CUDA, then Apple's MPS, then the CPU."""
    if device is not None:
        with blaming_argument("device", f"device {str(device)!r}"):
            place = torch.device(device)
            if place.type == "cuda":  # counted, without using the first of them
                count = torch.cuda.device_count()
                if (place.index or 0) >= count:
                    raise ArgumentError("device", f"there are {count} GPUs here")
            else:
                torch.empty(0, device=place)
        if place.type == "meta":
            raise ArgumentError("device", "nothing can be computed on the meta device")
        return place
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def autocast_dtype(device: torch.device, autocast: bool | torch.dtype) -> torch.dtype | None:
    """Return the dtype of mixed precision: bfloat16, or float16 on GPUs without it; None if off."""
    if autocast is False:
        return None
    if isinstance(autocast, torch.dtype):
        return autocast
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def guarding_hooks(compiled: bool) -> AbstractContextManager[object]:
    """Let a compiled model be called with whatever layers are watched by now.

    ``torch.compile`` takes for granted that a net of the same class is watched as one was that it
    compiled before, perhaps in another training.
    """
    if not compiled:
        return nullcontext()
    from torch._dynamo import config  # which takes seconds

    return config.patch(skip_nnmodule_hook_guards=False)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that it was told."""
    if device.type != "cpu":
        torch.zeros((), device=device).item()


def processor() -> str:
    """Name the processor and the instructions that torch uses on it."""
    linux = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", linux.read_text()) if linux.is_file() else None
    name = found[1] if found else platform.processor()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and on as many as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
