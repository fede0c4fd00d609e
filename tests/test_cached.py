"""Answers of a teacher that are asked for once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import images, net, same, weights

from kdcourse import tips
from kdcourse.augmentation import Noise
from kdcourse.teachers import CachedLessons, ClosedTeacher, MomentumTeacher, WrongCacheError
from kdcourse.training import LogitKD, fit

VIEWS = [tips.Consistent, tips.Independent, tips.FixedTeacher, tips.FunctionMatching]


class Counted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.calls = net(4, seed=9), 0

    def forward(self, inputs):
        self.calls += 1
        return self.net(inputs)


def lessons(teacher=None, views=None, **options):
    teacher = net(4, seed=9) if teacher is None else teacher
    views = tips.Consistent(Noise(0.2)) if views is None else views
    return CachedLessons(
        teacher, options.pop("images", images(40)), views=views, batch_size=16, **options
    )


def learn(train, teacher, **options):
    student = net(seed=1)
    options = {"epochs": 3, "device": "cpu", "progress": False, "batch_size": 16, **options}
    fit(student, train, LogitKD(4), teacher=teacher, **options)
    return student


@pytest.mark.parametrize("views", VIEWS)
def test_it_teaches_as_the_teacher_itself(views):
    cached = lessons(views=views(Noise(0.2)), epochs=3)
    student = learn(cached, cached.teacher)
    live = learn(images(40), net(4, seed=9), views=views(Noise(0.2)))
    assert same(weights(student), weights(live))


def test_the_teacher_is_asked_once_for_every_view():
    teacher = Counted()
    cached = lessons(teacher, epochs=2)
    asked = teacher.calls  # for the number of classes
    learn(cached, cached.teacher, epochs=7)
    assert teacher.calls - asked == 2 * len(cached)


def test_epochs_come_back():
    cached = lessons(epochs=2)
    seen = []
    for epoch in (0, 1, 2, 3):
        cached.set_epoch(epoch)
        seen.append([(s, t) for (s, t), _ in cached])
    for first, again in ((0, 2), (1, 3)):
        for (s, t), (u, v) in zip(seen[first], seen[again], strict=True):
            assert torch.equal(s, u)
            assert torch.equal(t, v)
    assert not torch.equal(seen[0][0][0], seen[1][0][0])


def test_a_file_is_taken_up_by_another_program(tmp_path):
    path = tmp_path / "answers" / "res.bin"
    first = lessons(epochs=2, path=path)
    student = learn(first, first.teacher)
    teacher = Counted()
    teacher.net.load_state_dict(net(4, seed=9).state_dict())
    again = lessons(teacher.net, epochs=2, path=path)
    assert again.known.all()
    assert same(weights(learn(again, again.teacher)), weights(student))


def test_an_interrupted_epoch_is_asked_again(tmp_path):
    path = tmp_path / "a.bin"
    next(iter(lessons(epochs=2, path=path)))
    assert not lessons(epochs=2, path=path).known.any()


def with_gelu():
    """The usual teacher's weights with another activation."""
    teacher = net(4, seed=9)
    teacher.stem[2] = torch.nn.GELU()
    return teacher


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"teacher": net(4, seed=8)}, "teacher"),
        ({"teacher": with_gelu()}, "teacher"),
        ({"images": images(40, seed=5)}, "images"),
        ({"images": replace(images(40), std=(0.5,))}, "images"),
        ({"views": tips.Consistent(Noise(0.3))}, "views"),
        ({"views": tips.Independent(Noise(0.2))}, "views"),
        ({"epochs": 3}, "epochs"),
        ({"seed": 1}, "seed"),
    ],
    ids=["teacher", "activation", "images", "scale", "augmentation", "design", "epochs", "seed"],
)
def test_a_wrong_cache_is_an_error(tmp_path, other, name):
    path = tmp_path / "a.bin"
    lessons(epochs=2, path=path)
    before = path.read_bytes()
    with pytest.raises(WrongCacheError, match=name):
        lessons(**{"epochs": 2, "path": path, **other})
    assert path.read_bytes() == before


def test_many_answers_are_kept_in_a_temporary_file(monkeypatch):
    in_memory = lessons(epochs=2)
    monkeypatch.setattr("kdcourse.teachers.cached.MOST_IN_MEMORY", 100)
    mapped = lessons(epochs=2)
    assert isinstance(mapped.answers, np.memmap)
    assert not isinstance(in_memory.answers, np.memmap)
    students = [learn(one, one.teacher) for one in (in_memory, mapped)]
    assert same(*map(weights, students))
    assert mapped.known.all()


def test_a_truncated_file_is_an_error(tmp_path):
    path = tmp_path / "a.bin"
    lessons(epochs=2, path=path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WrongCacheError, match="bytes"):
        lessons(epochs=2, path=path)


def test_what_cannot_be_recorded():
    with pytest.raises(ValueError, match="probabilities"):
        lessons(ClosedTeacher(net(4)))
    with pytest.raises(ValueError, match="follows its student"):
        lessons(MomentumTeacher(net(4)))
    cached = lessons(epochs=1)
    with pytest.raises(ValueError, match="stage1"):
        cached.teacher.show(torch.zeros(2, 4), ["stage1"])


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_bad_numbers_are_named(name):
    options = {"views": tips.Consistent(Noise()), "epochs": 2, "batch_size": 8, name: 0}
    with pytest.raises(ValueError, match=name):
        CachedLessons(net(4), images(8), **options)
