"""A loss that is no longer a number is found within a few steps, with what is to blame for it."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from kdcourse.batch import Inputs
from kdcourse.errors import NotFiniteError
from kdcourse.objective import Outputs

MOST = 8  # steps that a GPU may be behind
HUGE = 1e6  # no net that still learns outputs such a logit


@dataclass
class Step:
    """What was to be seen in one step, or in a part of it.

    Attributes:
        inputs: What the student was called with.
        shown: What the teachers showed.
        logits: What the student output.
        values: The loss and its terms.
        first: Whether the student had not learned anything yet.
    """

    inputs: Inputs
    shown: Sequence[Outputs]
    logits: Tensor
    values: dict[str, Tensor]
    first: bool


class Watch:
    """Looks at the loss of every step; a GPU is not waited for, but asked a few steps later."""

    def __init__(self) -> None:
        self.before = math.nan
        self.seen = 0
        self.copies: deque[tuple[Tensor, torch.cuda.Event, Step]] = deque()
        self.put_off: tuple[Tensor, Step] | None = None

    def see(
        self, inputs: Inputs, shown: Sequence[Outputs], logits: Tensor, values: dict[str, Tensor]
    ) -> None:
        """Take note of a step, and raise a :class:`NotFiniteError` if one has gone wrong."""
        told = [Outputs(one.logits, one.probabilities) for one in shown]  # features are large
        step = Step(inputs, told, logits, values, self.seen == 0)
        self.seen += 1
        loss = values["loss"]
        if loss.device.type == "cuda":
            copy = torch.empty((), dtype=loss.dtype, pin_memory=True)
            copy.copy_(loss, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self.copies.append((copy, copied, step))
            if len(self.copies) > MOST:  # each holds a batch
                self.copies[0][1].synchronize()
            while self.copies and self.copies[0][1].query():
                copy, _, step = self.copies.popleft()
                self._judge(copy, step)
        elif loss.device.type == "cpu" or self.seen % 16 == 0:
            self._judge(loss, step)
        else:
            self.put_off = loss, step

    def finish(self) -> None:
        """Look at what has not been looked at yet."""
        while self.copies:
            copy, copied, step = self.copies.popleft()
            copied.synchronize()
            self._judge(copy, step)
        if self.put_off is not None:
            self._judge(*self.put_off)
            self.put_off = None

    def _judge(self, loss: Tensor, step: Step) -> None:
        value = loss.item()
        if not math.isfinite(value):
            argument, reason = blame(step)
            before = "" if math.isnan(self.before) else f"; a step before, it was {self.before:.4g}"
            raise NotFiniteError(argument, f"the loss became {value}: {reason}{before}")
        self.before = value


def blame(step: Step) -> tuple[str, str]:
    """Return the argument to blame for a loss that is no number, and what to do about it."""
    if not all(bool(one.isfinite().all()) for one in _numbers(step.inputs)):
        return "train", "the inputs of train hold NaN or infinity"
    for shown in step.shown:
        if _broken([shown.logits, shown.probabilities]):
            return "teacher", "the teacher outputs NaN or infinity for finite inputs"
    if _broken(step.logits):
        if step.first:
            return "student", "the student outputs NaN or infinity before it has learned anything"
        return (
            "learning_rate",
            "the student's outputs are no numbers any more: lower the learning rate, or set clip; "
            "if the loss was small, look for a gradient that is not finite (a root at zero)",
        )
    if not step.first and float(step.logits.nan_to_num(neginf=0.0).abs().max()) > HUGE:
        return "learning_rate", "the student's outputs are huge: lower the learning rate"
    terms = [n for n, v in step.values.items() if n != "loss" and not math.isfinite(v.item())]
    return (
        "objective",
        f"{' and '.join(terms) or 'the sum of its terms'} is no number, though both nets output "
        "numbers (is a logit −∞ where the label is?): lower its weight or the learning rate",
    )


def _numbers(nest: object) -> list[Tensor]:
    return [one for one in tree_leaves(nest) if isinstance(one, Tensor) and one.is_floating_point()]


def _broken(outputs: object) -> bool:
    """Whether outputs hold NaN or +∞; −∞ is how a class is masked."""
    return any(bool((one.isnan() | one.isposinf()).any()) for one in _numbers(outputs))
