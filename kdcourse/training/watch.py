"""A loss that is no longer a number is found within a few steps, with what is to blame for it.

On a CPU, every loss is read as soon as it is there. A GPU is not waited for: it keeps the *signs*
of the latest step (the loss, its terms, the extremes of what went into the nets and came out), or
those of the first step that went wrong, and is asked for them now and then.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from kdcourse.batch import Inputs
from kdcourse.errors import NotFiniteError
from kdcourse.objective import Outputs
from kdcourse.precision import at_least_float32

EVERY = 16  # steps after which a GPU is asked
HUGE = 1e6  # no net that still learns outputs such a logit
# What the signs are, in this order; behind them stand the terms.
LOSS, BEFORE, NUMBER, INPUTS, TEACHER, LOWEST, HIGHEST, TERMS = range(8)


class Watch:
    """Looks at the loss of every step, or of every part of one.

    Args:
        at_once: Whether to read every loss at once, as on a CPU, which need not be waited for.
    """

    def __init__(self, at_once: bool):
        self.at_once = at_once
        self.before, self.number = math.nan, 0.0
        self.terms: tuple[str, ...] = ()
        self.kept: Tensor | None = None  # signs of the latest step, or the first that went wrong
        self.steps = 0
        self.answer: tuple[Tensor, torch.cuda.Event] | None = None  # on its way from a GPU

    def see(
        self, inputs: Inputs, shown: Sequence[Outputs], logits: Tensor, values: dict[str, Tensor]
    ) -> None:
        """Take note of a step.

        Args:
            inputs: What the student was called with.
            shown: What the teachers showed.
            logits: What the student output.
            values: The loss, and then its terms.
        """
        loss, *terms = values
        if self.at_once:
            value = values[loss].item()
            if not math.isfinite(value):
                before, number = values[loss].new_tensor([self.before, self.number])
                self._judge(_signs(inputs, shown, logits, values, before, number), terms)
            self.before, self.number = value, self.number + 1
            return
        if self.kept is None or self.terms != tuple(terms):
            self.terms = tuple(terms)
            self.kept = torch.zeros(TERMS + len(terms), device=logits.device)
            self.kept[NUMBER] = -1.0  # of the step before the first
        before, number = self.kept[LOSS], self.kept[NUMBER]
        latest = _signs(inputs, shown, logits, values, before, number + 1)
        well = before.abs() < math.inf  # isfinite takes twice as many kernels
        torch.where(well, latest, self.kept, out=self.kept)

    def ask(self) -> None:
        """Look, after a step, at what has arrived from a GPU, and ask it anew now and then."""
        if self.kept is None:
            return
        self.steps += 1
        if self.answer is not None and self.answer[1].query():
            self._judge(self.answer[0], self.terms)
            self.answer = None
        if self.steps % EVERY or self.answer is not None:
            return
        if self.kept.device.type == "cuda":
            copy = torch.empty(self.kept.shape, pin_memory=True).copy_(self.kept, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self.answer = copy, copied
        else:
            self._judge(self.kept, self.terms)

    def finish(self) -> None:
        """Look at what has not been looked at yet."""
        if self.kept is not None:
            self._judge(self.kept, self.terms)
            self.answer = None

    def _judge(self, signs: Tensor, terms: Sequence[str]) -> None:
        values = signs.tolist()
        if not math.isfinite(values[LOSS]):
            argument, reason = blame(values, terms)
            after = f"; a step before, it was {values[BEFORE]:.4g}" if values[NUMBER] else ""
            raise NotFiniteError(argument, f"the loss became {values[LOSS]}: {reason}{after}")


def blame(signs: Sequence[float], terms: Sequence[str]) -> tuple[str, str]:
    """Return the argument to blame for a loss that is no number, and what to do about it."""
    first = signs[NUMBER] == 0
    if not math.isfinite(signs[INPUTS]):
        return "train", "the inputs of train hold NaN or infinity"
    if _is_broken(signs[TEACHER]):
        return "teacher", "the teacher outputs NaN or infinity for finite inputs"
    if _is_broken(signs[HIGHEST]):
        if first:
            return "student", "the student outputs NaN or infinity before it has learned anything"
        return (
            "learning_rate",
            "the student's outputs are no numbers any more: lower the learning rate, or set clip; "
            "if the loss was small, look for a gradient that is not finite (a root at zero)",
        )
    if not first and (signs[HIGHEST] > HUGE or -math.inf < signs[LOWEST] < -HUGE):
        return "learning_rate", "the student's outputs are huge: lower the learning rate"
    broken = [n for n, v in zip(terms, signs[TERMS:], strict=True) if not math.isfinite(v)]
    return (
        "objective",
        f"{' and '.join(broken) or 'the sum of its terms'} is no number, though both nets output "
        "numbers (is a logit −∞ where the label is?): lower its weight or the learning rate",
    )


def _is_broken(highest: float) -> bool:
    """Whether outputs hold NaN or +∞, by their maximum; −∞ is how a class is masked."""
    return math.isnan(highest) or highest == math.inf


def _signs(
    inputs: Inputs,
    shown: Sequence[Outputs],
    logits: Tensor,
    values: dict[str, Tensor],
    before: Tensor,
    number: Tensor,
) -> Tensor:
    """Return what :func:`blame` judges by, ``(8 + terms,)``; NaN in a tensor is its maximum."""
    ranges = [torch.aminmax(one) for one in _numbers(inputs)]
    spans = [most.float() - least for least, most in ranges]
    taught = [one.amax() for net in shown for one in _numbers([net.logits, net.probabilities])]
    loss, *terms = values.values()
    lowest, highest = torch.aminmax(logits)
    signs = [
        *(loss, before, number),
        *(sum(one[1:], start=one[0]) if one else 0 * number for one in (spans, taught)),
        *(lowest, highest),
        *terms,
    ]
    return torch.stack([at_least_float32(one) for one in signs]).float()


def _numbers(nest: object) -> list[Tensor]:
    return [one for one in tree_leaves(nest) if isinstance(one, Tensor) and one.is_floating_point()]
