import math

import pytest
import torch
from toys import images, net, same, train, weights

from kdcourse.augmentation import Noise, ResizedCrop
from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.teachers import (
    CrossedViews,
    MomentumTeacher,
    ProjectionHead,
    SelfDistillation,
    cosine_momentum,
    self_distill,
    spread,
    with_head,
)
from kdcourse.training import Lesson, Outputs
from kdcourse.training.schedules import one_cycle

INPUTS = images(8).inputs()


def lesson(student, teacher):
    return Lesson(Outputs(logits=student), torch.full((len(student),), -1), Outputs(logits=teacher))


def test_the_loss_is_the_formula():
    student, teacher = torch.randn(2, 6, 5, generator=replay(0)).double()
    term = SelfDistillation(5, 0.2, 0.05)
    term.centre = torch.linspace(-1, 1, 5)
    p = ((teacher - term.centre) / 0.05).softmax(dim=1)
    expected = -(p * (student / 0.2).log_softmax(dim=1)).sum(dim=1).mean()
    assert float(term.loss(lesson(student, teacher))) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("outputs", [4, 1024])
def test_a_centre_of_another_width_is_told(outputs):
    logits = torch.randn(3, 5)
    with pytest.raises(ArgumentError, match=f"outputs must be .*, 5, got {outputs}"):
        SelfDistillation(outputs).loss(lesson(logits, logits))
    with pytest.raises(ArgumentError, match="same shape"):
        SelfDistillation(5).loss(lesson(logits, torch.randn(3, 6)))


def naive_losses(batches, student_temperature=0.1, teacher_temperature=0.04, momentum=0.9):
    """DINO's losses of one batch after the other, in Python's own floats."""

    def log_softmax(z):
        log_sum = max(z) + math.log(math.fsum(math.exp(v - max(z)) for v in z))
        return [v - log_sum for v in z]

    centre = [0.0] * batches[0][0].shape[1]
    for student, teacher in batches:
        losses = []
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
            q = log_softmax([(v - c) / teacher_temperature for v, c in zip(t, centre, strict=True)])
            p = log_softmax([v / student_temperature for v in s])
            losses.append(-math.fsum(math.exp(a) * b for a, b in zip(q, p, strict=True)))
        columns = zip(centre, teacher.T.tolist(), strict=True)
        centre = [
            momentum * c + (1 - momentum) * math.fsum(column) / len(column) for c, column in columns
        ]
        yield math.fsum(losses) / len(losses)


def batches(dtype):
    return list(torch.randn(4, 2, 6, 5, generator=replay(0), dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("outputs", [None, 5])
@pytest.mark.parametrize("converted", [False, True])
def test_the_loss_and_its_centre_are_as_precise_as_what_the_nets_show(outputs, converted):
    term = SelfDistillation(outputs)
    if converted:
        term.double()
    expected = naive_losses(batches(torch.float64))
    for (student, teacher), right in zip(batches(torch.float64), expected, strict=True):
        value = term.loss(lesson(student, teacher))
        assert value.dtype == term.centre.dtype == torch.float64
        assert value.item() == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("outputs", [None, 5])
@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_is_judged_and_centred_in_float32(outputs, converted, dtype):
    term = SelfDistillation(outputs)
    if converted:
        term.to(dtype)
    expected = naive_losses([pair.double() for pair in batches(dtype)])
    for (student, teacher), right in zip(batches(dtype), expected, strict=True):
        value = term.loss(lesson(student, teacher))
        assert value.dtype == term.centre.dtype == torch.float32
        assert value.item() == pytest.approx(right, rel=1e-5)


def test_float64_by_default():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        student = with_head(net())
        shown = [student(images(n).inputs().double()) for n in (4, 8)]
        term, expected = SelfDistillation(), naive_losses([(z.detach(), z) for z in shown])
        for logits, right in zip(shown, expected, strict=True):
            assert term.loss(lesson(logits, logits)).item() == pytest.approx(right, rel=1e-12)
    finally:
        torch.set_default_dtype(before)


def test_a_head_is_of_the_kind_of_the_classifier():
    model = net().double()
    assert with_head(model)(INPUTS.double()).dtype == torch.float64
    assert torch.equal(
        with_head(model).classifier.prototypes, with_head(net()).classifier.prototypes
    )


def test_the_centre_is_a_running_mean():
    term = SelfDistillation(5, centre_momentum=0.9)
    teacher = torch.randn(6, 5, generator=replay(0))
    term.loss(lesson(teacher, teacher))
    torch.testing.assert_close(term.centre, 0.1 * teacher.mean(dim=0))
    still = SelfDistillation(5, centre_momentum=1.0)
    still.loss(lesson(teacher, teacher))
    assert torch.equal(still.centre, torch.zeros(5))


def test_crossed_views():
    pixels, target = images(4).pixels, images(4).target
    own, theirs, labels = CrossedViews(Noise(0.3))(pixels, target, replay(0))
    assert torch.equal(own[:4], theirs[4:])
    assert torch.equal(own[4:], theirs[:4])
    assert not torch.equal(own[:4], own[4:])
    assert torch.equal(labels, torch.cat([target, target]))


def test_a_head_takes_the_place_of_the_classifier():
    model = net()
    headed = with_head(model)
    logits = headed(INPUTS)
    assert logits.shape == (8, 64)
    assert float(logits.detach().abs().max()) <= 1 + 1e-6
    assert model(INPUTS).shape == (8, 4)
    assert same(weights(with_head(model)), weights(headed))
    assert with_head(model, outputs=9, hidden=5)(INPUTS).shape == (8, 9)
    with pytest.raises(ValueError, match="stage1"):
        with_head(model, "stage1")


def test_training_without_labels_moves_student_and_teacher():
    student = with_head(net())
    teacher = MomentumTeacher(student, 0.5)
    before = weights(student)
    objective = SelfDistillation()
    history = train(
        student,
        objective,
        teacher=teacher,
        train=images().unlabelled(),
        views=CrossedViews(Noise(0.1)),
    )
    assert "train_accuracy" not in history.last
    assert not same(weights(student), before)
    assert not same(weights(teacher.model), before)
    assert float(objective.centre.abs().max()) > 0


def test_labels_do_not_matter():
    ends = []
    for data in (images(), images().unlabelled()):
        student = with_head(net())
        train(
            student,
            SelfDistillation(),
            teacher=MomentumTeacher(student, 0.5),
            train=data,
            views=CrossedViews(Noise(0.1)),
        )
        ends.append(weights(student))
    assert same(*ends)


@pytest.mark.parametrize(
    ("probabilities", "kind", "information"),
    [
        (torch.full((6, 6), 1 / 6), "uniform", 0.0),
        (torch.eye(6)[[2] * 6], "one output", 0.0),
        (torch.eye(6), "none", math.log(6)),
    ],
    ids=["uniform", "one", "none"],
)
def test_collapse_is_detected(probabilities, kind, information):
    shown = spread(probabilities)
    assert shown.collapse == kind
    assert shown.information == pytest.approx(information, abs=1e-6)
    assert shown.share == pytest.approx(information / math.log(6), abs=1e-6)


def test_spread_wants_probabilities():
    with pytest.raises(ValueError, match="sum to one"):
        spread(torch.ones(3, 4))


def test_a_heads_outputs_are_cosines_with_its_prototypes():
    head, embedding = ProjectionHead(6, 9, 5, 4), torch.randn(3, 6, generator=replay(0))
    projected, shown = head.layers(embedding), head(embedding)
    for n in range(3):
        for k in range(9):
            cosine = torch.cosine_similarity(projected[n], head.prototypes[k], dim=0)
            torch.testing.assert_close(shown[n, k], cosine)


def test_self_distillation_is_its_parts():
    model, data = net(), images(32)
    before = weights(model)
    options = {"epochs": 2, "device": "cpu", "progress": False}
    found = self_distill(model, data, augment=ResizedCrop(), batch_size=16, seed=3, **options)
    assert same(weights(model), before)

    student = with_head(net(), seed=3)
    teacher = MomentumTeacher(student, cosine_momentum(0.95, steps=4))
    train(
        student,
        SelfDistillation(centre_momentum=0.5),
        teacher=teacher,
        train=data.unlabelled(),
        views=CrossedViews(ResizedCrop()),
        batch_size=16,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 0.001, weight_decay=1e-4),
        scheduler=one_cycle,
        seed=3,
    )
    assert same(weights(found), weights(teacher.model))
    assert all(p.requires_grad for p in found.parameters())
