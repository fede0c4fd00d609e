"""A temperature that is learned against the student: KD, with one gradient reversed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_logit import naive_forward
from test_predictions import SHAPES, K, drawn, example_of, naive, value_and_gradient
from torch.nn import functional as F
from toys import net, same, train, weights

from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.logit import LogitKD, kd_loss
from kdcourse.methods.curriculum_temperature import CTKD, curriculum_kd_loss
from kdcourse.objective import Lesson, Outputs
from kdcourse.training import CrossEntropy, WarmUp

STUDENT, TEACHER = drawn(6, K), drawn(6, K, seed=1)
LESSON = Lesson(Outputs(logits=STUDENT), torch.arange(6) % K, Outputs(logits=TEACHER))


def at(level, **knobs):
    return lambda s, t: curriculum_kd_loss(s, t, s.new_full((), level), **knobs)


LOSSES = {"plain": at(1.0), "hot": at(0.5, span=60.0), "fixed": at(-1.0, strength=0.0)}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


def tau_of(level, lowest=1.0, span=20.0):
    return lowest + span / (1 + math.exp(-level))


def level_and_gradient(level, **knobs):
    theta = torch.tensor(level, dtype=torch.float64, requires_grad=True)
    value = curriculum_kd_loss(STUDENT, TEACHER, theta, **knobs)
    return value.item(), torch.autograd.grad(value, theta)[0].item()


@pytest.mark.parametrize(("shape", "class_dim"), SHAPES.values(), ids=SHAPES)
def test_equals_the_definition(shape, class_dim):
    s, t, target, mask, weight = example_of(shape, class_dim)
    level = torch.tensor(-1.5, dtype=torch.float64)

    def definition(one, other, _):
        return naive_forward(one, other, tau_of(-1.5))

    for counting in ({}, {"mask": mask}, {"mask": mask, "weight": weight}):
        expected = naive(definition, s, t, target, class_dim, **counting)
        value = curriculum_kd_loss(s, t, level, class_dim=class_dim, **counting)
        assert value.item() == pytest.approx(expected, rel=1e-9), list(counting)
    term = CTKD(level=-1.5, steps=3, class_dim=class_dim, ignore_index=-100).double()
    labels = target.masked_fill(~mask, -100)
    lesson = Lesson(Outputs(logits=s), labels, Outputs(logits=t), weight=weight)
    assert term.loss(lesson).item() == pytest.approx(expected, rel=1e-9)


@given(level=st.floats(-5, 5), strength=st.floats(0, 2), span=st.sampled_from([0.0, 7.0, 90.0]))
def test_the_student_learns_as_by_kd_and_the_temperature_against_it(level, strength, span):
    theta = torch.tensor(level, dtype=torch.float64)
    found = value_and_gradient(
        curriculum_kd_loss, STUDENT, TEACHER, theta, strength, lowest=2.0, span=span
    )
    tau = tau_of(level, 2.0, span)
    torch.testing.assert_close(found, value_and_gradient(kd_loss, STUDENT, TEACHER, tau))

    step = 1e-4  # of the definition, which reverses nothing
    values = (kd_loss(STUDENT, TEACHER, tau_of(level + d, 2.0, span)) for d in (step, -step))
    slope = (next(values) - next(values)).item() / (2 * step)
    _, gradient = level_and_gradient(level, strength=strength, lowest=2.0, span=span)
    assert gradient == pytest.approx(-strength * slope, rel=1e-5, abs=1e-7)


def test_against_the_authors_convention():
    """A strength from 0 down to −1, one an epoch, and a mean over the batch."""
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    tau = 1 + 20 * torch.sigmoid(theta)
    kl = F.kl_div((STUDENT / tau).log_softmax(1), (TEACHER / tau).softmax(1), reduction="batchmean")
    (slope,) = torch.autograd.grad(kl * tau * tau, theta)
    term = CTKD(epochs=4).double()
    term.prepare(LESSON, steps_an_epoch=3)
    for epoch in range(1, 7):
        for _ in range(3):
            value = term.loss(LESSON)
        torch.testing.assert_close(value, kl * tau * tau)
        decay = (math.cos(min(epoch, 4) * math.pi / 4) + 1) / 2 * (0 - -1) + -1
        (found,) = torch.autograd.grad(value, term.level)
        torch.testing.assert_close(found, decay * slope, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_level_in_half_precision_is_computed_with_in_float32(dtype):
    level = torch.tensor(0.75, dtype=dtype, requires_grad=True)
    s, t = (z.float() for z in (STUDENT, TEACHER))
    value = curriculum_kd_loss(s, t, level)
    assert value.item() == pytest.approx(kd_loss(s, t, tau_of(0.75)).item(), rel=1e-5)
    assert torch.autograd.grad(value, level)[0].dtype == dtype


def test_training_moves_the_temperature_to_where_it_is_hard():
    """One step of gradient descent makes the loss of the same student larger."""
    term = CTKD(level=0.0, steps=1).double()
    before = term.loss(LESSON)
    (gradient,) = torch.autograd.grad(before, term.level)
    with torch.no_grad():
        term.level -= 0.01 * gradient
    assert term.loss(LESSON) > before
    assert term.temperature.item() == pytest.approx(tau_of(term.level.item()))


def test_it_counts_in_training_only():
    term = CTKD(steps=4)
    term.eval().loss(LESSON)
    assert term.taken == 0
    term.train().loss(LESSON)
    term.loss(Lesson(LESSON.student, LESSON.target, LESSON.teacher, again=True))
    assert term.taken == 1


def test_it_is_trained_with_the_student_and_resumed(tmp_path):
    def run(folder, log=None):
        student, term = net(), CTKD(epochs=2)
        path = tmp_path / folder
        aim = CrossEntropy() + term
        train(student, aim, teacher=net(4, seed=2), epochs=4, checkpoint=path, log=log)
        return weights(student), term

    def stop(row):
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted after 1 of 4"):
        run("stopped", log=stop)
    (found, term), (expected, other) = run("stopped"), run("whole")
    assert same(found, expected)
    assert term.level == other.level != 1
    assert term.taken == other.taken > 0


def test_the_term():
    assert repr(CTKD(2, class_dim=-1)) == "CTKD(class_dim=-1, lowest=2, span=20.0, epochs=10)"
    assert repr(CTKD(steps=5)) == "CTKD(lowest=1.0, span=20.0, steps=5)"
    assert (LogitKD() + WarmUp(CTKD(), epochs=2)).names == ["logit_kd", "warm_up"]
    with pytest.raises(ArgumentError, match="does not know how long an epoch is: give it steps"):
        CTKD().loss(LESSON)
    with pytest.raises(ArgumentError, match=r"lowest \+ span must be finite and lie in"):
        CTKD(span=1e6)
    with pytest.raises(ArgumentError, match=r"level must be a scalar, got \(1,\)"):
        curriculum_kd_loss(STUDENT, TEACHER, torch.ones(1))
    for level in (1.0, None, torch.ones((), dtype=torch.int64)):
        with pytest.raises((ArgumentError, ArgumentTypeError), match="level must be"):
            curriculum_kd_loss(STUDENT, TEACHER, level)
    assert curriculum_kd_loss(STUDENT, TEACHER, torch.tensor(math.nan)).isnan()
    with pytest.raises(ArgumentError, match="strength must be finite and lie in"):
        curriculum_kd_loss(STUDENT, TEACHER, torch.ones(()), -1.0)
    for strength in (torch.ones(2), torch.ones((), dtype=torch.int64), torch.tensor(-1.0)):
        with pytest.raises(ArgumentError, match="strength must be"):
            curriculum_kd_loss(STUDENT, TEACHER, torch.ones(()), strength)
