import math

import pytest
import torch
from torch import nn
from toys import CLASSES, Projected, net

from kdcourse import logit
from kdcourse.teachers import ClosedTeacher
from kdcourse.training import (
    CrossEntropy,
    DecoupledKD,
    FrozenTeacher,
    Lesson,
    LogitKD,
    Objective,
    Outputs,
    StandardizedKD,
    Term,
)

GENERATOR = torch.Generator().manual_seed(0)
STUDENT = 3 * torch.randn(6, CLASSES, generator=GENERATOR)
TEACHER = 3 * torch.randn(6, CLASSES, generator=GENERATOR)
TARGET = torch.tensor([0, 1, 2, 3, 0, 1])


def lesson(student=STUDENT, teacher=TEACHER):
    return Lesson(Outputs(logits=student), TARGET, Outputs(logits=teacher))


def kind(value):
    return type(value).__name__


class Constant(Term):
    needs_teacher = False

    def __init__(self, value=2.0):
        super().__init__()
        self.value = value

    def loss(self, lesson):
        return torch.tensor(float(self.value), requires_grad=True)


class Layers(Constant):
    def __init__(self, student, teacher):
        super().__init__()
        self.student_layers = student
        self.teacher_layers = teacher


# --- adding and scaling


def test_objective_is_the_formula_of_the_slide():
    total, values = (CrossEntropy() + 4.0 * LogitKD(temperature=4))(lesson())
    labels = nn.functional.cross_entropy(STUDENT, TARGET)
    kd = logit.kd_loss(STUDENT, TEACHER, 4)
    torch.testing.assert_close(total, labels + 4.0 * kd)
    assert values == {"cross_entropy": labels, "logit_kd": kd}  # unweighted


@pytest.mark.parametrize(
    ("term", "function"),
    [
        (CrossEntropy(), lambda s, t: nn.functional.cross_entropy(s, TARGET)),
        (
            CrossEntropy(label_smoothing=0.1),
            lambda s, t: nn.functional.cross_entropy(s, TARGET, label_smoothing=0.1),
        ),
        (LogitKD(), lambda s, t: logit.kd_loss(s, t)),
        (
            LogitKD(2.0, divergence="reverse", scale=False),
            lambda s, t: logit.kd_loss(s, t, 2.0, divergence="reverse", scale=False),
        ),
        (
            LogitKD(divergence="jensen-shannon"),
            lambda s, t: logit.kd_loss(s, t, divergence="jensen-shannon"),
        ),
        (DecoupledKD(), lambda s, t: logit.decoupled_kd_loss(s, t, TARGET)),
        (
            DecoupledKD(0.5, 2.0, 3.0),
            lambda s, t: logit.decoupled_kd_loss(s, t, TARGET, alpha=0.5, beta=2.0, temperature=3),
        ),
        (
            StandardizedKD(3.0),
            lambda s, t: logit.kd_loss(logit.standardize(s), logit.standardize(t), 3.0),
        ),
    ],
    ids=lambda value: repr(value) if isinstance(value, Term) else "its function",
)
def test_term_equals_its_function_in_value_and_gradient(term, function):
    student = STUDENT.clone().requires_grad_()
    expected = function(student, TEACHER)
    (gradient,) = torch.autograd.grad(expected, student)
    total, values = term(lesson(student))
    total.backward()
    assert torch.equal(total, expected)
    assert torch.equal(student.grad, gradient)
    assert list(values) == [term.name]


@pytest.mark.parametrize(
    ("objective", "total"),
    [
        (Constant(2) + Constant(3), 5),
        (Constant(2) + (Constant(3) + Constant(5)), 10),
        ((Constant(2) + Constant(3)) + Constant(5), 10),
        (4 * Constant(2), 8),
        (Constant(2) * 4, 8),
        (2 * (3 * Constant(2)), 12),
        (2 * (Constant(2) + 3 * Constant(3)), 22),
        (Constant(2) + 0 * Constant(3), 2),
        (0 * Constant(2) + Constant(3), 3),
    ],
    ids=repr,
)
def test_sums_and_multiples(objective, total):
    loss, _ = objective(lesson())
    assert loss.detach() == total


def test_adding_and_scaling_leave_the_operands_as_they_were():
    one, other = Constant(2), Constant(3)
    both = one + other
    2 * both + 3 * one
    assert both.parts() == [(1.0, one), (1.0, other)]
    assert one.parts() == [(1.0, one)]


@pytest.mark.parametrize("other", [1.0, "kd", None, nn.Linear(1, 1), logit.kd_loss], ids=kind)
def test_only_terms_are_added(other):
    with pytest.raises(TypeError):
        CrossEntropy() + other
    with pytest.raises(TypeError):
        other + CrossEntropy()


@pytest.mark.parametrize("factor", [True, "4", None, torch.tensor(4.0), Constant()], ids=kind)
def test_factor_is_a_number(factor):
    with pytest.raises(TypeError):
        factor * LogitKD()
    with pytest.raises(TypeError):
        LogitKD() * factor


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_factor_is_finite(factor):
    with pytest.raises(ValueError, match="factor"):
        factor * LogitKD()


# --- what an objective says of itself


def test_terms_of_one_name_are_numbered():
    objective = LogitKD(1) + CrossEntropy() + LogitKD(2) + LogitKD(4)
    _, values = objective(lesson())
    assert list(values) == ["logit_kd", "cross_entropy", "logit_kd_2", "logit_kd_3"]
    for name, temperature in (("logit_kd", 1), ("logit_kd_2", 2), ("logit_kd_3", 4)):
        assert values[name] == logit.kd_loss(STUDENT, TEACHER, temperature)


def test_values_are_detached_and_the_total_is_not():
    total, values = (Constant() + 2 * Constant())(lesson())
    assert total.requires_grad
    assert not any(value.requires_grad for value in values.values())


def test_repr_reads_like_the_code():
    objective = CrossEntropy() + 4.0 * LogitKD(temperature=2)
    assert repr(objective) == (
        "1 * CrossEntropy(label_smoothing=0.0) + "
        "4 * LogitKD(temperature=2, divergence='forward', scale=True)"
    )


def test_layers_are_collected_once():
    objective = Layers(("a", "b"), ("x",)) + 2.0 * Layers(("b", "c"), ("x", "y")) + Constant()
    assert objective.student_layers == ("a", "b", "c")
    assert objective.teacher_layers == ("x", "y")


@pytest.mark.parametrize(
    ("objective", "needed"),
    [
        (CrossEntropy(), False),
        (CrossEntropy() + Constant(), False),
        (LogitKD(), True),
        (CrossEntropy() + 0.1 * DecoupledKD(), True),
    ],
    ids=repr,
)
def test_objective_knows_whether_it_needs_a_teacher(objective, needed):
    assert objective.needs_teacher is needed


# --- weights of a term's own


def test_weights_of_a_term_belong_to_the_objective():
    term = Projected()
    objective = CrossEntropy() + 2.0 * (3.0 * term + LogitKD())
    assert [id(p) for p in objective.parameters()] == [id(p) for p in term.parameters()]
    assert len(list((term + term).parameters())) == 2  # not doubled


# --- teachers that show more, less or nothing


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("scale", [True, False])
def test_closed_teacher_without_limits_teaches_like_the_open_one(temperature, scale):
    model, inputs = net(4), torch.randn(6, 1, 12, 12, generator=GENERATOR)
    term = LogitKD(temperature, scale=scale)
    student = Outputs(logits=STUDENT)
    losses = [
        term(Lesson(student, TARGET, teacher.show(inputs)))[0]
        for teacher in (FrozenTeacher(model), ClosedTeacher(model))
    ]
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize(
    "term",
    [
        LogitKD(divergence="reverse"),
        LogitKD(divergence="jensen-shannon"),
        DecoupledKD(),
        StandardizedKD(),
    ],
    ids=repr,
)
def test_closed_teacher_cannot_teach_what_needs_logits(term):
    shown = Outputs(probabilities=TEACHER.softmax(dim=1))
    with pytest.raises(ValueError, match="logits"):
        term(Lesson(Outputs(logits=STUDENT), TARGET, shown))


@pytest.mark.parametrize("term", [LogitKD(), DecoupledKD(), StandardizedKD()], ids=repr)
def test_missing_teacher(term):
    with pytest.raises(ValueError, match="teacher"):
        term(Lesson(Outputs(logits=STUDENT), TARGET))


@pytest.mark.parametrize(
    ("make", "error", "argument"),
    [
        (lambda: CrossEntropy(label_smoothing=1.0), ValueError, "label_smoothing"),
        (lambda: CrossEntropy(label_smoothing="a"), TypeError, "label_smoothing"),
        (lambda: LogitKD(temperature=0), ValueError, "temperature"),
        (lambda: LogitKD(temperature=True), TypeError, "temperature"),
        (lambda: LogitKD(divergence="sideways"), ValueError, "divergence"),
        (lambda: DecoupledKD(alpha=-1), ValueError, "alpha"),
        (lambda: DecoupledKD(beta=math.nan), ValueError, "beta"),
        (lambda: DecoupledKD(temperature=-1), ValueError, "temperature"),
        (lambda: StandardizedKD(temperature=math.inf), ValueError, "temperature"),
    ],
)
def test_bad_setting_is_named_when_the_term_is_made(make, error, argument):
    with pytest.raises(error, match=argument):
        make()


def test_empty_objective():
    with pytest.raises(ValueError, match="term"):
        Objective([])
