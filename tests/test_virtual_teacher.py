"""A teacher that nobody has trained, by definition; as KD, and as label smoothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_predictions import SHAPES, K, drawn, example_of, value_and_gradient
from torch.nn import functional as F
from toys import images, net, train

from kdcourse.errors import ArgumentError
from kdcourse.logit import kd_loss
from kdcourse.methods.virtual_teacher import TeacherFreeKD, teacher_free_loss
from kdcourse.objective import Lesson, Outputs
from kdcourse.training import CrossEntropy

STUDENT, TARGET = drawn(6, K), torch.arange(6) % K
LOSSES = {
    # For the tests of every loss, the label is what a teacher finds most likely.
    "plain": lambda s, t: teacher_free_loss(s, t.argmax(1)),
    "hot": lambda s, t: teacher_free_loss(s, t.argmax(1), 40.0, correct=0.9),
    "as label smoothing": lambda s, t: teacher_free_loss(s, t.argmax(1), 1.0, scale=False),
}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, drawn(6, K, seed=1)


# The definition at one place, in Python's own floats.


def softened(p, temperature):
    powers = [v ** (1 / temperature) for v in p]
    return [v / math.fsum(powers) for v in powers]


def virtual(label, classes, correct):
    return [correct if k == label else (1 - correct) / (classes - 1) for k in range(classes)]


def naive(z, label, temperature, correct):
    total = math.fsum(math.exp(v) for v in z)
    q = softened([math.exp(v) / total for v in z], temperature)
    p = softened(virtual(label, len(z), correct), temperature)
    return temperature**2 * math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize(("shape", "class_dim"), SHAPES.values(), ids=SHAPES)
def test_equals_the_definition(shape, class_dim):
    s, _, target, mask, weight = example_of(shape, class_dim)
    rows = zip(s.movedim(class_dim, -1).reshape(-1, K).tolist(), target.flatten(), strict=True)
    each = torch.tensor([naive(z, int(y), 20.0, 0.9) for z, y in rows], dtype=s.dtype)
    for counting, counted in (
        ({}, torch.ones_like(weight)),
        ({"mask": mask, "weight": weight}, weight * mask),
    ):
        expected = (each * counted.flatten()).sum() / counted.sum()
        value = teacher_free_loss(s, target, correct=0.9, class_dim=class_dim, **counting)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)

    term = TeacherFreeKD(correct=0.9, class_dim=class_dim, mask="mask")
    inputs, labels = {"mask": torch.ones_like(mask)}, target.masked_fill(~mask, -1)
    lesson = Lesson(Outputs(logits=s), labels, inputs=inputs, weight=weight)
    torch.testing.assert_close(term.loss(lesson), expected, rtol=1e-9, atol=0)


@given(temperature=st.floats(0.3, 1e5), correct=st.floats(0.25, 0.9999))
def test_it_is_kd_from_logits_of_which_all_but_one_are_zero(temperature, correct):
    teacher = math.log(correct * (K - 1) / (1 - correct)) * F.one_hot(TARGET, K).double()
    found = teacher_free_loss(STUDENT, TARGET, temperature, correct=correct)
    torch.testing.assert_close(found, kd_loss(STUDENT, teacher, temperature), rtol=1e-6, atol=1e-6)
    value, gradient = value_and_gradient(
        teacher_free_loss, teacher, TARGET, temperature, correct=correct
    )
    assert value.item() == pytest.approx(0, abs=1e-15 * max(1, temperature**2))
    assert gradient.abs().max() < 1e-14 * max(1, temperature)


@given(correct=st.floats(1 / K, 0.999))
def test_at_a_temperature_of_one_it_is_label_smoothing(correct):
    share = min(K * (1 - correct) / (K - 1), 1.0)
    smoothed = F.cross_entropy(STUDENT, TARGET, label_smoothing=share)
    p = virtual(0, K, correct)
    entropy = -math.fsum(v * math.log(v) for v in p)
    found = teacher_free_loss(STUDENT, TARGET, 1.0, correct=correct)
    torch.testing.assert_close(found, smoothed - entropy)


def test_the_least_teacher_is_right_by_chance_and_draws_to_uniform():
    uniform = F.kl_div(STUDENT.log_softmax(1), torch.full_like(STUDENT, 1 / K), reduction="sum")
    found = teacher_free_loss(STUDENT, TARGET, 1.0, correct=1 / K)
    torch.testing.assert_close(found, uniform / len(STUDENT))
    with pytest.raises(ArgumentError, match="correct must be at least 1/K, of K = 5 classes"):
        teacher_free_loss(STUDENT, TARGET, correct=0.19)


def test_against_the_authors_convention():
    """They soften probabilities as if they were logits, and the student not at all."""
    correct, temperature, multiplier = 0.99, 20.0, 100.0
    rows = torch.tensor([virtual(y, K, correct) for y in TARGET.tolist()], dtype=STUDENT.dtype)
    compared = F.kl_div(STUDENT.log_softmax(1), (rows / temperature).softmax(1), reduction="none")
    theirs = multiplier * compared.mean()
    x = (correct - (1 - correct) / (K - 1)) / temperature
    other = teacher_free_loss(STUDENT, TARGET, 1.0, correct=1 / (1 + (K - 1) * math.exp(-x)))
    torch.testing.assert_close(multiplier / K * other, theirs)


@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf])
def test_what_has_no_label_may_hold_anything(padding):
    out = TARGET == 2
    s = STUDENT.masked_fill(out[:, None], padding)
    labels = TARGET.masked_fill(out, -1)
    found = value_and_gradient(teacher_free_loss, s, labels, ignore_index=-1)
    expected = value_and_gradient(teacher_free_loss, STUDENT[~out], TARGET[~out])
    torch.testing.assert_close((found[0], found[1][~out]), expected)
    assert found[1][out].abs().max() == 0
    nothing = Lesson(Outputs(logits=s), torch.full((6,), -1))
    assert TeacherFreeKD().loss(nothing) == 0


def test_the_term():
    assert repr(TeacherFreeKD(30)) == "TeacherFreeKD(temperature=30, correct=0.99, scale=True)"
    assert not (CrossEntropy() + TeacherFreeKD()).needs_teacher
    for correct in (0.0, 1.0):
        with pytest.raises(ArgumentError, match="correct must be finite and lie in"):
            TeacherFreeKD(correct=correct)
    with pytest.raises(ArgumentError, match="target must have shape"):
        TeacherFreeKD().loss(Lesson(Outputs(logits=STUDENT), STUDENT.softmax(1)))


@pytest.mark.parametrize("labels", [torch.eye(4)[images().target], torch.zeros(96, 3)])
def test_labels_that_are_no_classes_are_refused_by_what_the_term_takes(labels):
    batches = [(images().inputs(), labels)]
    with pytest.raises(ArgumentError, match=r"labels of train must .*\), got") as told:
        train(net(), TeacherFreeKD(), train=batches)
    assert told.value.argument == "train"
    assert "probabilities" not in str(told.value)
