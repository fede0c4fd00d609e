"""A student that keeps its teacher's classifier."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import images, net, same, train, weights

from kdcourse import metrics, models
from kdcourse.errors import ArgumentError
from kdcourse.methods.reused_classifier import SimKD, matched_features_loss, reuse_classifier

LOSSES = {"reused classifier": matched_features_loss}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(3, 2, 4, 4, seed=1), draw(3, 2, 2, 2, seed=2)


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


def test_equals_the_definition():
    own, theirs = draw(2, 3, 2, 2, seed=1), draw(2, 3, 2, 2, seed=2)
    pairs = [*zip(own.flatten().tolist(), theirs.flatten().tolist(), strict=True)]
    expected = sum((s - t) ** 2 for s, t in pairs) / len(pairs)
    assert matched_features_loss(own, theirs).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_larger_map_is_pooled(swapped):
    pooled = F.avg_pool2d(STUDENT, 2)
    one, other = (TEACHER, STUDENT) if swapped else (STUDENT, TEACHER)
    torch.testing.assert_close(matched_features_loss(one, other), F.mse_loss(pooled, TEACHER))


def test_vectors_and_tokens():
    own, theirs = draw(3, 4, seed=1), draw(3, 4, seed=2)
    torch.testing.assert_close(matched_features_loss(own, theirs), F.mse_loss(own, theirs))
    tokens = [draw(3, 5, 4, seed=seed) for seed in (1, 2)]
    value = matched_features_loss(*tokens, channel_dim=-1, class_token=True)
    torch.testing.assert_close(value, F.mse_loss(tokens[0][:, 1:], tokens[1][:, 1:]))


def test_another_number_of_channels_is_refused():
    with pytest.raises(ArgumentError, match="as many channels"):
        matched_features_loss(STUDENT[:, :1], TEACHER)


# --- the student


def parts(model):
    body = nn.Sequential(model.stem, model.stage1, model.stage2, model.stage3)
    return body, nn.Sequential(model.embedding, model.classifier)


def reused(teacher, seed=1):
    body, _ = parts(net(seed=seed))
    return reuse_classifier(body, parts(teacher)[1], (8, 16), seed=seed)


def test_the_projection_is_the_papers():
    teacher = net(4, seed=2)
    student = reused(teacher)
    convolutions = [m for m in student.projection if isinstance(m, nn.Conv2d)]
    assert [tuple(m.weight.shape) for m in convolutions] == [
        (8, 8, 1, 1),
        (8, 8, 3, 3),
        (16, 8, 1, 1),
    ]
    assert not any(weight.requires_grad for weight in student.classifier.parameters())
    assert all(weight.requires_grad for weight in teacher.parameters())
    assert same(weights(reused(teacher)), weights(student))
    inputs = images().inputs()
    assert student(inputs).shape == teacher(inputs).shape


def test_one_that_shows_the_teachers_features_predicts_as_the_teacher_does():
    teacher = net(4, seed=2).eval()
    body, classifier = parts(teacher)
    student = reuse_classifier(body, classifier, (16, 16)).eval()
    student.projection = nn.Identity()
    inputs = images().inputs()
    torch.testing.assert_close(student(inputs), teacher(inputs))


def test_it_learns_without_a_label_and_the_classifier_stays():
    data = images(192)
    teacher = net(4, seed=2)
    train(teacher, epochs=8)
    student = reused(teacher)
    before = weights(student.classifier)
    term = SimKD(("projection", "stage3"))
    train(student, term, train=data.unlabelled(), teacher=teacher, epochs=8)
    assert same(weights(student.classifier), before)
    assert metrics.accuracy(student, data) > 0.9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widths": (0, 4)}, "widths"),
        ({"widths": 4}, "widths"),
        ({"widths": (2, 4), "reduction": 0}, "reduction"),
        ({"widths": (2, 4), "classifier": "fc"}, "classifier"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    given = {"body": nn.Identity(), "classifier": nn.Identity(), **given}
    with pytest.raises((ValueError, TypeError), match=message):
        reuse_classifier(**given)


def test_a_classifier_with_batch_norm_and_dropout_stays_the_teachers():
    teacher = net(4, seed=2).train()
    body, classifier = (
        parts(net())[0],
        nn.Sequential(nn.BatchNorm2d(16), nn.Dropout(0.5), *parts(teacher)[1]),
    )
    student = reuse_classifier(body, classifier, (8, 16), seed=1)
    before = weights(classifier)
    train(student, SimKD(("projection", "stage3")), teacher=teacher)
    assert same(weights(student.classifier), before)
    assert not student.classifier.training
    assert classifier.training  # the given one stays as it is


# --- nets of ours, which are cut by themselves


def test_nets_of_ours_are_cut_before_their_embedding():
    teacher, inputs = net(4, seed=2).eval(), images().inputs()
    student, other = reuse_classifier(net(seed=1), teacher, seed=1), reused(teacher)
    found = list(weights(student).values())
    assert all(map(torch.equal, found, weights(other).values()))
    assert torch.equal(student.eval()(inputs), other.eval()(inputs))
    with models.capture(student, ["body.stage2", "projection"]) as shown:
        student(inputs)
    assert shown["projection"].shape[1] == teacher.classifier.in_features


def test_the_widths_of_other_nets_must_be_told():
    body, classifier = parts(net())
    for pair in ((body, net(4)), (net(), classifier), (body, classifier)):
        with pytest.raises(ArgumentError, match="widths must be told for body and classifier"):
            reuse_classifier(*pair)
