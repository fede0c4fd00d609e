"""Checks of the exercises of notebook 2, logit distillation."""

from collections.abc import Callable

from torch import Tensor, nn

from kdcourse import logit
from kdcourse.course.exercises.exercise import exercise
from kdcourse.homework import expect
from kdcourse.teachers import ClosedTeacher


@exercise
def kd_gradient(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """The gradient of KL(T‖S) with respect to the student's logits, one image a row."""
    student, teacher = expect.normal(0, 5, 4), 2 * expect.normal(1, 5, 4)
    for temperature in (1.0, 4.0):

        def loss(z: Tensor, temperature: float = temperature) -> Tensor:
            return 5 * logit.kd_loss(z, teacher, temperature, scale=False)  # a sum, not a mean

        right = expect.gradient(loss, student)
        expect.close(
            answer(student, teacher, temperature),
            right,
            f"at τ = {temperature:g}, autograd finds another gradient",
            {
                "its sign is the opposite: a step against the gradient must lead to the teacher": (
                    -right
                ),
                "a factor 1/τ is missing: the chain rule brings it in": temperature * right,
                "there is a factor 1/τ too many": right / temperature,
                "each row should be the gradient of that image's own KL: do not divide by the "
                "number of images": right / 5,
            },
        )
    return "The difference of two predictions, over τ: at a high τ it is small for two reasons."


@exercise
def their_weight(answer: Callable[[float, float, int], float]) -> str:
    """The λ for code that averages over classes and leaves τ² out, from λ, τ and K of ours."""
    for weight, tau, classes in ((3.0, 4.0, 10), (0.5, 2.0, 100)):
        expect.value(
            answer(weight, tau, classes),
            weight * tau**2 * classes,
            f"for λ = {weight:g}, τ = {tau:g} and K = {classes}, their λ",
            {
                "you have made up for τ², but not for the mean over the classes": weight * tau**2,
                "you have made up for the mean over the classes, but not for τ²": weight * classes,
                "τ must be squared": weight * tau * classes,
                "their term is the weaker one, so their λ is the larger": (
                    weight / (tau**2 * classes)
                ),
            },
        )
    return (
        f"Our λ = 3 at τ = 4 is a λ of {3 * 4**2 * 10} there: a weight says nothing without its "
        "formula."
    )


@exercise
def precision(answer: Callable[[float, float, int], float]) -> str:
    """The precision for a class, from its recall, the others' share called so, and K."""
    for recall, share, classes in ((0.96, 0.1, 10), (0.5, 0.02, 4)):
        right = recall / (recall + (classes - 1) * share)
        expect.value(
            answer(recall, share, classes),
            right,
            f"at recall {recall:g}, share {share:g} and K = {classes}, the precision",
            {
                "there are K − 1 other classes, and each adds its share": recall / (recall + share),
                "K counts the boots, too: there are K − 1 other classes": (
                    recall / (recall + classes * share)
                ),
                "of the boots, only the recall is called boots": 1 / (1 + (classes - 1) * share),
                "that is the share of images called boots": recall + (classes - 1) * share,
                "that is the share of wrong ones": 1 - right,
            },
        )
    needed = 0.96 * 0.1 / (0.9 * 9)
    return (
        f"With a share of 1/10 it is {96 / (0.96 + 9 * 0.1):.0f} %: the rule that finds the boots "
        "calls one in ten of all other images a boot. A precision of 90 % would need a share of "
        f"{100 * needed:.1f} %."
    )


@exercise
def twins(answer: Tensor) -> str:
    """Logits (2, 10) of two images that a closed service shows alike, though they are not."""
    logits = expect.tensor(answer, (2, 10))
    assert bool(logits.isfinite().all()), "logits must be finite"
    service = ClosedTeacher(nn.Identity(), top_k=3, decimals=2, probabilities=False)
    first, second = service(logits)
    different = (first - second).abs() > 1e-9
    assert not bool(different.any()), (
        f"the service tells them apart: of class {int(different.nonzero()[0])}, it shows "
        f"{float(first[different][0]):.2f} for one and {float(second[different][0]):.2f} for the "
        "other"
    )
    first, second = logit.softmax(logits, 4.0)
    apart = float((first - second).abs().max())
    assert apart >= 0.1, (
        f"at τ = 4, no class differs by more than {apart:.2f}; it should be 0.1 at least. What may "
        "differ between logits of which the softmax is nearly the same?"
    )
    return (
        f"The service shows the same twice, but at τ = 4 a class differs by {apart:.2f}. What "
        "softening would bring out is what rounding has taken."
    )
