import copy
import math
import shutil
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchvision.models.resnet import BasicBlock, ResNet
from toys import CLASSES, Projected, images, net, noisy, same, train, weights

from kdcourse import logit, metrics, models, relational, tips
from kdcourse.augmentation import pad_crop_flip
from kdcourse.batch import SeparateViews
from kdcourse.errors import ArgumentError
from kdcourse.feature import FeatureHint
from kdcourse.teachers import ClosedTeacher
from kdcourse.training import (
    CrossEntropy,
    FrozenTeacher,
    Knobs,
    LogitKD,
    RKDDistance,
    Run,
    Saliency,
    Teacher,
    Term,
    constant,
    fit,
)
from kdcourse.training.epochs import Epochs

KD = CrossEntropy() + 4.0 * LogitKD()


@pytest.fixture(scope="module")
def trained():
    """A teacher that knows the toy set (copied for each test: some tamper with it)."""
    teacher = net(4, seed=2)
    train(teacher, epochs=8)
    return teacher


@pytest.fixture
def teacher(trained):
    return copy.deepcopy(trained)


def result(objective=None, *, student=None, **options):
    """Weights of a student after training."""
    student = net() if student is None else student
    train(student, objective, **options)
    return weights(student)


class Witness(nn.Module):
    """Passes its input on and notes how it was called."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.seen = []

    def forward(self, inputs):
        modes = {module.training for module in self.modules()}
        self.seen.append((modes, torch.is_grad_enabled(), inputs.detach().clone()))
        return self.model(inputs)


# --- history and learning


@pytest.mark.parametrize(
    ("objective", "columns"),
    [
        (None, ["cross_entropy"]),
        (KD, ["cross_entropy", "logit_kd"]),
        (LogitKD(1) + LogitKD(4), ["logit_kd", "logit_kd_2"]),
    ],
    ids=["labels", "labels-and-teacher", "two-of-one-name"],
)
def test_history_has_a_row_per_epoch_and_a_column_per_term(objective, columns, teacher):
    history = train(
        net(),
        objective,
        teacher=teacher if objective else None,
        validation=images(40, seed=1),
        epochs=3,
    )
    expected = ["epoch", "loss", *columns, "train_accuracy", "learning_rate", "seconds"]
    for row in history.rows:
        assert list(row) == [*expected, "validation_accuracy"]
        assert all(type(value) in (int, float) for value in row.values())
    assert history["epoch"] == [1, 2, 3]
    assert "loss" in history
    assert "other" not in history
    assert list(history) == list(history.last)
    assert not list(type(history)())
    assert len(history) == 3
    assert not history.interrupted


def test_loss_of_the_history_is_the_weighted_sum(teacher):
    history = train(net(), KD, teacher=teacher, epochs=3)
    for row in history.rows:
        assert row["loss"] == pytest.approx(row["cross_entropy"] + 4 * row["logit_kd"], rel=1e-6)


def test_log_is_called_with_every_row_and_the_bar_with_every_step(capsys):
    rows, start = [], time.perf_counter()
    history = train(net(), epochs=3, log=lambda row: rows.append(dict(row)), progress=True)
    assert len(rows) == 3
    assert rows == history.rows
    assert all(second > 0 for second in history["seconds"])
    assert sum(history["seconds"]) < time.perf_counter() - start
    assert "9/9" in capsys.readouterr().err


def test_history_counts_every_image_once():
    """Batches of 40, 40 and 16: a mean over batches would give the last ones more weight."""
    student, data = nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES)), images()
    with torch.no_grad():
        logits = student(data.inputs())
    history = train(student, batch_size=40, epochs=1, learning_rate=0.0)
    labels = nn.functional.cross_entropy(logits, data.target).item()
    assert history["loss"][0] == pytest.approx(labels, rel=1e-5)
    assert history["train_accuracy"][0] == pytest.approx(metrics.share_correct(logits, data.target))


def flat(*, seed=0):
    """A linear net in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES)).double()


def partly_labelled(size):
    """Batches of 20, in float64; most labels are in the first."""
    data, start = images(size), range(0, size, 20)
    data.target[torch.arange(size) % 20 < torch.arange(size) // 3] = -1
    return [(data[n : n + 20].inputs().double(), data[n : n + 20].target) for n in start]


@pytest.mark.parametrize("parts", [1, 3])
def test_accuracy_is_the_share_of_the_labelled_samples(parts):
    student, batches = flat(), partly_labelled(49)
    inputs, target = map(torch.cat, zip(*batches, strict=True))
    right = [a == b for a, b in zip(student(inputs).argmax(1), target, strict=True) if b >= 0]
    history = train(student, train=batches, epochs=1, learning_rate=0.0, accumulate=parts)
    assert history["train_accuracy"] == [pytest.approx(float(sum(right)) / len(right))]


def test_a_part_of_a_batch_counts_by_its_samples_labels_or_as_a_part():
    """20 samples in parts of 7, 7 and 6, with labels on 8: values, and the step."""
    student, twin, teacher = flat(), flat(), flat(seed=1)
    inputs, target = partly_labelled(40)[1]
    objective = CrossEntropy() + 0.5 * LogitKD(2) + 3.0 * RKDDistance(["1"])
    sgd = {"optimizer": lambda weights: torch.optim.SGD(weights, 0.1), "scheduler": constant}
    run = Run(student, objective, teacher, steps=1, accumulate=3, **sgd)
    values = run.step(inputs, target)

    known, shown = target >= 0, [(twin(inputs), teacher(inputs).detach())]
    parts = zip(*(one.split([7, 7, 6]) for one in shown[0]), strict=True)
    expected = {
        "cross_entropy": nn.functional.cross_entropy(shown[0][0][known], target[known]),
        "logit_kd": logit.kd_loss(*shown[0], 2),
        "rkd_distance": sum(relational.rkd_distance_loss(s, t) for s, t in parts) / 3,
    }
    assert 0 < known.sum() < 20
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value.item(), rel=1e-9), name
    loss = sum(w * v for w, v in zip((1, 0.5, 3), expected.values(), strict=True))
    assert values["loss"].item() == pytest.approx(loss.item(), rel=1e-9)
    loss.backward()
    for own, old in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, old - 0.1 * old.grad)


@pytest.mark.parametrize("objective", [None, KD], ids=["labels", "teacher"])
def test_learns_and_is_measured_on_the_validation_set(objective, teacher):
    """Every fourth label of which is wrong."""
    student, validation = net(4), images(40, seed=1)
    validation.target[::4] = (validation.target[::4] + 1) % CLASSES
    history = train(
        student,
        objective,
        teacher=teacher if objective else None,
        validation=validation,
        epochs=8,
    )
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["train_accuracy"][-1] == 1
    assert history["validation_accuracy"][-1] == 0.75


def test_learning_rate_rises_and_falls():
    rates = train(net(), epochs=6, learning_rate=0.2)["learning_rate"]
    assert max(rates) <= 0.2
    assert rates[0] < max(rates) > rates[-1]


# --- the distillation happens


def test_kd_brings_the_student_closer_to_the_teacher(teacher):
    """Also where the teacher is wrong: it names every class by the next one's name."""
    with torch.no_grad():
        for parameter in teacher.classifier.parameters():
            parameter.copy_(parameter.roll(1, dims=0))
    inputs = images().inputs()
    target = metrics.predict(teacher, inputs)
    distances = []
    for objective in (None, CrossEntropy() + 10.0 * LogitKD()):
        student = net()
        train(
            student,
            objective,
            teacher=teacher if objective else None,
            epochs=10,
            learning_rate=0.02,
        )
        distances.append(logit.kd_loss(metrics.predict(student, inputs), target, 1.0))
    alone, taught = distances
    assert taught < 0.1 * alone


def test_teacher_sees_what_the_student_sees(teacher):
    student, teacher = Witness(net()), Witness(teacher)
    train(student, KD, teacher=teacher, augment=pad_crop_flip())
    assert len(student.seen) == len(teacher.seen) == 6
    for (*_, inputs), (*_, shown) in zip(student.seen, teacher.seen, strict=True):
        assert torch.equal(inputs, shown)


@pytest.mark.parametrize("wrap", [lambda m: m, FrozenTeacher, ClosedTeacher])
def test_any_kind_of_teacher(wrap, teacher):
    history = train(net(), KD, teacher=wrap(teacher))
    assert history["logit_kd"][-1] > 0


# --- the teacher is left alone


@pytest.mark.parametrize("wrap", [lambda m: m, FrozenTeacher, ClosedTeacher])
@pytest.mark.parametrize("disturb", ["before", "between"])
def test_teacher_stays_as_it_is(wrap, disturb, teacher):
    witness = Witness(nn.Sequential(teacher, nn.Dropout(0.5)))
    held = wrap(witness)
    before = weights(witness)

    class Disturbing(list):
        def __iter__(self):
            for batch in super().__iter__():
                if disturb == "between":
                    held.train()
                    witness.train()
                yield batch

    held.train()
    witness.train()
    train(net(), KD, teacher=held, train=Disturbing(images().batches(32)))
    assert same(weights(witness), before)  # batch-norm buffers too
    assert all(parameter.grad is None for parameter in witness.parameters())
    assert len(witness.seen) == 6
    for modes, gradients, _ in witness.seen:
        assert modes == {False}
        assert not gradients


def test_a_teacher_of_the_users_own_gets_no_gradients(teacher):
    class Own(Teacher):
        def __init__(self):
            super().__init__()
            self.model = teacher

        def show(self, inputs, layers=()):
            assert not torch.is_grad_enabled()
            return FrozenTeacher(self.model).show(inputs, layers)

    train(net(), KD, teacher=Own())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_student_cannot_be_its_own_teacher():
    student = net()
    for teacher in (student, FrozenTeacher(student)):
        with pytest.raises(ValueError, match="copy"):
            train(student, KD, teacher=teacher)


# --- replay


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"student": noisy},
        {"augment": pad_crop_flip()},
        {"train": lambda: DataLoader(TensorDataset(images().inputs(), images().target), 32, True)},
    ],
    ids=["plain", "dropout", "augmented", "shuffling-loader"],
)
def test_same_seed_same_weights(options):
    def run(seed):
        made = {k: v() if k in ("student", "train") else v for k, v in options.items()}
        torch.rand(seed + 1)  # the global generator plays no part
        return result(seed=seed, **made)

    assert same(run(0), run(0))
    assert not same(run(0), run(1))


def test_every_step_draws_anew():
    """Dropout masks and the order of a shuffling loader do not repeat from epoch to epoch."""
    student, draws = net(), []
    student.register_forward_pre_hook(lambda *_: draws.append(torch.rand(()).item()))
    train(student, epochs=4)
    assert len(set(draws)) == len(draws) == 12


@pytest.mark.parametrize("views", [False, True])
def test_every_epoch_has_the_batches_of_its_number(views, teacher):
    """Drawn from seed and epoch: other orders and other crops in each."""
    student, data = Witness(net()), images()
    augment = pad_crop_flip()
    options = {"views": tips.Consistent(augment)} if views else {"augment": augment}
    train(student, KD, teacher=teacher, seed=3, **options)
    expected = [
        inputs for e in (0, 1) for inputs, _ in data.batches(32, seed=3, epoch=e, augment=augment)
    ]
    for (*_, inputs), right in zip(student.seen, expected, strict=True):
        assert torch.equal(inputs, right)
    assert not torch.equal(student.seen[0][2], student.seen[3][2])


def test_a_loader_and_its_sampler_are_told_the_epoch():
    told = []

    class Told(list):
        def set_epoch(self, epoch):
            told.append(epoch)

    train(net(), train=Told(images().batches(32)), epochs=3)
    assert told == [0, 1, 2]
    data = TensorDataset(images().inputs(), images().target)
    sampler = DistributedSampler(data, num_replicas=1, rank=0)
    train(net(), train=DataLoader(data, 32, sampler=sampler), epochs=3)
    assert sampler.epoch == 2


def test_global_generator_is_left_as_it_was():
    before = torch.random.get_rng_state()
    train(noisy(), augment=pad_crop_flip())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_teacher_validation_and_progress_do_not_change_the_course(teacher):
    """A teacher that weighs nothing, or a look at the validation set, draws no random number."""
    alone = result(student=noisy())
    assert same(alone, result(student=noisy(), validation=images(40, seed=1)))
    assert same(alone, result(student=noisy(), progress=True))
    observed = CrossEntropy() + 0.0 * LogitKD()
    assert same(alone, result(observed, student=noisy(), teacher=teacher))


# --- modes


@pytest.mark.parametrize("mode", [True, False])
def test_mode_of_the_student_is_restored(mode):
    student = net().train(mode)
    train(student, validation=images(40))
    assert {module.training for module in student.modules()} == {mode}


class Broken:
    def __len__(self):
        return 1

    def __iter__(self):
        yield 1 / 0


def test_mode_is_restored_after_an_error():
    student = net().eval()
    with pytest.raises(ArgumentError, match="yielding a batch of train fails with ZeroDivision"):
        train(student, train=Broken())
    assert not student.training


def test_student_is_in_train_mode_in_every_step_also_after_validation():
    student, modes = net().eval(), []
    norm = next(m for m in student.modules() if isinstance(m, nn.BatchNorm2d))
    norm.register_forward_hook(lambda module, *_: modes.append(module.training))
    train(student, validation=images(40), epochs=3)
    assert modes == [False, *3 * [True, True, True, False]]  # validation is tried first


# --- anything can be trained


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES)),
        lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES),
        lambda: models.residual(2, classes=CLASSES, seed=0),
    ],
    ids=["linear", "torchvision", "residual"],
)
def test_any_module_is_a_student(make, teacher):
    student = make()
    colours = 3 if isinstance(student, ResNet) else 1
    before = weights(student)
    grey = nn.Sequential(Grey(), teacher)
    history = train(student, KD, teacher=grey, train=images(64, channels=colours), epochs=1)
    assert math.isfinite(history["loss"][0])
    moved = [name for name, value in student.named_parameters() if not value.equal(before[name])]
    assert moved == [name for name, _ in student.named_parameters()]


class Grey(nn.Module):
    def forward(self, inputs):
        return inputs[:, :1]


def test_frozen_part_of_a_student_stays():
    student = net()
    student.stem.requires_grad_(False)
    before = weights(student.stem)
    train(student)
    assert torch.equal(weights(student.stem)["0.weight"], before["0.weight"])


def test_batches_of_the_users_own():
    batches = list(images().batches(32))
    history = train(net(), train=batches, epochs=3)
    assert len(history) == 3


@pytest.mark.parametrize("kind", ["images", "one for both", "one for each"])
def test_a_few_samples_show_what_each_side_will_see(kind):
    data = images(9)
    own, theirs = data.inputs(), -data.inputs()
    batches, right = {
        "images": (data, (own, own)),
        "one for both": ([(own, data.target)], (own, own)),
        "one for each": ([(SeparateViews(own, theirs), data.target)], (own, theirs)),
    }[kind]
    shown = Epochs(batches, torch.device("cpu"), Knobs()).sample()
    for found, expected in zip(shown, (*right, data.target), strict=True):
        assert torch.equal(found, expected[:4])


def test_looking_at_a_few_samples_leaves_no_trace():
    loader = DataLoader(TensorDataset(images().inputs(), images().target), 32, shuffle=True)
    state = torch.random.get_rng_state()
    Epochs(loader, torch.device("cpu"), Knobs()).sample()
    assert torch.equal(torch.random.get_rng_state(), state)


class Loud(Term):
    """Looks at layers and notes what it got."""

    student_layers = ("stage1", "embedding")
    teacher_layers = ("stage2",)

    def __init__(self):
        super().__init__()
        self._seen = []

    def loss(self, lesson):
        self._seen.append(lesson)
        return lesson.student.features["stage1"].square().mean()


def test_term_gets_the_layers_it_asked_for(teacher):
    student, term = net(), Loud()
    before = weights(student)
    train(student, term, teacher=teacher, epochs=1, batch_size=96)
    (lesson,) = term._seen
    features = lesson.student.features
    assert {k: tuple(v.shape) for k, v in features.items()} == {
        "stage1": (96, 2, 6, 6),
        "embedding": (96, 8),
    }
    assert all(feature.requires_grad for feature in features.values())
    assert torch.equal(student_logits_of(features["embedding"], before), lesson.student.logits)
    shown = lesson.teacher.features
    assert {k: tuple(v.shape) for k, v in shown.items()} == {"stage2": (96, 8, 3, 3)}
    assert not shown["stage2"].requires_grad
    assert not lesson.teacher.logits.requires_grad
    # Only what lies below stage1 learned from it.
    moved = {n.split(".")[0] for n, p in student.named_parameters() if p.grad is not None}
    assert moved == {"stem", "stage1"}
    assert not any(module._forward_hooks for module in [*student.modules(), *teacher.modules()])


def student_logits_of(embedding, before):
    return nn.functional.linear(embedding, before["classifier.weight"], before["classifier.bias"])


def test_unknown_layer(teacher):
    class Lost(Loud):
        student_layers = ("stage7",)

    with pytest.raises(ValueError, match="stage7"):
        train(net(), Lost(), teacher=teacher)


# --- other optimisers and schedules


def test_own_optimizer_and_schedule():
    made = {}

    def adam(parameters):
        made["parameters"] = list(parameters)
        return torch.optim.AdamW(made["parameters"], 0.01)

    def halve(optimizer, steps):
        made["steps"] = steps
        return torch.optim.lr_scheduler.StepLR(optimizer, steps // 2, 0.5)

    student = net()
    history = train(student, epochs=4, optimizer=adam, scheduler=halve)
    assert made["steps"] == 4 * 3
    assert {id(p) for p in made["parameters"]} == {id(p) for p in student.parameters()}
    assert history["learning_rate"] == [0.01, 0.01, 0.005, 0.005]


def without_decay(named_parameters):
    """Let neither norms nor biases decay, and weights of a term learn more slowly."""
    groups = {
        name: {"params": [parameter], "weight_decay": 0.1 * (parameter.dim() > 1)}
        for name, parameter in named_parameters
    }
    for name, group in groups.items():
        if name.startswith("objective."):
            group["lr"] = 0.001
    without_decay.groups = groups
    return torch.optim.SGD(groups.values(), 0.01)


def test_an_optimizer_may_ask_for_named_parameters(teacher):
    student, objective = net(), CrossEntropy() + Projected()
    next(student.parameters()).requires_grad_(False)
    train(student, objective, teacher=teacher, optimizer=without_decay)
    expected = {
        f"{who}.{name}": parameter
        for who, model in (("student", student), ("objective", objective))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert {name: g["params"][0] for name, g in without_decay.groups.items()} == expected
    assert "objective.terms.1.projection.weight" in expected


def test_an_optimizer_of_torch_may_be_given_the_names(teacher):
    one, other = net(), net()
    train(one, optimizer=lambda named_parameters: torch.optim.AdamW(named_parameters, 0.01))
    train(other, optimizer=lambda parameters: torch.optim.AdamW(parameters, 0.01))
    assert same(weights(one), weights(other))


def test_one_step_is_sgd_with_nesterov_momentum(teacher):
    student, twin = net(), net()
    inputs, target = next(images().batches(32))
    run = Run(
        student,
        KD,
        teacher,
        steps=1,
        weight_decay=0.01,
        scheduler=lambda o, _: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0),
    )
    values = run.step(inputs, target)
    expected = twin(inputs)
    loss = nn.functional.cross_entropy(expected, target)
    loss = loss + 4.0 * logit.kd_loss(expected, teacher.eval()(inputs))
    loss.backward()
    assert values["train_accuracy"] == metrics.share_correct(expected, target)
    assert torch.equal(values["loss"], loss)
    for moved, parameter in zip(student.parameters(), twin.parameters(), strict=True):
        # first step: momentum m = g, so the step is g + 0.9 m, g with weight decay in it
        gradient = parameter.grad + 0.01 * parameter
        torch.testing.assert_close(moved, parameter - 0.1 * 1.9 * gradient)


# --- precision, compilation, devices


@pytest.mark.parametrize("dtype", [True, torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype, teacher):
    seen = []
    student = net()
    student.classifier.register_forward_hook(lambda *args: seen.append(args[-1].dtype))
    history = train(student, KD + Projected(), teacher=teacher, autocast=dtype, epochs=3)
    assert set(seen) == {torch.bfloat16 if dtype is True else dtype}
    assert all(math.isfinite(value) for row in history.rows for value in row.values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in student.parameters())
    assert history["loss"][-1] < history["loss"][0]


def compare_with_eager(objective, student, teacher):
    eager, compiled = student, copy.deepcopy(student)
    options = {"teacher": teacher, "epochs": 2, "validation": images(40)}
    train(eager, copy.deepcopy(objective), **options)
    train(compiled, copy.deepcopy(objective), compile=True, **options)
    for name, value in weights(eager).items():
        # 6 steps of float32 rounding (6e-8), fused in another order
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-4, atol=1e-5)


def test_compiled_graph_still_shows_its_layers(teacher, monkeypatch):
    """Hooks change from step to step under the same graph (traced only: no compiler needed)."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend="eager"))
    compare_with_eager(CrossEntropy() + Projected(), net(), teacher)


def test_compiled_trainings_of_one_process_may_watch_different_layers(monkeypatch):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend="eager"))
    torch.compiler.reset()
    for term in (logit.LogitKD(4), FeatureHint("stage2"), FeatureHint("stage1"), logit.LogitKD(4)):
        compare_with_eager(CrossEntropy() + term, net(), net(4, seed=2))


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("cc")), reason="no C++ compiler")
def test_compiled_student_learns_the_same(teacher):
    student = nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES))
    compare_with_eager(KD, student, teacher)


def test_channels_last_learns_the_same_and_leaves_nothing_behind(teacher):
    seen = []
    plain, student = net(), net()
    hook = student.stage1.register_forward_hook(lambda *args: seen.append(args[-1]))
    train(plain, KD, teacher=teacher)
    train(student, KD, teacher=teacher, channels_last=True)
    hook.remove()
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in seen)
    for model in (student, teacher):
        assert all(p.is_contiguous() for p in model.parameters())
    for name, value in weights(plain).items():
        # 6 steps of float32 rounding (6e-8), summed in another order
        torch.testing.assert_close(weights(student)[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("loader", [False, True])
def test_images_lie_channel_by_channel_unless_asked_otherwise(channels, loader):
    """Cropped images do not; narrow nets then crash in oneDNN, on some processors."""
    seen = []
    student = models.residual(2, channels=channels, classes=CLASSES)
    student.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].stride()))
    data = images(64, channels=channels)
    options = {"augment": pad_crop_flip()}
    if loader:
        inputs = data.inputs().permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        data, options = [(inputs, data.target)], {}
    train(student, train=data, **options)
    assert set(seen) == {(144 * channels, 144, 12, 1)}


def test_channels_last_is_refused_where_it_would_crash():
    narrow = models.residual(2, classes=CLASSES)
    with pytest.raises(ValueError, match=r"stage2.0.shortcut.0, a strided 1×1 .* of 2 channels"):
        train(narrow, channels_last=True)
    with pytest.raises(ValueError, match=r"stage2.0.shortcut.0, a strided 1×1 .* of 2 channels"):
        train(models.plain(4, classes=CLASSES), Saliency(), teacher=narrow, channels_last=True)
    train(models.residual(16, classes=CLASSES), epochs=1, channels_last=True)


def test_device(device, teacher):
    places = set()

    class Where(CrossEntropy):
        def loss(self, lesson):
            shown = (lesson.student.logits, lesson.teacher.logits, lesson.target)
            places.update(tensor.device.type for tensor in shown)
            return super().loss(lesson)

    student, objective = net(), KD + Projected() + Where()
    state = torch.random.get_rng_state()
    history = fit(
        student,
        images(),
        objective,
        teacher=teacher,
        validation=images(40, seed=1),
        epochs=6,
        batch_size=32,
        augment=pad_crop_flip(0),
        device=device,
        progress=False,
    )
    assert places == {torch.device(device).type}
    for model in (student, teacher):  # both have come home
        assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert history["loss"][-1] < history["loss"][0]
    assert torch.equal(torch.random.get_rng_state(), state)


# --- interruption


class Interrupted(list):
    """Batches in which Ctrl-C is pressed in the middle of the third epoch."""

    epochs = 0

    def __iter__(self):
        self.epochs += 1
        for number, batch in enumerate(super().__iter__()):
            if self.epochs == 3 and number == 1:
                raise KeyboardInterrupt
            yield batch


def test_interrupted_run_returns_what_it_has():
    student = net().eval()
    before = weights(student)
    with pytest.warns(UserWarning, match="interrupted after 2 of 5 epochs"):
        history = train(student, train=Interrupted(images().batches(32)), epochs=5)
    assert history.interrupted
    assert history["epoch"] == [1, 2]
    assert not same(weights(student), before)
    assert not student.training


def test_interrupted_run_raises_if_asked():
    with pytest.raises(KeyboardInterrupt):
        train(net(), train=Interrupted(images().batches(32)), epochs=5, on_interrupt="raise")


# --- settings that cannot work


@pytest.mark.parametrize(
    ("size", "batch_size", "last"), [(64, 32, 32), (65, 32, 1), (95, 32, 31), (20, 32, 20)]
)
def test_the_last_batch_is_split_too(size, batch_size, last):
    options = {"train": images(size), "batch_size": batch_size, "epochs": 1}
    student = nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES))
    assert len(train(student, accumulate=last, **options)) == 1
    with pytest.raises(ValueError, match=rf"holds {last} sample\(s\), too few for 1 process"):
        train(student, accumulate=last + 1, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"objective": KD}, ValueError, "needs a teacher"),
        ({"teacher": net(4)}, ValueError, "never asks"),
        ({"epochs": 0}, ValueError, "epochs"),
        ({"epochs": "3"}, TypeError, "epochs"),
        ({"epochs": 1.5}, ValueError, "epochs must be a positive integer, got 1.5"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 1.5}, ValueError, "batch_size must be a positive integer, got 1.5"),
        ({"batch_size": -32}, ValueError, "batch_size"),
        ({"accumulate": 0}, ValueError, "accumulate"),
        ({"train": list(images().batches(32)), "accumulate": 33}, ValueError, "33 parts"),
        ({"on_interrupt": "ignore"}, ValueError, "on_interrupt"),
        ({"train": iter(images().batches(32))}, TypeError, "anew each epoch"),
        ({"train": images()[:0]}, ValueError, "train"),
        ({"train": []}, ValueError, "train"),
        ({"learning_rate": 1e30, "epochs": 6}, FloatingPointError, "learning rate"),
    ],
    ids=lambda value: None if isinstance(value, dict) else getattr(value, "__name__", value),
)
def test_bad_setting(options, error, message):
    with pytest.raises(error, match=message):
        train(net(), **options)


def test_a_single_sample_is_enough_and_none_is_not():
    class Silent(list):
        def __iter__(self):
            return iter(())

    (one,) = images(1).batches(1)
    history = train(nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES)), train=[one], epochs=1)
    assert history["train_accuracy"][0] in (0, 1)
    with pytest.raises(ValueError, match="train yielded no batch"):
        train(net(), train=Silent([one]))


def test_loss_that_is_not_a_number():
    data = list(images().batches(32))
    data[1] = (data[1][0] * math.nan, data[1][1])
    with pytest.raises(FloatingPointError, match="nan"):
        train(net(), train=data)
