"""What a net costs where it is used: size, multiply–adds, and latency on this machine."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdcourse.batch import call, cast_like
from kdcourse.checks import check_positive
from kdcourse.errors import ArgumentError
from kdcourse.models import multiply_adds
from kdcourse.modes import evaluation_mode
from kdcourse.signatures import checked
from kdcourse.training.device import wait_for

BATCHES = (1, 128)
WARM_UP, ROUNDS = 3, 30


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass on this machine: the median over rounds, and its quartiles."""

    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Cost:
    """What a net costs.

    Attributes:
        parameters: Number of its weights, frozen ones included.
        bytes: Size of weights and buffers, as they are stored.
        multiply_adds: Those of one image; None where the net cannot be counted.
        latency: By batch size.
    """

    parameters: int
    bytes: int
    multiply_adds: int | None
    latency: dict[int, Latency]


@checked
def latencies(
    nets: Mapping[str, nn.Module], inputs: Tensor, rounds: int = ROUNDS
) -> dict[str, Latency]:
    """Time a forward pass of each net, in eval mode and without gradients.

    The nets take turns, so that whatever slows the machine down slows all of them; rounds to warm
    up are not counted, and a GPU is waited for.

    Args:
        nets: Modules by name, on any device.
        inputs: Inputs ``(N, …)`` of one forward pass.
        rounds: Number of rounds that are timed.
    """
    check_positive(rounds=rounds)
    if not nets:
        raise ArgumentError("nets", "nets must hold at least one net")
    given = {name: cast_like(inputs.to(device_of(net)), net) for name, net in nets.items()}
    taken: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(WARM_UP + rounds):
        for name, net in nets.items():
            taken[name].append(_seconds(net, given[name], name))
    return {name: _summary(seconds[WARM_UP:]) for name, seconds in taken.items()}


@checked
def pareto_front(costs: Sequence[float], qualities: Sequence[float]) -> list[int]:
    """Return which nets are on the Pareto front: none is better in one respect and not worse in the
    other.

    Args:
        costs: What each net costs; the less, the better.
        qualities: How good each net is; the more, the better.
    """
    if len(costs) != len(qualities):
        raise ArgumentError(
            "costs", f"costs must be as many as qualities, got {len(costs)} and {len(qualities)}"
        )
    points = list(zip(costs, qualities, strict=True))
    return [
        number
        for number, (cost, quality) in enumerate(points)
        if not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points)
    ]


def costs_of(nets: Mapping[str, nn.Module], inputs: Tensor) -> dict[str, Cost]:
    """Measure what each net costs, on copies of one input ``(1, …)``."""
    timed = {
        size: latencies(nets, inputs.expand(size, *inputs.shape[1:]).contiguous())
        for size in BATCHES
    }
    return {
        name: Cost(
            sum(p.numel() for p in net.parameters()),
            sum(t.numel() * t.element_size() for t in net.state_dict().values()),
            _adds(net, inputs),
            {size: found[name] for size, found in timed.items()},
        )
        for name, net in nets.items()
    }


def device_of(net: nn.Module) -> torch.device:
    """Return where a net is."""
    parameter = next(net.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _adds(net: nn.Module, inputs: Tensor) -> int | None:
    try:
        return multiply_adds(net, cast_like(inputs.to(device_of(net)), net))
    except ArgumentError:  # an operation that torch cannot count
        return None


def _seconds(net: nn.Module, inputs: Tensor, who: str) -> float:
    """Return how long a forward pass takes."""
    with evaluation_mode(net), torch.inference_mode():
        wait_for(inputs.device)
        start = time.perf_counter()
        call(net, inputs, who)
        wait_for(inputs.device)
        return time.perf_counter() - start


def _summary(seconds: Sequence[float]) -> Latency:
    milliseconds = [1000 * one for one in seconds]
    if len(milliseconds) == 1:
        return Latency(*milliseconds * 3)
    lower, median, upper = statistics.quantiles(milliseconds, n=4, method="inclusive")
    return Latency(median, lower, upper)
