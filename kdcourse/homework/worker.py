"""The process that runs a submission. It holds no check, no solution and no grade.

The grader (:mod:`kdcourse.homework.sandbox`) sends it cells to run, and functions to call with the
grader's inputs; plain tensors and numbers go back. Whatever a submission does to this process, it
can only change what its own functions answer.
"""

import os
import pickle
import sys
import threading
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import MagicMock

import torch
from IPython.core.interactiveshell import InteractiveShell
from torch import Tensor, nn
from traitlets.config import Config

from kdcourse.homework.memory import LargestTensor
from kdcourse.homework.wire import CHANGED, changes, leaves, packed, restore, state

REMEMBERED = 500  # calls whose gradients can still be asked for: gradcheck makes many


class Shell(InteractiveShell):
    """Runs cells as a notebook does, magics included, but without a screen."""

    system = InteractiveShell.system_raw  # needs no terminal

    def enable_gui(self, gui: str | None = None) -> None:
        """Do nothing: figures are not shown."""


class Worker:
    """Runs cells in one namespace, and calls the functions that they define."""

    def __init__(self) -> None:
        quiet = Config({"HistoryManager": {"enabled": False}})
        self.shell = Shell.instance(config=quiet)
        self.calls: deque[tuple[Tensor, list[Tensor]]] = deque(maxlen=REMEMBERED)
        self.made = 0
        # Cells that check answers get an object that does nothing: there are no checks to run here.
        for name in ("otter", "kdcourse.homework.grader"):
            sys.modules[name] = MagicMock()

    def run(self, source: str) -> dict[str, Any]:
        """Run a cell as a notebook would."""
        result = self.shell.run_cell(source, store_history=False)
        error = result.error_before_exec or result.error_in_exec
        return {} if error is None else {"error": described(error)}

    def defines(self, name: str) -> dict[str, Any]:
        """Return whether there is a function of that name."""
        return {"value": callable(self.shell.user_ns.get(name))}

    def call(
        self, name: str, arguments: list[Any], options: dict[str, Any], states: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Call a function; its result can be differentiated afterwards."""
        given = leaves([arguments, options])
        modules = [one for one in given if isinstance(one, nn.Module)]
        for module, before in zip(modules, states, strict=True):
            restore(module, before)
        kept = changes(given)
        with LargestTensor() as watched:
            result = self.shell.user_ns[name](*arguments, **options)
        if kept != changes(given):
            raise ValueError(CHANGED)
        reply = {"value": result, "largest": watched.numel, "states": [*map(state, modules)]}
        if isinstance(result, Tensor) and result.requires_grad:
            inputs = [one for one in arguments if isinstance(one, Tensor) and one.requires_grad]
            self.calls.append((result, inputs))
            reply["number"] = self.made
            self.made += 1
        return reply

    def backward(self, number: int, gradient: Tensor) -> dict[str, Any]:
        """Return the gradients of a call's arguments; None for those that have none."""
        result, inputs = self.calls[number - self.made]  # counted from the newest
        if not inputs:
            return {"value": []}
        gradients = torch.autograd.grad(
            result, inputs, gradient, allow_unused=True, retain_graph=True
        )
        return {"value": list(gradients)}


def described(error: BaseException) -> str:
    """Return the type of an exception, and its message if it can give one."""
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    except BaseException:  # a submission's own exceptions may raise anything
        return type(error).__name__


def serve(requests: Connection, replies: Connection, worker: Worker) -> None:
    """Answer the grader until it hangs up."""
    while True:
        message = requests.recv_bytes()
        try:
            command, *arguments = pickle.loads(message)
            answer = packed(getattr(worker, command)(*arguments))
        except BaseException as error:
            answer = packed({"error": described(error)})
        for part in answer:
            replies.send_bytes(part)


def end_with_grader() -> None:
    """End this process once the grader has ended, which a cell that hangs would never notice.

    Behind a fence nothing outlives the grader anyway; without one (``--unsafe``) this would.
    """
    grader = os.getppid()

    def watch() -> None:
        while os.getppid() == grader:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Serve on standard input and output; what the submission prints goes to standard error."""
    end_with_grader()
    requests = Connection(os.dup(0), writable=False)
    replies = Connection(os.dup(1), readable=False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    with LargestTensor():  # torch imports much only now, in nobody's time
        nn.Linear(1, 1)(torch.ones(1, 1)).backward()
    serve(requests, replies, Worker())


if __name__ == "__main__":
    main()
