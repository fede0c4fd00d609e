"""The grader's side of a submission: its functions, called in another process.

A submission runs in a process and a folder of its own (:mod:`kdcourse.homework.worker`), under
limits of time and memory. Its functions appear here as :class:`Remote`: called with tensors and
modules, they return tensors that can be differentiated, so that the same checks apply to them as to
functions of this process. What comes back is read as plain data and never executed.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdcourse.homework.process import EndedError, Limits, Process
from kdcourse.homework.wire import leaves, restore, state

MOST_ENDED = 5  # number of processes that a submission may hang or kill


class SubmissionError(Exception):
    """Something went wrong inside a submission; the message is worded as a remark."""


class Sandbox:
    """Runs the cells of a submission, and calls its functions.

    A cell that hangs or kills its process is left out when the others run again in a new one; a
    function that does so is not called again.

    Args:
        cells: Sources of the code cells, by the names that remarks use for them.
        limits: Limits of time and memory.
    """

    def __init__(self, cells: Mapping[str, str], limits: Limits | None = None):
        self.cells = dict(cells)
        self.limits = limits or Limits()
        self.left = self.limits.total
        self.cell_errors: dict[str, str] = {}
        self.fatal: dict[str, str] = {}  # cells and functions that ended a process, and how
        self.printed = 0
        self.process: Process | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def function(self, name: str) -> "Remote":
        """Return the function of that name which the submission defines."""
        if self.ask(name, "defines", name).get("value") is not True:
            raise SubmissionError(f"{name} is not defined")
        return Remote(self, name)

    def ask(self, name: str, *message: Any) -> dict[str, Any]:
        """Send a message about a function to the process, once that has run all cells."""
        if name in self.fatal:
            raise SubmissionError(self.fatal[name])
        self._start()
        try:
            return self._request(*message)
        except EndedError as ended:
            self.fatal[name] = str(ended)
            raise SubmissionError(str(ended)) from None

    def _start(self) -> None:
        while self.process is None:
            if len(self.fatal) >= MOST_ENDED:
                raise SubmissionError(f"hung or ended its process {MOST_ENDED} times")
            self.process = Process(self.limits)
            for name, source in self.cells.items():
                if name in self.fatal:
                    continue
                try:
                    self._request("run", source)
                except SubmissionError as error:
                    self.cell_errors[name] = str(error)
                except EndedError as ended:
                    self.cell_errors[name] = self.fatal[name] = str(ended)
                    break

    def _request(self, *message: Any) -> dict[str, Any]:
        assert self.process is not None
        if self.left <= 0:
            raise SubmissionError(f"the {self.limits.total:g} s for the whole notebook are used up")
        process, spent = self.process, self.process.spent
        try:
            reply = process.request(message, min(self.limits.call, self.left))
        except EndedError:
            self._close()
            raise
        finally:
            self.left -= process.spent - spent
        if "error" in reply:
            raise SubmissionError(f"raised {' '.join(str(reply['error']).split()):.300}")
        return reply

    def _close(self) -> None:
        if self.process is not None:
            self.printed += self.process.close()
            self.process = None


class Remote:
    """A function of a submission. It may change modules it is given, here too, but not tensors."""

    def __init__(self, sandbox: Sandbox, name: str):
        self.sandbox = sandbox
        self.name = name
        self.largest = 0  # number of entries of the largest tensor in the last call

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        given = leaves([list(arguments), options])
        modules = [one for one in given if isinstance(one, nn.Module)]
        states = [state(module) for module in modules]
        reply = self.sandbox.ask(self.name, "call", self.name, list(arguments), options, states)
        try:
            self.largest = int(reply["largest"])
            for module, changed in zip(modules, reply["states"], strict=True):
                restore(module, changed)
            value, number = reply["value"], reply.get("number")
        except Exception as error:
            raise SubmissionError(f"the answer of {self.name} cannot be read ({error})") from None
        if number is None:
            return value
        inputs = [one for one in arguments if isinstance(one, Tensor) and one.requires_grad]
        return _Answer.apply(self, number, value, *inputs)


class _Answer(torch.autograd.Function):
    """A tensor from the other process, which also computes its gradients."""

    @staticmethod
    def forward(ctx: Any, remote: Remote, number: int, value: Tensor, *inputs: Tensor) -> Tensor:
        ctx.remote, ctx.number = remote, number
        ctx.shapes = [one.shape for one in inputs]
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        reply = ctx.remote.sandbox.ask(ctx.remote.name, "backward", ctx.number, gradient)
        gradients = list(reply["value"])
        if len(gradients) != len(ctx.shapes) or any(
            g is not None and g.shape != shape
            for g, shape in zip(gradients, ctx.shapes, strict=True)
        ):
            raise SubmissionError(f"{ctx.remote.name} has gradients of the wrong shape")
        return None, None, None, *gradients
