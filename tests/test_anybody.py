"""Models, data and calls of other people: what was reported, by the kind of fault."""

import copy
import re
import warnings
from collections import UserDict
from dataclasses import replace
from functools import partial

import mpmath
import nbformat
import numpy as np
import pytest
import torch
import torchvision
from nbclient import NotebookClient
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from kdcourse import feature, logit, metrics, models
from kdcourse.augmentation import Flip, Noise, PadCrop, ResizedCrop
from kdcourse.data import Images
from kdcourse.errors import ArgumentError, ArgumentTypeError, NotFiniteError
from kdcourse.feature import FeatureHint, Saliency
from kdcourse.logit import CrossEntropy, LogitKD
from kdcourse.objective import Objective, Outputs, Term, WarmUp
from kdcourse.relational import RKDDistance
from kdcourse.teachers import (
    ClosedTeacher,
    Ensemble,
    MomentumTeacher,
    born_again,
    distill_through,
    mutual_learning,
    prune,
    prune_width,
    quantize,
)
from kdcourse.teachers.momentum import cosine_momentum
from kdcourse.teachers.self_supervised import with_head
from kdcourse.tips import Consistent
from kdcourse.training import Knobs, Run, constant, fit, fit_in_stages
from kdcourse.training.schedules import at_epochs
from kdcourse.training.teacher import Teacher, as_teacher

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


class Adds(nn.Module):
    """A residual block as torchvision writes it: out += identity, then a ReLU in place."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)

    def forward(self, inputs):
        out = self.conv(inputs)
        out += inputs
        return self.relu(out).mean((2, 3))


def test_what_is_changed_before_it_is_changed_again_is_told():
    net = Adds()
    with pytest.raises(ValueError, match="in place"), models.capture(net, ["conv"]):
        net(PIXELS)
    with torch.inference_mode(), models.capture(net, ["conv"]) as features:
        net(PIXELS)
    assert torch.equal(features["conv"], net.conv(PIXELS))


def test_a_view_that_is_overwritten_is_copied():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.ReLU(inplace=True))
    with models.capture(net, ["0"]) as features:
        net(PIXELS)
    assert torch.equal(features["0"], net[0](PIXELS))


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


@pytest.mark.parametrize(
    "given",
    [
        {
            "optimizer": lambda p: torch.optim.AdamW(
                p, np.float64(1e-3), weight_decay=np.float64(0.01)
            )
        },
        {"scheduler": lambda o, steps: torch.optim.lr_scheduler.StepLR(o, 2, np.float64(0.5))},
        {"scheduler": at_epochs(list(np.array([1, 2])), np.float64(0.1), epochs=2)},
        {"objective": CrossEntropy(np.float64(0.1))},
    ],
    ids=["optimizer", "schedule", "milestones", "objective"],
)
def test_numbers_of_numpy_anywhere_are_resumed(given, tmp_path):
    for _ in range(2):
        history = fit(small(), few(), epochs=2, checkpoint=tmp_path / "run.pt", **given, **QUICK)
    assert len(history) == 2


def test_equal_numbers_are_the_same_run(tmp_path):
    options = {"teacher": small(), "epochs": 2, "checkpoint": tmp_path / "run.pt", **QUICK}
    for temperature in (4, 4.0, np.float64(4)):
        fit(small(), few(), LogitKD(temperature), **options)
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(small(), few(), LogitKD(4.5), **options)


def test_mutual_learning_goes_on_where_the_schedule_permits(tmp_path):
    for epochs in (1, 2):
        students = [small(), small()]
        options = {**QUICK, "checkpoint": tmp_path / "run.pt", "scheduler": constant}
        first, _ = mutual_learning(students, few(), epochs=epochs, **options)
    assert len(first) == 2


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


def test_an_optimizer_that_asks_for_the_loss_again_is_refused_at_the_call():
    with pytest.raises(ArgumentError, match="got LBFGS, whose step needs a closure"):
        fit(small(), few(), optimizer=torch.optim.LBFGS, scheduler=constant, **QUICK)


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


def sure(seed=0):
    """A net whose predictions are far from uniform."""
    torch.manual_seed(seed)
    net = small()
    net[3].weight.data.mul_(8)
    return net


class Rounds(nn.Sequential):
    def forward(self, inputs):
        return super().forward(inputs).softmax(1).round(decimals=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_probabilities_in_half_precision_are_found_out(dtype):
    closed = nn.Sequential(sure(), nn.Softmax(dim=1)).to(dtype)
    inputs = few().inputs()
    assert torch.allclose(
        ClosedTeacher(closed)(inputs), closed(inputs.to(dtype)).float(), atol=0.01
    )
    with pytest.raises(ArgumentError, match="the teacher returns probabilities"):
        fit(small(), few(), LogitKD(), teacher=closed, epochs=1, **QUICK)
    with pytest.raises(ArgumentError, match="a member of the ensemble returns probabilities"):
        Ensemble(closed, closed)(inputs)


def test_rounded_probabilities_are_asked_about():
    rounding, inputs = Rounds(sure()), few().inputs()
    with pytest.raises(ArgumentError, match="may be logits or rounded probabilities"):
        ClosedTeacher(rounding)(inputs)
    exact = rounding(inputs)
    shown = ClosedTeacher(rounding, probabilities=True)(inputs)
    assert torch.allclose(shown, exact / exact.sum(1, keepdim=True))


@pytest.mark.parametrize("label", [-100, -2, 10, 255])
def test_labels_of_no_class_are_told(label):
    good = (torch.randn(4, 1, 8, 8), torch.arange(4))
    batches = [good, good, (torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, label]))]
    with pytest.raises(ArgumentError, match=r"labels of train must lie in \[0, 10\), or be -1"):
        fit(small(), batches, epochs=1, device="cpu", progress=False)
    fit(small(), batches, LogitKD(), teacher=small(), epochs=1, device="cpu", progress=False)


@pytest.mark.parametrize(
    "target",
    [
        torch.arange(4).int(),
        torch.ones(4),
        torch.ones(4, dtype=torch.bool),
        torch.arange(4)[:, None],
        F.one_hot(torch.arange(4), 10),
        torch.full((4, 5), 0.2),
        torch.randn(4, 10),
        torch.full((4, 10), torch.nan),
    ],
    ids=["int32", "float", "bool", "column", "one-hot", "five", "logits", "nan"],
)
def test_labels_of_another_form_are_told(target):
    batches = [(torch.randn(4, 1, 8, 8), target)]
    with pytest.raises(ArgumentError, match="labels of train must"):
        fit(small(), batches, epochs=1, device="cpu", progress=False)


def test_probabilities_will_do_as_labels():
    soft = torch.randn(4, 10).softmax(1)
    batches = [(torch.randn(4, 1, 8, 8), soft)]
    student = small()
    expected = -(soft * student(batches[0][0]).log_softmax(1)).sum(1).mean().item()
    history = fit(student, batches, epochs=1, device="cpu", progress=False)
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_one_class_cannot_be_learned():
    with pytest.raises(ArgumentError, match="at least 2 classes"):
        fit(small(1), few(classes=1), epochs=1, **QUICK)


def test_a_batch_without_labels_is_told_where_there_is_nothing_else_to_learn_from():
    inputs, target, done = torch.randn(4, 1, 8, 8), torch.full((4,), -1), []
    for train in (
        [(inputs, target)],
        DataLoader(TensorDataset(inputs, target), 2),
    ):
        with pytest.raises(ArgumentError, match="train has samples without labels, which Cross"):
            fit(small(), train, epochs=1, log=done.append, device="cpu", progress=False)
    loader = DataLoader(list(zip(inputs, target, strict=True)), 2)  # nobody knows what it yields
    with pytest.raises(ArgumentError, match="train has no labels"):
        fit(small(), loader, epochs=1, log=done.append, device="cpu", progress=False)
    assert done == []


def test_what_returns_no_tensor_is_told():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, inputs):
            return {"scores": self.net(inputs)}

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


@pytest.mark.parametrize("soft", [0, 1, 3])
def test_accuracy_is_that_of_the_samples_whose_label_is_a_class(soft):
    student, inputs = small(), torch.randn(4, 1, 8, 8)
    right = student(inputs).argmax(dim=1)
    hard = torch.stack([right[0], (right[1] + 1) % 10, torch.tensor(-1), right[3]])
    batches = [(inputs, hard), *[(torch.randn(4, 1, 8, 8), torch.full((4, 10), 0.1))] * soft]
    history = fit(student, batches, learning_rate=0.0, **ANY)
    assert history["train_accuracy"] == pytest.approx([2 / 3])


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
    student.train()
    norm = nn.BatchNorm1d(108, affine=False).eval()  # without weights, but eval in a net in train
    fit(nn.Sequential(student[0], norm, student[1]), few(), epochs=1, **QUICK)
    assert torch.equal(norm.running_mean, torch.zeros(108))
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


def test_a_mask_of_the_average_stays():
    student = nn.Linear(4, 4)
    student.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
    teacher = MomentumTeacher(student, 0.9)
    teacher.update(student, 1)
    assert torch.equal(teacher.model.mask, student.mask)


@pytest.mark.parametrize("scheme", ["chain", "generations", "stages"])
def test_what_a_later_training_cannot_do_is_told_before_the_first(scheme):
    done, deeper = [], nn.Sequential(*small(), nn.Linear(10, 10))
    options = {"epochs": 1, "log": done.append, **QUICK}
    later = feature.AttentionTransfer(["4"])  # which only the deeper nets have
    calls = {
        "chain": partial(distill_through, deeper, [copy.deepcopy(deeper)], small(), few(), later),
        "generations": partial(born_again, lambda seed: small(), few(), later),
        "stages": partial(
            fit_in_stages, small(), few(), FeatureHint("1"), later, teacher=deeper, hint_epochs=1
        ),
    }
    with pytest.raises(ArgumentError, match="no layer"):
        calls[scheme](**options)
    assert done == []


def test_every_generation_is_a_model_of_its_own():
    done, one = [], small()
    with pytest.raises(ArgumentError, match="of its own for every generation"):
        born_again(lambda seed: one, few(), epochs=1, log=done.append, **QUICK)
    assert done == []


def test_links_of_other_widths_have_terms_of_their_own():
    """A projection is as wide as two nets; who comes next has others."""

    wide = partial(models.plain, classes=10, seed=0)
    hint = CrossEntropy() + FeatureHint("stage1")
    chain = distill_through(wide(4), [wide(3)], wide(2), few(), hint, epochs=1, **QUICK)
    assert [len(history) for history in chain] == [1, 1]
    assert not hint.prepared
    warm = CrossEntropy() + WarmUp(LogitKD(), steps=10)
    chain = distill_through(wide(4), [wide(3)], wide(2), few(), warm, epochs=1, **QUICK)
    assert warm.terms[1].taken == 0  # each link has begun at its own first step
    middle, last = wide(3), wide(2)
    fit(middle, few(), copy.deepcopy(warm), teacher=wide(4), epochs=1, **QUICK)
    history = fit(last, few(), copy.deepcopy(warm), teacher=middle, epochs=1, **QUICK)
    assert chain[1]["warm_up"] == history["warm_up"]


def test_a_term_in_common_is_one_for_each_student():
    warm = WarmUp(LogitKD(), steps=4)
    students = [small(), small()]
    batches = [(PIXELS8, LABELS)] * 4
    mutual_learning(students, batches, CrossEntropy() + warm, **ANY)
    assert warm.taken == 0
    objectives = [CrossEntropy() + WarmUp(LogitKD(), steps=4) for _ in students]
    mutual_learning(students, batches, objectives, **ANY)
    assert [own.terms[1].taken.item() for own in objectives] == [4, 4]


def test_links_of_a_chain_that_share_memory_are_told_before_any_work():
    teacher, student, steps = small(), small(), []
    student[3].weight = teacher[3].weight
    with pytest.raises(ArgumentError, match="two links of the chain share"):
        distill_through(teacher, [small()], student, few(), log=steps.append, epochs=1, **QUICK)
    frozen = small().requires_grad_(False)
    with pytest.raises(ArgumentError, match=r"student .* must have a weight that can be trained"):
        distill_through(teacher, [small()], frozen, few(), log=steps.append, epochs=1, **QUICK)
    assert steps == []


def test_what_no_trainable_weight_reaches_is_told():
    student = small()
    student[1].requires_grad_(False)
    with pytest.raises(ArgumentError, match="depends on no weight that can be trained"):
        fit(student, few(), RKDDistance(["1"]), teacher=small(), epochs=1, **QUICK)


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


class Beside(Term):
    """Asks a model of its own, which is its part and so learns."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def loss(self, lesson):
        return nn.functional.mse_loss(lesson.student_logits, self.model(lesson.inputs))


def test_a_term_that_holds_the_teacher_is_told():
    teacher = small()
    with pytest.raises(ArgumentError, match="teacher and objective share the weights") as told:
        fit(small(), few(), CrossEntropy() + Beside(teacher), teacher=teacher, epochs=1, **QUICK)
    assert told.value.argument == "objective"
    fit(small(), few(), CrossEntropy() + Beside(small()), teacher=teacher, epochs=1, **QUICK)


def test_students_that_share_memory_are_told():
    one, other = small(), small()
    other[3].weight = one[3].weight
    with pytest.raises(ArgumentError, match=r"two students share the weights or buffers 3.weight"):
        mutual_learning([one, other], few(), epochs=1, **QUICK)


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


VIT = torchvision.models.VisionTransformer(8, 4, 1, 2, 8, 16, num_classes=10)


@pytest.mark.parametrize(
    ("model", "channels", "message"),
    [(Heads(), 1, "outputs would"), (UPWARD, 1, "outputs would"), (VIT, 3, "shape")],
    ids=["heads", "transposed", "vit"],
)
@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
def test_what_cannot_be_narrowed_is_told(model, channels, message):
    inputs = few().inputs().expand(-1, channels, -1, -1)
    with pytest.raises(ValueError, match=f"cannot be narrowed: .*{message}"):
        prune_width(model, inputs, 0.5)


@pytest.mark.parametrize("shrink", [partial(prune, sparsity=0.5), quantize], ids=["prune", "bits"])
def test_weights_that_are_made_by_something(shrink):
    def net(norm):
        return nn.Sequential(nn.Flatten(), norm(nn.Linear(64, 8)), nn.ReLU(), nn.Linear(8, 10))

    inputs = few().inputs()
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        old = net(nn.utils.weight_norm)
    old(inputs)
    with pytest.raises(ArgumentError, match="made by a hook"):
        shrink(old)
    small = shrink(net(nn.utils.parametrizations.weight_norm))
    fit(small, few(), epochs=1, **QUICK)
    if shrink is not quantize:
        assert (small[1].weight == 0).sum() + (small[3].weight == 0).sum() == (64 * 8 + 80) // 2


def test_a_negative_weight_is_told():
    with pytest.raises(ValueError, match="the factor of a term"):
        -1.0 * LogitKD()
    with pytest.raises(ValueError, match="the weight of one of the parts"):
        Objective([(-1.0, LogitKD())])


# Arithmetic.


def exact_kl(student, teacher, temperature):
    """τ² KL(T‖S), with 60 digits."""
    with mpmath.workdps(60):
        total = mpmath.mpf(0)
        for rows in zip(student.tolist(), teacher.tolist(), strict=True):
            s, t = ([mpmath.mpf(z) / temperature for z in row] for row in rows)
            log_s, log_t = (mpmath.log(sum(map(mpmath.exp, z))) for z in (s, t))
            for a, b in zip(s, t, strict=True):
                total += mpmath.exp(b - log_t) * ((b - log_t) - (a - log_s))
        return float(total / len(student) * mpmath.mpf(temperature) ** 2)


@pytest.mark.parametrize("temperature", [1e-9, 1e-3, 1, 30, 100, 1e3, 1e6])
def test_hot_and_cold_predictions_are_compared_exactly(temperature):
    student, teacher = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(0))
    value = logit.kd_loss(student, teacher, temperature)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact_kl(student, teacher, temperature), rel=1e-4)


@pytest.mark.parametrize("temperature", [1e-10, 1e7])
def test_temperatures_at_which_predictions_cannot_be_compared_are_told(temperature):
    logits = torch.randn(2, 3)
    for call in (
        partial(logit.kd_loss, logits, logits),
        partial(logit.kd_cross_entropy, logits, logits),
        partial(logit.kd_loss_from_probabilities, logits, logits.softmax(1)),
        partial(logit.decoupled_kd_loss, logits, logits, torch.tensor([0, 1])),
        logit.LogitKD,
        logit.DecoupledKD,
        logit.StandardizedKD,
    ):
        with pytest.raises(
            ArgumentError, match=r"temperature must be finite and lie in \[1e-09, 1"
        ):
            call(temperature=temperature)


def test_the_divergence_is_never_below_zero():
    for seed in range(200):
        student = torch.randn(4, 10, generator=torch.Generator().manual_seed(seed))
        near = student + 1e-4 * student.flip(1)
        assert logit.kd_loss(student, near, 1.0, scale=False).item() >= 0
        assert logit.kd_loss(student, near, 4.0, divergence="reverse").item() >= 0


# What a loader yields reaches the models whole.

LABELS = torch.arange(24) % 10
IDS = torch.randint(50, (24, 7), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(7) < 1 + torch.arange(24)[:, None] % 7).long()


class Reader(nn.Module):
    """Takes token ids and their mask, as a pair or as a dictionary, and notes what it got."""

    def __init__(self):
        super().__init__()
        self.words, self.head, self.seen = nn.Embedding(50, 8), nn.Linear(8, 10), []

    def forward(self, inputs):
        ids, mask = inputs.values() if isinstance(inputs, dict) else inputs
        self.seen.append((ids, mask))
        return self.head((self.words(ids) * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True))


def loader(inputs, target=LABELS, **options):
    """A DataLoader over a dataset of samples ``(inputs, label)``."""
    if isinstance(inputs, dict):
        rows = [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]
    else:
        rows = list(zip(*inputs, strict=True)) if isinstance(inputs, tuple) else list(inputs)
    samples = list(zip(rows, target, strict=True))
    return DataLoader(samples, **{"batch_size": 12, **options})  # type: ignore[arg-type]


ANY = {"device": "cpu", "progress": False, "epochs": 1}


@pytest.mark.parametrize("inputs", [(IDS, MASK), {"ids": IDS, "mask": MASK}], ids=["pair", "dict"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_inputs_of_many_tensors_reach_both_models_whole(inputs, accumulate):
    torch.manual_seed(0)
    student, teacher = Reader(), Reader()
    batches = loader(inputs)
    history = fit(
        student,
        batches,
        CrossEntropy() + LogitKD(),
        teacher=teacher,
        validation=batches,
        accumulate=accumulate,
        **ANY,
    )
    tried, *student.seen = student.seen  # of the validation, before any work
    assert torch.equal(tried[0], IDS[:12])
    for one in (student, teacher):
        learned = one.seen[: 2 * accumulate]
        assert torch.equal(torch.cat([ids for ids, _ in learned]), IDS)
        assert torch.equal(torch.cat([mask for _, mask in learned]), MASK)
    whole = student((IDS, MASK)).argmax(1)
    assert history.last["validation_accuracy"] == pytest.approx(
        float((whole == LABELS).float().mean())
    )
    assert torch.equal(metrics.predict(student, batches).argmax(1), whole)


class ByName(nn.Module):
    """Sees an image, or hears something; both are of one shape."""

    def __init__(self):
        super().__init__()
        self.eye, self.ear = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, image=None, sound=None):
        return self.eye(image.flatten(1)) if sound is None else self.ear(sound.flatten(1))


class ByNameAlone(ByName):
    """Takes no argument without its name."""

    def forward(self, *, sound):
        return self.ear(sound.flatten(1))


class Wrapping(nn.Module):
    """Hands over what it is given."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *arguments, **named):
        return self.model(*arguments, **named)


class Repeating(Teacher):
    """A teacher of one's own, whose net takes a tensor."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 10)

    def show(self, inputs, layers=()):
        return Outputs(logits=self.net(inputs.flatten(1)))


@pytest.mark.parametrize("make", [ByName, ByNameAlone, lambda: Wrapping(ByName())])
@pytest.mark.parametrize("term", [LogitKD(), Saliency()], ids=lambda term: term.name)
def test_a_single_input_of_a_dictionary_keeps_its_name(make, term):
    student, teacher = make(), make()
    batches = [{"sound": PIXELS8, "labels": LABELS}] * 2
    before = copy.deepcopy(student.state_dict())
    fit(student, batches, term, teacher=teacher, validation=batches, **ANY)
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name]) == ("eye" in name), name
    heard = student(sound=PIXELS8)
    assert torch.equal(metrics.predict(student, batches[:1]), heard)


@pytest.mark.parametrize("around", [lambda net: net, Wrapping, nn.DataParallel])
def test_a_single_input_whose_name_a_model_does_not_know_is_given_without(around):
    def make():
        return around(small())

    batches = [{"pixel_values": PIXELS8, "labels": LABELS}] * 2
    for teacher in (make(), Ensemble(make(), make()), Repeating()):
        fit(make(), batches, CrossEntropy() + LogitKD(), teacher=teacher, **ANY)


def test_many_tensors_have_no_input_gradient():
    with pytest.raises(ArgumentError, match="must be one tensor for that, got a list of"):
        fit(Reader(), loader((IDS, MASK)), Saliency(), teacher=Reader(), **ANY)


PIXELS8 = few().inputs()


def hand_written():
    for start in (0, 12):
        yield PIXELS8[start : start + 12], LABELS[start : start + 12]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (
            DataLoader([{"image": x, "class": y} for x, y in zip(PIXELS8, LABELS, strict=True)]),
            "'image', 'class'",
        ),
        (DataLoader(TensorDataset(PIXELS8, LABELS, LABELS, LABELS)), "got a list of 4"),
        (DataLoader(TensorDataset(PIXELS8)), "got a list of 1"),
        (DataLoader(TensorDataset(PIXELS8, LABELS), batch_size=None), "yields single samples"),
        (TensorDataset(PIXELS8, LABELS), "put it into a DataLoader"),
        ([(PIXELS8, LABELS[:5])], "24 inputs and 5 targets"),
        ([(PIXELS8, LABELS.tolist())], "targets of train must be a tensor, got list"),
        ([(PIXELS8[:0], LABELS[:0])], "a batch of train holds no sample"),
        ([(PIXELS8.numpy(), LABELS)], r"inputs of train must be .* got a ndarray"),
        (
            [(UserDict(pixels=PIXELS8), LABELS)],
            r"inputs of train must be .* got a UserDict",
        ),
        ((PIXELS8, LABELS), "got a Tensor"),
        ({"x": PIXELS8, "labels": LABELS}, "got a dict: put one batch into a list"),
        (hand_written(), "must yield its batches anew each epoch, got an iterator"),
        ([], "train holds no batch"),
        ([(few().pixels, LABELS)], r"fails on the inputs of train, torch.uint8 \(24, 1, 8, 8\)"),
        ([(PIXELS8[:, :, 1:], LABELS)], r"the student fails on .*\(24, 1, 7, 8\): mat1 and mat2"),
    ],
)
def test_batches_of_another_form_are_named(batches, message):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        fit(small(), batches, **ANY)


def test_numbers_of_samples_are_not_taken_for_their_weights():
    given = torch.tensor([7, 0, 3, 5])
    batches = [(PIXELS8[:4], LABELS[:4], given)]
    with pytest.raises(ArgumentError, match=r"third entry .* different integers, \[7, 0, 3, …\]"):
        fit(small(), batches, **ANY)
    for weights in (given.float(), given % 2, torch.tensor([1, 3, 3, 1])):
        fit(small(), [(PIXELS8[:4], LABELS[:4], weights)], **ANY)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(23, 1), (6, 6), (5, 5)])
def test_what_helps_where_a_part_holds_one_sample_is_what_a_loader_can_do(batch_size, accumulate):
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    batches = loader(PIXELS8, batch_size=batch_size)
    told = r"change batch_size.*drop_last=True.* of their loader for others"
    with pytest.raises(ArgumentError, match=told) as refused:
        fit(student, batches, accumulate=accumulate, **ANY)
    assert "accumulate" in str(refused.value)


def test_a_dictionary_is_no_validation_set():
    with pytest.raises(ArgumentTypeError, match=r"validation must be .* got dict"):
        fit(small(), loader(PIXELS8), validation={"x": PIXELS8, "labels": LABELS}, **ANY)


def test_weights_that_were_made_in_inference_mode_are_named():
    with torch.inference_mode():
        student = small()
    with pytest.raises(ArgumentError, match=r"weight of student was made in inference_mode"):
        fit(student, loader(PIXELS8), **ANY)


@pytest.mark.parametrize(
    "option",
    [{"augment": Flip()}, {"views": Consistent(Flip())}, {"drop_last": True}],
    ids=list,
)
def test_what_only_images_can_do_is_refused_elsewhere(option):
    (name,) = option
    with pytest.raises(ArgumentError, match=f"{name} needs Images, got a DataLoader"):
        fit(small(), loader(PIXELS8), LogitKD(), teacher=small(), **option, **ANY)


@pytest.mark.parametrize(
    ("batches", "told"),
    [
        (loader(PIXELS8, batch_size=8), "a DataLoader, which has batches of 8"),
        ([(PIXELS8, LABELS)], "a list, which has batches of its own"),
        (DataLoader([(PIXELS8, LABELS)], batch_size=None), "a DataLoader, which has .* its own"),
    ],
    ids=["loader", "list", "batches as samples"],
)
def test_a_batch_size_that_changes_nothing_is_told_where_it_was_given(batches, told):
    with pytest.warns(UserWarning, match=f"=5 changes nothing: train is {told}") as seen:
        fit(small(), batches, CrossEntropy(), batch_size=5, **ANY)
    assert [one.filename for one in seen] == [__file__]


def test_the_batch_size_of_the_loader_may_be_said_again(recwarn):
    fit(small(), loader(PIXELS8, batch_size=8), CrossEntropy(), batch_size=8, **ANY)
    assert not recwarn


class Lies:
    """Yields another number of batches than its length says, as workers of a stream may."""

    def __init__(self, said, yielded):
        self.said, self.yielded = said, yielded

    def __len__(self):
        return self.said

    def __iter__(self):
        return iter([(PIXELS8, LABELS)] * self.yielded)


@pytest.mark.parametrize(("said", "yielded"), [(2, 4), (4, 2)])
def test_a_length_that_is_not_true_is_told_and_nothing_is_lost(said, yielded):
    with pytest.warns(UserWarning, match=f"a length of {said} batches, but yields {yielded}"):
        history = fit(small(), Lies(said, yielded), **{**ANY, "epochs": 3})
    assert len(history) == 3


# Validation comes as it comes.


@pytest.mark.parametrize(
    "validation",
    [
        few(),
        (PIXELS8, LABELS),
        TensorDataset(PIXELS8, LABELS),
        loader(PIXELS8, shuffle=True),
        [(PIXELS8[:5], LABELS[:5]), (PIXELS8[5:], LABELS[5:])],
    ],
    ids=["images", "pair", "dataset", "loader", "batches"],
)
def test_validation_comes_as_it_comes(validation):
    torch.manual_seed(0)
    student = small()
    history = fit(student, few(), validation=validation, **{**QUICK, "epochs": 1})
    right = int((student.eval()(PIXELS8).argmax(1) == LABELS).sum())
    assert history.last["validation_accuracy"] == right / 24
    assert metrics.accuracy(student, validation) == right / 24
    if not isinstance(validation, DataLoader):
        assert torch.equal(metrics.predict(student, validation), student(PIXELS8))
    assert metrics.embed(student, validation, "1").shape == (24, 8)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (hand_written(), "validation must be Images, a pair of tensors"),
        ("test", "validation must be Images, a pair of tensors"),
        (0.1, "validation must be Images, a pair of tensors"),
        (PIXELS8, "validation must hold samples"),
        ([], "validation must hold samples"),
        (few().unlabelled(), "validation has images without labels"),
        ((PIXELS8, LABELS[:, None]), r"labels of validation must .* shape .*, got .*\(24, 1\)"),
        ((PIXELS8, F.one_hot(LABELS).float()), "labels of validation must be classes"),
        ((PIXELS8, LABELS + 5), r"labels of validation must lie in \[0, 10\)"),
        ((PIXELS8[:, :, 1:], LABELS), "the student fails on the inputs of validation"),
        ((PIXELS8, LABELS[:4]), "24 inputs and 4 targets"),
    ],
)
def test_a_validation_that_cannot_be_measured_is_refused_before_any_work(validation, message):
    student = small()
    before = copy.deepcopy(student.state_dict())
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        fit(student, few(), validation=validation, epochs=1, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_single_sample_at_the_end_is_told_at_the_call():
    def net():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))

    data, steps = few(25), []
    with pytest.raises(ArgumentError, match=r"holds a single sample.*drop_last=True"):
        fit(net(), data, log=steps.append, **ANY, batch_size=12)
    with pytest.raises(ArgumentError, match=r"holds a single sample"):
        fit(net(), data, accumulate=12, log=steps.append, **ANY, batch_size=13)
    for whole in (
        DataLoader(TensorDataset(data.inputs(), data.target), 12, drop_last=drop)
        for drop in (False, True)
    ):
        if whole.drop_last:
            fit(net(), whole, **ANY)
        else:
            with pytest.raises(ArgumentError, match="holds a single sample"):
                fit(net(), whole, log=steps.append, **ANY)
    assert steps == []
    fit(net(), data, drop_last=True, **ANY, batch_size=12)
    fit(small(), data, **ANY, batch_size=12)  # without batch norm
    large = replace(data, pixels=data.pixels.repeat(1, 1, 4, 4))
    fit(models.plain(2), large, **ANY, batch_size=12)  # one sample has more than one value


@pytest.mark.parametrize(
    ("option", "made"),
    [
        ("augment", lambda pixels, generator: pixels.float() / 255),
        ("augment", lambda pixels, generator: None),
        ("augment", lambda pixels, generator: pixels[1:]),
        ("augment", lambda pixels: pixels),
        ("views", lambda pixels, target, generator: (pixels, pixels)),
        ("views", lambda pixels, target, generator: (pixels, pixels.float(), target)),
    ],
)
def test_what_an_augmentation_must_return_is_told(option, made):
    with pytest.raises(ArgumentError) as told:
        fit(small(), few(), LogitKD(), teacher=small(), **{option: made}, epochs=1, **QUICK)
    assert told.value.argument == option


def test_numbers_of_predictions_are_numbers():
    nan, target = torch.full((6, 4), torch.nan), torch.arange(6) % 4
    for call in (
        partial(metrics.share_correct, nan, target),
        partial(metrics.agreement, torch.zeros(6, 4), nan),
        partial(metrics.accuracy, nn.Identity(), (nan, target)),
    ):
        with pytest.raises(ArgumentError, match="must be numbers, got NaN"):
            call()


def test_drop_last_leaves_out_others_every_epoch():
    data, seen = few(25), []

    def note(pixels, generator):
        seen.append(pixels)
        return pixels

    fit(small(), data, augment=note, drop_last=True, **{**QUICK, "epochs": 2})
    assert [len(batch) for batch in seen] == [12] * 4
    assert not torch.equal(torch.cat(seen[:2]).unique(dim=0), torch.cat(seen[2:]).unique(dim=0))


# Models as other people have them.


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda x: x, "got function: call it in the forward of a module"),
        (small().state_dict(), "got OrderedDict: load it into a model"),
        (nn.Linear, "got Linear: call the class to make one"),
        ("res16", "got str"),
        (
            nn.Sequential(nn.Flatten(), nn.LazyLinear(10)),
            "size of 1.weight of teacher is not known",
        ),
        (small().to("meta"), "1.weight of teacher is on the meta device"),
    ],
    ids=["function", "state_dict", "class", "name", "lazy", "meta"],
)
def test_what_is_no_teacher_is_told(teacher, message):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message) as told:
        fit(small(), few(), LogitKD(), teacher=teacher, epochs=1, **QUICK)
    assert told.value.argument == "teacher"


def test_a_student_that_cannot_learn_is_told():
    for student in (small().requires_grad_(False), nn.Flatten()):
        with pytest.raises(
            ArgumentError, match=r"student .* must have a weight that can be trained"
        ):
            fit(student, few(), epochs=1, **QUICK)
    with pytest.raises(ArgumentTypeError, match=r"student must be a torch.nn.Module, got NoneType"):
        fit(None, few(), epochs=1, **QUICK)


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("what", ["weight", "buffer"])
def test_weights_that_are_no_numbers_are_told_at_the_call(who, what):
    nets = {name: models.plain(2, seed=0) for name in ("student", "teacher")}
    norm = nets[who].stem[1]
    (norm.weight if what == "weight" else norm.running_var).data[0] = torch.nan
    with pytest.raises(ArgumentError, match=f"stem.1.* of {who} holds NaN"):
        fit(nets["student"], few(), LogitKD(), teacher=nets["teacher"], epochs=1, **QUICK)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_teacher_in_another_precision_teaches(dtype):
    torch.manual_seed(0)
    teacher = small()
    other = copy.deepcopy(teacher).to(dtype)
    losses = []
    for one in (teacher, other):
        torch.manual_seed(1)
        student = small()
        objective = LogitKD() + RKDDistance(["3"]) + Saliency()
        losses.append(fit(student, few(), objective, teacher=one, epochs=1, **QUICK)["loss"][0])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert metrics.predict(other, few()).dtype == dtype


def test_a_student_in_double_precision_learns():
    student = small().double()
    history = fit(student, few(), validation=few(), epochs=1, **QUICK)
    assert history.last["loss"] > 0
    assert student[1].weight.dtype == torch.float64


@pytest.mark.parametrize("objective", ["ce", nn.CrossEntropyLoss(), LogitKD, None.__class__])
def test_what_is_no_objective_is_told(objective):
    with pytest.raises(ArgumentTypeError, match="objective must be a sum of terms"):
        fit(small(), few(), objective, epochs=1, **QUICK)


def test_a_function_as_the_objective_is_told_where_to_go():
    with pytest.raises(ArgumentTypeError, match="got function: call it in the loss of a Term"):
        fit(small(), few(), nn.functional.cross_entropy, epochs=1, **QUICK)


def test_a_term_without_parentheses_is_told():
    with pytest.raises(TypeError, match=r"LogitKD is a class: call it, LogitKD\(\)"):
        CrossEntropy() + LogitKD


def test_later_errors_of_other_peoples_code_are_their_own():
    def fails(module, inputs):
        steps.append(1)
        if len(steps) > 1:
            raise RuntimeError("power failure")

    student, steps = small(), []
    student.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="power failure"):
        fit(student, few(), epochs=1, **QUICK)


def test_an_unfrozen_model_in_eval_mode_inside_another_learns():
    inner = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).eval()
    student = nn.Sequential(inner)  # in train mode, as every module that was just made
    fit(student, few(), epochs=1, **QUICK)
    assert inner[1].num_batches_tracked == 2


def test_a_frozen_layer_may_be_shared():
    teacher, student = small(), small()
    student[3] = teacher[3].requires_grad_(False)  # the classifier is reused
    fit(student, few(), LogitKD(), teacher=teacher, epochs=1, **QUICK)


# A loss that is no number any more.


class Broken(Term):
    """A loss that is NaN from a certain step on."""

    needs_teacher = False

    def __init__(self, after):
        super().__init__()
        self.after = after

    def loss(self, lesson):
        self.after -= 1
        return lesson.student_logits.square().mean() * (torch.nan if self.after < 0 else 1.0)


class Root(Term):
    """Zero, with a gradient that is not finite."""

    needs_teacher = False

    def loss(self, lesson):
        logits = lesson.student_logits
        return (logits - logits.detach()).square().sum().sqrt()


def broken_inputs(number, count=50):
    inputs = PIXELS8.clone()
    inputs[3, 0, 0, 0] = torch.nan
    return [(inputs if n == number else PIXELS8, LABELS) for n in range(count)]


class Overflowing(nn.Module):
    """Finite weights, infinite outputs."""

    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, inputs):
        return self.net(inputs) / 0.0


@pytest.mark.parametrize(
    ("blamed", "message", "given"),
    [
        ("train", "inputs of train hold NaN", {"train": broken_inputs(3)}),
        ("teacher", "teacher outputs NaN", {"teacher": Overflowing(), "objective": LogitKD()}),
        ("student", "before it has learned", {"student": Overflowing()}),
        ("objective", "broken is no number", {"objective": CrossEntropy() + Broken(3)}),
        ("learning_rate", "lower the learning rate", {"learning_rate": 1e30}),
        ("objective", "weights became NaN though", {"objective": CrossEntropy() + Root()}),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_loss_that_is_no_number_is_found_at_once_and_blamed(blamed, message, given, monkeypatch):
    steps = []
    step = Run.step

    def counted(self, *arguments):
        steps.append(step(self, *arguments))
        return steps[-1]

    monkeypatch.setattr(Run, "step", counted)
    count = 1 if message.startswith("weights") else 50  # the last step is looked at, too
    given = {"student": small(), "train": [(PIXELS8, LABELS)] * count, **given}
    with pytest.raises(NotFiniteError, match=message) as told:
        fit(**given, **ANY)
    assert told.value.argument == blamed
    assert len(steps) < 10
    if (
        blamed in ("train", "objective") and count > 1
    ):  # nothing is lost: the weights are those before
        assert all(bool(p.isfinite().all()) for p in given["student"].parameters())


# Arithmetic: masked classes.


@pytest.mark.parametrize(
    "loss",
    [
        *[partial(logit.kd_loss, divergence=one) for one in logit.DIVERGENCES],
        partial(logit.kd_loss, temperature=100.0),
        logit.kd_cross_entropy,
        lambda student, teacher: logit.kd_loss_from_probabilities(student, logit.softmax(teacher)),
        lambda student, teacher: logit.decoupled_kd_loss(
            student, teacher, torch.tensor([0, 1, 0, 1])
        ),
    ],
    ids=[
        "forward",
        "reverse",
        "jensen-shannon",
        "hot",
        "cross-entropy",
        "probabilities",
        "decoupled",
    ],
)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_class_that_both_mask_does_not_count(loss, compiled):
    student, teacher = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    kept = [0, 1, 2, 4, 5]
    part = student[:, kept].requires_grad_()
    expected = loss(part, teacher[:, kept])
    expected.backward()
    masked, taught = student.clone(), teacher.clone()
    masked[:, 3] = taught[:, 3] = -torch.inf
    masked.requires_grad_()
    value = (torch.compile(loss, backend="aot_eager") if compiled else loss)(masked, taught)
    value.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(masked.grad[:, kept], part.grad)
    assert torch.equal(masked.grad[:, 3], torch.zeros(4))


@pytest.mark.parametrize("kept", [(), (2,), (2, 4)], ids=["nothing else", "one more", "two more"])
def test_masks_may_leave_hardly_a_class(kept):
    """Where only the target is left, there is nothing to tell; where one other is, no ranking."""
    student, teacher = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    masked = [k for k in range(1, 6) if k not in kept]
    part = (
        logit.decoupled_kd_loss(
            *(one[:, [0, *kept]] for one in (student, teacher)), torch.zeros(3, dtype=torch.int64)
        )
        if kept
        else torch.tensor(0.0)
    )
    student[:, masked] = teacher[:, masked] = -torch.inf
    student.requires_grad_()
    value = logit.decoupled_kd_loss(student, teacher, torch.zeros(3, dtype=torch.int64))
    value.backward()
    torch.testing.assert_close(value.detach(), part)
    assert bool(student.grad.isfinite().all())
    assert torch.equal(student.grad[:, masked], torch.zeros(3, len(masked)))


def test_a_class_that_only_the_student_masks_costs_everything():
    student, teacher = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    student[:, 3] = -torch.inf
    assert logit.kd_loss(student, teacher).item() == torch.inf
    assert logit.kd_loss(teacher, student).isfinite()
    with pytest.raises(ArgumentError, match="logits must be finite"):
        logit.standardize(student)


# In a notebook, a mistake shows the user's own line and the message.

FIRST = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from kdcourse import (
    ClosedTeacher, CrossEntropy, DecoupledKD, FeatureHint, LogitKD, MomentumTeacher, Noise,
    RKDAngle, Saliency, Term, data, fit, kd_loss, metrics, mutual_learning, plain, prune, residual,
)

train = data.fashion_mnist().train[:65]
student, teacher = plain(2), residual(2)
quick = {"epochs": 1, "batch_size": 32, "progress": False}
pair = train.inputs(), train.target
flat = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = plain(2)

    def forward(self, x):
        shown = self.net(x)
        return shown.view(3, 1)

class Own(Term):
    needs_teacher = False

    def loss(self, lesson):
        return lesson.student.features["none"]

def train_it(**options):
    options = {**quick, **options}
    return fit(student, train, LogitKD(4), teacher=teacher, **options)
"""
MISTAKES = {
    "kd_loss(torch.randn(4, 10), torch.randn(4, 10), temperature=0)": "temperature must",
    "kd_loss(torch.randn(4, 10), torch.randn(5, 10))": "the same shape",
    "LogitKD(temperature=-1)": "temperature must",
    "CrossEntropy() + LogitKD": "LogitKD is a class",
    "fit(student, train, FeatureHint('stag1'), teacher=teacher, **quick)": "no layer 'stag1'",
    "fit(student, train, LogitKD(), teacher=residual(2, classes=7), **quick)": "the same shape",
    "fit(plain(2, classes=5), train, **quick)": r"must lie in \[0, 5\)",
    "fit(student, train, LogitKD(), **quick)": "needs a teacher",
    "fit(student, train, 'ce', **quick)": "objective must be",
    "train_it(learning_rate=-1)": "learning_rate must",
    "train_it(teacher_=teacher)": "teacher_",
    "train_it(validation=0.1)": "validation must",
    "fit(flat, train, **quick)": "holds a single sample",
    "fit(plain(2, channels=3), train, **quick)": "the student fails on the inputs of train",
    "fit(Mine(), train, **quick)": "return shown.view",
    "fit(student, DataLoader(TensorDataset(*pair)), augment=Noise(), progress=False)": "augment",
    "fit(student, [{'x': pair[0], 'z': pair[1]}], progress=False)": "got a dict with 'x', 'z'",
    "fit(student, [(train.pixels, train.target)], progress=False)": "torch.uint8",
    "fit(student, train, LogitKD(), teacher=teacher.state_dict(), **quick)": "load it into",
    "fit(plain(2).requires_grad_(False), train, **quick)": "must have a weight that can be trained",
    "fit(plain(2), train, learning_rate=1e30, **quick)": "lower the learning rate",
    "fit(plain(2), train, DecoupledKD(), teacher=ClosedTeacher(teacher), **quick)": "needs logits",
    "mutual_learning([plain(2)], train, **quick)": "at least two students",
    "MomentumTeacher(student, momentum=2)": "momentum must",
    "prune(teacher, 1.0)": "sparsity must",
    "metrics.accuracy(student, [pair[0]])": "samples must yield batches",
    "train_it(validation=(torch.ones(4, 3, 28, 28), torch.arange(4)))": "the inputs of validation",
    "fit(flat, list(train.batches(32)), progress=False)": "a part of one, holds a single sample",
    "fit(plain(2), [pair, (pair[0], pair[1] + 250)], progress=False)": r"lie in \[0, 10\)",
    "fit(plain(2), [(pair[0], pair[1].int())], progress=False)": "labels of train must be",
    "fit(flat, DataLoader([(torch.ones(i), 0) for i in (1, 2)], 2), progress=False)": "equal size",
    "fit(plain(2), train, Own(), **quick)": "fails with KeyError",
    "train_it(optimizer=torch.optim.LBFGS)": "whose step needs a closure",
    "train_it(augment=lambda pixels: pixels)": "augmentation fails with TypeError",
}


@pytest.fixture(scope="module")
def tracebacks():
    """What every mistake shows in a notebook of its own kernel, without colours."""
    cells = [nbformat.v4.new_code_cell(source) for source in (FIRST, *MISTAKES)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, allow_errors=True, timeout=120).execute()
    assert not notebook.cells[0].outputs
    return {
        cell.source: re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
        for cell in notebook.cells[1:]
        for output in cell.outputs
        if output.output_type == "error"
    }


@pytest.mark.parametrize(("mistake", "message"), MISTAKES.items(), ids=list(MISTAKES))
def test_a_mistake_shows_the_own_line_and_the_message(mistake, message, tracebacks):
    shown = tracebacks[mistake]
    assert f"1 {mistake}" in shown
    assert re.search(message, shown)
    assert len(shown.splitlines()) <= 15, shown


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
        *[(partial(Knobs, learning_rate=one), "learning_rate") for one in (-1, float("nan"))],
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
