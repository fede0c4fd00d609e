"""The teacher's decision as a label, and the token of a transformer that learns it."""

import math

import pytest
import timm
import torch
from torch.nn import functional as F

from kdcourse import CrossEntropy, HardDistillation, fit
from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.logit import kd_cross_entropy
from kdcourse.methods.hard_distillation import hard_distillation_loss
from kdcourse.models import capture
from kdcourse.objective import Lesson, Outputs
from kdcourse.teachers import ClosedTeacher
from kdcourse.training import Run, constant

K = 5
LOSSES = {"hard": hard_distillation_loss}


def drawn(seed, *shape):
    return 3 * torch.randn(shape, generator=replay(seed), dtype=torch.float64)


STUDENT, TEACHER = drawn(0, 6, K), drawn(1, 6, K)


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


def naive(s, t, temperature=None):
    """The definition at one place, in Python's own floats."""
    return math.log(math.fsum(math.exp(v) for v in s)) - s[t.index(max(t))]


def test_equals_the_definition_and_torchs_cross_entropy():
    value = hard_distillation_loss(STUDENT, TEACHER)
    rows = zip(STUDENT.tolist(), TEACHER.tolist(), strict=True)
    assert value.item() == pytest.approx(math.fsum(naive(s, t) for s, t in rows) / 6, rel=1e-12)
    torch.testing.assert_close(value, F.cross_entropy(STUDENT, TEACHER.argmax(dim=1)))


def test_it_is_kd_by_a_teacher_without_any_doubt():
    expected = kd_cross_entropy(STUDENT, 1e6 * TEACHER, 1.0)
    torch.testing.assert_close(hard_distillation_loss(STUDENT, TEACHER), expected)


def test_a_closed_teacher_will_do():
    target = torch.zeros(6, dtype=torch.int64)
    values = [
        HardDistillation().loss(Lesson(Outputs(logits=STUDENT), target, shown))
        for shown in (Outputs(logits=TEACHER), Outputs(probabilities=TEACHER.softmax(dim=1)))
    ]
    assert values[0] == values[1]
    with pytest.raises(ArgumentError, match="needs a teacher's predictions"):
        HardDistillation().loss(Lesson(Outputs(logits=STUDENT), target, Outputs()))


# The distillation token of timm's transformers.

PIXELS, TARGET = torch.randn(8, 3, 16, 16, generator=replay(2)), torch.arange(8) % K
DEIT = 0.5 * CrossEntropy() + 0.5 * HardDistillation(layer="head_dist")


def vit(seed, kind=None):
    torch.manual_seed(seed)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}
    kind = kind or timm.models.deit.VisionTransformerDistilled
    model = kind(**sizes, num_classes=K)
    torch.nn.init.normal_(model.head.weight)  # which begins as zero
    return model


def token_student():
    student = vit(1)
    torch.nn.init.normal_(student.head_dist.weight)
    student.set_distilled_training()
    return student


def teacher():
    return vit(2, timm.models.VisionTransformer).eval()


def plain_sgd(weights):
    return torch.optim.SGD(weights, 0.1)


@pytest.mark.parametrize("closed", [False, True])
def test_each_head_learns_from_its_own_label(closed):
    """A step is that of the authors' objective, made by hand of the outputs of both heads."""
    student, taught = token_student(), teacher()
    twin = token_student()
    asked = ClosedTeacher(taught) if closed else taught
    run = Run(student, DEIT, asked, steps=1, optimizer=plain_sgd, scheduler=constant)
    values = run.step(PIXELS, TARGET)

    own, distilled = twin.train()(PIXELS)
    decisions = taught(PIXELS).argmax(dim=1)
    losses = F.cross_entropy(own, TARGET), F.cross_entropy(distilled, decisions)
    assert values["cross_entropy"].item() == pytest.approx(losses[0].item(), rel=1e-5)
    assert values["hard_distillation"].item() == pytest.approx(losses[1].item(), rel=1e-5)
    (sum(losses) / 2).backward()
    plain_sgd(twin.parameters()).step()
    for one, other in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_without_separate_outputs_the_labels_teach_both_heads():
    student = vit(1)
    with capture(student, ["head", "head_dist"]) as shown:
        logits = student.train()(PIXELS)
    torch.testing.assert_close(logits, (shown["head"] + shown["head_dist"]) / 2)


def test_fit_teaches_the_token():
    student, knobs = token_student(), {"teacher": teacher(), "device": "cpu", "progress": False}
    history = fit(student, [(PIXELS, TARGET)], DEIT, epochs=20, learning_rate=0.02, **knobs)
    for name in ("cross_entropy", "hard_distillation"):
        assert history[name][-1] < 0.8 * history[name][0]


def test_a_student_without_that_head_is_named():
    with pytest.raises(ArgumentError, match="head_dist"):
        fit(
            *(vit(1, timm.models.VisionTransformer), [(PIXELS, TARGET)], DEIT),
            **{"teacher": teacher(), "epochs": 1, "device": "cpu", "progress": False},
        )


def test_the_term_shows_what_is_set():
    assert repr(HardDistillation()) == "HardDistillation()"
    assert repr(HardDistillation(layer="head_dist")) == "HardDistillation(layer='head_dist')"
