"""Where batches come from, and when a training ends: streams without a length, and steps."""

import copy
import multiprocessing
import shutil
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from toys import images, net, noisy, same, train, weights

from kdcourse import teachers
from kdcourse.augmentation import Flip
from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.training import (
    CrossEntropy,
    FeatureHint,
    LogitKD,
    StopTraining,
    WarmUp,
    capture,
    fit_in_stages,
)

KD = CrossEntropy() + 2.0 * LogitKD()
BATCHES = list(images(96).batches(32, seed=0))


class Stream:
    """Batches without a length, anew each time; a pass may be another one by its number."""

    def __init__(self, number: int | None = None):
        self.number, self.epoch, self.begun = number, 0, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        self.begun += 1
        draw = replay(self.epoch)
        count = 0
        while self.number is None or count < self.number:
            count += 1
            data = images(32, seed=int(torch.randint(1000, (), generator=draw)))
            yield data.inputs(), data.target


class Samples(IterableDataset):
    """Single samples without a length, each a number."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, every = (0, 1) if worker is None else (worker.id, worker.num_workers)
        data = images(self.count)
        yield from list(zip(data.inputs(), data.target, strict=True))[first::every]


class Recorder(torch.nn.Module):
    """A net that notes what it saw in train mode."""

    def __init__(self):
        super().__init__()
        self.model, self.seen = net(), []

    def forward(self, inputs):
        if self.training:
            self.seen.append(inputs.clone())
        return self.model(inputs)


# --- a training of so many steps


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_steps_end_a_training_within_an_epoch(steps):
    """The first steps of a longer training under the same schedule, whose last epoch is cut."""

    def constant(optimizer, total):
        assert total == expected
        return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)

    student = Recorder()
    expected = steps
    history = train(student, epochs=None, steps=steps, scheduler=constant)
    whole = Recorder()
    expected = 9
    train(whole, epochs=3, scheduler=constant)
    assert len(student.seen) == steps
    assert all(map(torch.equal, student.seen, whole.seen[:steps]))
    assert history["epoch"] == list(range(1, -(-steps // 3) + 1))


def test_as_many_steps_as_epochs_have_are_the_same_training():
    by_steps, by_epochs = net(), net()
    history = train(by_steps, epochs=None, steps=6)
    assert train(by_epochs, epochs=2)["loss"] == history["loss"]
    assert same(weights(by_steps), weights(by_epochs))


def test_the_bar_and_the_learning_rate_know_the_steps(capsys):
    history = train(net(), epochs=None, steps=4, progress=True)
    assert "4/4" in capsys.readouterr().err
    assert len(history) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 2, "steps": 3}, "epochs and steps were both given"),
        ({"epochs": None, "steps": 0}, "steps must be a positive integer, got 0"),
        ({"epochs": None, "steps": 2.5}, "steps must be a positive integer, got 2.5"),
        ({"train": Stream()}, r"a Stream has no length: say by steps=… when"),
        ({"train": DataLoader(Samples(64), 32)}, r"a DataLoader has no length: say by steps=…"),
    ],
)
def test_what_cannot_end_is_refused(options, message):
    with pytest.raises((ArgumentError, TypeError), match=message):
        train(net(), **options)


def test_fifteen_epochs_are_the_default():
    assert len(train(net(), train=BATCHES[:1], epochs=None)) == 15


# --- streams


@pytest.mark.parametrize(("steps", "rows"), [(3, 3), (10, 10), (25, 9)])
def test_a_tenth_of_a_stream_is_an_epoch_and_nothing_is_seen_twice(steps, rows):
    stream, student = Stream(), Recorder()
    history = train(student, train=stream, epochs=None, steps=steps, validation=images(8))
    expected = [inputs for inputs, _ in islice(Stream(), steps)]
    assert len(student.seen) == steps
    assert all(map(torch.equal, student.seen, expected))
    assert len(history["validation_accuracy"]) == rows


def test_a_stream_that_ends_is_begun_anew_by_its_number():
    stream, student = Stream(4), Recorder()
    train(student, train=stream, epochs=None, steps=10)
    expected = []
    for number in range(3):
        one = Stream(4)
        one.set_epoch(number)
        expected += [inputs for inputs, _ in one]
    assert all(map(torch.equal, student.seen, expected[:10]))
    assert len(student.seen) == 10


def test_a_stream_that_yields_nothing_is_refused():
    with pytest.raises(ArgumentError, match="train yielded no batch"):
        train(net(), train=Stream(0), epochs=None, steps=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_a_stream(workers):
    student = Recorder()
    loader = DataLoader(Samples(96), 16, num_workers=workers)
    train(student, train=loader, epochs=None, steps=9)
    assert multiprocessing.active_children() == []  # though the second pass was not gone through
    assert len(student.seen) == 9
    assert torch.equal(torch.cat(student.seen[:3]), torch.cat(student.seen[6:]))


def test_terms_are_told_how_long_an_epoch_of_a_stream_is():
    term = WarmUp(CrossEntropy(), epochs=2)
    train(net(), term, train=Stream(), epochs=None, steps=30)
    assert term.steps == 2 * 3


class Interrupted(Stream):
    """A stream during whose so many batches somebody presses Ctrl-C."""

    def __init__(self, after, number=None):
        super().__init__(number)
        self.after = after

    def identity(self):
        return ["stream", self.number]

    def __iter__(self):
        for batch in super().__iter__():
            if self.after == 0:
                raise KeyboardInterrupt
            self.after -= 1
            yield batch


@pytest.mark.parametrize("number", [None, 7])
@pytest.mark.parametrize("after", [0, 5, 17])
def test_a_stream_is_resumed_where_it_was(number, after, tmp_path):
    options = {"epochs": None, "steps": 20}
    whole, broken, student = noisy(), noisy(), noisy()
    history = train(whole, train=Interrupted(99, number), **options)
    options["checkpoint"] = tmp_path / "run.pt"
    with pytest.warns(UserWarning, match="the same call resumes"):
        train(broken, train=Interrupted(after, number), **options)
    resumed = train(student, train=Interrupted(99, number), **options)
    assert same(weights(student), weights(whole))
    assert resumed["loss"] == history["loss"]


class Shuffled:
    """Batches in an order by the number of the epoch, which is kept."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(BATCHES)

    def __iter__(self):
        order = torch.randperm(len(BATCHES), generator=replay(self.epoch))
        return iter([BATCHES[number] for number in order])


def test_the_same_loader_resumes_though_it_knows_its_epoch(tmp_path):
    def stop(row):
        if row["epoch"] == 2:
            raise StopTraining

    whole, broken, resumed, batches = noisy(), noisy(), noisy(), Shuffled()
    train(whole, train=Shuffled(), epochs=4)
    options = {"train": batches, "epochs": 4, "checkpoint": tmp_path / "run.pt"}
    train(broken, log=stop, **options)
    train(resumed, **options)
    assert same(weights(resumed), weights(whole))


class Noise(IterableDataset):
    """Samples that a loader's worker draws, another number in every pass."""

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        for _ in range(70):
            yield torch.rand(1, 12, 12), int(torch.randint(4, ()))


@pytest.mark.parametrize("generator", [False, True])
def test_what_workers_draw_is_drawn_again_after_a_checkpoint(generator, tmp_path):
    def run(student, log=None):
        own = torch.Generator().manual_seed(3) if generator else None
        loader = DataLoader(Noise(), 10, num_workers=1, generator=own)
        options = {"epochs": None, "steps": 20, "checkpoint": tmp_path / f"{id(student)}.pt"}
        return train(student, train=loader, log=log, **options)

    def keep(row):
        if row["epoch"] in (2, 5):
            shutil.copy(tmp_path / f"{id(whole)}.pt", tmp_path / f"{row['epoch']}.pt")

    whole = noisy()
    run(whole, keep)
    for epoch in (2, 5):
        resumed = noisy()
        shutil.copy(tmp_path / f"{epoch}.pt", tmp_path / f"{id(resumed)}.pt")
        run(resumed)
        assert same(weights(resumed), weights(whole))


class Position(Stream):
    """A stream that knows by itself where it is."""

    def __init__(self):
        super().__init__()
        self.next = 0

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]

    def __iter__(self):
        for batch in islice(super().__iter__(), self.next, None):
            self.next += 1
            yield batch


def test_a_stream_that_knows_where_it_is_goes_on_by_itself(tmp_path):
    def stop(row):
        raise KeyboardInterrupt

    options = {"epochs": None, "steps": 20, "checkpoint": tmp_path / "run.pt"}
    with pytest.warns(UserWarning, match="the same call resumes"):
        train(net(), train=Position(), log=stop, **options)
    stream = Position()
    train(net(), train=stream, **options)
    assert stream.next == 20


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_stream_that_cannot_be_wound_forward_is_told(wrapped, tmp_path):
    class Plain(IterableDataset):
        def __iter__(self):
            yield from BATCHES

    source = DataLoader(Plain(), None) if wrapped else Plain()
    options = {"epochs": None, "steps": 4, "checkpoint": tmp_path / "run.pt"}
    with pytest.warns(UserWarning, match="a Plain has neither set_epoch nor state_dict"):
        train(net(), train=source, **options)


def test_another_number_of_steps_is_another_run(tmp_path):
    path = tmp_path / "run.pt"
    train(net(), epochs=None, steps=4, checkpoint=path)
    for options in ({"steps": 5, "epochs": None}, {"epochs": 2}):
        with pytest.raises(ArgumentError, match="its steps is 4, here it is"):
            train(net(), checkpoint=path, **options)


# --- sets that yield dictionaries, as those of Hugging Face


class Rows:
    """A set of rows by number, each a dictionary, as a ``datasets.Dataset`` is."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, number):
        one = self.data[number : number + 1]
        return {"image": one.inputs()[0], "label": int(one.target)}


class RowStream(IterableDataset):
    """The same without a length, shuffled by the number of the pass (``to_iterable_dataset``)."""

    def __init__(self, data):
        self.rows, self.epoch = Rows(data), 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        for number in torch.randperm(len(self.rows), generator=replay(self.epoch)).tolist():
            yield self.rows[number]


def pairs(rows):
    """Make a batch of rows."""
    target = torch.tensor([row["label"] for row in rows])
    return torch.stack([row["image"] for row in rows]), target


def test_a_set_of_dictionaries_through_a_plain_loader():
    data, student, plain = images(64), net(), net()
    train(student, train=DataLoader(Rows(data), 32, collate_fn=pairs))
    train(plain, train=DataLoader(TensorDataset(data.inputs(), data.target), 32))
    assert same(weights(student), weights(plain))


def test_a_stream_of_dictionaries_is_shuffled_anew_in_every_pass(tmp_path):
    student = Recorder()
    loader = DataLoader(RowStream(images(64)), 64, collate_fn=pairs)
    train(student, train=loader, epochs=None, steps=2, checkpoint=tmp_path / "run.pt")
    first, second = (seen.flatten(1).sum(1) for seen in student.seen)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


# --- procedures, captured steps


def test_every_procedure_takes_steps_or_refuses_them():
    options = {"steps": 3, "batch_size": 32, "device": "cpu", "progress": False}
    students = [net(seed=1), net(seed=2)]
    one, other = teachers.mutual_learning(students, Stream(), **options)
    assert len(one) == len(other) == 3
    assert len(teachers.distill_through(net(4), [], net(), Stream(), KD, **options)[0]) == 3
    assert len(teachers.born_again(lambda s: net(seed=s), Stream(), generations=2, **options)) == 2
    before = net(4)
    assert not same(weights(teachers.correct(before, Stream(), **options)), weights(before))
    _, (one, _) = teachers.correct_online(net(4), net(), Stream(), **options)
    assert len(one) == 3
    rows = []
    teachers.self_distill(net(), images(), augment=Flip(), log=rows.append, **options)
    assert len(rows) == 1  # an epoch has three batches
    with pytest.raises(ArgumentError, match="steps cannot be told of two stages"):
        fit_in_stages(net(), images(), FeatureHint("stage2"), teacher=net(4), **options)


@pytest.mark.parametrize("source", [Stream, lambda: images(96)], ids=["stream", "images"])
def test_captured_steps_are_as_plain_ones(source, replaying):
    found = []
    for wanted in (True, False):
        student, held = net().double(), copy.deepcopy(source())
        options = {"epochs": None, "steps": 8, "validation": images(24, seed=1), "keep": "best"}
        history = train(
            student, KD, train=held, teacher=net(4).double(), capture=wanted,
            device=replaying.device, **options,
        )  # fmt: skip
        found.append((weights(student), history["loss"]))
    assert replaying.replays == 8 - capture.PLAIN
    for name, value in found[0][0].items():
        assert torch.allclose(value.double(), found[1][0][name].double(), rtol=1e-6), name
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)


# --- a callback may stop a training


def patience(epochs):
    """Stop when the validation accuracy has not risen for so many epochs."""
    seen = []

    def log(row):
        seen.append(row["validation_accuracy"])
        if seen.index(max(seen)) < len(seen) - epochs:
            raise StopTraining

    return log


def test_a_log_stops_a_training_which_can_be_resumed(tmp_path):
    def stop(row):
        if row["epoch"] == 2:
            raise StopTraining

    stopped, resumed, whole = noisy(), noisy(), noisy()
    path = tmp_path / "run.pt"
    history = train(stopped, epochs=4, log=stop, checkpoint=path)
    assert (len(history), history.interrupted) == (2, False)
    assert len(train(resumed, epochs=4, checkpoint=path)) == 4
    train(whole, epochs=4)
    assert same(weights(resumed), weights(whole))


def test_early_stopping_keeps_the_best():
    validation = images(40, seed=1)
    options = {"epochs": 30, "validation": validation, "keep": "best", "learning_rate": 0.0}
    history = train(net(), log=patience(3), **options)
    assert len(history) == 4  # nothing is learned: the first stays the best
    assert history.kept["epoch"] == 1
