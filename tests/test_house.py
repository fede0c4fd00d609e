"""How the house is built: one room per method, one place for every knob and every rule."""

import ast
import functools
import inspect
import sys
from collections import Counter
from pathlib import Path

import many_processes
import pytest
import test_every_term
import torch
from test_processes import torchrun
from torch import nn
from toys import CLASSES, images, net, same, train, weights

import kdcourse
from kdcourse import further, teachers, tips
from kdcourse.augmentation import Flip
from kdcourse.errors import ArgumentError
from kdcourse.feature import Hint
from kdcourse.teachers import CachedLessons, ClosedTeacher, Ensemble, SelfDistillation
from kdcourse.training import (
    AttentionTransfer,
    CrossEntropy,
    DecoupledKD,
    FeatureHint,
    Knobs,
    Lesson,
    LogitKD,
    Outputs,
    RKDDistance,
    Saliency,
    WarmUp,
    fit,
    fit_in_stages,
    rehearse,
)

# --- a method is one room

TOY = '''
"""A distance between predictions, in a file of its own."""

from torch import Tensor

from kdcourse.precision import at_least_float32
from kdcourse.objective import Lesson, Term


def squared_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean squared difference of logits."""
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits.detach())
    return (student - teacher).square().mean()


class SquaredLogits(Term):
    """Squared difference of logits, times a factor."""

    needs_logits = True

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the squared difference."""
        return self.factor * squared_loss(lesson.student_logits, lesson.teacher_logits)
'''


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A file with one loss and its term, dropped into the package."""
    (tmp_path / "squared.py").write_text(TOY)
    monkeypatch.setattr(kdcourse, "__path__", [*kdcourse.__path__, str(tmp_path)])
    yield
    for name in ("kdcourse.squared", "kdcourse"):
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "squared"):
            del module.squared
    sys.modules.pop("kdcourse.squared", None)


@pytest.mark.usefixtures("room")
def test_a_new_term_is_found_without_touching_a_list():
    from kdcourse import SquaredLogits, squared

    assert SquaredLogits is squared.SquaredLogits
    assert "SquaredLogits" in dir(kdcourse)
    from toys import terms

    assert SquaredLogits in terms()  # what the generic tests go through


@pytest.mark.usefixtures("room")
def test_a_new_term_is_trained_and_refused_like_any_other():
    objective, alone, taught = CrossEntropy() + 2 * kdcourse.SquaredLogits(0.5), net(), net()
    train(alone)
    history = train(taught, objective, teacher=net(4, seed=2))
    assert history["squared_logits"][0] > 0
    assert not same(weights(alone), weights(taught))
    with pytest.raises(ArgumentError, match="needs a teacher"):
        train(net(), objective)
    with pytest.raises(ArgumentError, match=r"SquaredLogits.* needs logits"):
        train(net(), objective, teacher=ClosedTeacher(net(4)))


@pytest.mark.usefixtures("room")
def test_a_new_term_goes_through_the_tests_of_all_terms(tmp_path):
    kind = kdcourse.SquaredLogits
    test_every_term.test_it_can_be_made_and_says_what_it_is(kind)
    test_every_term.test_gradients_are_right_and_none_reaches_the_teacher(kind)
    test_every_term.test_half_precision_is_computed_in_float32(kind, torch.bfloat16)
    test_every_term.test_it_compiles_in_one_graph(kind)
    test_every_term.test_vmap_over_students_equals_a_loop(kind)
    test_every_term.test_on_the_meta_device(kind)
    done = torchrun(2, "case", tmp_path, kind.__name__, KDCOURSE_ROOM=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    many = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone = many_processes.states(many_processes.by_term(kind))
    for one in many:
        torch.testing.assert_close(one, alone, rtol=1e-6, atol=1e-7)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'NoSuchKD'"):
        kdcourse.NoSuchKD  # noqa: B018
    with pytest.raises(ImportError):
        from kdcourse import NoSuchKD  # noqa: F401


def test_the_source_is_not_read_for_every_name(monkeypatch):
    assert kdcourse.LogitKD is LogitKD

    def never(*_, **__):
        raise AssertionError("the source was read again")

    monkeypatch.setattr(Path, "read_text", never)
    assert kdcourse.CrossEntropy is CrossEntropy


def test_public_names_are_told_apart():
    """No two modules of the library define one name, so that each means one thing."""
    folder, defined = Path(kdcourse.__file__).parent, []
    for file in [*folder.glob("[a-z]*.py"), *folder.glob("[a-z]*/[a-z]*.py")]:
        if file.relative_to(folder).parts[0] not in kdcourse.APPARATUS:
            parts = ast.parse(file.read_text(encoding="utf-8")).body
            named = [
                part.name for part in parts if isinstance(part, ast.FunctionDef | ast.ClassDef)
            ]
            defined += [name for name in named if not name.startswith("_")]
    assert [name for name, times in Counter(defined).items() if times > 1] == []
    assert sorted(defined) == sorted(kdcourse.public_names())
    assert {"fit", "CrossEntropy", "LogitKD", "SEED", "Ensemble", "pretrained"} <= set(defined)


# --- terms size themselves


def lesson(student=(4, 8, 6, 6), teacher=(4, 12, 4, 4), layer="stage2"):
    draw = torch.Generator().manual_seed(0)
    own, theirs = (torch.randn(shape, generator=draw) for shape in (student, teacher))
    return Lesson(
        Outputs(logits=torch.randn(4, 5, generator=draw), features={layer: own}),
        torch.tensor([0, 1, 2, 3]),
        Outputs(logits=torch.randn(4, 5, generator=draw), features={layer: theirs}),
    )


def test_a_hint_finds_its_sizes_and_takes_fitnets_kernel():
    term = FeatureHint("stage2")
    assert not term.prepared
    assert not list(term.parameters())
    term.loss(lesson()).backward()
    assert term.prepared
    assert term.hint.projection.weight.shape == (12, 8, 3, 3)
    assert all(p.grad is not None for p in term.parameters())


@pytest.mark.parametrize(
    ("nonlinearity", "kinds"),
    [("none", None), ("relu", ["ReLU"]), ("norm-relu", ["BatchNorm2d", "ReLU"])],
)
def test_what_follows_the_projection(nonlinearity, kinds):
    term = FeatureHint("stage2", kernel_size=1, nonlinearity=nonlinearity)
    term.prepare(lesson())
    behind = term.hint.nonlinearity
    assert (None if behind is None else [type(part).__name__ for part in behind]) == kinds
    assert term.hint.projection.kernel_size == (1, 1)


def test_a_hint_needs_positions_in_as_many_dimensions():
    with pytest.raises(ValueError, match="must have positions in as many"):
        FeatureHint("stage2").loss(lesson(student=(4, 8)))
    with pytest.raises(ArgumentError, match="nonlinearity must be one of"):
        FeatureHint("stage2", nonlinearity="gelu")


def test_seed_and_self_distillation_find_their_sizes():
    seed = further.SEED()
    seed.loss(lesson((4, 8, 1, 1), (4, 12, 1, 1), "embedding"))
    assert seed.projection[0].in_features == 8
    assert seed.queue.shape == (2048, 12)
    dist = SelfDistillation()
    dist.loss(lesson())
    assert dist.centre.shape == (5,)


SIZED = {
    "hint": (lambda: FeatureHint("stage2"), lambda: FeatureHint("stage2", hint())),
    "seed": (lambda: further.SEED(length=32), lambda: further.SEED(8, 16, length=32, seed=3)),
    "warm-up": (
        lambda: WarmUp(FeatureHint("stage2"), epochs=2),
        lambda: WarmUp(FeatureHint("stage2", hint()), steps=6),
    ),
    "self-distillation": (SelfDistillation, lambda: SelfDistillation(CLASSES)),
}
every_sized = pytest.mark.parametrize(("lazy", "explicit"), SIZED.values(), ids=list(SIZED))


def hint():
    """What a term makes between the second stages of nets 2 and 4 wide, with seed 3."""
    torch.manual_seed(3)
    return Hint(4, 8)


@every_sized
@pytest.mark.parametrize("loader", [False, True])
def test_a_term_that_sizes_itself_learns_as_one_with_sizes(lazy, explicit, loader):
    """The weights of a term follow from the seed of the training, or from a seed of its own."""
    learned = []
    for make in (lazy, explicit):
        student, term = net(), make()
        data = list(images().batches(32, seed=3)) if loader else images()
        train(student, CrossEntropy() + term, teacher=net(4, seed=2), train=data, seed=3)
        learned.append(weights(student) | weights(term))
    assert same(*learned)


@every_sized
def test_a_term_that_sizes_itself_resumes_exactly(lazy, explicit, tmp_path):
    def run(name, log=None):
        student, term = net(), lazy()
        path = tmp_path / name
        objective = CrossEntropy() + term
        train(student, objective, teacher=net(4, seed=2), epochs=4, checkpoint=path, log=log)
        return weights(student) | weights(term)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted after 1 of 4"):
        run("stopped", log=stop)
    assert same(run("stopped"), run("whole"))


def test_warming_up_by_epochs_needs_training_to_tell_how_long_one_is():
    term = WarmUp(CrossEntropy(), epochs=2)
    with pytest.raises(ValueError, match="give it steps"):
        term.loss(lesson())
    train(net(), term, epochs=1, accumulate=2)
    assert term.steps == 2 * 3 * 2
    for bad in ({}, {"steps": 1, "epochs": 1}):
        with pytest.raises(ValueError, match="either steps or epochs"):
            WarmUp(CrossEntropy(), **bad)


def test_peers_have_terms_that_size_themselves_each_of_its_own():
    students = [net(seed=1), net(4, seed=2)]
    histories = teachers.mutual_learning(
        students,
        images(),
        CrossEntropy() + FeatureHint("stage2"),
        epochs=2,
        batch_size=32,
        device="cpu",
        progress=False,
    )
    assert all(history["feature_hint"][1] < history["feature_hint"][0] for history in histories)


# --- knobs stand once

PROCEDURES = [
    fit,
    fit_in_stages,
    teachers.distill_through,
    teachers.born_again,
    teachers.mutual_learning,
    teachers.correct,
    teachers.correct_online,
    teachers.self_distill,
]
every_procedure = pytest.mark.parametrize(
    "procedure", PROCEDURES, ids=lambda procedure: procedure.__name__
)


@every_procedure
def test_every_procedure_takes_every_knob(procedure):
    shown = inspect.signature(procedure).parameters
    own = {"augment"} if procedure is teachers.self_distill else set()  # it makes its views
    assert inspect.signature(Knobs).parameters.keys() - own <= shown.keys()


def called(procedure, **knobs):
    data = images(64)
    common = {"epochs": 1, "batch_size": 32, "device": "cpu", "progress": False, **knobs}
    objective = CrossEntropy() + LogitKD(1)
    if procedure is fit:
        return fit(net(), data, objective, teacher=net(4), **common)
    if procedure is fit_in_stages:
        hint = FeatureHint("stage2")
        return fit_in_stages(net(), data, hint, teacher=net(4), hint_epochs=1, **common)
    if procedure is teachers.distill_through:
        return teachers.distill_through(net(4), [net(3)], net(), data, objective, **common)
    if procedure is teachers.born_again:
        return teachers.born_again(lambda seed: net(seed=seed), data, generations=2, **common)
    if procedure is teachers.mutual_learning:
        return teachers.mutual_learning([net(seed=1), net(seed=2)], data, objective, **common)
    if procedure is teachers.correct:
        return teachers.correct(net(4), data, **common)
    if procedure is teachers.correct_online:
        return teachers.correct_online(net(4), net(), data, **common)
    return teachers.self_distill(net(), data, augment=Flip(), **common)


class Counted(torch.optim.SGD):
    """Notes how large the gradients are that it is given."""

    norms: list[float] = []  # noqa: RUF012

    def step(self, closure=None):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms = torch.stack([g.norm() for g in gradients if g is not None])
        self.norms.append(float(norms.norm()))
        return super().step(closure)


@every_procedure
def test_every_procedure_turns_every_knob(procedure):
    """Parts of batches, clipped gradients, mixed precision, memory format, optimiser, schedule."""
    Counted.norms, rates = [], []

    def schedule(optimizer, steps):
        rates.append(steps)
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

    called(
        procedure,
        accumulate=2,
        clip=0.01,
        autocast=torch.bfloat16,
        channels_last=True,
        sync_batch_norm=True,
        optimizer=lambda parameters: Counted(parameters, lr=0.1),
        scheduler=schedule,
        compile=False,
    )
    assert rates
    assert Counted.norms
    assert max(Counted.norms) == pytest.approx(0.01, rel=1e-3)


@every_procedure
def test_a_knob_that_is_not_there(procedure):
    with pytest.raises(TypeError, match="learning_rat"):
        called(procedure, learning_rat=0.1)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_clip_must_be_a_norm(clip):
    with pytest.raises(ArgumentError, match="clip"):
        train(net(), clip=clip)


def test_parts_of_a_batch_are_one_step_for_peers_too():
    """Without batch norm, whose statistics are those of a part."""
    ends = []
    for parts in (1, 3):
        students = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            students.append(nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES)).double())
        data = [(images(48).inputs().double(), images(48).target)]
        teachers.mutual_learning(
            students, data, epochs=3, accumulate=parts, device="cpu", progress=False
        )
        ends.append(torch.cat([p.flatten() for s in students for p in s.parameters()]))
    torch.testing.assert_close(*ends)


# --- rules live in the core

KD = CrossEntropy() + LogitKD()


def cached(**views):
    return CachedLessons(net(4), images(), views=tips.Consistent(Flip()), epochs=1, batch_size=32)


RULES = {
    "no teacher": ("teacher", "needs a teacher", {"objective": KD}),
    "a teacher that nobody asks": ("teacher", "never asks it", {"teacher": net(4)}),
    "views without a teacher": ("views", "no teacher", {"views": tips.Consistent(Flip())}),
    "views and augmentation": (
        "views",
        "both given",
        {"views": tips.Consistent(Flip()), "augment": Flip(), "teacher": net(4), "objective": KD},
    ),
    "labels that a view takes away": (
        "views",
        "labels, which DecoupledKD",
        {
            "objective": CrossEntropy() + DecoupledKD(),
            "teacher": net(4),
            "views": tips.FunctionMatching(Flip()),
        },
    ),
    "labels alone, and none there": ("train", "labels", {"train": images().unlabelled()}),
    "a label for some": (
        "train",
        "labels, which Saliency",
        {
            "objective": Saliency(),
            "teacher": net(4),
            "train": images() + images().unlabelled(),
        },
    ),
    "labels of generated images": (
        "train",
        "labels, which DecoupledKD",
        {
            "objective": DecoupledKD(),
            "teacher": net(4),
            "train": further.GeneratedImages(
                further.Generator(size=12), net(4), "embedding", batch_size=32
            ),
        },
    ),
    "labels alone, of generated images": (
        "train",
        "labels, which CrossEntropy",
        {
            "train": further.GeneratedImages(
                further.Generator(size=12), net(4), "embedding", batch_size=32
            )
        },
    ),
    "a layer of the student": (
        "objective",
        "has no layer 'stage9'",
        {"objective": RKDDistance([("stage9", "stage1")]), "teacher": net(4)},
    ),
    "a layer of the teacher": (
        "objective",
        "has no layer 'stage9'",
        {"objective": RKDDistance([("stage1", "stage9")]), "teacher": net(4)},
    ),
    "layers of a closed teacher": (
        "objective",
        "closed teacher shows probabilities only, not the layers stage1",
        {"objective": AttentionTransfer(["stage1"]), "teacher": ClosedTeacher(net(4))},
    ),
    "layers of an ensemble": (
        "objective",
        "ensemble shows predictions, not the layers stage1",
        {"objective": AttentionTransfer(["stage1"]), "teacher": Ensemble(net(4), net(4))},
    ),
    "gradients of an ensemble": (
        "objective",
        "shows no input gradients",
        {"objective": Saliency(), "teacher": Ensemble(net(4))},
    ),
    "logits of a vote": (
        "objective",
        "DecoupledKD.* needs logits",
        {"objective": DecoupledKD(), "teacher": Ensemble(net(4), combine="vote")},
    ),
    "logits of a closed teacher": (
        "objective",
        "LogitKD.* needs logits",
        {"objective": LogitKD(divergence="reverse"), "teacher": ClosedTeacher(net(4))},
    ),
    "a second derivative, compiled": (
        "compile",
        "differentiate twice",
        {"objective": Saliency(), "teacher": net(4), "compile": True},
    ),
    "another teacher than the recorded one": (
        "teacher",
        "their teacher's answers",
        {"objective": LogitKD(), "train": cached(), "teacher": net(4)},
    ),
    "a recorded teacher without its lessons": (
        "teacher",
        "lessons it belongs to",
        {"objective": LogitKD(), "teacher": cached().teacher},
    ),
    "layers that were not recorded": (
        "objective",
        "only logits were recorded, not the layers stage1",
        {"objective": AttentionTransfer(["stage1"]), "recorded": True},
    ),
    "a batch that cannot be split": ("batch_size", "too few", {"accumulate": 7, "batch_size": 45}),
}


@pytest.mark.parametrize(("argument", "message", "given"), RULES.values(), ids=list(RULES))
def test_what_cannot_work_is_refused_before_any_work(argument, message, given, monkeypatch):
    given = dict(given)
    if given.pop("recorded", False):
        lessons = cached()
        given |= {"train": lessons, "teacher": lessons.teacher}
    student = net()
    before = weights(student)

    def never(*_):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(kdcourse.training.Run, "step", never)
    with pytest.raises(ArgumentError, match=message) as refused:
        train(student, **given)
    assert refused.value.argument == argument
    assert same(weights(student), before)


def test_the_student_itself_is_no_teacher():
    student = net()
    with pytest.raises(ArgumentError, match="copy") as refused:
        train(student, KD, teacher=student)
    assert refused.value.argument == "teacher"


@pytest.mark.parametrize("procedure", [teachers.distill_through, teachers.mutual_learning])
def test_procedures_have_the_same_rules(procedure):
    one, other = net(seed=1), net(seed=2)
    nets = ([one, other],) if procedure is teachers.mutual_learning else (one, [], other)
    data, objective = images().unlabelled(), CrossEntropy() + DecoupledKD()
    with pytest.raises(ArgumentError, match="labels, which DecoupledKD"):
        procedure(*nets, data, objective, device="cpu", progress=False)


def test_an_ensemble_takes_its_members_in_a_list_or_one_after_the_other():
    nets = [net(seed=1), net(seed=2)]
    inputs = images(8).inputs()
    for made in (
        Ensemble(nets, "vote"),
        Ensemble(*nets, combine="vote"),
        Ensemble(*nets, "vote"),
        Ensemble(nets, combine="vote"),
        Ensemble(tuple(nets), "vote"),
    ):
        assert made.combine == "vote"
        assert torch.equal(made(inputs), Ensemble(nets, "vote")(inputs))


def test_a_rehearsal_changes_nothing_but_sizes():
    student, teacher = net(), net(4)
    before = weights(student), weights(teacher), torch.random.get_rng_state()
    objective = CrossEntropy() + further.SEED(length=32) + FeatureHint("stage2")
    rehearse(student, images(), objective, teacher=teacher)
    assert same(before[0], weights(student))
    assert same(before[1], weights(teacher))
    assert torch.equal(before[2], torch.random.get_rng_state())
    assert objective.prepared
    with pytest.raises(ValueError, match="features must have shape"):
        rehearse(student, images(), AttentionTransfer(["embedding"]), teacher=teacher)


def test_kinds_are_asked_for_in_a_way_that_every_torch_can_compile():
    """Compiling, torch 2.6 knows ``isinstance(x, (A, B))``, but not ``isinstance(x, A | B)``."""
    unions = [
        f"{file}:{node.lineno}"
        for file in Path(kdcourse.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass")
        if isinstance(node.args[1], ast.BinOp)
    ]
    assert unions == []


# --- names that others rely on

RELIED_ON = {
    "logit.softmax": "logits, temperature=1.0",
    "logit.kd_loss": "student_logits, teacher_logits, temperature=4.0, *, divergence='forward', "
    "scale=True, class_dim=1, mask=None, weight=None",
    "logit.kd_cross_entropy": "student_logits, teacher_logits, temperature=4.0, *, scale=True",
    "logit.kd_loss_from_probabilities": "student_logits, teacher_probabilities, temperature=1.0, "
    "*, scale=True",
    "logit.decoupled_kd_loss": "student_logits, teacher_logits, target, *, alpha=1.0, beta=8.0, "
    "temperature=4.0",
    "logit.standardize": "logits, temperature=1.0",
    "logit.linear_kd_loss": "student_hidden, student_weight, teacher_hidden, teacher_weight, "
    "temperature=4.0",
    "language.topk_kd_loss": "student_logits, indices, log_probabilities, *, rest='tail'",
    "language.sample": "model, prompts",
    "feature.attention_map": "features, power=2",
    "feature.attention_transfer_loss": "student_features, teacher_features, power=2, *, "
    "squared=False",
    "feature.Hint": "student_channels, teacher_channels",
    "feature.input_gradient": "model, inputs, target, *, create_graph=False",
    "feature.saliency_loss": "student_gradient, teacher_gradient",
    "relational.rkd_distance_loss": "student_embeddings, teacher_embeddings",
    "relational.rkd_angle_loss": "student_embeddings, teacher_embeddings",
    "relational.similarity_preserving_loss": "student_features, teacher_features",
    "teachers.majority_vote_accuracy": "accuracy, voters, correlation=0.0",
    "teachers.MomentumTeacher": "student, momentum=0.996",
    "teachers.ClosedTeacher": "model, top_k=None, decimals=None, *, probabilities=None",
    "teachers.prune": "model, sparsity",
    "fit": "student, train, objective=None, *, teacher=None, validation=None, checkpoint=None, "
    "capture='auto', clip=None, steps=None, keep='last', drop_last=False",
    "check": "loss, like='kd'",
    "metrics.report": "student, teacher, test",
}


def relied_on(text: str) -> tuple[list[str], dict[str, object]]:
    """Return the arguments that may be given by their place, and all that have a default."""
    arguments = ast.parse(f"def f({text}): ...").body[0].args
    placed = [argument.arg for argument in arguments.args]
    last = placed[len(placed) - len(arguments.defaults) :]
    named = [argument.arg for argument in arguments.kwonlyargs]
    values = [*arguments.defaults, *arguments.kw_defaults]
    return placed, dict(zip([*last, *named], map(ast.literal_eval, values), strict=True))


@pytest.mark.parametrize("name", RELIED_ON)
def test_names_and_arguments_that_others_rely_on(name):
    found = functools.reduce(getattr, name.split("."), kdcourse)
    parameters = inspect.signature(found).parameters
    placed, defaults = relied_on(RELIED_ON[name])
    by_place = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert by_place[: len(placed)] == placed
    assert {name: parameters[name].default for name in defaults} == defaults
