"""Disks that are full, folders that cannot be written to: told in one line, before any work."""

import errno
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from toys import images, net, train

from kdcourse import data, files
from kdcourse.__main__ import main
from kdcourse.course import docs, notebooks, site
from kdcourse.course.bench import (
    chunks,
    compare,
    doctor,
    gradients,
    kernels,
    losses,
    methods,
    overhead,
    scaling,
    startup,
    training,
)
from kdcourse.homework import grade, release
from kdcourse.teachers import CachedLessons, shipped
from kdcourse.teachers.shipped import train_teacher
from kdcourse.tips import Consistent
from kdcourse.training import checkpoint

resource = pytest.importorskip("resource")  # not on Windows


@contextmanager
def little_space(size):
    """Let no file grow beyond a size, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


REASON = "files of that size are not allowed here"


# --- the words


@pytest.mark.parametrize("number", [*files.REASONS, errno.EIO, errno.EMFILE])
def test_the_systems_words_and_numbers_are_not_shown(number):
    error = OSError(number, "as the system says it", "/some/where")
    assert "[Errno" in str(error)
    assert files.sentence(error) == f"/some/where: {files.why(error)}"
    assert "Errno" not in files.why(error)
    assert "system" not in files.why(error)


def test_of_many_files_that_could_not_be_copied_one_reason_is_told(tmp_path):
    (tmp_path / "from").mkdir()
    for name in "abc":
        (tmp_path / "from" / name).write_bytes(bytes(5000))
    with little_space(1000), pytest.raises(shutil.Error) as found:
        shutil.copytree(tmp_path / "from", tmp_path / "to")
    assert files.is_full(found.value)
    assert files.sentence(found.value) == REASON


def test_errors_in_our_own_words_are_left_as_they_are():
    error = FileNotFoundError("res16 is missing")
    assert files.sentence(error) == files.why(error) == "res16 is missing"


# --- writing


def folder_in_the_way(path):
    path.mkdir()


def folder_aside(path):
    path.with_name(path.name + ".partial").mkdir()


def file_as_folder(path):
    path.parent.rmdir()
    path.parent.touch()


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (folder_in_the_way, "it is a folder, not a file"),
        (folder_aside, "it is a folder, not a file"),
        (file_as_folder, "a file is where a folder should be"),
    ],
)
def test_what_is_in_the_way_of_a_file_is_told(prepare, reason, tmp_path):
    path = tmp_path / "run" / "result.json"
    path.parent.mkdir()
    prepare(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(files.FileError, match=rf"result\.json\S* cannot be written, {reason}$"):
        files.write(path, "new")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_removed_while_a_file_is_written_is_told(tmp_path):
    path = tmp_path / "run" / "result.json"
    told = pytest.raises(files.FileError, match="its folder was removed meanwhile")
    with told, files.whole(path) as file:
        file.write(b"new")
        shutil.rmtree(path.parent)
    files.write(path, "new")  # which makes it again
    assert path.read_text() == "new"


@pytest.mark.parametrize("size", [10, 1000, 5000, 100_000])
def test_a_checkpoint_without_space_is_told_in_our_words(size, tmp_path):
    path = tmp_path / "run.pt"
    checkpoint.save(path, {"old": 1})
    state = {name: torch.zeros(size) for name in "abc"}
    with (
        little_space(900),
        pytest.raises(files.FileError, match=rf"run.pt cannot be written, {REASON}; what was"),
    ):
        checkpoint.save(path, state)
    assert checkpoint.load(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_training_without_space_stops_at_its_checkpoint(tmp_path):
    with little_space(900), pytest.raises(files.FileError, match=r"run\.pt cannot be written"):
        train(net(), checkpoint=tmp_path / "run.pt")


# --- the temporary folder

FULL = rf"the temporary folder \S+ cannot hold it, {REASON}: .* TMPDIR to another folder"


def test_images_that_cannot_be_unpacked_name_the_temporary_folder(tmp_path, capsys):
    with little_space(10**6), pytest.raises(files.FileError, match=FULL):
        data.fashion_mnist()
    with little_space(10**6):
        assert main(["train", "--student", "plain1", "--out", str(tmp_path / "run")]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("kdcourse: --data: the temporary folder")
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "work",
    [lambda folder: release.release(folder), lambda folder: site.build(folder)],
    ids=["release", "site"],
)
def test_what_is_assembled_names_the_temporary_folder(work, tmp_path):
    with little_space(10**4), pytest.raises(files.FileError, match=FULL):
        work(tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_system_without_a_temporary_folder_is_told(monkeypatch):
    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in [...]")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(files.FileError, match=r"there is no temporary folder .* TMPDIR") as told:
        data.fashion_mnist()
    with pytest.raises(FileNotFoundError) as raw:  # as libraries raise it when they are imported
        none()
    assert files.sentence(raw.value) == str(told.value)


def test_many_answers_name_the_temporary_folder(monkeypatch):
    monkeypatch.setattr("kdcourse.teachers.answers.MOST_IN_MEMORY", 100)
    with little_space(500), pytest.raises(ValueError, match=r"temporary folder \S+ \(\$TMPDIR\)"):
        CachedLessons(net(4), images(40), views=Consistent(lambda pixels, _: pixels), epochs=1)


# --- before any work


def refuse(*_, **__):
    raise AssertionError("worked")


BENCHES = (
    *(chunks, doctor, gradients, kernels, losses, methods),
    *(overhead, scaling, startup, training),
)
WORK = {
    "teachers": lambda place: train_teacher("res16", place, progress=False),
    "release": lambda place: release.release(place),
    "grade": lambda place: grade.grade("1_logit", [Path(__file__)], place / "grades.csv"),
    "site": lambda place: site.build(place),
    "notebooks": lambda place: notebooks.run([place / "1_motivation.ipynb"]),
    **{
        bench.__name__.rpartition(".")[2]: lambda place, measure=bench.measure: measure(
            store=compare.Store(place / "bench.json", "", compare.Comparison)
        )
        for bench in BENCHES
    },
}


@pytest.mark.parametrize("work", WORK)
def test_a_folder_that_cannot_be_written_is_told_before_any_work(work, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "fashion_mnist", refuse)
    monkeypatch.setattr(release, "build", refuse)
    monkeypatch.setattr(site, "assemble", refuse)
    monkeypatch.setattr(notebooks.nbformat, "read", refuse)
    monkeypatch.setattr(compare.Store, "save", refuse)
    (tmp_path / "file").touch()
    with pytest.raises(files.FileError, match="cannot be written, a file is where a folder should"):
        WORK[work](tmp_path / "file" / "here")


def test_whether_a_folder_can_be_written_to_leaves_no_trace(tmp_path):
    files.check_writable(tmp_path / "new" / "folder")
    files.check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


def test_pages_that_cannot_be_written_stay(tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text("words" * 1000)
    monkeypatch.setattr(docs, "PAGES", [page])
    with little_space(100), pytest.raises(files.FileError, match=r"README\.md cannot be written"):
        docs.write()
    assert page.read_text() == "words" * 1000
