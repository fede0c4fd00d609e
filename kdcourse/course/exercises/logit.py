"""Checks of the exercises of notebook 2, logit distillation."""

from collections.abc import Callable

from torch import Tensor

from kdcourse import logit
from kdcourse.course.exercises.exercise import exercise
from kdcourse.homework import expect


@exercise
def kd_gradient(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """The gradient of KL(T‖S) with respect to the student's logits, one image a row."""
    student, teacher = expect.normal(0, 5, 4), 2 * expect.normal(1, 5, 4)
    for temperature in (1.0, 4.0):

        def loss(z: Tensor, temperature: float = temperature) -> Tensor:
            return 5 * logit.kd_loss(z, teacher, temperature, scale=False)  # a sum, not a mean

        problem = f"at τ = {temperature:g} autograd finds another gradient"
        right = expect.gradient(loss, student)
        expect.close(answer(student, teacher, temperature), right, problem)
    return "The difference of two predictions, over τ: at a high τ it is small, twice over."
