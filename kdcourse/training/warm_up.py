"""A term that counts little at first, while the student cannot make use of it yet."""

import torch
from torch import Tensor

from kdcourse.checks import check_number
from kdcourse.training.objective import Lesson, Term


class WarmUp(Term):
    r"""A term times :math:`\min(t / T, 1)` in its t-th step.

    >>> objective = CrossEntropy() + WarmUp(DecoupledKD(), steps=1000)

    The steps so far are part of ``state_dict()``, so a resumed training goes on where it stopped.
    With ``accumulate``, every part of a batch counts as a step.

    Args:
        term: any term.
        steps: T, at least 1.
    """

    def __init__(self, term: Term, steps: int):
        super().__init__()
        check_number("steps", steps, 1)
        self.term = term
        self.steps = steps
        self.needs_teacher = term.needs_teacher
        self.needs_input_gradient = term.needs_input_gradient
        self.needs_labels = term.needs_labels
        self.mean_over = term.mean_over
        self.student_layers = term.student_layers
        self.teacher_layers = term.teacher_layers
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))
        self.taken: Tensor

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the term's loss, as far as it counts by now."""
        if self.training:
            self.taken += 1
        return (self.taken / self.steps).clamp(max=1) * self.term.loss(lesson)

    def __repr__(self) -> str:
        return f"WarmUp({self.term!r}, steps={self.steps})"
