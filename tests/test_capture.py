"""A step that is replayed does what it did plainly, for every term and every scheme."""

import copy
import math
import os
import random
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import every_term
import pytest
import stand_in_graph
import torch
from tokens_of_texts import PADDING, Tokens, texts
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._pytree import tree_map
from toys import CLASSES, Projected, images, net, noisy, terms, train, weights

from kdcourse import augmentation, teachers, tips
from kdcourse.errors import ArgumentError
from kdcourse.methods.orthogonal import OrthogonalProjection
from kdcourse.places import COURSE
from kdcourse.rand_augment import RandAugment
from kdcourse.training import (
    CrossEntropy,
    LogitKD,
    Term,
    WarmUp,
    capture,
)
from kdcourse.training.held import held_by
from kdcourse.view_term import OneView

KD = CrossEntropy() + 2.0 * LogitKD()
EPOCHS, BATCH, SIZE = 3, 16, 56  # an epoch has three whole batches and a smaller one
WHOLE = 3


def double(width: int = 2, *, seed: int = 1) -> nn.Module:
    return net(width, seed=seed).double()


@pytest.fixture
def learned(replaying):
    """Return what trains, and returns the history and the weights."""

    def learned(student, objective=KD, **options):
        defaults = {"epochs": EPOCHS, "batch_size": BATCH, "train": images(SIZE)}
        history = train(student, objective, **{**defaults, "device": replaying.device, **options})
        return history, weights(student)

    return learned


@pytest.fixture
def assert_same(learned, replaying):
    """Return what trains twice, by replays and without, and compares all that comes of it."""

    def assert_same(make=double, tolerance=1e-9, capturing=True, **options):
        captured, by_replays = learned(make(), **copy.deepcopy(options), capture=capturing)
        refused = capturing == "auto" and "capturing a step failed" in captured.capture
        assert captured.capture == "captured" or refused
        assert replaying.replays == (0 if refused else EPOCHS * WHOLE - capture.PLAIN)
        plain, without = learned(make(), **copy.deepcopy(options), capture=False)
        assert plain.capture == "not captured: capture=False"
        assert_close(by_replays, without, tolerance)
        for one, other in zip(captured.rows, plain.rows, strict=True):
            assert one.keys() == other.keys()
            for name in one.keys() - {"seconds"}:
                assert one[name] == pytest.approx(other[name], rel=1e-5), name
        if refused:
            pytest.xfail(captured.capture)  # as good, but slower: the run on a GPU is to say so

    return assert_same


def assert_close(one, other, tolerance=1e-9):
    """Compare two sets of weights."""
    for name, value in one.items():
        assert torch.allclose(value.double(), other[name].double(), 1e-6, tolerance), name


@pytest.mark.parametrize("kind", terms(), ids=lambda kind: kind.__name__)
def test_every_term(kind, assert_same):
    term, data = every_term.example(kind), images(SIZE)
    needs = {"teacher": double(4, seed=2)} if term.needs_teacher else {}
    if (target := every_term.target_for(kind, data.target, CLASSES)) is not data.target:
        rows = zip(data.inputs().split(BATCH), target.split(BATCH), strict=True)
        needs["train"] = list(rows)
    sure = kind is not OrthogonalProjection  # CUDA may not be able to capture its decomposition
    assert_same(objective=CrossEntropy() + 0.5 * term, capturing=sure or "auto", **needs)


def noisy_double():
    return noisy().double()


def some_labels():
    data = images(SIZE)
    return replace(data, target=data.target.where(torch.arange(SIZE) % 3 > 0, -1))


CROPS = augmentation.pad_crop_flip(1)
TEACHER = {"teacher": double(4, seed=2)}
KNOBS = {
    "labels alone": {"objective": CrossEntropy()},
    "a live teacher": TEACHER,
    "augmentation": {"augment": CROPS, **TEACHER},
    "noise": {"augment": augmentation.Compose(augmentation.ResizedCrop(), augmentation.Noise())},
    "mixtures": {"views": tips.FunctionMatching(CROPS), "objective": LogitKD(), **TEACHER},
    "independent views": {"views": tips.Independent(CROPS), **TEACHER},
    "a weak and a strong view": {
        "views": tips.WeakAndStrong(CROPS, RandAugment()),
        "objective": CrossEntropy() + OneView(LogitKD(), 1),
        **TEACHER,
    },
    "a warm-up": {"objective": CrossEntropy() + WarmUp(LogitKD(), steps=7), **TEACHER},
    "a warm-up of epochs": {"objective": CrossEntropy() + WarmUp(LogitKD(), epochs=2), **TEACHER},
    "weights of its own": {"objective": CrossEntropy() + Projected().double(), **TEACHER},
    "clip": {"clip": 0.01},
    "parts": {"accumulate": 2, **TEACHER},
    "parts without some labels": {"accumulate": 3, "train": some_labels()},
    "channels last": {"channels_last": True, **TEACHER},
    "autocast": {"autocast": torch.bfloat16, **TEACHER},
    "validation": {"validation": images(24, seed=1), **TEACHER},
    "an ensemble": {"teacher": teachers.Ensemble([double(4, seed=2), double(3, seed=3)])},
    "a closed teacher": {"teacher": teachers.ClosedTeacher(double(4, seed=2), top_k=2)},
    "a folded teacher": {"teacher": teachers.FoldedTeacher(double(4, seed=2).eval())},
    "plain SGD": {"optimizer": lambda p: torch.optim.SGD(p, 0.05), "learning_rate": None},
    "two groups": {
        "optimizer": lambda p: torch.optim.SGD(
            [{"params": p[:3], "lr": 0.1}, {"params": p[3:], "weight_decay": 0.01}],
            0.05,
            momentum=0.8,
        )
    },
    "Adam": {"optimizer": lambda p: torch.optim.AdamW(p, 0.01), **TEACHER},
    "Adam and clip": {"optimizer": lambda p: torch.optim.AdamW(p, 0.01), "clip": 0.1},
}


@pytest.mark.parametrize("options", KNOBS.values(), ids=KNOBS)
def test_every_knob(options, assert_same):
    options = {"objective": KD if "teacher" in options else CrossEntropy(), **options}
    if "autocast" in options:
        assert_same(make=net, tolerance=1e-4, **options)
    else:
        assert_same(**options)


def test_dropout_draws_anew_in_every_step(assert_same):
    assert_same(objective=CrossEntropy(), make=noisy_double)


def test_rounding_weights_waits_for_nothing(learned):
    student = teachers.quantize(net(), 4, activation_bits=None)
    history, _ = learned(student, capture=True, teacher=net(4, seed=2))
    assert history.capture == "captured"


def test_a_teacher_that_follows(learned):
    def make(momentum):
        student = double()
        return student, teachers.MomentumTeacher(student, momentum)

    for momentum in (0.9, teachers.mean_teacher_momentum(0.99)):
        averages = []
        for wanted in (True, False):
            student, teacher = make(momentum)
            history, _ = learned(student, teacher=teacher, capture=wanted)
            assert history.capture.startswith("captured" if wanted else "not")
            averages.append(weights(teacher))
        first, second = averages
        assert_close(first, second)


@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
def test_mutual_learning(updates, replaying):
    results = []
    for wanted in (True, False):
        students = [double(seed=1), double(3, seed=2)]
        histories = teachers.mutual_learning(
            students,
            images(SIZE),
            updates=updates,
            epochs=EPOCHS,
            batch_size=BATCH,
            device=replaying.device,
            progress=False,
            capture=wanted,
        )
        assert {one.capture for one in histories} == {
            "captured" if wanted else "not captured: capture=False"
        }
        results.append([weights(student) for student in students])
    assert replaying.replays == EPOCHS * WHOLE - capture.PLAIN
    for one, other in zip(*results, strict=True):
        assert_close(one, other)


def test_a_loader_and_recorded_answers(assert_same, learned):
    assert_same(train=list(images(SIZE).batches(BATCH)), **TEACHER)

    def lessons():
        views = tips.Consistent(CROPS)
        teacher = net(4, seed=2)
        data = images(SIZE)
        return teachers.CachedLessons(teacher, data, views=views, epochs=2, batch_size=BATCH)

    results = []
    for wanted in (True, False):
        given = lessons()
        options = {"train": given, "teacher": given.teacher, "capture": wanted}
        history, learnt = learned(net(), LogitKD(), **options)
        assert history.capture.startswith("captured" if wanted else "not")
        results.append(learnt)
    assert_close(results[0], results[1], 1e-5)


@pytest.mark.parametrize("told_by", ["ignore_index", "mask", "weight"])
def test_places_that_do_not_count(assert_same, told_by):
    """Three whole batches of tokens, and a smaller one."""
    batches = texts(masked=True)[:4]
    rows = [(inputs, target, (target >= 0).float()) for inputs, target in batches]
    rows[3] = tree_map(lambda one: one[:5], rows[3])
    if told_by != "weight":
        rows = [row[:2] for row in rows]
    at = {"class_dim": -1, "ignore_index": PADDING}
    kd = {"ignore_index": at, "mask": {"class_dim": -1, "mask": "attention_mask"}}
    objective = CrossEntropy(**at) + LogitKD(2, **kd.get(told_by, {"class_dim": -1}))
    teacher = Tokens(5, seed=2)
    assert_same(lambda: Tokens(3, seed=1), train=rows, objective=objective, teacher=teacher)


def test_a_run_goes_on_where_it_was_stopped(learned, tmp_path):
    _, whole = learned(double(), teacher=double(4, seed=2), epochs=4)
    path = tmp_path / "run.pt"

    def stop(row):
        if row["epoch"] == 2:
            raise InterruptedError

    options = {"teacher": double(4, seed=2), "epochs": 4, "checkpoint": path}
    with pytest.raises(InterruptedError):
        learned(double(), **options, log=stop)
    history, resumed = learned(double(), **options)
    assert [row["epoch"] for row in history.rows] == [1, 2, 3, 4]
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_what_changes_between_epochs_is_seen(learned, replaying):
    """Somebody changes a temperature, a weight of the objective, what is trained, a rate."""
    results = []
    for wanted in (True, False):
        student, term = double(), LogitKD(4.0)
        objective = CrossEntropy() + 2.0 * term
        made = []

        def optimizer(weights, made=made):
            made.append(torch.optim.SGD(weights, 0.1, momentum=0.9))
            return made[0]

        def change(row, student=student, term=term, objective=objective, made=made):
            made[0].param_groups[0]["nesterov"] = row["epoch"] == 4
            term.temperature = 4.0 / (1 + row["epoch"])
            objective.weights[0] = 1.0 + row["epoch"]
            student.stem[0].weight.requires_grad_(row["epoch"] != 2)

        options = {"optimizer": optimizer, "log": change, "capture": wanted, "epochs": 5}
        _, learnt = learned(student, objective, teacher=double(4, seed=2), **options)
        results.append(learnt)
    assert replaying.graphs == 4  # after the first epoch, anew in each
    assert_close(results[0], results[1])


class Counting(Term):
    """A term that counts its calls, one way or another."""

    needs_teacher = False

    def __init__(self, how):
        super().__init__()
        self.how, self.calls, self.list = how, 0, []
        self.tensor = torch.zeros(())

    def loss(self, lesson):
        if self.how == "number":
            self.calls += 1
        elif self.how == "list":
            self.list.append(1)
        elif self.how == "tensor":
            self.tensor = self.tensor + 1
        elif self.how == "random":
            self.noise = random.random() > 2
        elif self.how == "nothing":
            self.tensor += 1
        return lesson.student_logits.square().mean()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("number", "terms.1.calls changes with every step"),
        ("list", "terms.1.list changes with every step"),
        ("tensor", "terms.1.tensor changes with every step"),
        ("random", "a step draws random numbers on the host"),
        ("nothing", None),
    ],
)
def test_what_python_changes_in_every_step_is_not_captured(how, reason, learned, replaying):
    objective = CrossEntropy() + 0.1 * Counting(how)
    history, _ = learned(double(), copy.deepcopy(objective), capture="auto")
    if reason is None:
        assert history.capture == "captured"
        return
    assert history.capture.startswith("not captured: ")
    assert reason in history.capture
    assert replaying.replays == 0
    with pytest.raises(ArgumentError, match="no step can be captured: ") as refused:
        learned(double(), objective, capture=True)
    assert reason in str(refused.value)
    assert refused.value.argument == "capture"


@pytest.mark.parametrize(
    ("add", "name"),
    [
        (lambda net: net.stem.register_forward_hook(lambda *_: None), "student.stem"),
        (lambda net: net.register_forward_pre_hook(lambda *_: None), "student"),
        (lambda net: net.stem.register_full_backward_hook(lambda *_: None), "student.stem"),
        (lambda net: net.stem[0].weight.register_hook(lambda _: None), "student.stem.0.weight"),
        (
            lambda net: net.stem[0].weight.register_post_accumulate_grad_hook(lambda _: None),
            "student.stem.0.weight",
        ),
        (lambda _: register_module_forward_hook(lambda *_: None), "every module"),
    ],
)
def test_hooks_go_on_being_called(add, name, learned, replaying):
    """Somebody looks into the student in every step; a replay would not show it to them."""
    student = double()
    hook = add(student)
    try:
        history, _ = learned(student, CrossEntropy())
    finally:
        hook.remove()
    assert history.capture == f"not captured: a hook of {name} is called in every step"
    assert replaying.graphs == 0


CHANGES = {
    "a hook": lambda net: net.stem.register_forward_hook(lambda *_: None),
    "a module": lambda net: net.stem.add_module("more", nn.ReLU()),
    "another weight": lambda net: setattr(net.stem[0], "weight", nn.Parameter(torch.ones(2))),
    "other memory": lambda net: setattr(net.stem[0].weight, "data", torch.ones(2)),
    "a frozen weight": lambda net: net.stem[0].weight.requires_grad_(False),
    "a number": lambda net: setattr(net.stem[1], "momentum", 0.2),
    "a number in a list": lambda net: net.list.append(1),
    "what a function has": lambda net: net.function(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_net_holds_tells_whether_it_has_changed(change):
    held = net()
    held.list, held.nan, held.function = [], math.nan, counting(0)
    before = held_by({"net": held})
    assert before == held_by({"net": held})
    change(held)
    assert before != held_by({"net": held})


def test_what_a_net_holds_is_told_without_the_many_hooks_that_nobody_has_made():
    """A GPU waits as long as this takes, before every epoch."""
    paths = held_by({"net": net()})
    assert not [path for path in paths if "_hooks" in path]
    assert "net._modules.stem._modules.0._parameters.weight" in paths


def counting(calls):
    def count():
        nonlocal calls
        calls += 1

    return count


def counting_augmentation():
    calls = 0

    def augment(pixels, generator):
        nonlocal calls
        calls += 1
        return pixels

    return augment


def test_an_augmentation_that_counts_is_not_captured(learned):
    history, _ = learned(double(), CrossEntropy(), augment=counting_augmentation())
    assert history.capture == "not captured: augment.calls changes with every step"


def test_a_teacher_that_follows_in_its_own_way_does_so_after_every_step(learned):
    class Own(teachers.MomentumTeacher):
        def update(self, student, step):
            steps.append(step)
            super().update(student, step)

    averages = []
    for wanted in (True, False):
        steps, student = [], double()
        teacher = Own(student, teachers.mean_teacher_momentum(0.99))
        history, _ = learned(student, teacher=teacher, capture=wanted)
        assert history.capture == ("captured" if wanted else "not captured: capture=False")
        assert steps == list(range(1, EPOCHS * (WHOLE + 1) + 1))
        averages.append(weights(teacher))
    assert_close(*averages)


def test_batches_of_many_sizes_are_not_captured(learned):
    data = images().inputs().double(), images().target
    loader = [tuple(one[:size] for one in data) for size in range(30, 60)]
    history, _ = learned(double(), CrossEntropy(), train=loader)
    assert history.capture == "not captured: batches are not of one size"
    with pytest.raises(ArgumentError, match="not of one size"):
        learned(double(), CrossEntropy(), train=loader, capture=True)


def test_students_that_listen_to_each_other_need_an_optimizer_on_the_device(replaying):
    options = {"optimizer": lambda p: torch.optim.AdamW(p, 0.01), "progress": False}
    students = [net(seed=1), net(seed=2)]
    first, _ = teachers.mutual_learning(
        students, images(), epochs=2, device=replaying.device, **options
    )
    assert first.capture == "not captured: AdamW reads its learning rate on the host"


def test_reasons_that_are_known_before():
    history = train(net())
    assert history.capture == "not captured: steps are captured on CUDA only, not on cpu"
    assert history.seconds_to_first_step > 0
    assert train(net(), capture=False).capture == "not captured: capture=False"
    with pytest.raises(ArgumentError, match="captured on CUDA only"):
        train(net(), capture=True)
    with pytest.raises(ArgumentError, match="must be 'auto', True or False, got 'always'"):
        train(net(), capture="always")
    cuda = torch.device("cuda")
    assert capture.why_not("auto", cuda, 49) == "there are fewer than 50 steps"
    assert capture.why_not(True, cuda, 49) == capture.why_not("auto", cuda, 50) == ""


@pytest.mark.parametrize("step", range(1, 30, 7))
def test_a_loss_that_is_no_number_is_found_later_and_blamed_for_its_own_step(step, learned):
    """The signs are those of the first step that went wrong, whenever they are asked for."""
    data = images().inputs().double(), images().target
    loader = [tuple(one[:32] for one in data)] * 40
    loader[step - 1] = (loader[0][0] * math.nan, loader[0][1])
    with pytest.raises(FloatingPointError, match="inputs of train hold NaN") as told:
        learned(double(), CrossEntropy(), train=loader, epochs=1)
    assert ("a step before, it was" in str(told.value)) == (step > 1)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[x > 0],
        lambda x: x.index_put((x > 0,), torch.ones(3)),
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: x.long().bincount(),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: x.outer(x).add(torch.eye(3)).inverse(),
        lambda x: torch.linalg.eigh(x.outer(x)),
        lambda x: x.sum().item(),
        lambda x: bool(x.sum()),
        lambda x: torch.equal(x, x),
        lambda x: torch.tensor([1.0, 2.0]),
    ],
)
def test_the_stand_in_for_a_graph_refuses_what_waits(wait):
    with pytest.raises(AssertionError, match="a step that is replayed calls "):
        stand_in_graph.Recorded(lambda: wait(torch.tensor([1.0, 2.0, 3.0]).clone()), [])


def test_the_stand_in_for_a_graph_replays_what_does_not_wait():
    x, place, five = torch.tensor([1.0, -2.0, 3.0]), torch.zeros(3), torch.tensor(5.0)
    counts, index = torch.tensor([1, 2, 1]), torch.tensor([0, 1, 3])

    def step():
        place.copy_(x.repeat_interleave(counts, output_size=4)[index])
        place.index_put_((place < 0,), five)  # a mask that is filled with one number
        place.add_(x.where(x > 0, 0.0))

    graph = stand_in_graph.Recorded(step, [])
    x.neg_()
    for _ in range(2):  # the first is what was done already
        graph.replay()
    assert place.tolist() == [5.0, 4.0, 5.0]


class Reading(Term):
    """A term that reads a value on the host."""

    needs_teacher = False

    def loss(self, lesson):
        return lesson.student_logits.square().mean() * (1 + 0 * lesson.student_logits.max().item())


def test_a_step_that_cannot_be_captured_is_taken_plainly(learned, replaying, monkeypatch):
    class Refused:
        def __init__(self, function, generators):
            raise RuntimeError("operation not permitted when stream is capturing\nSearch for it")

    monkeypatch.setattr(capture, "Graph", Refused)
    history, taken = learned(double(), teacher=double(4, seed=2), capture="auto")
    said = "capturing a step failed, operation not permitted when stream is capturing"
    assert history.capture == f"not captured: {said}"
    _, plainly = learned(double(), teacher=double(4, seed=2), capture=False)
    assert_close(taken, plainly)
    with pytest.raises(ArgumentError, match=said):
        learned(double(), teacher=double(4, seed=2), capture=True)


def test_all_trainings_of_a_thread_share_a_stream(monkeypatch):
    """Each that is new would take memory of its own, which nobody gives back."""
    cuda, taken = torch.device("cuda", 0), []

    class Stream:
        def __init__(self, device):
            self.device = device

        def wait_stream(self, other):
            assert other.device == self.device

    @contextmanager
    def entered(stream):
        taken.append(stream)
        yield

    def work():
        with capture.own_stream(torch.device("cuda")):
            pass

    default = Stream(cuda)
    for name, value in {
        **{"Stream": Stream, "stream": entered},
        "current_stream": lambda device: default,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(capture, "STREAMS", capture.Streams())
    work()
    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    first, again, beside = taken
    assert first is again
    assert beside is not first
    assert default not in taken


@pytest.mark.parametrize("knows", [False, True])
def test_a_capture_that_fails_is_over_for_the_allocator_too(knows, monkeypatch):
    """Else it would never again give memory back that is free."""
    told = []

    def tell(device, pool):
        told.append((device, pool))
        if knows:
            raise RuntimeError("not currently recording to mempool_id")

    @contextmanager
    def graph(graph, pool, stream, mode):
        yield

    def step():
        raise RuntimeError("operation not permitted when stream is capturing")

    stream = SimpleNamespace(device_index=0)
    state = SimpleNamespace(clone_state=lambda: None, graphsafe_set_state=lambda state: None)
    for name, value in {
        **{"CUDAGraph": SimpleNamespace, "graph_pool_handle": lambda: (0, 7), "graph": graph},
        **{"current_stream": lambda: stream, "default_generators": [state]},
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, tell, raising=False)
    monkeypatch.setattr(capture, "FAILED", [])
    with pytest.raises(RuntimeError, match="not permitted"):
        capture.Graph(step, [])
    assert told == [(0, (0, 7))] * (1 if knows else 2)


HALTS = """
import torch
from toys import images, net, train, weights
from kdcourse.training import CrossEntropy, Term

torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False

class Halting(Term):
    needs_teacher = False

    def loss(self, lesson):
        torch.cuda.synchronize()  # of which no warning is given
        return lesson.student_logits.square().mean()

def learned(objective, **options):
    student = net()
    history = train(student, objective, train=images(320), device="cuda", epochs=6, **options)
    return history.capture, weights(student)

said, taken = learned(CrossEntropy() + 0.1 * Halting())
assert "not captured: capturing a step failed" in said, said
_, plainly = learned(CrossEntropy() + 0.1 * Halting(), capture=False)
for name, value in taken.items():
    torch.testing.assert_close(value, plainly[name], rtol=1e-3, atol=1e-4)
said, _ = learned(CrossEntropy())
assert said == "captured", said
assert torch.ones(3, device="cuda").sum().item() == 3
large = torch.ones(2**26, device="cuda")
before = torch.cuda.memory_reserved()
del large
torch.cuda.empty_cache()  # which does nothing as long as something is being captured
assert torch.cuda.memory_reserved() <= before - 2**28
"""


@pytest.mark.gpu
def test_a_capture_that_fails_leaves_a_process_that_can_be_used():
    """In a process of its own, which it might otherwise spoil for others."""
    paths = str(Path(__file__).parent), str(COURSE), os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [sys.executable, "-c", HALTS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.gpu
def test_float16_is_captured_but_for_the_optimizer():
    """Its gradients are scaled, and whether they are finite is read in every step."""
    ends = []
    for wanted in ("auto", False):
        student = net()
        options = {"autocast": torch.float16, "teacher": net(4, seed=2), "train": images(320)}
        history = train(student, KD, device="cuda", epochs=6, capture=wanted, **options)
        assert history.capture == ("captured" if wanted else "not captured: capture=False")
        ends.append(weights(student))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
def test_a_step_that_waits_is_not_captured_and_says_where():
    history = train(net(), CrossEntropy() + Reading(), train=images(320), device="cuda", epochs=6)
    assert "the host waits for the GPU in every step: " in history.capture
    assert "test_capture.py" in history.capture


def test_only_waits_are_taken_from_the_warnings_of_a_step(monkeypatch):
    modes, found = ["default"], []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step():
        with capture._waits(torch.device("cuda")) as waits:
            for message in ("called a synchronizing CUDA operation", "something else"):
                warnings.warn(message, stacklevel=1)
        found.extend(waits)

    with pytest.warns(UserWarning, match="something else"):
        step()
    assert modes == ["default", "warn", "default"]
    assert len(found) == 1
    assert found[0].startswith(__file__)


@pytest.mark.gpu
def test_by_default_the_host_waits_for_nothing_within_an_epoch():
    """From the tenth step to the hundredth, whatever waits for the GPU raises an error."""

    class Watching(torch.optim.lr_scheduler.ConstantLR):
        def step(self, *arguments):
            super().step(*arguments)
            if self.last_epoch in (10, 100):
                mode = "error" if self.last_epoch == 10 else "default"
                torch.cuda.set_sync_debug_mode(mode)

    def schedule(optimizer, steps):
        return Watching(optimizer, factor=1.0)

    options = {"augment": CROPS, "device": "cuda", "scheduler": schedule, "batch_size": 8}
    try:
        history = train(net(), KD, teacher=net(4, seed=2), train=images(808), epochs=2, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert history.capture == "captured"


@pytest.mark.gpu
def test_captured_and_compiled():
    options = {"teacher": net(4, seed=2), "train": images(320), "epochs": 6}
    history = train(net(), KD, compile=True, device="cuda", **options)
    assert history.capture == "captured"
    assert history["train_accuracy"][-1] > 0.5
