"""Models, data and calls of other people: what was reported, by the kind of fault."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdcourse import feature, logit, metrics, models
from kdcourse.augmentation import Flip, Noise, PadCrop, ResizedCrop
from kdcourse.checks import ArgumentError, ArgumentTypeError
from kdcourse.data import Images
from kdcourse.logit import LogitKD
from kdcourse.objective import Term, WarmUp
from kdcourse.teachers import ClosedTeacher, Ensemble, MomentumTeacher, prune_width
from kdcourse.teachers.momentum import cosine_momentum
from kdcourse.teachers.self_supervised import with_head
from kdcourse.training import Knobs, constant, fit
from kdcourse.training.teacher import as_teacher

# A captured layer is what the layer has put out.

PIXELS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def conv(activation):
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), activation, nn.Flatten(), nn.Linear(180, 2)
    )


@pytest.mark.parametrize("layer", ["0", "1", "2"])
def test_an_activation_in_place_is_not_taken_for_the_layer_before_it(layer):
    torch.manual_seed(0)
    net = conv(nn.ReLU(inplace=True)).eval()
    plain = conv(nn.ReLU()).eval()
    plain.load_state_dict(net.state_dict())
    shown = []
    for one in (net, plain):
        for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
            with context, models.capture(one, [layer]) as features:
                one(PIXELS)
            shown.append(features[layer])
    for one in shown[1:]:
        assert torch.equal(one, shown[0])
    assert bool((shown[0] < 0).any()) == (layer != "2")


class Changes(nn.Module):
    """Overwrites a layer's output by code of its own, or calls the layer twice."""

    def __init__(self, then):
        super().__init__()
        self.layer, self.then = nn.Conv2d(3, 3, 1), then

    def forward(self, inputs):
        return self.then(self.layer(inputs), inputs, self.layer).mean((2, 3))


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (
            lambda x, inputs, layer: F.relu(x, inplace=True),
            "changes the output .* 'layer' in place",
        ),
        (
            lambda x, inputs, layer: x.add_(inputs),
            "changes the output of the layer 'layer' in place",
        ),
        (lambda x, inputs, layer: layer(x), "calls the layer 'layer' more than once"),
    ],
)
def test_what_cannot_be_captured_is_told(then, message):
    net = Changes(then)
    with pytest.raises(ValueError, match=message), models.capture(net, ["layer"]):
        net(PIXELS)


def test_many_passes_are_captured_one_after_the_other():
    net = Changes(lambda x, inputs, layer: x)
    with models.capture(net, ["layer"]) as features:
        net(PIXELS)
        first = features["layer"]
        net(2 * PIXELS)
        net.layer(PIXELS)
        net.layer(PIXELS)
    assert torch.equal(features["layer"], first)


# Work is not lost.


def few(samples=24, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (samples, 1, 8, 8), generator=generator, dtype=torch.uint8)
    names = tuple(map(str, range(classes)))
    return Images(pixels, torch.arange(samples) % classes, names, (0.5,), (0.25,))


def small(classes=10, inside=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, inside), nn.ReLU(), nn.Linear(inside, classes))


QUICK = {"batch_size": 12, "device": "cpu", "progress": False}


def test_numbers_of_numpy_are_resumed(tmp_path):
    options = {**QUICK, "checkpoint": tmp_path / "run.pt", "scheduler": constant}
    rates = [np.float64(0.05), 0.05]
    for rate in rates:
        history = fit(
            small(), few(), epochs=np.int64(2), seed=np.int64(1), learning_rate=rate, **options
        )
    assert len(history) == 2


def test_more_epochs_go_on_where_the_schedule_permits(tmp_path):
    def train(epochs, path, scheduler):
        torch.manual_seed(0)
        student = small()
        options = {**QUICK, "checkpoint": path, "scheduler": scheduler}
        history = fit(student, few(), epochs=epochs, learning_rate=0.05, **options)
        return history["loss"], student[1].weight

    train(2, tmp_path / "a.pt", constant)
    losses, weight = train(4, tmp_path / "a.pt", constant)
    expected, same = train(4, tmp_path / "b.pt", constant)
    assert losses == expected
    assert torch.equal(weight, same)
    train(2, tmp_path / "c.pt", None)
    with pytest.raises(ValueError, match=r"epochs is 2, here it is 4; its schedule .* ends there"):
        train(4, tmp_path / "c.pt", None)
    with pytest.raises(ValueError, match=r"epochs is 4, here it is 2$"):
        train(2, tmp_path / "a.pt", constant)


def test_a_schedule_that_waits_for_validation_is_refused_at_the_call():
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    with pytest.raises(ArgumentError, match="must not be a ReduceLROnPlateau"):
        fit(small(), few(), scheduler=lambda optimizer, steps: plateau(optimizer), **QUICK)


# Logits are logits, labels are classes.


def test_probabilities_are_not_taken_for_logits():
    torch.manual_seed(0)
    net = small()
    closed = nn.Sequential(net, nn.Softmax(dim=1))
    inputs = few().inputs()
    expected = ClosedTeacher(net)(inputs)
    assert torch.allclose(ClosedTeacher(closed)(inputs), expected, atol=1e-6)
    assert torch.allclose(ClosedTeacher(closed, probabilities=True)(inputs), expected, atol=1e-6)
    again = ClosedTeacher(closed, probabilities=False)(inputs)  # as said
    assert again.max() < expected.max()
    with pytest.raises(ArgumentError, match="the student returns probabilities"):
        fit(closed, few(), epochs=1, **QUICK)
    with pytest.raises(ArgumentError, match=r"the teacher returns probabilities.*ClosedTeacher"):
        fit(small(), few(), LogitKD(), teacher=closed, epochs=1, **QUICK)


@pytest.mark.parametrize("label", [-100, -2, 10, 255])
def test_labels_of_no_class_are_told(label):
    batches = [(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, label]))]
    with pytest.raises(ArgumentError, match=r"labels of train must lie in \[0, 10\), or be -1"):
        fit(small(), batches, epochs=1, device="cpu", progress=False)


def test_a_batch_without_labels_is_told_where_there_is_nothing_else_to_learn_from():
    batches = [(torch.randn(4, 1, 8, 8), torch.full((4,), -1))]
    with pytest.raises(ArgumentError, match="train has no labels"):
        fit(small(), batches, epochs=1, device="cpu", progress=False)


def test_what_returns_no_tensor_is_told():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, inputs):
            return {"logits": self.net(inputs)}

    with pytest.raises(ArgumentTypeError, match="the student must return a tensor of logits"):
        fit(Named(), few(), epochs=1, **QUICK)
    with pytest.raises(ArgumentTypeError, match="the teacher must return a tensor of logits"):
        fit(small(), few(), LogitKD(), teacher=Named(), epochs=1, **QUICK)


def test_accuracy_is_of_classes():
    logits = torch.randn(6, 4)
    target = torch.arange(6) % 4
    for wrong in (target[:, None], F.one_hot(target, 4).float(), target[:1], target + 1):
        with pytest.raises(ValueError, match="target must"):
            metrics.share_correct(logits, wrong)
    with pytest.raises(ValueError, match="same shape"):
        metrics.agreement(logits, logits[:1])


class SoftCrossEntropy(Term):
    needs_teacher = False

    def loss(self, lesson):
        return F.cross_entropy(lesson.student_logits, lesson.target)


def test_accuracy_is_left_out_for_soft_targets():
    batches = [(torch.randn(4, 1, 8, 8), torch.full((4, 10), 0.1))] * 2
    history = fit(small(), batches, SoftCrossEntropy(), epochs=1, device="cpu", progress=False)
    assert history["loss"][0] > 0
    assert "train_accuracy" not in history.last


@pytest.mark.parametrize("loss", [logit.kd_loss, logit.kd_cross_entropy])
def test_one_class_is_no_class(loss):
    with pytest.raises(ValueError, match="at least 2 classes"):
        loss(torch.randn(4, 1), torch.randn(4, 1))
    with pytest.raises(ValueError, match="at least 2 classes"):
        logit.softmax(torch.randn(4, 1))


# What is frozen stays, what follows moves, what is shared is told.


def test_a_frozen_part_in_eval_mode_stays_as_it_is():
    backbone = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
    student = nn.Sequential(backbone.eval().requires_grad_(False), nn.Linear(108, 10))
    before = copy.deepcopy(backbone.state_dict())
    modes = [part.training for part in student.modules()]
    fit(student, few(), epochs=1, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert [part.training for part in student.modules()] == modes
    backbone.train()  # to say otherwise
    fit(student, few(), epochs=1, **QUICK)
    assert not torch.equal(backbone[1].running_mean, before["1.running_mean"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_average_of_a_model_in_half_precision_moves(dtype):
    student = nn.Linear(3, 2).to(dtype)
    start = student.weight.detach().float()
    teacher = MomentumTeacher(student, 0.996)
    with torch.no_grad():
        student.weight.add_(1.0)
    for step in range(200):
        teacher.update(student, step)
    moved = teacher.model.weight - start
    assert torch.allclose(moved, torch.tensor(1 - 0.996**200), atol=0.02)
    assert teacher(torch.ones(1, 3, dtype=dtype)).dtype == torch.float32


@pytest.mark.parametrize("what", ["weights", "buffers", "a view"])
def test_shared_memory_is_told(what):
    student, teacher = (
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)) for _ in "ab"
    )
    if what == "weights":
        teacher[2].weight = student[2].weight
    elif what == "buffers":
        teacher[1].running_mean = student[1].running_mean
    else:
        teacher[2].weight = nn.Parameter(student[2].weight.detach().view(10, 64))
    with pytest.raises(ArgumentError, match="share the weights or buffers"):
        fit(student, few(), LogitKD(), teacher=teacher, epochs=1, **QUICK)


class Heads(nn.Module):
    """Two heads: the one that is called first would be narrowed."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.one, self.other = nn.Linear(16, 10), nn.Linear(16, 10)

    def forward(self, inputs):
        shown = self.body(inputs)
        return self.one(shown), self.other(shown)


UPWARD = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ConvTranspose2d(8, 6, 2, stride=2))


@pytest.mark.parametrize("model", [Heads(), UPWARD], ids=["heads", "transposed"])
def test_what_cannot_be_narrowed_is_told(model):
    with pytest.raises(ValueError, match=r"cannot be narrowed: its outputs would have the shapes"):
        prune_width(model, few().inputs(), 0.5)


def test_a_negative_weight_is_told():
    with pytest.raises(ValueError, match="the factor of a term"):
        -1.0 * LogitKD()


# Arithmetic.


@pytest.mark.parametrize("temperature", [30, 100, 1e3, 1e6])
def test_hot_predictions_are_compared_exactly(temperature):
    student, teacher = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(0))
    exact = logit.kd_loss(student.double(), teacher.double(), temperature).item()
    value = logit.kd_loss(student, teacher, temperature)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact, rel=1e-3)


def test_the_divergence_is_never_below_zero():
    for seed in range(200):
        student = torch.randn(4, 10, generator=torch.Generator().manual_seed(seed))
        near = student + 1e-4 * student.flip(1)
        assert logit.kd_loss(student, near, 1.0, scale=False).item() >= 0
        assert logit.kd_loss(student, near, 4.0, divergence="reverse").item() >= 0


# Bad calls, each named, none accepted.

TWO = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        *[
            (partial(Knobs, autocast=one), "autocast")
            for one in (None, 0, 1, "float16", torch.int8)
        ],
        *[(partial(Knobs, compile=one), "compile") for one in (None, 1, "yes")],
        *[(partial(Knobs, seed=one), "seed") for one in (None, 1.5, "0", True)],
        *[(partial(Knobs, learning_rate=one), "learning_rate") for one in (None, -1, float("nan"))],
        *[(partial(Flip, one), "probability") for one in (2, float("nan"), "half")],
        *[(partial(Noise, one), "deviation") for one in (-1, float("nan"), None)],
        *[(partial(ResizedCrop, one), "scale") for one in ((2, 3), (0.5, 0.2), (0, 1))],
        *[(partial(PadCrop, one), "padding") for one in (-1, 1.5)],
        *[
            (partial(one, TWO, torch.Generator()), "pixels")
            for one in (Flip(), Noise(), ResizedCrop(), PadCrop())
        ],
        *[(partial(logit.kd_loss, *TWO, scale=one), "scale") for one in ("no", 0, None)],
        (partial(feature.attention_transfer_loss, *MAPS, squared="no"), "squared"),
        (partial(as_teacher, None), "teacher"),
        (partial(Ensemble, [None]), "members"),
        (partial(with_head, models.plain(1), outputs=0), "outputs"),
        (partial(WarmUp, LogitKD(), 1.5), "steps"),
        (partial(WarmUp, LogitKD(), epochs=0), "epochs"),
        (partial(cosine_momentum, steps=1.5), "steps"),
        *[(partial(replace, few(), target=few().target + one), "target") for one in (1, -2, -100)],
        (partial(replace, few(), std=(0.0,)), "std"),
    ],
)
def test_bad_calls_are_named(call, name):
    with pytest.raises((ValueError, TypeError), match=name):
        call()
