"""The checks are right: what is right passes by any way, what is wrong fails in public by any."""

import re
import runpy
from dataclasses import replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdcourse import feature, logit, metrics, relational, teachers, tips
from kdcourse.homework import expect, release
from kdcourse.homework.judge import check
from kdcourse.language import writing
from kdcourse.training import CrossEntropy, LogitKD, constant

HERE = Path(__file__).parent
NAMES = release.names()
SLOW = "train_student"  # the one question that trains


def answers(folder):
    """The answers in a folder beside this file, ``question__what``, by assignment and name."""
    return {
        (path.stem, name): function
        for path in sorted((HERE / folder).glob("*.py"))
        for name, function in runpy.run_path(str(path)).items()
        if "__" in name.strip("_")
    }


WRONG, RIGHT = answers("wrong"), answers("right")


def part(question, keep):
    """The question with some of its checks: those whose number is to be kept."""
    head, *checks = question.checks.split("\n@test_case")
    kept = [one for number, one in enumerate(checks) if keep(number)]
    return replace(question, checks="\n@test_case".join([head, *kept]))


def public(question):
    return part(question, lambda number: number % 2 == 0)


def named(assignments, name, question):
    return next(one for one in assignments[name].questions if one.name == question)


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


def token_kd_loss(student_logits, teacher_logits, target):
    return logit.kd_loss(student_logits, teacher_logits, 1.0, class_dim=-1, mask=target != -1)


def next_token(logits, temperature, top_p):
    likely = writing._nucleus(F.softmax(logits / temperature, dim=1), top_p)
    return likely / likely.sum(dim=1, keepdim=True)


def on_policy_step(student, teacher, optimizer, prompts, length, generator):
    none = teacher(prompts).shape[-1]  # no token ends a text
    texts = writing.sample(student, prompts, length=length, end=none, generator=generator)
    judged = torch.arange(length).expand(len(texts), -1)
    judged = (judged >= prompts.shape[1] - 1) & (judged < length - 1)
    predictions = student(texts), teacher(texts)
    optimizer.zero_grad()
    logit.kd_loss(*predictions, 1.0, divergence="reverse", class_dim=-1, mask=judged).backward()
    optimizer.step()
    return texts


def exposure_gap(data, own):
    def means(side):
        student, teacher, target = side
        number = (target != -1).cumsum(dim=1) * (target != -1)
        masks = [number == place + 1 for place in range(int(number.max()))]
        loss = partial(logit.kd_loss, student, teacher, 1.0, class_dim=-1)
        return torch.stack([loss(mask=mask) for mask in masks])

    first, second = means(own), means(data)
    shorter = min(len(first), len(second))
    return first[:shorter] - second[:shorter]


def bump_slopes(teacher_logits, mean):
    def losses(mean):
        student = -((torch.arange(len(teacher_logits)) - mean) ** 2) / 2
        kinds = ("forward", "reverse")
        pair = student[None], teacher_logits.double()[None]
        return torch.stack([logit.kd_loss(*pair, 1.0, divergence=kind) for kind in kinds])

    return torch.func.jacrev(losses)(torch.tensor(mean, dtype=torch.float64))


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
    "4_language": {
        "token_kd_loss": token_kd_loss,
        "next_token": next_token,
        "on_policy_step": on_policy_step,
        "exposure_gap": exposure_gap,
        "bump_slopes": bump_slopes,
    },
}


@pytest.mark.parametrize(("name", "question"), [(a, q) for a in COURSE for q in COURSE[a]])
def test_the_course_meets_every_requirement(name, question, assignments):
    mark = check(named(assignments, name, question), COURSE[name][question])
    assert mark.points == mark.of, mark.remarks


@pytest.mark.parametrize(("name", "question"), [(a, q) for a in COURSE for q in COURSE[a]])
def test_one_mistake_is_not_taken_for_another(name, question, assignments, monkeypatch):
    """What a check knows of mistakes can be told apart on its public inputs."""
    known = []

    def value(answer, expected, where, mistakes=None, tolerance=1e-3):
        known.append((expected, mistakes or {}, tolerance))

    monkeypatch.setattr(expect, "value", value)
    check(public(named(assignments, name, question)), COURSE[name][question])
    for expected, mistakes, tolerance in known:
        for words, wrong in mistakes.items():
            assert abs(wrong - expected) > tolerance * max(abs(wrong), abs(expected), 0.1), words
        for (one, first), (other, second) in combinations(mistakes.items(), 2):
            assert abs(first - second) > 1e-5 * max(abs(first), abs(second)), (one, other)


@pytest.mark.parametrize("name", NAMES)
def test_every_question_has_answers_to_try(name, assignments):
    """Right ones, wrong ones, and of the course itself all but the one that trains."""
    asked = {question.name for question in assignments[name].questions if question.checks}
    assert asked - set(COURSE[name]) <= {SLOW}
    for answers, least in ((WRONG, 4), (RIGHT, 1)):
        for question in asked:
            own = [one for a, one in answers if a == name and one.startswith(f"{question}__")]
            assert len(own) >= least, question
        assert {one.split("__")[0] for a, one in answers if a == name} == asked
    assert sum(a == name for a, _ in RIGHT) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_solutions_do_not_lean_on_each_other(name, assignments, solutions):
    asked = {question.name for question in assignments[name].questions if question.checks}
    for question in asked:
        assert not asked & set(solutions[name][question].__code__.co_names)


QUICK = [(name, way) for name, way in RIGHT if not way.startswith(SLOW)]


@pytest.mark.parametrize(("name", "way"), QUICK, ids=lambda part: part)
def test_unusual_ways_are_right(name, way, assignments):
    question = named(assignments, name, way.split("__")[0])
    requirements = check(question, RIGHT[name, way]).requirements
    assert requirements
    assert all(one.met for one in requirements), requirements


@pytest.fixture(scope="module")
def tried(assignments):
    """Try a wrong answer on the public checks, or on all; the requirements that it does not meet.

    The one that trains is tried until the first public check that rejects it.
    """

    @cache
    def tried(name, mistake, everything):
        question = named(assignments, name, mistake.split("__")[0])
        steps = [question if everything else public(question)]
        if question.name == SLOW:
            steps = [part(question, lambda number, one=one: number == one) for one in (4, 2, 0)]
        marks = (check(step, WRONG[name, mistake]) for step in steps)
        lost = ([one for one in mark.requirements if not one.met] for mark in marks)
        return next(filter(None, lost), [])

    return tried


@pytest.mark.parametrize(("name", "mistake"), WRONG, ids=lambda part: part)
def test_what_is_wrong_is_rejected_in_public(name, mistake, tried):
    """Or it knows the inputs of the public checks, and is rejected on others."""
    if "__seen_" in mistake:
        assert not tried(name, mistake, False)
        lost = tried(name, mistake, True)
        assert lost
        assert all(one.elsewhere for one in lost)
    else:
        lost = tried(name, mistake, False)
        assert lost
        assert all(one.problem and one.advice for one in lost)


@pytest.mark.parametrize("name", NAMES)
def test_every_requirement_is_needed(name, assignments, tried):
    """Some wrong answer fails it."""
    failed = {one.about for a, mistake in WRONG if a == name for one in tried(name, mistake, False)}
    checks = "".join(question.checks for question in assignments[name].questions)
    required = re.findall(r'hidden=False.*?"""(.*?)"""', checks, re.DOTALL)
    assert len(required) > 15
    assert set(required) == failed


@pytest.mark.parametrize("name", NAMES)
def test_what_is_green_in_public_is_what_is_graded(name, assignments):
    """A plausible set with the usual mistakes earns what its public checks have shown.

    The question that trains is answered by its unusual way, which is right.
    """
    unusual = RIGHT["1_logit", "train_student__labels_and_teacher_apart"]
    answers = {SLOW: unusual, **runpy.run_path(str(HERE / "naive" / f"{name}.py"))}
    green = met = of = 0
    for question in assignments[name].questions:
        if question.checks:
            for one in check(question, answers[question.name]).requirements:
                of, green, met = of + 1, green + (not one.problem), met + one.met
                assert one.met or question.name != SLOW, one
    assert green - met <= 1
    assert met < of  # its mistakes are found


@pytest.mark.parametrize("name", NAMES)
def test_a_result_that_is_none_is_told_kindly(name, assignments):
    """Every check of a forgotten ``return`` says so, or fails by what the function should do."""
    for question in assignments[name].questions:
        if question.checks and question.name != SLOW:
            for one in check(public(question), lambda *_, **__: None).requirements:
                assert one.problem
                assert "Error" not in one.problem


NOTHING = {
    "nothing": lambda *_, **__: None,
    "zero": lambda *_, **__: torch.tensor(0.0),
    "one": lambda *_, **__: 1.0,
    "zeros": lambda first, *_, **__: torch.zeros_like(first),
}


@pytest.mark.parametrize("what", NOTHING)
@pytest.mark.parametrize("name", NAMES)
def test_no_points_for_nothing(name, what, assignments):
    for question in assignments[name].questions:
        if question.checks and question.name != SLOW:
            for one in check(question, NOTHING[what]).requirements:
                assert not one.met, question.name
