"""Processes: those that train together under ``torchrun``, and those that work side by side.

>>> with joined() as device:                    # torchrun --nproc-per-node 2 train.py
...     fit(student, train, objective, teacher=teacher, device=device)

:func:`kdcourse.training.fit` gives every process its share of each batch. With a single process,
everything here does nothing, or the obvious thing.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import starmap
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from kdcourse.errors import ArgumentError
from kdcourse.heartbeat import watched

Value = TypeVar("Value")
GPU_SHARE = 8 * 2**30  # bytes of its memory: plenty for a net of CIFAR's size, and its context
_apart = ContextVar("apart", default=False)  # whether this process works by itself for a while


class LostProcessError(RuntimeError):
    """Another process has ended, so that this one cannot go on."""


def count() -> int:
    """Return the number of processes that train together, which is 1 without ``torchrun``."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """Return the number of this process, counted from 0."""
    return distributed.get_rank() if _together() else 0


def part() -> tuple[int, int]:
    """Return this process's part of every batch: its number, and how many processes there are."""
    return rank(), count()


def is_main() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return rank() == 0


@contextmanager
def joined(device: torch.device | str | None = None) -> Iterator[torch.device | str | None]:
    """Join the processes that ``torchrun`` has started, and leave them at the end.

    They may be on several machines, all of which need the same kind of device and the data. Only
    process 0 writes files, and reads again what it wrote.

    Args:
        device: Device of every process. By default, each process gets a GPU of its own where the
            machine has enough of them (the processes then talk through NCCL), otherwise the CPU
            (through gloo).

    Yields:
        The device of this process; ``device`` itself where ``torchrun`` has not started it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield device
        return
    local, of = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device is None:
        device = "cuda" if torch.cuda.device_count() >= of else "cpu"
    place = torch.device(device)
    if place.type == "cuda":
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    # When a process fails, torchrun ends the others by this signal.
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with watched():
            yield place
        signal.signal(signal.SIGTERM, before)
        # A thread of gloo (torch 2.6) lets go of the last message under the interpreter's lock, and
        # whoever destroys the group waits for that thread with the lock: let it go first.
        time.sleep(0.1)
    finally:
        distributed.destroy_process_group()


@contextmanager
def apart() -> Iterator[None]:
    """Let this process work by itself for a while, as if there were no others."""
    before = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(before)


def all_samples(embeddings: Tensor) -> Tensor:
    """Gather the samples of all processes, in the order of their ranks.

    Gradients reach this process's own samples only, multiplied by the number of processes: once
    they have been averaged (as by :func:`kdcourse.training.fit` or ``DistributedDataParallel``),
    they equal those of one process with the whole batch. The backward pass needs no communication
    for it, since all processes have the same loss.

    Args:
        embeddings: This process's samples ``(N, …)``; N may differ between processes.

    Returns:
        The samples of all processes; with a single process, the same tensor.
    """
    processes = count()
    if processes == 1:
        return embeddings
    own = embeddings.contiguous()
    number = torch.tensor([len(own)], device=own.device)
    numbers = [torch.empty_like(number) for _ in range(processes)]
    distributed.all_gather(numbers, number)
    sizes = [int(n) for n in numbers]  # read even on a GPU: shapes have to be known
    sent = own.detach().new_zeros(max(sizes), *own.shape[1:])
    sent[: len(own)] = own.detach()
    received = [torch.empty_like(sent) for _ in range(processes)]
    distributed.all_gather(received, sent)
    parts = [part[:size] for part, size in zip(received, sizes, strict=True)]
    parts[rank()] = own + (processes - 1) * (own - own.detach())
    return torch.cat(parts)


def all_pairs(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Gather two embeddings of the same samples, ``(N, D)`` and ``(N, D')``, at once.

    The rest is as with :func:`all_samples`.
    """
    if count() == 1:
        return one, other
    both = all_samples(torch.cat([one, other], dim=1))
    width = one.shape[1]
    return both[:, :width].to(one.dtype), both[:, width:].to(other.dtype)


def total(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if count() == 1:
        return values
    summed = values.detach().clone()
    distributed.all_reduce(summed)
    return summed


def from_main(function: Callable[[], Value]) -> Value:
    """Let the main process call a function; return its result, or raise its error, in all."""
    if count() == 1:
        return function()
    answer: list[Any] = [None, None]
    if is_main():
        try:
            answer[0] = function()
        except Exception as error:
            answer[1] = error
    distributed.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def from_each(value: Value) -> list[Value]:
    """Return the values that all processes have, in the order of their ranks."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value)
    return values


def main_has(path: Path, argument: str) -> bool:
    """Whether the main process sees a file; one that only others see is refused.

    Machines may have disks of their own, and the main process may have been on another one before.
    """
    main, *others = from_each(path.is_file())
    if not main and any(others):
        raise ArgumentError(
            argument,
            f"{path} is there for process {others.index(True) + 1}, but not for the main process, "
            "which reads and writes it: start that on the machine that has the file (torchrun "
            "--node-rank 0), or choose a folder that all machines share",
        )
    return main


def check_same(settings: dict[str, Any]) -> None:
    """Require the same settings in all processes, and name the one that differs."""
    all_settings = from_each(settings)
    for name in all_settings[0]:
        values = [one.get(name) for one in all_settings]
        if any(value != values[0] for value in values):
            raise ArgumentError(name, f"{name} must be the same in all processes, got {values}")


def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Copy the main process's weights or buffers into those of all others, in one message."""
    if count() == 1:
        return
    copied = [tensor.detach() for tensor in tensors]
    as_bytes = [tensor.flatten().view(torch.uint8) for tensor in copied]  # of whatever type
    if not copied:
        return
    message = torch.cat(as_bytes)
    distributed.broadcast(message, 0)
    if not is_main():
        pieces = message.split([len(one) for one in as_bytes])
        for tensor, piece in zip(copied, pieces, strict=True):
            tensor.copy_(piece.clone().view(tensor.dtype).view_as(tensor))


def wait() -> None:
    """Wait until all processes have reached this point."""
    if count() > 1:
        distributed.barrier()


@contextmanager
def workers(jobs: int, start: str = "spawn") -> Iterator[Executor]:
    """Start processes that work side by side, and end with this one, even if it is killed.

    If this is left by an error, or by Ctrl-C, they end at once.

    Args:
        jobs: Number of processes.
        start: How they start, by the name that :mod:`multiprocessing` has for it.
    """
    context = multiprocessing.get_context(start)
    theirs, lifeline = context.Pipe(duplex=False)
    with (
        lifeline,
        theirs,
        ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_end_with, initargs=(theirs,)
        ) as pool,
    ):
        try:
            yield pool
        except BaseException:
            lifeline.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with(lifeline: Connection) -> None:
    """End this process when the other end is closed, as it is when the process there has ended."""
    from tqdm import tqdm  # only here: most that is imported does without

    # Instead of one between processes, which would be left over by a process that ends at once.
    tqdm.set_lock(threading.RLock())

    def watch() -> None:
        with suppress(EOFError, OSError):
            lifeline.recv_bytes()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def each(
    task: Callable[..., Value], works: Iterable[tuple], pool: Executor | None
) -> Iterator[Value]:
    """Do the same with each, in this process or in those of a pool; yield as they end.

    Ctrl-C reaches this process only, which ends the others.

    Raises:
        LostProcessError: A process of the pool was killed.
    """
    if pool is None:
        yield from starmap(task, works)
        return
    with _ctrl_c_put_off():
        running = [pool.submit(task, *work) for work in works]
    try:
        yield from map(Future.result, as_completed(running))
    except BrokenProcessPool as error:
        raise LostProcessError(
            "one of the processes was killed, perhaps for want of memory, of which fewer --jobs "
            "need less; the same command goes on"
        ) from error


@contextmanager
def _ctrl_c_put_off() -> Iterator[None]:
    """Hold Ctrl-C back in this thread, and for ever in processes that it starts meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def at_once(device: torch.device, most: int) -> int:
    """Return how many processes share a device well, each with one thread: at most so many.

    As many as torch would use threads in one process; on a GPU only as many as find
    :data:`GPU_SHARE` of free memory each, and on Apple's MPS one.
    """
    room = torch.get_num_threads()
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        room = min(room, free // GPU_SHARE)
    elif device.type != "cpu":
        room = 1
    return max(1, min(room, most))


@contextmanager
def losses_told(advice: str) -> Iterator[None]:
    """Turn the errors of a broken connection into one that says what has happened.

    Args:
        advice: How to go on, for the message.

    Raises:
        LostProcessError: Another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        told = isinstance(error, LostProcessError)
        broken = isinstance(error, distributed.DistError) or "Connection" in str(error)
        if not told and (count() == 1 or not broken):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # leave time for the message
        raise LostProcessError(f"another process has ended; {advice}") from error


def _terminated(number: int, frame: object) -> None:
    raise LostProcessError("ended from outside")


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized() and not _apart.get()
