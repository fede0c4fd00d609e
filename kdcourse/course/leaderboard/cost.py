"""What a step costs by each method, as ratios to that of KD, measured side by side."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from kdcourse.course.bench.compare import Store, in_turn, median_ratio, peak_memory
from kdcourse.course.claims.claim import Claim
from kdcourse.course.claims.experiment import Lab
from kdcourse.course.leaderboard.board import (
    BOARDS,
    FOLDER,
    final,
    optimizer_of,
    search,
    student_of,
)
from kdcourse.course.leaderboard.methods import KD, METHODS
from kdcourse.training import Run, rehearse
from kdcourse.training.device import one_thread, processor


@dataclass
class Cost:
    """What a step with a method costs.

    Attributes:
        name: The method.
        loss: The objective that was timed, in the words of the command line.
        time: The median over the rounds of its time ÷ KD's, taken round by round.
        memory: The tensors that it makes and that live at once, at most, ÷ KD's.
        rounds: How many rounds.
    """

    name: str
    loss: str
    time: float
    memory: float
    rounds: int


def store(board: str, folder: Path = FOLDER) -> Store[Cost]:
    """Return where the costs of a board are kept."""
    command = "python -m kdcourse bench --leaderboard"
    return Store(folder / f"{board}.cost.json", command, Cost)


def load(board: str, folder: Path = FOLDER) -> dict[str, Cost]:
    """Return what a step costs by the names of the methods.

    Raises:
        FileNotFoundError: It was not measured yet.
    """
    return {cost.name: cost for cost in store(board, folder).load()}


def measure(rounds: int = 9, folder: Path = FOLDER, progress: bool = True) -> None:
    """Time steps of all methods in turn, board by board, on one thread, and store the ratios.

    Raises:
        FileNotFoundError: There is no board yet of which every method was tried.
    """
    tried = [board for board in BOARDS if _was_tried(board, folder)]
    if not tried:
        raise FileNotFoundError(
            "no board's methods were all tried yet: python -m kdcourse reproduce leaderboard"
        )
    for board in tried:
        store(board, folder).check()
    for board in tqdm(tried, disable=not progress):
        names = [KD, *(name for name in BOARDS[board].methods if name != KD)]
        with one_thread():
            claims = [final(board, name, folder) for name in names]
            steps = [_step(claim, name) for claim, name in zip(claims, names, strict=True)]
            taken = in_turn(steps, rounds, time.process_time)
            memory = [peak_memory(step) for step in steps]
        costs = []
        for name, claim, seconds, peak in zip(names, claims, taken, memory, strict=True):
            time_ratio, memory_ratio = median_ratio(seconds, taken[0]), peak / memory[0]
            costs.append(Cost(name, claim.settings["loss"], time_ratio, memory_ratio, rounds))
        store(board, folder).save(costs, processor=processor())


def size_of_student(board: str, name: str) -> float:
    """Return the parameters of a method's student, as a ratio to those of KD's."""
    if (rebuild := METHODS[name].rebuild) is None:
        return 1.0
    lab = Lab(search(board, KD), seed=0)
    own, usual = rebuild(lab.net(), lab.teacher), lab.net()
    return sum(p.numel() for p in own.parameters()) / sum(p.numel() for p in usual.parameters())


def _was_tried(board: str, folder: Path) -> bool:
    try:
        return all(final(board, name, folder) for name in BOARDS[board].methods)
    except FileNotFoundError:
        return False


def _step(claim: Claim, name: str) -> Callable[[], object]:
    """Return a step of training by a method's best objective, of one batch again and again."""
    lab = Lab(claim, seed=0)
    net, objective, teacher = student_of(lab, name)
    batch = next(iter(lab.images.batches(lab["batch_size"])))
    rehearse(net, lab.images, objective, teacher=teacher, **lab.options)
    run = Run(net.train(), objective, teacher, steps=10_000, **optimizer_of(lab))
    return lambda: run.step(*batch)
