r"""SGD whose learning rate, momentum and weight decay lie on the device: it can be replayed.

``torch.optim.SGD`` hands them to its kernels as numbers, which a captured step would repeat for
ever. Here a schedule goes on changing the numbers in the optimiser's groups, and before every step
those that have changed are sent into the memory that the kernels read.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

SENT = ("lr", "momentum", "weight_decay")


def why_apart(optimizer: Optimizer) -> str:
    """Return why an optimiser's step cannot be taken here, or nothing."""
    kind = type(optimizer).__name__
    if type(optimizer) is not SGD:
        return f"{kind} reads its learning rate on the host"
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    if hooks:
        return f"a hook of {kind} is called in every step"
    for group in optimizer.param_groups:
        others = [n for n in ("dampening", "maximize", "differentiable") if group[n]]
        others += [name for name in SENT if isinstance(group[name], Tensor)]
        if others:
            return f"{kind} was made with {', '.join(others)}"
    return ""


def constants(group: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an optimiser's group that a step reads once for all."""
    return {name: value for name, value in group.items() if name not in ("params", *SENT)}


class DeviceSGD:
    """The steps of a ``torch.optim.SGD``, with its state and, up to rounding, its results.

    A foreach operation is one kernel if tensors and number are of one dtype.
    """

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        self.known: list[list[float]] = []  # what is on the device already
        self.rates: list[list[Tensor]] = []  # for each group, those of SENT
        for group in optimizer.param_groups:
            first = group["params"][0]
            make = partial(torch.tensor, dtype=first.dtype, device=first.device)
            self.known.append([group[name] for name in SENT])
            self.rates.append([make(group[name]) for name in SENT])
        optimizer._opt_called = True  # type: ignore[attr-defined]  # a schedule asks for that

    def send(self) -> None:
        """Send what has changed in the groups to the device, without waiting for it."""
        for group, known, rates in zip(
            self.optimizer.param_groups, self.known, self.rates, strict=True
        ):
            for number, name in enumerate(SENT):
                if group[name] != known[number]:
                    known[number] = group[name]
                    rates[number].fill_(group[name])

    @torch.no_grad()
    def step(self) -> None:
        """Take a step by the gradients that there are, on the device alone."""
        for group, rates in zip(self.optimizer.param_groups, self.rates, strict=True):
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for dtype in dict.fromkeys(weight.dtype for weight in weights):  # mostly one
                alike = [weight for weight in weights if weight.dtype == dtype]
                rate, momentum, decay = (one.to(dtype) for one in rates)
                self._move(alike, rate, momentum, decay, group["nesterov"])

    def _move(
        self, weights: list[Tensor], rate: Tensor, momentum: Tensor, decay: Tensor, nesterov: bool
    ) -> None:
        pulls = list(torch._foreach_mul(weights, decay))
        torch._foreach_add_(pulls, [weight.grad for weight in weights])  # type: ignore[misc]
        velocities = [self._velocity(weight) for weight in weights]
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, pulls)
        moves = velocities
        if nesterov:
            moves = list(torch._foreach_mul(velocities, momentum))
            torch._foreach_add_(moves, pulls)
        torch._foreach_sub_(weights, torch._foreach_mul(moves, rate))

    def _velocity(self, weight: Tensor) -> Tensor:
        """Return the running sum of gradients, which is zero before the first step."""
        state = self.optimizer.state[weight]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]
