"""The terms on layers and gradients, in training; those on logits are in test_objective.py."""

import pytest
import torch
import torchvision
from every_term import Shown
from torch import nn
from toys import CLASSES, images, net, same, train, weights

from kdcourse import feature, relational
from kdcourse.teachers import ClosedTeacher
from kdcourse.training import (
    AttentionTransfer,
    CrossEntropy,
    FeatureHint,
    LogitKD,
    RKDAngle,
    RKDDistance,
    Saliency,
    SimilarityPreserving,
    fit_in_stages,
    stages,
)

STAGES = ["stage1", "stage2", "stage3"]


def hint(student=4, teacher=8, **options):
    torch.manual_seed(0)
    return FeatureHint("stage2", feature.Hint(student, teacher, **options))


TERMS = {
    "attention": lambda: AttentionTransfer(STAGES),
    "attention, squared": lambda: 1000 * AttentionTransfer(["stage1"], squared=True),
    "hint": hint,
    "saliency": Saliency,
    "distance": RKDDistance,
    "angle": RKDAngle,
    "similarity": lambda: 100 * SimilarityPreserving(["stage3"]),
}
every_term = pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)


def teacher():
    """A wider net of the same kind, trained a little."""
    model = net(4, seed=3)
    train(model)
    model.zero_grad()
    return model


TEACHER = teacher()


def summed(loss, *layers):
    """A loss of student's and teacher's features, added up over layers."""
    return lambda own, theirs: sum(loss(own[layer], theirs[layer]) for layer in layers)


def squared(power):
    return lambda s, t: feature.attention_transfer_loss(s, t, power, squared=True)


SETTINGS = {
    "power": (
        AttentionTransfer(["stage1", "stage2"], 3),
        summed(lambda s, t: feature.attention_transfer_loss(s, t, 3), "stage1", "stage2"),
    ),
    "squared": (AttentionTransfer(["stage1"], 1, squared=True), summed(squared(1), "stage1")),
    "distances": (
        RKDDistance(["stage1", "embedding"]),
        summed(
            lambda s, t: relational.rkd_distance_loss(s.flatten(1), t.flatten(1)),
            "stage1",
            "embedding",
        ),
    ),
    "angles": (RKDAngle(), summed(relational.rkd_angle_loss, "embedding")),
    "similarity": (
        SimilarityPreserving(["stage2", "stage1"]),
        summed(relational.similarity_preserving_loss, "stage1", "stage2"),
    ),
}


@pytest.mark.parametrize(("term", "function"), SETTINGS.values(), ids=SETTINGS)
def test_a_term_is_its_function_with_its_settings(term, function):
    lesson = Shown().lesson()
    expected = function(lesson.student.features, lesson.teacher.features)
    assert term.loss(lesson).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "column", "words"),
    [
        (
            "attention, squared",
            "attention_transfer",
            "1000 * AttentionTransfer(student_layers=('stage1',), "
            "teacher_layers=('stage1',), power=2, squared=True)",
        ),
        ("saliency", "saliency", "Saliency()"),
        (
            "angle",
            "rkd_angle",
            "RKDAngle(student_layers=('embedding',), teacher_layers=('embedding',))",
        ),
    ],
)
def test_a_term_names_itself_and_its_settings(name, column, words):
    assert TERMS[name]().names == [column]
    assert repr(TERMS[name]()) == words


@every_term
def test_the_teacher_is_left_alone(make):
    before, student = weights(TEACHER), net()
    train(student, CrossEntropy() + make(), teacher=TEACHER)
    assert same(before, weights(TEACHER))
    assert all(p.grad is None for p in TEACHER.parameters())


def test_layers_of_other_models_by_pairs_of_names():
    big = torchvision.models.resnet18(num_classes=CLASSES)
    big.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    pairs = [("stage1", "layer1"), ("stage2", "layer2")]
    objective = CrossEntropy() + AttentionTransfer(pairs) + RKDAngle([("embedding", "avgpool")])
    history = train(net(), objective, teacher=big.eval(), epochs=1)
    assert history["attention_transfer"][0] > 0
    assert history["rkd_angle"][0] > 0


@pytest.mark.parametrize("term", [RKDDistance, RKDAngle])
@pytest.mark.parametrize("size", [33, 34])
def test_a_last_batch_without_relations_does_not_end_the_training(term, size):
    history = train(net(), CrossEntropy() + term(), teacher=TEACHER, train=images(size))
    assert len(history) == 2


def test_what_a_closed_teacher_does_not_show_is_a_clear_error():
    closed = ClosedTeacher(TEACHER)
    with pytest.raises(ValueError, match="closed teacher shows probabilities only, not the layer"):
        train(net(), CrossEntropy() + AttentionTransfer(STAGES), teacher=closed)
    with pytest.raises(ValueError, match="ClosedTeacher shows no input gradients"):
        train(net(), CrossEntropy() + Saliency(), teacher=closed)


def test_saliency_and_compile_exclude_each_other():
    with pytest.raises(ValueError, match="cannot differentiate twice"):
        train(net(), CrossEntropy() + Saliency(), teacher=TEACHER, compile=True)


@pytest.mark.parametrize("bad", [[], "stage1", [("a", "b", "c")], [("a", 1)]])
def test_layers_that_are_no_list_of_names_or_pairs(bad):
    with pytest.raises((ValueError, TypeError), match="layers"):
        AttentionTransfer(bad)


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="has no layer 'stage9'"):
        train(net(), CrossEntropy() + RKDDistance(["stage9"]), teacher=TEACHER)


# FitNets' two stages.


def test_stage_one_trains_only_up_to_the_guided_layer(monkeypatch):
    student, entered = net(), []
    before = weights(student)

    def spy(student, *arguments, **options):
        entered.append(weights(student))
        return original(student, *arguments, **options)

    original = stages.fit
    monkeypatch.setattr(stages, "fit", spy)
    options = {"teacher": TEACHER, "hint_epochs": 2, "epochs": 1, "batch_size": 32}
    fit_in_stages(student, images(), hint(), device="cpu", progress=False, **options)
    one, two = entered
    assert same(one, before)
    for name, value in two.items():  # weights, and statistics of batch norm
        behind = name.startswith(("stage3", "classifier"))
        assert torch.equal(value, before[name]) == behind, name


def test_stage_two_asks_the_teacher_if_its_objective_does():
    first, second = fit_in_stages(
        net(),
        images(),
        hint(),
        CrossEntropy() + LogitKD(4),
        teacher=TEACHER,
        hint_epochs=1,
        epochs=1,
        validation=images(seed=1),
        progress=False,
        device="cpu",
    )
    assert set(first.rows[0]) >= {"feature_hint"}
    assert set(second.rows[0]) >= {"cross_entropy", "logit_kd", "validation_accuracy"}


def test_a_first_stage_without_layers_is_an_error():
    with pytest.raises(ValueError, match="hint must look at layers"):
        fit_in_stages(net(), images(), LogitKD(4), teacher=TEACHER)


def test_two_stages_resume(tmp_path):
    options = {"teacher": TEACHER, "hint_epochs": 2, "progress": False, "device": "cpu"}
    whole = net()
    fit_in_stages(whole, images(), hint(), epochs=2, **options)
    path = tmp_path / "run.pt"
    parts = net()
    fit_in_stages(parts, images(), hint(), epochs=2, checkpoint=path, **options)
    assert same(weights(whole), weights(parts))
    again = net()
    fit_in_stages(again, images(), hint(), epochs=2, checkpoint=path, **options)
    assert same(weights(whole), weights(again))
