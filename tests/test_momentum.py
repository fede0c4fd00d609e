import copy
import math

import pytest
import torch
from torch import nn
from toys import Scores, images, net, same, train, weights

from kdcourse import metrics
from kdcourse.teachers import MomentumTeacher, cosine_momentum, mean_teacher_momentum
from kdcourse.training import CrossEntropy, LogitKD, constant

INPUTS = images(16).inputs()


def test_it_starts_as_a_copy():
    student = net()
    teacher = MomentumTeacher(student)
    assert same(weights(teacher.model), weights(student))
    assert not {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_an_update_averages_weights_and_buffers():
    student = net()
    teacher, old = MomentumTeacher(student, 0.9), weights(student)
    train(student, epochs=1)
    new = weights(student)
    teacher.update(student, 1)
    for name, value in weights(teacher.model).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.9 * old[name] + 0.1 * new[name])
        else:
            assert torch.equal(value, new[name])
    assert any("running_mean" in name for name in old)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize(("momentum", "whose"), [(1.0, "old"), (0.0, "new")])
def test_the_extremes_keep_and_copy(momentum, whose):
    student = net()
    teacher, old = MomentumTeacher(student, momentum), weights(student)
    train(student, epochs=1)
    teacher.update(student, 1)
    expected = {"old": old, "new": weights(student)}[whose]
    for name, value in weights(teacher.model).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])


def test_training_updates_it_after_every_step():
    student, steps = net(), []
    teacher = MomentumTeacher(student, lambda step: steps.append(step) or 0.5)
    train(student, teacher=teacher, epochs=2)
    assert steps == [1, 2, 3, 4, 5, 6]


def test_its_logits_are_found_as_those_of_the_student():
    student, plain = Scores(), net()
    histories = [
        train(one, CrossEntropy() + LogitKD(2), teacher=MomentumTeacher(one), epochs=1, **found)
        for one, found in ((plain, {}), (student, {"output": lambda returned: returned["scores"]}))
    ]
    assert histories[0]["logit_kd"] == histories[1]["logit_kd"]


def test_a_step_moves_the_average_towards_where_the_student_is_after_it():
    student = net()
    teacher, old = MomentumTeacher(student, 0.75), weights(student)
    train(student, teacher=teacher, epochs=1, batch_size=96, scheduler=constant)
    new, moved = weights(student), weights(teacher.model)
    for name in dict(student.named_parameters()):
        torch.testing.assert_close(moved[name], 0.75 * old[name] + 0.25 * new[name])
    assert (new["classifier.weight"] - old["classifier.weight"]).abs().max() > 0.01


def test_it_can_be_followed_without_being_asked():
    student, alone, start, data = net(), net(), net(), images(20)
    history = train(student, teacher=MomentumTeacher(student, 1.0), validation=data, epochs=6)
    train(alone, epochs=6)
    assert same(weights(student), weights(alone))
    # The average has not moved; its statistics of batch norm neither.
    assert history["teacher_validation_accuracy"] == [metrics.accuracy(start, data)] * 6
    assert history["validation_accuracy"][-1] == metrics.accuracy(student, data)
    assert metrics.accuracy(student, data) != metrics.accuracy(start, data)


def test_no_gradient_reaches_it():
    student = net()
    teacher = MomentumTeacher(student, 0.9)
    train(student, CrossEntropy() + LogitKD(1), teacher=teacher, epochs=1)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher(INPUTS).requires_grad


class Interrupting:
    """Views that end the training after so many batches."""

    def __init__(self, left):
        self.left = left

    def __call__(self, pixels, target, generator):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return pixels, pixels, target

    def __repr__(self):
        return "Interrupting"


def test_an_interrupted_run_takes_it_up_again(tmp_path):
    def run(path, batches):
        student = net()
        teacher = MomentumTeacher(student, mean_teacher_momentum())
        options = {"epochs": 3, "checkpoint": path, "views": Interrupting(batches)}
        train(student, teacher=teacher, **options)
        return student, teacher

    with pytest.warns(UserWarning, match="interrupted after 1 of 3"):
        run(tmp_path / "run.pt", batches=4)
    student, teacher = run(tmp_path / "run.pt", batches=99)
    whole, its_teacher = run(tmp_path / "whole.pt", batches=99)
    assert same(weights(student), weights(whole))
    assert same(weights(teacher.model), weights(its_teacher.model))


def test_schedules():
    momentum = mean_teacher_momentum(0.9)
    assert [momentum(step) for step in (0, 1, 3, 1000)] == [0.0, 0.5, 0.75, 0.9]
    momentum = cosine_momentum(0.9, steps=10)
    assert momentum(0) == pytest.approx(0.9)
    assert momentum(5) == pytest.approx(0.95)
    assert momentum(10) == momentum(20) == 1.0
    assert cosine_momentum(steps=10)(0) == pytest.approx(0.996)
    assert mean_teacher_momentum()(10**6) == 0.999
    assert MomentumTeacher(net()).momentum == 0.996


def moved(schedule, steps=4):
    """The weights that a training's updates give to the average, step by step."""
    asked = []
    student = net()

    def momentum(step):
        asked.append(schedule(step))
        return asked[-1]

    train(student, teacher=MomentumTeacher(student, momentum), epochs=1, batch_size=96 // steps)
    return asked


def test_cosine_momentum_is_one_step_ahead_of_dino():
    steps, start = 4, 0.9
    # DINO's array has an entry for every step, counted from 0; step k takes entry k - 1.
    theirs = [1 + 0.5 * (start - 1) * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]
    ours = cosine_momentum(start, steps=steps)
    assert moved(ours) == pytest.approx([*theirs[1:], 1.0], rel=1e-12)
    assert moved(lambda step: ours(step - 1)) == pytest.approx(theirs, rel=1e-12)
    assert theirs[0] == start


def test_mean_teachers_momentum_is_that_of_its_code():
    # There the number of steps goes up first, then the average moves.
    theirs = [min(1 - 1 / (step + 1), 0.7) for step in (1, 2, 3, 4)]
    assert theirs == pytest.approx([1 / 2, 2 / 3, 0.7, 0.7])
    assert moved(mean_teacher_momentum(0.7)) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_bad_momentum_is_named(momentum):
    with pytest.raises(ValueError, match="momentum"):
        MomentumTeacher(net(), momentum)
    with pytest.raises(ValueError, match="momentum"):
        MomentumTeacher(net(), lambda step: momentum).update(net(), 1)


def test_it_follows_a_student_of_its_own_architecture_only():
    one = nn.Linear(2, 2)
    two = nn.Sequential(one, nn.Linear(2, 2))
    for own, other in ((one, two), (two, one)):
        with pytest.raises(ValueError, match="averages another model"):
            MomentumTeacher(own).update(other, 1)
    wider = nn.Linear(2, 1), nn.Linear(2, 3)  # the first would broadcast
    for other in wider:
        with pytest.raises(ValueError, match=r"weight has the shape .* in it, and"):
            train(other, teacher=MomentumTeacher(one), objective=LogitKD())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: mean_teacher_momentum(1.1), "most"),
        (lambda: cosine_momentum(-0.1, steps=3), "start"),
        (lambda: cosine_momentum(steps=0), "steps"),
    ],
)
def test_bad_schedules_are_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()


def test_it_can_be_copied():
    teacher = MomentumTeacher(net(), 0.9)
    assert torch.equal(copy.deepcopy(teacher)(INPUTS), teacher(INPUTS))


# --- images without labels


def test_unlabelled_images_cost_nothing_and_do_not_count():
    data = images(32)
    mixed = data[:16] + data[16:].unlabelled()
    history = train(net(), train=mixed, batch_size=32, epochs=1)
    logits = net()(mixed.normalize(mixed.pixels))  # train mode, as in training
    expected = torch.nn.functional.cross_entropy(logits[:16], data.target[:16]).detach()
    assert history["loss"][0] == pytest.approx(float(expected), rel=1e-5)
    right = (logits[:16].argmax(dim=1) == data.target[:16]).float().mean()
    assert history["train_accuracy"][0] == pytest.approx(float(right))


def test_without_any_label_there_is_no_accuracy():
    options = {"teacher": net(4), "train": images(32).unlabelled(), "epochs": 1}
    history = train(net(), LogitKD(4), **options)
    assert history["loss"] == history["logit_kd"] != [0.0]
    assert "train_accuracy" not in history.last
    with pytest.raises(ValueError, match=r"without labels, which CrossEntropy\(.* needs"):
        train(net(), CrossEntropy() + LogitKD(4), **options)
