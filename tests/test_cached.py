"""Answers of a teacher that are asked for once."""

import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import images, net, same, weights

from kdcourse import tips
from kdcourse.augmentation import Noise
from kdcourse.teachers import CachedLessons, ClosedTeacher, MomentumTeacher, WrongCacheError
from kdcourse.training import FrozenTeacher, LogitKD, fit

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
    path = tmp_path / "runs" / "answers"
    first = lessons(epochs=2, path=path)
    student = learn(first, first.teacher)
    teacher = Counted()
    teacher.net.load_state_dict(net(4, seed=9).state_dict())
    again = lessons(teacher.net, epochs=2, path=path)
    assert all(again.answers.knows(epoch) for epoch in (0, 1))
    assert same(weights(learn(again, again.teacher)), weights(student))


def test_an_interrupted_epoch_is_asked_again(tmp_path):
    path = tmp_path / "a"
    next(iter(lessons(epochs=2, path=path)))
    assert not lessons(epochs=2, path=path).answers.knows(0)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


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
        ({"teacher": FrozenTeacher(net(4, seed=9), output=torch.neg)}, "teacher"),
        ({"images": images(40, seed=5)}, "images"),
        ({"images": replace(images(40), std=(0.5,))}, "images"),
        ({"views": tips.Consistent(Noise(0.3))}, "views"),
        ({"views": tips.Independent(Noise(0.2))}, "views"),
        ({"epochs": 3}, "epochs"),
        ({"seed": 1}, "seed"),
    ],
    ids=[
        "teacher",
        "activation",
        "output",
        "images",
        "scale",
        "augmentation",
        "design",
        "epochs",
        "seed",
    ],
)
def test_a_wrong_cache_is_an_error(tmp_path, other, name):
    path = tmp_path / "a"
    lessons(epochs=2, path=path)
    before = contents(path)
    with pytest.raises(WrongCacheError, match=name):
        lessons(**{"epochs": 2, "path": path, **other})
    assert contents(path) == before


def test_many_answers_are_kept_in_a_temporary_file(monkeypatch):
    in_memory = lessons(epochs=2)
    monkeypatch.setattr("kdcourse.teachers.answers.MOST_IN_MEMORY", 100)
    mapped = lessons(epochs=2)
    assert isinstance(mapped.answers.values, np.memmap)
    assert not isinstance(in_memory.answers.values, np.memmap)
    students = [learn(one, one.teacher) for one in (in_memory, mapped)]
    assert same(*map(weights, students))
    assert mapped.answers.known.all()


@pytest.mark.parametrize("name", ["answers.bin", "checksums.bin", "card.json"])
def test_a_truncated_file_is_an_error(tmp_path, name):
    path = tmp_path / "a"
    lessons(epochs=2, path=path)
    file = path / name
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(WrongCacheError, match=f"{name} (has|is damaged).*delete the folder"):
        lessons(epochs=2, path=path)


def test_a_folder_that_was_not_finished_is_made_again(tmp_path):
    path = tmp_path / "a"
    lessons(epochs=2, path=path)
    (path / "card.json").unlink()  # which is written last
    (path / "answers.bin").write_bytes(b"half")
    assert not lessons(epochs=2, path=path).answers.knows(0)


@pytest.mark.parametrize("damage", ["a bit", "a block"])
def test_damaged_answers_are_asked_for_again(tmp_path, damage):
    path = tmp_path / "a"
    first = lessons(epochs=2, path=path)
    student = learn(first, first.teacher)
    file = path / "answers.bin"
    whole = bytearray(file.read_bytes())
    if damage == "a bit":
        whole[100] ^= 4
    else:
        whole[64:320] = bytes(256)
    file.write_bytes(whole)
    teacher = Counted()
    teacher.net.load_state_dict(net(4, seed=9).state_dict())
    again = lessons(teacher.net, epochs=2, path=path)
    with pytest.warns(UserWarning, match="epoch 0 .* damaged: the teacher is asked again"):
        relearned = learn(again, again.teacher)
    assert same(weights(relearned), weights(student))
    assert lessons(epochs=2, path=path).answers.knows(0)  # mended


def test_names_with_dots_are_folders_of_their_own(tmp_path):
    one, other = (lessons(epochs=1, path=tmp_path / name) for name in ("kd.1", "kd.2"))
    for each in (one, other):
        learn(each, each.teacher, epochs=1)
    for name in ("kd.1", "kd.2"):
        assert lessons(epochs=1, path=tmp_path / name).answers.knows(0)


@pytest.mark.parametrize("there", ["a file", "a folder of others"])
def test_what_is_somebody_elses_is_left_alone(tmp_path, there):
    path = tmp_path / "model.bin"
    if there == "a folder of others":
        path.mkdir()
    theirs = path if there == "a file" else path / "thesis.tex"
    theirs.write_text("years of work")
    with pytest.raises(ValueError, match=r"path must be a folder|holds other files"):
        lessons(epochs=1, path=path)
    assert theirs.read_text() == "years of work"


def test_a_complete_cache_can_be_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    path = tmp_path / "a"
    first = lessons(epochs=2, path=path)
    student = learn(first, first.teacher)
    for file in (*path.iterdir(), path):
        file.chmod(0o555 if file.is_dir() else 0o444)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as for anybody but root
    again = lessons(epochs=2, path=path)
    assert again.answers.values.mode == "r"
    assert same(weights(learn(again, again.teacher)), weights(student))
    lessons(epochs=2, path=tmp_path / "new")
    empty = lessons(epochs=2, path=tmp_path / "new")
    with pytest.raises(ValueError, match="cannot be written to, and does not hold epoch 0"):
        learn(empty, empty.teacher)


def removed(path):
    shutil.rmtree(path)


def replaced(path):
    shutil.rmtree(path)
    path.touch()


@pytest.mark.parametrize("happening", [removed, replaced])
@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_a_folder_that_is_lost_meanwhile_is_told_and_changes_nothing(epoch, happening, tmp_path):
    """While it is filled (two epochs), and while it is replayed."""
    path, whole = tmp_path / "a", lessons(epochs=2)
    student = learn(whole, whole.teacher, epochs=4)
    cached = lessons(epochs=2, path=path)

    def log(row):
        if row["epoch"] == epoch:
            happening(path)

    if epoch == 0:
        happening(path)
    filled = epoch >= 2
    told = nullcontext() if filled else pytest.warns(UserWarning, match="cannot be kept in")
    with told:
        again = learn(cached, cached.teacher, epochs=4, log=log)
    assert same(weights(again), weights(student))


def test_a_disk_that_is_too_small_is_told_before_any_work(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ValueError, match=r"the answers take 640 bytes, for which .* has no space"):
        lessons(epochs=1, path=tmp_path / "a")


def test_views_that_do_not_say_what_they_are_cannot_be_kept(tmp_path):
    def views(pixels, target, generator):
        return pixels, pixels, target

    assert len(lessons(views=views, epochs=1)) > 0
    with pytest.raises(ValueError, match="views must tell by their repr"):
        lessons(views=views, epochs=1, path=tmp_path / "a")


def test_what_cannot_be_recorded():
    with pytest.raises(ValueError, match="probabilities"):
        lessons(ClosedTeacher(net(4)))
    with pytest.raises(ValueError, match="follows its student"):
        lessons(MomentumTeacher(net(4)))
    with pytest.raises(TypeError, match=r"the teacher must return a tensor of logits.* got dict"):
        lessons(FrozenTeacher(net(4), output=lambda logits: {"scores": logits}))
    cached = lessons(epochs=1)
    with pytest.raises(ValueError, match="stage1"):
        cached.teacher.show(torch.zeros(2, 4), ["stage1"])


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_bad_numbers_are_named(name):
    options = {"views": tips.Consistent(Noise()), "epochs": 2, "batch_size": 8, name: 0}
    with pytest.raises(ValueError, match=name):
        CachedLessons(net(4), images(8), **options)
