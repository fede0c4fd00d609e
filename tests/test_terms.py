"""The terms on layers and gradients, in training; those on logits are in test_objective.py."""

import pytest
import torch
import torchvision
from torch import nn
from toys import CLASSES, images, net, same, train, weights

from kdcourse import feature, relational
from kdcourse.models import capture
from kdcourse.teachers import ClosedTeacher
from kdcourse.training import (
    AttentionTransfer,
    CrossEntropy,
    FeatureHint,
    Lesson,
    LogitKD,
    Objective,
    Outputs,
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


@every_term
def test_every_term_changes_the_student_and_falls(make):
    alone, taught = net(), net()
    train(alone, epochs=4)
    history = train(taught, CrossEntropy() + make(), teacher=TEACHER, epochs=4)
    assert not same(weights(alone), weights(taught))
    (name,) = [n for n in history.rows[0] if n in make().names]
    assert history[name][-1] < history[name][0]


@every_term
def test_every_term_names_itself(make):
    assert Objective.__repr__(make())
    for name in make().names:
        assert name in {
            "attention_transfer",
            "feature_hint",
            "saliency",
            "rkd_distance",
            "rkd_angle",
            "similarity_preserving",
        }


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


def test_attention_sums_over_layers():
    student, inputs = net(), images().inputs()[:16]
    term = AttentionTransfer(STAGES)
    with capture(student, STAGES) as one, capture(TEACHER, STAGES) as other, torch.no_grad():
        student.eval()(inputs), TEACHER.eval()(inputs)
    expected = sum(feature.attention_transfer_loss(one[s], other[s]) for s in STAGES)
    lesson = Lesson(Outputs(features=one), torch.zeros(16).long(), Outputs(features=other))
    assert term.loss(lesson).item() == pytest.approx(expected.item())
    two = RKDDistance(["stage1", "stage3"]).loss(lesson).item()
    assert two == pytest.approx(
        sum(
            relational.rkd_distance_loss(one[s].flatten(1), other[s].flatten(1)).item()
            for s in ("stage1", "stage3")
        )
    )


@pytest.mark.parametrize("term", [RKDDistance, RKDAngle])
@pytest.mark.parametrize("size", [33, 34])
def test_a_last_batch_without_relations_does_not_end_the_training(term, size):
    history = train(net(), CrossEntropy() + term(), teacher=TEACHER, train=images(size))
    assert len(history) == 2


def test_the_projection_of_a_hint_is_trained_too():
    term = hint()
    before = weights(term)
    train(net(), CrossEntropy() + term, teacher=TEACHER)
    assert not same(before, weights(term))


def test_saliency_makes_the_student_sensitive_to_the_teachers_pixels():
    data = images()

    def cosine(student):
        gradients = [
            feature.input_gradient(m.eval(), data.inputs(), data.target).flatten(1)
            for m in (student, TEACHER)
        ]
        return float(torch.cosine_similarity(*gradients).mean())

    alone, taught = net(), net()
    train(alone, epochs=6)
    train(taught, CrossEntropy() + 3 * Saliency(), teacher=TEACHER, epochs=6)
    assert cosine(taught) > cosine(alone) + 0.05


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
