import copy

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toys import CLASSES, Scores, images, net, same, train, weights

from kdcourse import models
from kdcourse.models import capture
from kdcourse.teachers import ClosedTeacher, FoldedTeacher, FrozenTeacher, Teacher, as_teacher
from kdcourse.training import Lesson, LogitKD, Outputs

INPUTS = images(8).inputs()


class Says(nn.Module):
    """A model that says the same of every input."""

    def __init__(self, *logits, dtype=torch.float32):
        super().__init__()
        self.logits = torch.tensor(logits, dtype=dtype)

    def forward(self, inputs):
        return self.logits.expand(len(inputs), -1)


def probabilities_of(*shares, **limits):
    """What a closed teacher makes of one row of probabilities."""
    model = Says(*torch.tensor(shares, dtype=torch.float64).log().tolist())
    return ClosedTeacher(model, **limits)(INPUTS[:1])[0]


def moody():
    """A model whose train mode shows: batch norm, dropout."""
    return nn.Sequential(net(), nn.Dropout(0.5))


TEACHERS = [FrozenTeacher, FoldedTeacher, ClosedTeacher]


# --- every teacher


@pytest.mark.parametrize("make", TEACHERS)
@pytest.mark.parametrize("setting", ["train", "model", "parent", "part"])
def test_teacher_is_always_in_eval_mode(make, setting):
    teacher = make(moody().train())
    assert not any(module.training for module in teacher.modules())
    expected = teacher(INPUTS)
    asked = {"train": teacher, "model": teacher.model, "parent": nn.Sequential(teacher)}
    asked.get(setting, teacher.model[0]).train()
    before = copy.deepcopy(teacher.state_dict())
    assert torch.equal(teacher(INPUTS), expected)
    assert not any(module.training for module in teacher.modules())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_new_kind_of_teacher_is_in_eval_mode_from_the_start():
    assert not Teacher().training
    assert not Teacher().train().training


@pytest.mark.parametrize("make", TEACHERS)
def test_no_gradient_passes_through_a_teacher(make):
    teacher, inputs = make(net()), INPUTS.clone().requires_grad_()
    shown = teacher.show(inputs)
    for output in (teacher(inputs), shown.logits, shown.probabilities):
        assert output is None or not output.requires_grad


@pytest.mark.parametrize("make", TEACHERS)
def test_teacher_holds_the_model_itself(make):
    model = net()
    assert make(model).model is model


@pytest.mark.parametrize("make", TEACHERS)
def test_as_teacher_is_idempotent(make):
    teacher = make(net())
    assert as_teacher(teacher) is teacher


def test_as_teacher_freezes_a_model():
    model = net()
    teacher = as_teacher(model)
    assert isinstance(teacher, FrozenTeacher)
    assert teacher.model is model


def test_teacher_without_show():
    with pytest.raises(NotImplementedError):
        Teacher()(INPUTS)


# --- open weights


def test_frozen_teacher_shows_the_logits_of_its_model():
    model = moody()
    shown = FrozenTeacher(model).show(INPUTS)
    assert torch.equal(shown.logits, model.eval()(INPUTS))
    assert shown.probabilities is None
    assert shown.features == {}
    assert torch.equal(FrozenTeacher(model)(INPUTS), shown.logits)


def test_frozen_teacher_shows_the_layers_asked_for():
    model = net().eval()
    shown = FrozenTeacher(model).show(INPUTS, ("stage2", "embedding"))
    with capture(model, ("stage2", "embedding")) as expected:
        model(INPUTS)
    assert shown.features.keys() == expected.keys() == {"stage2", "embedding"}
    for name, features in shown.features.items():
        assert torch.equal(features, expected[name])
        assert not features.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_teacher_has_no_such_layer():
    with pytest.raises(ValueError, match=r"stage9.*stage"):
        FrozenTeacher(net()).show(INPUTS, ("stage9",))


# --- batch norm folded into convolutions


def used(model):
    """A model whose batch norm has seen other statistics than zero and one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return model.eval()


FOLDABLE = {  # and how many batch norms stay: those that stand before a convolution
    "plain": (lambda: models.plain(4), 0),
    "residual": (lambda: models.residual(4), 0),
    "padded shortcuts": (lambda: models.resnet(8, channels=1, shortcut="pad"), 0),
    "norm first": (lambda: models.wide_resnet(10, 1, channels=1), 4),
    "torchvision": (lambda: nn.Sequential(nn.Conv2d(1, 3, 1), torchvision.models.resnet18()), 0),
    "nothing to fold": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES)), 0),
}


@pytest.mark.parametrize(("make", "left"), FOLDABLE.values(), ids=FOLDABLE)
def test_folded_teacher_shows_the_same_up_to_rounding(make, left):
    model = used(make()).double()
    teacher = FoldedTeacher(model)
    before = copy.deepcopy(model.state_dict())
    shown, expected = teacher.show(INPUTS.double()), model(INPUTS.double())
    torch.testing.assert_close(shown.logits, expected, rtol=1e-9, atol=1e-9)
    assert not shown.logits.requires_grad
    assert sum(isinstance(module, nn.BatchNorm2d) for module in teacher.folded.modules()) == left
    assert same(model.state_dict(), before)
    assert teacher.model is model


def test_layers_and_input_gradients_come_from_the_model_itself():
    model, target = used(net()), torch.zeros(len(INPUTS), dtype=torch.int64)
    teacher, plain = FoldedTeacher(model), FrozenTeacher(model)
    layers = ("stage1", "stage2.0.0", "embedding")
    shown, expected = teacher.show(INPUTS, layers), plain.show(INPUTS, layers)
    assert torch.equal(shown.logits, expected.logits)
    for name in layers:
        assert torch.equal(shown.features[name], expected.features[name])
    gradients = (t.input_gradient(INPUTS, target) for t in (teacher, plain))
    assert torch.equal(*gradients)


def test_input_gradients_are_those_of_the_logits_that_output_finds():
    target = torch.zeros(len(INPUTS), dtype=torch.int64)
    teacher, plain = FrozenTeacher(Scores(), lambda found: found["scores"]), FrozenTeacher(net())
    gradients = [one.input_gradient(INPUTS, target) for one in (teacher, plain)]
    assert torch.equal(*gradients)
    assert not gradients[0].requires_grad


class Branches(nn.Module):
    """What it computes depends on its inputs."""

    def forward(self, inputs):
        return inputs.flatten(1) if inputs.sum() > 0 else -inputs.flatten(1)


class Shared(nn.Module):
    """One convolution, two batch norms: it cannot take in both."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(1) for _ in range(2))

    def forward(self, inputs):
        one, other = (norm(self.convolution(inputs)) for norm in self.norms)
        return (one - 2 * other).mean(dim=3).flatten(1)


class Named(nn.Module):
    """Returns its logits by their name."""

    def __init__(self):
        super().__init__()
        self.model = used(net())

    def forward(self, inputs):
        return {"logits": self.model(inputs)}


def test_folded_teacher_of_a_model_that_names_its_logits():
    model = Named()
    shown, expected = (make(model).show(INPUTS) for make in (FoldedTeacher, FrozenTeacher))
    torch.testing.assert_close(shown.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_folded_is_named():
    with pytest.raises(
        ValueError, match=r"Branches cannot be folded, use a FrozenTeacher: .*control"
    ):
        FoldedTeacher(Branches())
    teacher = FoldedTeacher(used(Shared()))
    with pytest.raises(ValueError, match="Shared cannot be folded, use a FrozenTeacher"):
        teacher.show(INPUTS)


def test_student_learns_the_same_from_a_folded_teacher():
    teacher, one, other = used(net(4)), net(), net()
    plain = train(one, LogitKD(), teacher=teacher)
    fast = train(other, LogitKD(), teacher=FoldedTeacher(teacher))
    assert fast["loss"] == pytest.approx(plain["loss"], rel=1e-3)
    assert not same(weights(other), weights(net()))


# --- closed weights


def test_closed_teacher_shows_probabilities_and_nothing_else():
    model = net().eval()
    teacher = ClosedTeacher(model)
    shown = teacher.show(INPUTS)
    torch.testing.assert_close(shown.probabilities, model(INPUTS).softmax(dim=1))
    assert shown.logits is None
    assert shown.features == {}
    assert torch.equal(teacher(INPUTS), shown.probabilities)


class Likely(Says):
    """A model that returns probabilities."""

    def forward(self, inputs):
        return super().forward(inputs).softmax(dim=1)


def test_a_model_that_returns_probabilities_is_taken_at_its_word():
    """Its first outputs tell, unless the caller does; later ones are taken alike."""
    expected = torch.tensor([0.7, 0.2, 0.1])
    likely = Likely(*expected.log().tolist())
    for told in (None, True):
        torch.testing.assert_close(ClosedTeacher(likely, probabilities=told)(INPUTS)[0], expected)
    taken_for_logits = ClosedTeacher(likely, probabilities=False)(INPUTS)[0]
    torch.testing.assert_close(taken_for_logits, expected.softmax(dim=0))
    teacher = ClosedTeacher(Says(0.0, 1.0, 2.0))
    teacher(INPUTS)
    teacher.model.logits = expected
    torch.testing.assert_close(teacher(INPUTS)[0], expected.softmax(dim=0))
    half = Likely(*expected.log().tolist(), dtype=torch.float16)
    shown = ClosedTeacher(half, probabilities=True)(INPUTS)[0]
    assert shown.dtype == torch.float32
    torch.testing.assert_close(shown, expected, atol=1e-3, rtol=0)


def test_closed_teacher_refuses_to_show_layers():
    with pytest.raises(ValueError, match=r"closed teacher.*stage1"):
        ClosedTeacher(net()).show(INPUTS, ("stage1",))


@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=12),
    top_k=st.none() | st.integers(1, 3),
    decimals=st.none() | st.integers(0, 6),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_closed_teacher_keeps_its_limits(logits, top_k, decimals, dtype):
    model = Says(*logits, dtype=dtype)
    exact = model.logits.double().softmax(dim=0)
    shown = ClosedTeacher(model, top_k, decimals)(INPUTS[:2])
    assert shown.shape == (2, len(logits))
    assert torch.equal(shown[0], shown[1])
    row = shown[0].double()
    # K ≤ 12 roundings to float32, each half of 1.2e-7 at most
    assert float(row.sum()) == pytest.approx(1, abs=1e-6)
    assert bool((row >= 0).all())
    uniform = bool((row == row[0]).all())  # all was lost in rounding
    assert int((row > 0).sum()) <= (top_k or len(logits)) or uniform
    # the model's order, up to float32: what is shown as larger is not smaller
    assert not bool(((row[:, None] > row) & (exact[:, None] < exact - 1e-6)).any())
    # what it shows can be learned from
    student = torch.zeros(2, len(logits), requires_grad=True)
    loss, _ = LogitKD()(
        Lesson(Outputs(logits=student), torch.zeros(2).long(), Outputs(probabilities=shown))
    )
    loss.backward()
    assert bool(loss.isfinite())
    assert bool(student.grad.isfinite().all())


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, [0.43, 0.32, 0.21, 0.04]),
        ({"top_k": 4}, [0.43, 0.32, 0.21, 0.04]),
        ({"top_k": 2}, [0.43 / 0.75, 0.32 / 0.75, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"decimals": 2}, [0.43, 0.32, 0.21, 0.04]),
        ({"decimals": 1}, [0.4 / 0.9, 0.3 / 0.9, 0.2 / 0.9, 0]),
        ({"top_k": 2, "decimals": 1}, [0.4 / 0.7, 0.3 / 0.7, 0, 0]),
        ({"decimals": 0}, [0.25, 0.25, 0.25, 0.25]),  # nothing is left: nothing is known
        ({"top_k": 2, "decimals": 0}, [0.25, 0.25, 0.25, 0.25]),
    ],
    ids=str,
)
def test_what_is_left_out_is_made_up_for(limits, expected):
    shown = probabilities_of(0.43, 0.32, 0.21, 0.04, **limits)
    torch.testing.assert_close(shown, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_keeps_the_models_order(top_k):
    model = net(4).eval()
    exact = model(INPUTS)
    shown = ClosedTeacher(model, top_k=top_k)(INPUTS)
    assert torch.equal((shown > 0).sum(dim=1), torch.full((8,), top_k))
    assert torch.equal(shown.topk(top_k).indices, exact.topk(top_k).indices)


def test_rounding_of_one_row_does_not_touch_another():
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[9.0, 0.0], [0.0, 0.0]])
    shown = ClosedTeacher(model, decimals=0)(torch.eye(2))
    assert shown.tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_broken_model_is_not_taken_for_an_unsure_one():
    assert bool(ClosedTeacher(Says(1.0, float("nan"), 0.0))(INPUTS).isnan().all())


@pytest.mark.parametrize(
    "limits",
    [
        {"top_k": 0},
        {"top_k": -1},
        {"top_k": 2.0},
        {"top_k": "2"},
        {"top_k": True},
        {"decimals": -1},
        {"decimals": 1.5},
        {"decimals": "2"},
        {"decimals": False},
    ],
    ids=str,
)
def test_bad_limit_is_named(limits):
    (name,) = limits
    with pytest.raises((ValueError, TypeError), match=name):
        ClosedTeacher(net(), **limits)


def test_more_than_all_classes():
    with pytest.raises(ValueError, match=f"top_k = {CLASSES + 1}.*{CLASSES} classes"):
        ClosedTeacher(net(), top_k=CLASSES + 1)(INPUTS)


def test_teachers_on_the_device(device):
    model, inputs = net().to(device), INPUTS.to(device)
    for teacher in (FrozenTeacher(model), ClosedTeacher(model, top_k=2, decimals=2)):
        assert teacher(inputs).device == inputs.device
