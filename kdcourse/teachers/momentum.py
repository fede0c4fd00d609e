r"""The momentum teacher: a moving average of the student it teaches.

.. math:: \theta_T \leftarrow m\, \theta_T + (1 - m)\, \theta_S \qquad \text{after every step}

It needs no training of its own, and averages out the noise of the student's last steps. With
different noise on both sides (:mod:`kdcourse.tips`) it teaches without labels: consistency
(Mean Teacher), or self-supervised (:mod:`kdcourse.teachers.self_supervised`).

Sources: Tarvainen, Valpola 2017 (arXiv 1703.01780); Caron et al. 2021 (arXiv 2104.14294).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdcourse.checks import check_number
from kdcourse.training.teacher import FrozenTeacher, Teacher

Momentum = float | Callable[[int], float]


class MomentumTeacher(FrozenTeacher):
    """The exponential moving average of a student, starting as a copy of it.

    Buffers (the statistics of batch norm) are averaged like weights; counters are copied.

    >>> teacher = MomentumTeacher(student, momentum=0.99)
    >>> fit(student, train, teacher=teacher)  # updates it after every step

    Args:
        student: The model to follow. It is copied, and stays as it is.
        momentum: m in [0, 1], or a schedule that maps the number of a step to it
            (:func:`mean_teacher_momentum`, :func:`cosine_momentum`).
    """

    follows_student = True

    def __init__(self, student: nn.Module, momentum: Momentum = 0.996):
        Teacher.__init__(self)
        if not isinstance(student, nn.Module):
            raise TypeError(f"student must be a torch.nn.Module, got {type(student).__name__}")
        if not callable(momentum):
            check_number("momentum", momentum, 0.0, 1.0)
        self.momentum = momentum
        self.average = AveragedModel(student, multi_avg_fn=self._average, use_buffers=True)
        self.average.n_averaged += 1  # the copy counts: the first update averages with it
        self.average.requires_grad_(False)
        self.eval()

    @property
    def model(self) -> nn.Module:  # type: ignore[override]
        """The averaged model."""
        return self.average.module

    def update(self, student: nn.Module, step: int) -> None:
        """Move towards the student.

        Args:
            student: A model of the same architecture as the one that was copied.
            step: The number of steps it has taken so far, for a schedule.
        """
        momentum = self.momentum(step) if callable(self.momentum) else self.momentum
        check_number("momentum", momentum, 0.0, 1.0)
        self._blend = get_ema_multi_avg_fn(momentum)
        self.average.update_parameters(student)

    def _average(self, own: Any, students: Any, count: Any) -> None:
        if own[0].is_floating_point():
            self._blend(own, students, count)
        else:  # batch norm's number of batches
            torch._foreach_copy_(own, students)

    def __repr__(self) -> str:
        return f"MomentumTeacher({type(self.model).__name__}, momentum={self.momentum})"


def mean_teacher_momentum(most: float = 0.999) -> Callable[[int], float]:
    r"""Return Mean Teacher's schedule: :math:`\min(1 - 1/(t + 1), m)`.

    At first it is the plain mean of all students so far, which soon forgets the random start.
    """
    check_number("most", most, 0.0, 1.0)
    return lambda step: min(1 - 1 / (step + 1), most)


def cosine_momentum(start: float = 0.996, *, steps: int) -> Callable[[int], float]:
    """Return DINO's schedule: from ``start`` to 1 along half a cosine over ``steps`` steps."""
    check_number("start", start, 0.0, 1.0)
    check_number("steps", steps, 1)

    def momentum(step: int) -> float:
        done = min(step / steps, 1.0)
        return 1 - (1 - start) * (1 + math.cos(math.pi * done)) / 2

    return momentum
