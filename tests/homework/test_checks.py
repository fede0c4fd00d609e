"""The checks are right: kdcourse passes them, and every mistake is found where it is."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdcourse import feature, logit, metrics, relational, teachers, tips
from kdcourse.homework.judge import check
from kdcourse.training import CrossEntropy, LogitKD, constant

WRONG = {
    (path.stem, name): function
    for path in sorted((Path(__file__).parent / "wrong").glob("*.py"))
    for name, function in runpy.run_path(str(path)).items()
    if "__" in name.strip("_")
}
SLOW = "train_student"  # the one question that trains


def one_by_one(question):
    """The question with one check at a time: as one that fails takes all points, it may be last."""
    head, *checks = question.checks.split("\n@test_case")
    return [replace(question, checks=f"{head}\n@test_case{check}") for check in checks]


def graded(questions, functions, names=None):
    """Points that functions reach in the questions (all by default), and what was wrong."""
    marks = [
        check(question, functions)
        for question in questions
        if question.checks and (names is None or question.name in names)
    ]
    return {mark.question: (mark.points, mark.of, mark.remarks) for mark in marks}


def lost(marks):
    return {name: remarks for name, (points, of, remarks) in marks.items() if points != of}


# What the course itself has for a question.


def kd_gradient(student_logits, teacher_logits, temperature):
    student = student_logits.clone().requires_grad_()
    loss = logit.kd_loss(student, teacher_logits, temperature)
    return torch.autograd.grad(loss, student)[0]


def projected_loss(student_features, teacher_features, weight, bias):
    wide = torch.promote_types(torch.float32, weight.dtype)
    hint = feature.Hint(weight.shape[1], weight.shape[0])
    own = {"projection.weight": weight[:, :, None, None].to(wide), "projection.bias": bias.to(wide)}
    pooled = F.adaptive_avg_pool2d(student_features.to(wide), teacher_features.shape[-2:])
    return torch.func.functional_call(hint, own, (pooled, teacher_features))


def ema_update(teacher, student, momentum):
    average = teachers.MomentumTeacher(teacher, momentum)
    average.update(student, 1)
    teacher.load_state_dict(average.model.state_dict())


def mutual_step(students, optimizers, inputs, target):
    rates = iter([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
    teachers.mutual_learning(
        students,
        [(inputs, target)],
        CrossEntropy() + LogitKD(1.0),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=next(rates)),
        scheduler=constant,
        epochs=1,
        progress=False,
    )


def magnitude_masks(weights, sparsity):
    net = nn.Module()
    for number, weight in enumerate(weights):
        layer = nn.Linear(1, 1)
        layer.weight = nn.Parameter(weight.clone().view(len(weight), -1))
        net.add_module(str(number), layer)
    pruned = teachers.prune(net, sparsity)
    masks = [layer.parametrizations.weight[0].mask for layer in pruned.children()]
    return [mask.view(weight.shape).bool() for mask, weight in zip(masks, weights, strict=True)]


def mixup_views(pixels, generator):
    view = tips.FunctionMatching(lambda seen, _: seen)
    target = torch.zeros(len(pixels), dtype=torch.int64)
    student, teacher, _ = view(pixels.round().to(torch.uint8), target, generator)
    return student.float(), teacher.float()


COURSE = {
    "1_logit": {
        "softened_softmax": logit.softmax,
        "kd_loss": logit.kd_loss,
        "kd_gradient": kd_gradient,
        "slide_cross_entropy": lambda s, t, tau: logit.kd_cross_entropy(s, t, tau, scale=False),
    },
    "2_feature_relational": {
        "attention_map": feature.attention_map,
        "attention_loss": feature.attention_transfer_loss,
        "projected_loss": projected_loss,
        "rkd_distance_loss": relational.rkd_distance_loss,
        "rkd_angle_loss": relational.rkd_angle_loss,
        "recall_at_1": lambda embeddings, target: metrics.recall_at(1, embeddings, target),
    },
    "3_teachers_tips": {
        "vote_accuracy": teachers.majority_vote_accuracy,
        "ema_update": ema_update,
        "mutual_step": mutual_step,
        "magnitude_masks": magnitude_masks,
        "mixup_views": mixup_views,
    },
}


@pytest.mark.parametrize("name", COURSE)
def test_the_course_passes_every_check(name, assignments):
    marks = graded(assignments[name].questions, COURSE[name], COURSE[name])
    assert set(marks) == set(COURSE[name])
    assert not lost(marks)
    asked = {question.name for question in assignments[name].questions if question.checks}
    assert asked - set(COURSE[name]) <= {SLOW}  # which the solutions answer


def test_there_are_many_wrong_solutions(assignments):
    assert len(WRONG) >= 60
    for assignment in assignments.values():
        for question in assignment.questions:
            mistakes = [name for _, name in WRONG if name.startswith(f"{question.name}__")]
            assert len(mistakes) >= 4 or not question.checks, question.name


@pytest.mark.parametrize("name", COURSE)
def test_solutions_do_not_lean_on_each_other(name, assignments, solutions):
    asked = {question.name for question in assignments[name].questions if question.checks}
    for question in asked:
        assert not asked & set(solutions[name][question].__code__.co_names)


@pytest.mark.parametrize(("name", "mistake"), WRONG, ids=lambda part: part)
def test_a_mistake_loses_exactly_its_question(name, mistake, assignments, solutions):
    question = mistake.split("__")[0]
    fast = {one.name for one in assignments[name].questions} - {SLOW}
    functions = {**solutions[name], question: WRONG[name, mistake]}
    marks = graded(assignments[name].questions, functions, fast)
    if question == SLOW:
        (slow,) = (one for one in assignments[name].questions if one.name == SLOW)
        steps = (graded([one], functions) for one in one_by_one(slow))
        marks |= next(filter(lost, steps), {})
    assert set(lost(marks)) == {question}
    assert marks[question][0] == 0
    assert marks[question][2]  # and says what is wrong


@pytest.mark.parametrize("name", COURSE)
def test_public_checks_say_how_to_go_on(name, assignments):
    """A question has public checks with long messages, and hidden checks that decide."""
    for question in assignments[name].questions:
        if question.checks:
            assert question.checks.count("hidden=False") >= 1
            assert question.checks.count("hidden=True") >= 2
            assert "all_or_nothing = True" in question.checks
