"""What a checkpoint belongs to, what it restores, and what damages it."""

import random
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_checkpoint import interrupted, without_seconds
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from toys import images, net, noisy, same, train, weights

from kdcourse.further import GeneratedImages, Generator
from kdcourse.training import CrossEntropy, LogitKD
from kdcourse.training.checkpoint import CorruptedCheckpointError
from kdcourse.training.fingerprint import described, fingerprint

# --- fingerprints


def shift(by):
    return lambda pixels, generator: pixels.roll(by, -1)


def made():
    """Values by what they are, each made anew."""
    return {
        "number": 4,
        "text": "4",
        "truth": True,
        "nothing": None,
        "list": [1, 2],
        "pairs": [[1], 2],
        "dictionary": {"a": 1},
        "set": {"a", "b", "c"},
        "tensor": torch.arange(4.0),
        "shape": torch.arange(4.0).view(2, 2),
        "dtype": torch.arange(4),
        "array": np.arange(4.0),
        "model": net(seed=1),
        "other weights": net(seed=2),
        "other code": nn.Sequential(net(seed=1)),
        "function": shift(1),
        "held": shift(2),
        "code": lambda pixels, generator: pixels.flip(-1),
        "constant": lambda pixels, generator: pixels.flip(-2),
        "default": lambda pixels, generator=3: pixels.flip(-2),
        "partial": partial(torch.optim.SGD, lr=0.1),
        "argument": partial(torch.optim.SGD, lr=0.2),
        "images": images(8),
        "other images": images(8, seed=1),
        "other labels": replace(images(8), target=images(8).target.flip(0)),
        "loader": DataLoader(TensorDataset(torch.arange(4)), 2),
        "larger batches": DataLoader(TensorDataset(torch.arange(4)), 4),
        "generator": torch.Generator().manual_seed(1),
        "later": torch.Generator().manual_seed(2),
    }


def test_equal_content_has_one_fingerprint_and_other_content_another():
    one, other = made(), made()
    assert [fingerprint(value) for value in one.values()] == [
        fingerprint(value) for value in other.values()
    ]
    assert len({fingerprint(value) for value in one.values()}) == len(one)


def test_numbers_count_by_their_value():
    assert fingerprint({"a": 4}) == fingerprint({"a": np.float64(4.0)})
    assert fingerprint(2**60) != fingerprint(2**60 + 1)
    assert described(np.int64(4)) == described(4)


def test_what_holds_itself_has_a_fingerprint():
    circle: list = [1]
    circle.append(circle)
    assert fingerprint(circle) == fingerprint(circle)


class Drawn(Dataset):
    """Samples that are drawn at random, as augmentations of many people are."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
        label = index % 4
        return torch.full((1, 12, 12), noise + label), label


def test_a_set_of_random_samples_has_one_fingerprint_and_leaves_the_generators_alone():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    assert fingerprint(Drawn()) == fingerprint(Drawn())
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


# --- a checkpoint of another run


def sgd(momentum):
    return lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=momentum)


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("teacher", {"teacher": net(4, seed=3)}),
        ("train", {"train": images(96, seed=1)}),
        ("train", {"train": replace(images(), target=images().target.flip(0))}),
        ("validation", {"validation": images(40, seed=1)}),
        ("augment", {"augment": shift(2)}),
        ("optimizer", {"optimizer": sgd(0.5)}),
        ("scheduler", {"scheduler": lambda o, steps: torch.optim.lr_scheduler.StepLR(o, 3)}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_checkpoint_of_another_experiment_is_refused(setting, options, tmp_path):
    def own():
        return {
            "student": net(),
            "objective": CrossEntropy() + LogitKD(),
            "teacher": net(4, seed=2),
            "validation": images(40),
            "augment": shift(1),
            "optimizer": sgd(0.9),
            "scheduler": lambda o, steps: torch.optim.lr_scheduler.StepLR(o, 2),
            "checkpoint": tmp_path / "run.pt",
        }

    train(**own())
    again = own()
    train(**again)  # everything made anew is the same run
    other = {**own(), **options}
    before = weights(other["student"])
    with pytest.raises(ValueError, match=f"another run: its {setting} is"):
        train(**other)
    assert same(weights(other["student"]), before)


# --- damage


def test_every_flipped_bit_is_found_or_harmless(tmp_path):
    path = tmp_path / "run.pt"
    student, options = noisy(), {"checkpoint": path, "epochs": 1}
    history = train(student, **options)
    sound, draw = path.read_bytes(), random.Random(0)
    found = 0
    for _ in range(60):
        place = draw.randrange(len(sound))
        damaged = bytearray(sound)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        again = noisy()
        try:
            repeated = train(again, **options)
        except CorruptedCheckpointError:
            found += 1
        else:
            assert same(weights(again), weights(student))
            assert repeated.rows == history.rows
    assert found > 30


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: [],
        lambda state: {n: v for n, v in state.items() if n != "student_weights"},
        lambda state: {n: v for n, v in state.items() if n != "rows"},
        lambda state: {**state, "rows": state["rows"] * 2},
        lambda state: {**state, "rows": [3]},
        lambda state: {**state, "student_weights": {}},
        lambda state: {**state, "optimizer": {"state": 3}},
        lambda state: {**state, "scheduler": None},
    ],
    ids=["list", "no weights", "no rows", "twice", "numbers", "empty", "optimizer", "scheduler"],
)
def test_a_readable_file_of_other_content_is_one_clear_error(damage, tmp_path):
    path = tmp_path / "run.pt"
    train(net(), checkpoint=path)
    torch.save(damage(torch.load(path)), path)
    with pytest.raises(CorruptedCheckpointError, match=r"run\.pt"):
        train(net(), checkpoint=path)


# --- what goes on


def from_noise(student, **options):
    generated = GeneratedImages(Generator(8, 4, size=12), net(4, seed=2), "embedding", steps=3)
    return train(student, LogitKD(), train=generated, teacher=net(4, seed=2), **options)


def from_a_generator(student, **options):
    data = TensorDataset(images().inputs(), images().target)
    drawn = torch.Generator().manual_seed(3)
    loader = DataLoader(data, 32, shuffle=True, generator=drawn)
    return train(student, CrossEntropy(), train=loader, **options)


def from_any_randomness(student, **options):
    return train(student, CrossEntropy(), train=DataLoader(Drawn(), 14, shuffle=True), **options)


@pytest.mark.parametrize("run", [from_noise, from_a_generator, from_any_randomness])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_whatever_draws_goes_on_where_it_was(run, steps, tmp_path):
    whole, broken, resumed = noisy(), noisy(), noisy()
    history = run(whole, epochs=3)
    with interrupted(broken, steps):
        run(broken, epochs=3, checkpoint=tmp_path / "run.pt")
    repeated = run(resumed, epochs=3, checkpoint=tmp_path / "run.pt")
    assert same(weights(resumed), weights(whole))
    assert without_seconds(repeated) == without_seconds(history)


def test_what_cannot_go_on_is_told(tmp_path):
    class Endless:
        def __len__(self):
            return 2

        def __iter__(self):
            return images().batches(48)

    with pytest.warns(UserWarning, match="neither set_epoch nor state_dict"):
        train(net(), train=Endless(), checkpoint=tmp_path / "run.pt")


# --- interrupts


def test_a_run_that_is_stopped_in_its_first_epoch_is_resumed_by_the_same_call(tmp_path):
    whole, student = noisy(), noisy()
    train(whole)
    with interrupted(student, 1):
        train(student, checkpoint=tmp_path / "run.pt")
    assert not same(weights(student), weights(noisy()))
    train(student, checkpoint=tmp_path / "run.pt")  # the same object, trained meanwhile
    assert same(weights(student), weights(whole))


def test_a_student_that_was_stopped_without_a_checkpoint_goes_on_and_says_so():
    student = noisy()
    with interrupted(student, 1, "the student keeps what it learned"):
        train(student)
    with pytest.warns(UserWarning, match="goes on from what it had learned"):
        train(student)
    train(student)  # once is enough: that was a training to its end


def test_a_finished_run_is_not_taken_for_that_of_another_student(tmp_path):
    """Weights that nobody has seeded are others every time: a run goes on all the same."""
    student, path = net(seed=1), tmp_path / "run.pt"
    train(student, checkpoint=path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(student, checkpoint=path)  # the cell once more
        train(net(seed=1), checkpoint=path)
    other = net(seed=2)
    with pytest.warns(UserWarning, match="began with other weights"):
        train(other, checkpoint=path)
    assert same(weights(other), weights(student))
