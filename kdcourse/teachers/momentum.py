r"""The momentum teacher: a moving average of the student it teaches.

.. math:: \theta_T \leftarrow m\, \theta_T + (1 - m)\, \theta_S \qquad \text{after every step}

It needs no training of its own, and averages out the noise of the student's last steps. With
different noise on both sides (:mod:`kdcourse.tips`) it teaches without labels: consistency
(Mean Teacher), or self-supervised (:mod:`kdcourse.teachers.self_supervised`).

Sources: Tarvainen, Valpola 2017 (arXiv 1703.01780); Caron et al. 2021 (arXiv 2104.14294).
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdcourse.batch import blaming_argument
from kdcourse.checks import check_number, check_positive
from kdcourse.errors import ArgumentError
from kdcourse.precision import at_least_float32
from kdcourse.signatures import checked
from kdcourse.training.teacher import FrozenTeacher

Momentum = float | Callable[[int], float]


@checked
class MomentumTeacher(FrozenTeacher):
    """The exponential moving average of a student, starting as a copy of it.

    The running statistics of batch norm are averaged like weights; other buffers are copied. The
    average of a model in half precision is kept, and asked, in float32.

    >>> teacher = MomentumTeacher(student, momentum=0.99)
    >>> fit(student, train, teacher=teacher)  # updates it after every step

    Args:
        student: The model to follow. It is copied, and stays as it is.
        momentum: m in [0, 1], or a schedule that maps the number of a step to it
            (:func:`mean_teacher_momentum`, :func:`cosine_momentum`).
    """

    follows_student = True

    def __init__(self, student: nn.Module, momentum: Momentum = 0.996):
        if not callable(momentum):
            check_number("momentum", momentum, 0.0, 1.0)
        with blaming_argument("student", "copying the model"):
            copied = copy.deepcopy(student)
        super().__init__(copied.requires_grad_(False))
        for one in _tensors(self.model).values():
            one.data = at_least_float32(one.data)  # half precision would round small steps away
        self.momentum = momentum
        # Other buffers may be counters, masks of −∞, or vectors of unit norm.
        self._averaged = {name for name, _ in self.model.named_parameters()} | {
            name for name in _tensors(self.model) if name.endswith(("running_mean", "running_var"))
        }

    def check_student(self, student: nn.Module) -> None:
        """Require a model of the same architecture as the one that was copied."""
        own, followed = (
            {name: tuple(one.shape) for name, one in _tensors(model).items()}
            for model in (self.model, student)
        )
        for name in [*own, *followed]:
            if own.get(name) != followed.get(name):
                raise ArgumentError(
                    "teacher",
                    f"the teacher averages another model than the student: {name} has the shape "
                    f"{own.get(name)} in it, and {followed.get(name)} in the student",
                )

    def share(self, step: int) -> float:
        """Return 1 − m after a step."""
        momentum = self.momentum(step) if callable(self.momentum) else self.momentum
        check_number("momentum", momentum, 0.0, 1.0)
        return 1 - momentum

    @torch.no_grad()
    def follow(self, student: nn.Module, share: float | Tensor) -> None:
        """Move towards the student.

        Args:
            student: A model of the same architecture as the one that was copied.
            share: How far, 1 − m; a tensor on the device of both may change where it lies.
        """
        average, followed = _tensors(self.model), _tensors(student)
        if average.keys() != followed.keys():
            self.check_student(student)  # which says what differs
        moved = []
        for name, own in average.items():
            if name in self._averaged:
                moved.append((own, followed[name].to(own.dtype)))
            else:
                own.copy_(followed[name])
        if not moved:
            return
        means, new = (list(each) for each in zip(*moved, strict=True))
        if isinstance(share, Tensor):
            ways = torch._foreach_sub(new, means)
            torch._foreach_mul_(ways, share)
            torch._foreach_add_(means, ways)
        else:  # all at once: a net has many small ones
            torch._foreach_lerp_(means, new, share)

    def __repr__(self) -> str:
        return f"MomentumTeacher({type(self.model).__name__}, momentum={self.momentum})"


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@checked
def mean_teacher_momentum(most: float = 0.999) -> Callable[[int], float]:
    r"""Return Mean Teacher's schedule: :math:`\min(1 - 1/(t + 1), m)` after the t-th step.

    At first it is the plain mean of all students so far, which soon forgets the random start.

    Args:
        most: The largest momentum m, in [0, 1].

    Source: Tarvainen, Valpola 2017 (arXiv 1703.01780), and the authors' code.
    """
    check_number("most", most, 0.0, 1.0)
    return lambda step: min(1 - 1 / (step + 1), most)


@checked
def cosine_momentum(start: float = 0.996, *, steps: int) -> Callable[[int], float]:
    r"""Return DINO's schedule: from ``start`` to 1 along half a cosine.

    .. math:: 1 - (1 - m_0)\, \frac{1 + \cos(\pi t / T)}{2}

    Training asks for t = 1 after the first step, and for t = T after the last, which leaves the
    average as it is. That is one step ahead of DINO's code, where t runs from 0 to T − 1:
    ``lambda step: momentum(step - 1)`` is DINO's to the letter.

    Args:
        start: The momentum m₀ at t = 0, in [0, 1].
        steps: T, the number of steps; the momentum stays at 1 after them.

    Source: Caron et al. 2021 (arXiv 2104.14294), section 3.1.
    """
    check_number("start", start, 0.0, 1.0)
    check_positive(steps=steps)

    def momentum(step: int) -> float:
        done = min(step / steps, 1.0)
        return 1 - (1 - start) * (1 + math.cos(math.pi * done)) / 2

    return momentum
