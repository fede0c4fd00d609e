"""What would do nothing, or something else, without a word: refused at the call or first batch."""

import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import ArpackNoConvergence
from torch import nn
from torch.optim import SGD, Adagrad, lr_scheduler
from torch.utils.data import DataLoader, IterableDataset

from kdcourse import metrics, models, motivation
from kdcourse.data import Images
from kdcourse.errors import ArgumentError, ArgumentTypeError, ExplainedError
from kdcourse.feature import AttentionTransfer, FeatureHint, Saliency, prediction_gradient
from kdcourse.further import GeneratedImages, Generator
from kdcourse.logit import CrossEntropy, LogitKD
from kdcourse.objective import Term, WarmUp
from kdcourse.relational import RKDAngle, RKDDistance
from kdcourse.teachers import (
    ClosedTeacher,
    Ensemble,
    MomentumTeacher,
    born_again,
    correct,
    fold,
    mutual_learning,
    prune,
    prune_width,
    quantize,
)
from kdcourse.training import Run, constant, fit, fit_in_stages
from kdcourse.training.teacher import FrozenTeacher, Teacher
from kdcourse.view_term import OneView

PIXELS = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 10
BATCHES = [(PIXELS[:16], LABELS[:16]), (PIXELS[16:], LABELS[16:])]
BYTES = torch.arange(2048).remainder(256).byte().view(32, 1, 8, 8)
IMAGES = Images(BYTES, LABELS, tuple("abcdefghij"), (0.5,), (0.25,))


def flat(classes=10, width=8, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes)]
    return nn.Sequential(*layers)


def conv(classes=10, seed=0):
    torch.manual_seed(seed)
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)]
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), *pooled)


def learn(student=None, objective=None, train=None, **options):
    options = {"epochs": 1, "device": "cpu", "progress": False, **options}
    student, train = student or flat(), train or BATCHES
    return fit(student, train, objective or CrossEntropy(), **options)


def frozen(model, *layers):
    for layer in layers:
        model[layer].requires_grad_(False)
    return model


class Around(nn.Module):
    """A model whose forward is given."""

    def __init__(self, forward, model=None):
        super().__init__()
        self.model, self.call = flat() if model is None else model, forward

    def forward(self, inputs):
        return self.call(self.model, inputs)


class Grows(nn.Module):
    """Makes a layer when it is called for the first time."""

    def __init__(self):
        super().__init__()
        self.model, self.last = flat(), None

    def forward(self, inputs):
        self.last = self.last or nn.Linear(10, 10)
        return self.last(self.model(inputs))


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight


def term(loss, name="Own", **attributes):
    """Make a term of a function of the student's logits."""
    methods = {"loss": lambda self, lesson: loss(lesson.student_logits), "needs_teacher": False}
    return type(name, (Term,), {**methods, **attributes})()


def test_a_term_that_counts_is_inside_of_one_other_only():
    warm = WarmUp(LogitKD(), steps=10)
    with pytest.raises(ArgumentError, match="counts its steps, and is inside of 2 terms"):
        learn(objective=OneView(warm, 0) + OneView(warm, 1), teacher=flat(seed=1))
    views = OneView(warm, 0) + OneView(copy.deepcopy(warm), 1)
    learn(objective=views, teacher=flat(seed=1))
    assert warm.taken == len(BATCHES)
    kd = LogitKD()
    learn(objective=WarmUp(kd, 10) + kd, teacher=flat(seed=1))


class Unmade(Term):
    """Forgets to call ``super().__init__()``."""

    def __init__(self):
        pass


class Says(Teacher):
    """Returns logits and not what it shows."""

    def show(self, inputs, layers=()):
        return torch.zeros(len(inputs), 10)


class Stream(IterableDataset):
    """Has no length."""

    def __iter__(self):
        return zip(PIXELS, LABELS, strict=True)


in_place = partial(Around, lambda model, inputs: model(inputs.sub_(5.0)))
unused = partial(Around, lambda model, inputs: model[3](model[1](model[0](inputs))))
teaching = {"teacher": flat(seed=1), "objective": CrossEntropy() + LogitKD()}


def steps(make):
    return lambda optimizer, steps: make(optimizer)


def of_others(parameters):
    return SGD(flat().parameters(), 0.1)


REFUSED = {
    "a term that reaches nothing": (
        lambda: learn(
            frozen(conv(), 0),
            CrossEntropy() + 1000 * AttentionTransfer(["0"]),
            teacher=conv(seed=1),
        ),
        "objective",
        "attention_transfer depends on no weight that can be trained",
    ),
    "a term with weights that reaches nothing else": (
        lambda: learn(frozen(conv(), 0), CrossEntropy() + FeatureHint("0"), teacher=conv(seed=1)),
        "objective",
        "feature_hint depends on no weight that can be trained but its own",
    ),
    "a term without gradients": (
        lambda: learn(objective=CrossEntropy() + term(lambda z: z.detach().mean())),
        "objective",
        "own depends on no weight",
    ),
    "a map of one position": (
        lambda: learn(conv(), AttentionTransfer(["2"]), teacher=conv(seed=1)),
        "student_features",
        "more than one position",
    ),
    "too few for angles": (
        lambda: learn(objective=RKDAngle(["1"]), teacher=flat(seed=1), accumulate=8),
        "batch_size",
        "at least 3 samples, and a batch, or a part of one, holds 2",
    ),
    "a single sample for distances": (
        lambda: learn(objective=RKDDistance(["1"]), teacher=flat(seed=1), accumulate=16),
        "batch_size",
        "at least 2 samples",
    ),
    "labels that are not there": (
        lambda: learn(train=IMAGES.unlabelled(), **teaching),
        "train",
        "without labels, which CrossEntropy",
    ),
    "a term named as the total": (
        lambda: learn(objective=CrossEntropy() + term(torch.mean, "Loss")),
        "objective",
        "no term may be named loss",
    ),
    "a mean over nothing known": (
        lambda: learn(objective=term(torch.mean, mean_over="lables")),
        "Own",
        "mean_over of Own must be one of",
    ),
    "a loss of one entry": (
        lambda: learn(objective=CrossEntropy() + term(lambda z: z.mean().view(1))),
        "objective",
        r"the loss of Own must be a scalar tensor, got Tensor of shape \(1,\)",
    ),
    "a loss that is a float": (
        lambda: learn(objective=term(lambda z: 1.0)),
        "objective",
        "got float",
    ),
    "a term that is not made": (lambda: learn(objective=Unmade()), "objective", "must call super"),
    "a term in a sum that is not made": (
        lambda: learn(objective=CrossEntropy() + Unmade()),
        "objective",
        "Unmade must call super",
    ),
    "a term without a loss": (
        lambda: learn(objective=type("Empty", (Term,), {"needs_teacher": False})()),
        "objective",
        r"Empty must define loss\(lesson\)",
    ),
    "gradients of gradients that are not there": (
        lambda: learn(
            torch.compile(conv(), backend="aot_eager"),
            CrossEntropy() + Saliency(),
            teacher=conv(seed=1),
        ),
        "objective",
        "differentiating (the objective|by the inputs) fails",  # as torch's caches have it
    ),
    "an optimizer of another model": (
        lambda: learn(optimizer=of_others),
        "optimizer",
        "without 4 of 4",
    ),
    "a scheduler of another optimizer": (
        lambda: learn(scheduler=steps(lambda _: lr_scheduler.ConstantLR(of_others(None)))),
        "scheduler",
        "of another",
    ),
    "a scheduler that ends early": (
        lambda: learn(scheduler=steps(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=1))),
        "scheduler",
        "must last 2 steps",
    ),
    "a class whose second argument is no number of steps": (
        lambda: learn(scheduler=lr_scheduler.ExponentialLR),
        "scheduler",
        "which ExponentialLR would take for its gamma",
    ),
    "a rate that nobody uses": (
        lambda: learn(learning_rate=3.0, optimizer=SGD, scheduler=constant),
        "learning_rate",
        "were all given",
    ),
    "one rate in place of several": (
        lambda: learn(
            learning_rate=3.0,
            optimizer=lambda p: SGD([{"params": p[:2], "lr": 0.01}, {"params": p[2:]}], 0.1),
        ),
        "learning_rate",
        r"the rates \[0.01, 0.1\]",
    ),
    "a decay that nobody uses": (
        lambda: learn(weight_decay=0.5, optimizer=SGD),
        "weight_decay",
        "both given",
    ),
    "a sparse gradient": (
        lambda: learn(
            nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 10)),
            train=[(torch.arange(24).view(8, 3) % 9, LABELS[:8])],
        ),
        "optimizer",
        "a step of the optimizer fails",
    ),
    "a layer that is made in the first pass": (lambda: learn(Grows()), "student", "last.weight"),
    "a layer that is unfrozen later": (
        lambda: learn(
            (student := frozen(flat(), 1)), epochs=3, log=lambda row: student.requires_grad_(True)
        ),
        "student",
        "1.weight of the student was made or unfrozen",
    ),
    "an average of a narrower model": (
        lambda: learn(teacher=MomentumTeacher(flat(width=1)), objective=LogitKD()),
        "teacher",
        "averages another model",
    ),
    "a teacher that overwrites its inputs": (
        lambda: learn(teacher=in_place(), objective=LogitKD()),
        "teacher",
        "changes its inputs in place",
    ),
    "a member that overwrites its inputs": (
        lambda: learn(teacher=Ensemble([flat(), in_place()]), objective=LogitKD()),
        "teacher",
        "changes its inputs in place",
    ),
    "a student that overwrites its inputs": (
        lambda: learn(in_place()),
        "student",
        "changes its inputs in place",
    ),
    "a measured model that overwrites its inputs": (
        lambda: metrics.accuracy(in_place(), (PIXELS.clone(), LABELS)),
        "model",
        "changes its inputs in place",
    ),
    "a layer that is not called": (
        lambda: learn(unused(), RKDDistance([("model.2", "2")]), teacher=flat(seed=1)),
        "layers",
        "did not call it",
    ),
    "layers of what cannot be watched": (
        lambda: learn(conv(), AttentionTransfer(["0"]), teacher=torch.jit.script(conv())),
        "objective",
        "not supported on ScriptModules",
    ),
    "a teacher that has no modes": (
        lambda: learn(teacher=torch.export.export(flat(), (PIXELS,)).module(), objective=LogitKD()),
        "teacher",
        "putting the teacher into eval mode fails",
    ),
    "a teacher that shows a tensor": (
        lambda: learn(teacher=Says(), objective=LogitKD()),
        "teacher",
        "the teacher's show returns must be an Outputs",
    ),
    "a frozen teacher to correct": (
        lambda: correct(flat().requires_grad_(False), BATCHES),
        "teacher",
        "must have a weight that can be trained",
    ),
    "a projection that takes one argument": (
        lambda: FeatureHint("0", nn.Conv2d(4, 4, 1)),
        "hint",
        "must be a Hint",
    ),
    "views without a target": (
        lambda: learn(
            train=IMAGES, teacher=flat(), objective=LogitKD(), views=lambda p, t, g: (p, p, None)
        ),
        "views",
        "the target of views",
    ),
    "images one by one": (lambda: IMAGES[3], "index", r"one image is images\[3:4\]"),
    "statistics of bytes": (
        lambda: Images(BYTES, LABELS, IMAGES.classes, (127.0,), (64.0,)),
        "mean",
        r"lie in \[0.0, 1.0\]",
    ),
    "a log without an argument": (
        lambda: learn(log=lambda: None),
        "log",
        "must be callable with 1",
    ),
    "nets without a seed": (
        lambda: born_again(lambda: flat(), BATCHES, epochs=1),
        "make",
        "must be callable with 1",
    ),
    "labels on the meta device": (
        lambda: learn(train=[(PIXELS, LABELS.to("meta"))]),
        "train",
        "on the meta device",
    ),
    "a device of nothing": (lambda: learn(device="meta"), "device", "meta device"),
    "a GPU that is not there": (lambda: learn(device="cuda:99"), "device", "GPUs here"),
    "an option with a slip": (
        lambda: learn(learning_rat=0.1),
        "learning_rat",
        "fit has no option learning_rat, did you mean learning_rate",
    ),
    "an option of somebody else's": (
        lambda: learn(xyz=1),
        "xyz",
        "fit has no option xyz; it has .*, seed,",
    ),
    "inputs without values": (
        lambda: prediction_gradient(
            torch.randn(2, 3), torch.randn(2, 4, device="meta"), torch.tensor([0, 1])
        ),
        "inputs",
        "on the same device",
    ),
    "arguments in another order": (
        lambda: fit(flat(), flat(), IMAGES),
        "objective",
        "got Images",
    ),
    "a second stage with other classes": (
        lambda: fit_in_stages(
            conv(classes=5), BATCHES, FeatureHint("0"), teacher=conv(), log=print, device="cpu"
        ),
        "train",
        r"must lie in \[0, 5\)",
    ),
    "a later generation that asks nobody": (
        lambda: born_again(lambda seed: flat(seed=seed), BATCHES, CrossEntropy(), log=print),
        "teacher",
        "never asks it",
    ),
    "labels that are no classes": (
        lambda: metrics.recall_at(1, torch.randn(10, 3), torch.full((10,), -1)),
        "target",
        "must be classes",
    ),
    "batches that are taken for a pair": (
        lambda: metrics.predict(flat(), [PIXELS[:8], PIXELS[8:16]]),
        "samples",
        "must yield batches",
    ),
    "similarity of no numbers": (
        lambda: metrics.linear_cka(torch.full((9, 3), torch.nan), torch.randn(9, 3)),
        "embeddings",
        "finite",
    ),
    "logits as probabilities": (
        lambda: ClosedTeacher(flat(), probabilities=True)(PIXELS),
        "probabilities",
        "below zero",
    ),
    "a weight in two layers": (lambda: prune(Tied(), 0.5), "model", "is in two layers"),
    "rounded NaN": (
        lambda: quantize(
            nn.Sequential(
                nn.Linear(3, 3)
                .requires_grad_(False)
                .apply(lambda layer: layer.weight.fill_(torch.nan))
            )
        ),
        "model",
        "holds NaN",
    ),
    "a rounded input by keyword": (
        lambda: quantize(nn.Linear(3, 3))(input=torch.ones(1, 3)),
        "inputs",
        "without a keyword",
    ),
    "a width of other inputs": (
        lambda: prune_width(conv(), torch.randn(2, 3, 8, 8), 0.5),
        "model",
        "the model fails on",
    ),
    "a generator without gradients": (
        lambda: GeneratedImages(Generator(size=8), FrozenTeacher(conv()), "model.0"),
        "teacher",
        "must pass on gradients",
    ),
    "statistics of no batch norm": (
        lambda: GeneratedImages(Generator(size=8), conv(), "0", statistics=5.0),
        "statistics",
        "needs a batch norm",
    ),
    "directions of another model": (
        lambda: motivation.landscape(
            flat(),
            PIXELS,
            LABELS,
            directions=[dict(flat(width=1).named_parameters())] * 2,
        ),
        "directions",
        "must have the model's shapes",
    ),
    "a landscape of many losses": (
        lambda: motivation.landscape(
            flat(), PIXELS, LABELS, loss=partial(nn.functional.cross_entropy, reduction="none")
        ),
        "loss",
        "must return a scalar",
    ),
    "the curvature of nothing": (
        lambda: motivation.curvature(flat().requires_grad_(False), PIXELS, LABELS),
        "model",
        "can be trained",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(case, monkeypatch, capsys):
    call, argument, message = REFUSED[case]
    done, pixels = [], PIXELS.clone()
    step = Run.step

    def counted(self, *arguments):
        values = step(self, *arguments)
        done.append(values)
        return values

    monkeypatch.setattr(Run, "step", counted)
    with pytest.raises(ExplainedError, match=message) as told:
        call()
    assert told.value.argument == argument
    assert len(done) <= 2  # within the first epoch, most before the first step
    assert capsys.readouterr().out == ""  # no epoch of an earlier stage was logged
    if "inputs" not in case:
        assert torch.equal(PIXELS, pixels)
    PIXELS.copy_(pixels)


# What is legitimate works, and is what it says.


def test_an_optimizer_keeps_its_rates_and_its_momentum():
    """The default schedule rises to the rates that the optimizer was made with."""
    seen = []

    class Noted(SGD):
        def step(self, closure=None):
            seen.append([(g["lr"], g["momentum"]) for g in self.param_groups])
            return super().step(closure)

    def two(parameters):
        groups = [{"params": parameters[:2], "lr": 0.01}, {"params": parameters[2:]}]
        return Noted(groups, 0.2, momentum=0.3)

    learn(optimizer=two, epochs=10)
    slow, fast = zip(*seen, strict=True)
    assert max(rate for rate, _ in slow) == pytest.approx(0.01, rel=0.01)
    assert max(rate for rate, _ in fast) == pytest.approx(0.2, rel=0.01)
    assert {momentum for _, momentum in (*slow, *fast)} == {0.3}
    assert len(learn(optimizer=Adagrad)) == 1  # which has no momentum


@pytest.mark.parametrize(
    "schedule",
    [
        steps(lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o)])),
        lr_scheduler.CosineAnnealingLR,
        lr_scheduler.PolynomialLR,
    ],
)
def test_any_schedule_by_steps_will_do(schedule):
    assert len(learn(scheduler=schedule)) == 1


def test_several_teachers_of_one_batch_are_one_step_of_a_warm_up():
    warm = [WarmUp(LogitKD(1.0), steps=10) for _ in range(3)]
    students = [flat(seed=seed) for seed in range(3)]
    objectives = [CrossEntropy() + one for one in warm]
    mutual_learning(students, BATCHES, objectives, epochs=5, device="cpu", progress=False)
    assert [one.taken.item() for one in warm] == [10, 10, 10]


def test_a_second_training_with_the_same_weights_of_a_term_is_told():
    hint, kd = CrossEntropy() + FeatureHint("0"), CrossEntropy() + LogitKD()
    for objective in (hint, kd):
        learn(conv(), objective, teacher=conv(seed=1))
    with pytest.warns(UserWarning, match="was trained before"):
        learn(conv(), hint, teacher=conv(seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn(conv(), kd, teacher=conv(seed=1))  # nothing in it has changed


@pytest.mark.parametrize("around", [lambda one: one, partial(WarmUp, steps=4)], ids=["", "around"])
def test_a_second_training_with_a_term_in_a_new_sum_is_told(around):
    hint = FeatureHint("0")
    learn(conv(), CrossEntropy() + around(hint), teacher=conv(seed=1))
    with pytest.warns(UserWarning, match="was trained before"):
        learn(conv(), CrossEntropy() + around(hint), teacher=conv(seed=1))


def test_a_term_that_is_added_twice_is_asked_once():
    warm = WarmUp(LogitKD(1.0), steps=10)
    history = learn(objective=CrossEntropy() + warm + 2 * warm, teacher=flat(seed=1), epochs=1)
    assert warm.taken == len(BATCHES)
    once = WarmUp(LogitKD(1.0), steps=10)
    expected = learn(objective=CrossEntropy() + 3 * once, teacher=flat(seed=1), epochs=1)
    assert history["loss"] == expected["loss"]


def test_an_objective_in_eval_mode_learns():
    objective = CrossEntropy() + WarmUp(LogitKD(), steps=2)
    history = learn(objective=objective.eval(), teacher=flat(seed=1))
    assert history["warm_up"][0] > 0


def test_a_term_of_weight_zero_measures():
    history = learn(objective=CrossEntropy() + 0 * term(lambda z: z.detach().mean() * 0 + 7.0))
    assert history["own"] == [7.0]
    assert history["loss"] == history["cross_entropy"]


def test_averaged_are_weights_and_statistics_and_copied_is_the_rest():
    """Vectors of unit norm, as of a spectral norm, would shrink when they are averaged."""
    student = nn.Sequential(nn.Flatten(), nn.utils.spectral_norm(nn.Linear(64, 10)))
    teacher = MomentumTeacher(student, 0.9)
    learn(student, CrossEntropy() + LogitKD(1.0), teacher=teacher, epochs=3)
    assert torch.equal(teacher.model[1].weight_u, student[1].weight_u)
    assert not torch.equal(teacher.model[1].weight_orig, student[1].weight_orig)


def test_a_frozen_model_stays_frozen_when_it_is_folded():
    model = flat().requires_grad_(False)
    assert not any(weight.requires_grad for weight in fold(prune(model, 0.5)).parameters())
    assert all(weight.requires_grad for weight in fold(prune(flat(), 0.5)).parameters())


def test_a_quantised_model_takes_what_the_model_takes():
    model = quantize(flat())
    assert model(PIXELS[:0]).shape == (0, 10)
    broken = PIXELS[:2].clone()
    broken[0, 0, 0, 0] = torch.nan
    assert model(broken).isnan().all(dim=1).tolist() == [True, False]


def test_what_belongs_to_a_whole_batch_is_not_split():
    """Beside the samples, a batch may hold a scale, or a list of another length."""
    seen = []

    def forward(model, inputs):
        images, scales, number = inputs
        seen.append((len(images), scales.tolist(), number.item()))
        return model(images) * scales.sum()

    batch = ((PIXELS, torch.tensor([1.0, 3.0]), torch.tensor(5)), LABELS)
    learn(Around(forward), train=[batch], accumulate=4)
    assert seen == [(8, [1.0, 3.0], 5)] * 4


def test_layers_may_be_named_twice():
    once, twice = (
        learn(conv(), AttentionTransfer(layers), teacher=conv(seed=1), learning_rate=0.0)
        for layers in (["0"], [("0", "0"), ("0", "1")])
    )
    alone = learn(conv(), AttentionTransfer([("0", "1")]), teacher=conv(seed=1), learning_rate=0.0)
    assert twice["loss"][0] == pytest.approx(once["loss"][0] + alone["loss"][0])


def test_features_are_those_of_their_own_batch():
    """A layer that a later batch does not reach has nothing to show there."""

    def forward(model, inputs):
        rows = inputs.flatten(1)
        return model(inputs) if rows[0, 0] > 0 else rows[:, :10]

    bright, dark = PIXELS.clone(), PIXELS.clone()
    bright[:, 0, 0, 0], dark[:, 0, 0, 0] = 1, -1
    batches = [(bright, LABELS), (dark, LABELS)]
    with pytest.raises(ArgumentError, match="did not call it"):
        metrics.embed(Around(forward), batches, "model.1")


def test_a_model_that_answers_in_one_place_is_predicted():
    place = torch.zeros(8, 10)
    model = Around(lambda model, inputs: place.copy_(model(inputs)))
    expected = metrics.predict(model.model, PIXELS)
    assert torch.equal(metrics.predict(model, PIXELS, batch_size=8), expected)


def test_a_validation_without_a_length_is_measured():
    history = learn(validation=DataLoader(Stream(), 8))
    assert history["validation_accuracy"][0] >= 0


class Inferring(nn.Module):
    """Decorated, as many people's prediction code."""

    def __init__(self):
        super().__init__()
        self.model = conv(seed=1)

    @torch.inference_mode()
    def forward(self, inputs):
        return self.model(inputs)


def test_a_teacher_in_inference_mode_teaches():
    objective = CrossEntropy() + LogitKD(rows=4) + FeatureHint(("0", "model.0"))
    plain = CrossEntropy() + LogitKD(rows=4) + FeatureHint("0")
    one = learn(conv(), objective, teacher=Inferring())
    other = learn(conv(), plain, teacher=conv(seed=1))
    assert one["loss"] == other["loss"]


def test_a_backbone_teaches_by_its_layers_whatever_it_returns():
    backbone = Around(lambda model, inputs: {"scores": model(inputs)}, conv(seed=1))
    history = learn(conv(), AttentionTransfer([("0", "model.0")]), teacher=backbone)
    assert history["loss"][0] > 0
    with pytest.raises(ArgumentTypeError, match="must return a tensor of logits"):
        learn(conv(), LogitKD(), teacher=backbone)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_learns_wherever_it_is_called(mode):
    student, other = flat(), flat()
    with mode():
        learn(student, train=IMAGES)
    learn(other, train=IMAGES)
    assert torch.equal(student[1].weight, other[1].weight)


def test_a_teacher_gets_its_mode_back():
    teacher = flat(seed=1)
    teacher[2].eval()
    modes = [part.training for part in teacher.modules()]
    learn(objective=LogitKD(), teacher=teacher)
    assert [part.training for part in teacher.modules()] == modes


def test_a_train_that_returns_nothing_will_do():
    """The usual way to freeze batch norm overrides ``train`` and forgets to return the module."""

    class Silent(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)

    model = Silent(*flat())
    options = {"epochs": 1, "device": "cpu", "progress": False}
    assert isinstance(correct(model, BATCHES, **options), Silent)
    assert len(learn(objective=LogitKD(), teacher=copy.deepcopy(model))) == 1


@pytest.mark.parametrize("converges", [True, False])
def test_the_curvature_of_a_convex_loss(converges, monkeypatch):
    """Of logistic regression, whose Hessian is Σ x xᵀ ⊗ (diag p − p pᵀ) / N.

    It is zero in many directions, for which the search for both ends at once may not converge.
    """
    search = motivation.eigsh

    def gives_up(*arguments, which, **options):
        if which == "BE" and not converges:
            raise ArpackNoConvergence("No convergence", np.empty(0), np.empty((0, 0)))
        return search(*arguments, which=which, **options)

    monkeypatch.setattr(motivation, "eigsh", gives_up)
    inputs, target = PIXELS[:4, 0, 0], LABELS[:4] % 3
    with models.seeded(0):
        model = nn.Linear(8, 3)
    x = torch.cat([inputs, torch.ones(4, 1)], dim=1).double()
    p = model(inputs).softmax(dim=1).detach().double()
    blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    exact = torch.einsum("ni,nj,nkl->kilj", x, x, blocks).reshape(27, 27) / 4
    found = motivation.curvature(model, inputs, target)
    assert found.largest == pytest.approx(torch.linalg.eigvalsh(exact)[-1].item(), rel=0.02)
    assert found.negative < 0.01
    few = motivation.curvature(nn.Linear(1, 2, bias=False), PIXELS[:5, 0, 0, :1], LABELS[:5] % 2)
    assert few.smallest == pytest.approx(0.0, abs=1e-6)


def test_everything_public_is_imported_by_a_star():
    names = {}
    exec("from kdcourse import *", names)
    assert names["fit"] is fit
    assert names["LogitKD"] is LogitKD
