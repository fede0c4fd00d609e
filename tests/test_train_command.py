"""``python -m kdcourse train`` from end to end, on a few real images."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdcourse import data, metrics, models
from kdcourse.__main__ import main
from kdcourse.data import Splits
from kdcourse.errors import ArgumentError
from kdcourse.files import FileError
from kdcourse.teachers import CachedLessons
from kdcourse.teachers.shipped import TEACHERS
from kdcourse.tips import Consistent
from kdcourse.train import command, plan
from kdcourse.training import History

FILES = {"options.toml", "checkpoint.pt", "metrics.jsonl", "student.safetensors", "result.json"}
LOSS = "CrossEntropy() + 4 * LogitKD(temperature=4)"
KD = ["--student", "plain2", "--teacher", "res16", "--loss", LOSS]


@pytest.fixture(scope="module")
def splits():
    found = data.fashion_mnist()
    return Splits(found.train[:300], found.validation[:100], found.test[:100])


@pytest.fixture
def few(splits, monkeypatch):
    """Only a few images are there."""
    monkeypatch.setattr(command, "from_torchvision", lambda *_, **__: splits)
    return splits


def train(folder, *arguments, epochs=3):
    fixed = ["--epochs", str(epochs), "--batch-size", "50", "--images", "200", "--device", "cpu"]
    return main(["train", *KD, *fixed, "--out", str(folder), *arguments])


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(folder)]


def weights(folder):
    return (folder / "student.safetensors").read_bytes()


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.usefixtures("few")
def test_a_student_begins_with_the_weights_of_an_earlier_run(tmp_path, capsys):
    assert train(tmp_path / "first", epochs=1) == 0
    begun = tmp_path / "first/student.safetensors"
    still = ["--student-weights", str(begun), "--learning-rate", "0"]
    assert train(tmp_path / "second", *still, epochs=1) == 0
    found, expected = (load_file(tmp_path / n / "student.safetensors") for n in ("second", "first"))
    learned = dict(models.by_name("plain2").named_parameters())
    assert all(torch.equal(found[name], expected[name]) for name in learned)

    assert train(tmp_path / "second", "--learning-rate", "0", epochs=1) == 1
    assert "--student-weights: the run in" in capsys.readouterr().err
    save_file(models.by_name("plain3").state_dict(), begun)
    assert train(tmp_path / "third", *still) == 1
    assert f"--student-weights: {begun} holds the weights of an" in capsys.readouterr().err


@pytest.mark.usefixtures("few")
def test_a_student_is_made_of_its_teacher(tmp_path):
    given = ["--student", "reuse_classifier(by_name('plain2'), teacher)", "--loss"]
    given += ["SimKD(('projection', 'stage3'))"]
    assert train(tmp_path, *given, epochs=2) == 0
    found = load_file(tmp_path / "student.safetensors")
    teacher = load_file(TEACHERS / "res16.safetensors")
    assert torch.equal(found["classifier.classifier.weight"], teacher["classifier.weight"])
    assert "body.stage3.0.0.weight" in found
    before, measured = weights(tmp_path), result(tmp_path)
    for name in ("result.json", "student.safetensors"):  # as if it had been stopped before
        (tmp_path / name).unlink()
    assert train(tmp_path, *given, epochs=2) == 0
    assert weights(tmp_path) == before
    assert result(tmp_path)["test_accuracy"] == measured["test_accuracy"]


@pytest.mark.usefixtures("few")
def test_what_is_written(tmp_path, capsys, splits):
    assert train(tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3]
    columns = ["loss", "cross_entropy", "logit_kd", "train_accuracy", "validation_accuracy"]
    assert all(column in row for row in rows(tmp_path) for column in columns)
    student = models.by_name("plain2")
    student.load_state_dict(load_file(tmp_path / "student.safetensors"))
    accuracy = 100 * metrics.accuracy(student, splits.test)
    assert result(tmp_path)["test_accuracy"] == pytest.approx(accuracy, abs=1e-3)
    assert capsys.readouterr().out == f"test accuracy {accuracy:.2f} %, in {tmp_path}\n"


@pytest.mark.usefixtures("few")
def test_the_test_images_are_looked_at_once_and_last(tmp_path, monkeypatch, splits):
    order = []
    fit, accuracy = command.fit, metrics.accuracy

    def fitted(*arguments, **options):
        assert options["validation"] is splits.validation
        history = fit(*arguments, **options)
        order.append("trained")
        return history

    def measured(model, images):
        assert images is splits.test
        order.append("tested")
        return accuracy(model, images)

    monkeypatch.setattr(command, "fit", fitted)
    monkeypatch.setattr(metrics, "accuracy", measured)
    train(tmp_path)
    train(tmp_path)
    assert order == ["trained", "tested"]


@pytest.mark.usefixtures("few")
def test_so_many_steps_and_the_best_of_them(tmp_path, capsys):
    given = "--steps 10 --keep best --batch-size 50 --images 200 --device cpu --learning-rate 0"
    assert main(["train", *KD, *given.split(), "--out", str(tmp_path)]) == 0
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3]  # the last is cut short
    assert (result(tmp_path)["epochs"], result(tmp_path)["kept"]) == (3, 1)
    assert "10/10" in capsys.readouterr().err


@pytest.mark.usefixtures("few")
def test_every_option_reaches_the_training(tmp_path, monkeypatch):
    seen = {}

    def fitted(student, train, objective, **options):
        seen.update(options, student=student, train=train)
        return History([{"epoch": 1, "seconds": 0.0}])

    monkeypatch.setattr(command, "fit", fitted)
    arguments = "--augment Flip() --batch-size 25 --learning-rate 0.2 --weight-decay 0.01 --seed 3"
    arguments += " --momentum 0.8 --no-nesterov --autocast --compile --channels-last"
    arguments += " --sync-batch-norm"
    arguments += " --accumulate 2 --clip 3 --schedule at_epochs([2],factor=0.5)"
    train(tmp_path, *arguments.split(), epochs=4)
    expected = {
        "epochs": 4,
        "steps": None,
        "keep": "last",
        "batch_size": 25,
        "seed": 3,
        "autocast": True,
        "compile": True,
        "channels_last": True,
        "sync_batch_norm": True,
        "accumulate": 2,
        "clip": 3.0,
        "device": torch.device("cpu"),
        "on_interrupt": "raise",
    }
    assert {name: seen[name] for name in expected} == expected
    assert repr(seen["augment"]) == "Flip(probability=0.5)"
    assert len(seen["train"]) == 200
    optimizer = seen["optimizer"](seen["student"].parameters())
    group = optimizer.param_groups[0]
    assert [group[k] for k in ("lr", "momentum", "nesterov", "weight_decay")] == [
        *(0.2, 0.8, False, 0.01)
    ]
    assert rates(seen["scheduler"], optimizer, 8) == pytest.approx([0.2] * 4 + [0.1] * 4)
    assert seen["student"].stem[0].weight.equal(models.by_name("plain2", seed=3).stem[0].weight)


def rates(scheduler, optimizer, steps):
    schedule, found = scheduler(optimizer, steps), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("cosine", [1, 0.853553, 0.5, 0.146447]),
        ("at_epochs([1, 3])", [1, 0.1, 0.1, 0.01]),
        ("one_cycle", None),
    ],
)
def test_schedules(text, expected):
    made = plan.prepare(plan.Options("plain1", schedule=text, epochs=4, learning_rate=1.0))
    optimizer = made.knobs["optimizer"]
    found = rates(made.knobs["scheduler"], optimizer(made.student.parameters()), 4)
    if expected is None:  # that of fit, without a scheduler
        other = optimizer(made.student.parameters())
        own = torch.optim.lr_scheduler.OneCycleLR(other, 1.0, total_steps=4)
        expected = rates(lambda *_: own, other, 4)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "arguments",
    [
        "--accumulate 2",
        "--channels-last",
        "--autocast bfloat16",
        "--views Independent(pad_crop_flip())",
        "--views FunctionMatching(crop_flip()) --cache 2 --loss LogitKD()",
        "--teacher Ensemble(pretrained('res16'),"
        "ClosedTeacher(pretrained('res16-augmented'),top_k=3))",
        "--teacher MomentumTeacher(momentum=mean_teacher_momentum())",
        "--teacher MomentumTeacher(momentum=0.9) --views CrossedViews(ResizedCrop()) "
        "--loss SelfDistillation()",
        "--loss CrossEntropy()+FeatureHint('stage2')+AttentionTransfer(['stage1','stage3'])"
        "+RKDDistance()+RKDAngle()+SEED()+Saliency()",
        "--validation 0",
        "--momentum 0 --no-nesterov",
    ],
)
def test_ways_to_train(arguments, tmp_path):
    assert train(tmp_path, *arguments.split(), epochs=1) == 0
    assert result(tmp_path)["epochs"] == 1
    assert rows(tmp_path)[0]["loss"] > 0


def test_without_validation(tmp_path, monkeypatch, splits):
    none = Splits(splits.train, splits.validation[:0], splits.test)
    monkeypatch.setattr(command, "from_torchvision", lambda *_, **__: none)
    assert train(tmp_path, "--validation", "0", epochs=1) == 0
    assert "validation_accuracy" not in rows(tmp_path)[0]


def test_colour_images_of_a_set_that_is_not_known_before_it_is_read(tmp_path, monkeypatch, splits):
    def coloured(images):
        pixels = images.pixels.expand(-1, 3, -1, -1).contiguous()
        return data.Images(pixels, images.target, images.classes, (0.3,) * 3, (0.3,) * 3)

    parts = (splits.train, splits.validation, splits.test)
    monkeypatch.setattr(command, "from_torchvision", lambda *_, **__: Splits(*map(coloured, parts)))
    given = ["--student", "plain2", "--data", "GTSRB", "--augment", "pad_crop_flip()"]
    given = [*given, "--epochs", "1", "--batch-size", "50", "--device", "cpu"]
    assert main(["train", *given, "--out", str(tmp_path)]) == 0
    assert load_file(tmp_path / "student.safetensors")["stem.0.weight"].shape[1] == 3


@pytest.mark.usefixtures("few")
def test_kept_answers_change_nothing(tmp_path):
    view = ["--views", "Consistent(pad_crop_flip())"]
    train(tmp_path / "asked", *view, epochs=2)
    train(tmp_path / "kept", *view, "--cache", "2", epochs=2)
    assert weights(tmp_path / "asked") == weights(tmp_path / "kept")
    assert (tmp_path / "kept" / "answers" / "answers.bin").stat().st_size == 2 * 200 * 10 * 4


@pytest.mark.usefixtures("few")
def test_the_answers_that_are_kept_are_those_of_the_view(tmp_path, monkeypatch):
    seen = []

    class Seen(CachedLessons):
        def __init__(self, *arguments, **options):
            seen.append(options)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(plan, "CachedLessons", Seen)
    train(tmp_path, "--augment", "Flip()", "--cache", "2", "--seed", "5", epochs=1)
    _rehearsed, options = seen
    assert isinstance(options["views"], Consistent)  # by default
    assert (options["seed"], options["epochs"], options["batch_size"]) == (5, 2, 50)


# --- stopped and resumed


def started(folder, *arguments, processes=None):
    """Begin a training in processes of its own, and wait for its first epoch's line and checkpoint.

    The line is written after the checkpoint.
    """
    begin = [sys.executable, "-m"]
    if processes is not None:
        begin += ["torch.distributed.run", f"--nproc-per-node={processes}"]
        begin += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m"]
    running = subprocess.Popen(
        [*begin, "kdcourse", "train", *arguments, "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    end = time.monotonic() + 300
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    return running


LONG = "--student plain2 --images 200 --batch-size 25 --epochs 40 --device cpu --validation 100"


def test_two_processes_of_which_one_is_killed_and_the_run_is_resumed_in_one(tmp_path):
    folder = tmp_path / "run"
    running = started(folder, *LONG.replace("--epochs 40", "--epochs 60").split(), processes=2)
    psutil.Process(running.pid).children()[1].kill()
    _, errors = running.communicate(timeout=120)
    assert running.returncode != 0
    message = f"kdcourse: another process has ended; the same command resumes from {folder}"
    assert re.findall(r"kdcourse: another.*(?=/checkpoint.pt\n)", errors) == [message]
    assert not (folder / "result.json").exists()

    resumed = LONG.replace("--epochs 40", "--epochs 60").split()
    assert main(["train", *resumed, "--out", str(folder)]) == 0
    assert [row["epoch"] for row in rows(folder)] == list(range(1, 61))
    assert result(folder)["processes"] == 1


def test_two_processes_from_begin_to_end(tmp_path):
    arguments = "--images 100 --batch-size 50 --epochs 2 --device cpu --cache 1"
    running = started(tmp_path, *KD, *arguments.split(), processes=2)
    shown, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    assert shown.count("test accuracy") == 1
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2]
    assert result(tmp_path)["processes"] == 2
    assert {path.name for path in tmp_path.iterdir()} >= FILES


class Stopped(Exception):
    pass


@contextmanager
def stopping(monkeypatch):
    """Stop a run after the line of its second epoch."""
    write = command.Record.__call__

    def write_and_stop(self, row):
        write(self, row)
        if row["epoch"] == 2:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(command.Record, "__call__", write_and_stop)
        with pytest.raises(Stopped):
            yield


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("late", [True, False], ids=["line-without-checkpoint", "no-line-yet"])
def test_no_line_is_doubled_or_missing(late, tmp_path, monkeypatch):
    """A kill may fall between an epoch's checkpoint and its line, whichever comes first."""
    train(tmp_path / "whole")
    with stopping(monkeypatch):
        train(tmp_path / "stopped")
    path = tmp_path / "stopped" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 2
    path.write_text("".join([*lines, lines[-1]] if late else lines[:-1]))
    train(tmp_path / "stopped")
    assert timeless(tmp_path / "stopped") == timeless(tmp_path / "whole")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


@pytest.mark.usefixtures("few")
def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch, capsys):
    train(tmp_path)
    first = capsys.readouterr().out
    monkeypatch.setattr(command, "fit", None)
    monkeypatch.setattr(command, "from_torchvision", None)
    assert train(tmp_path) == 0
    assert capsys.readouterr().out == first


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"{half"])
@pytest.mark.parametrize("name", ["result.json", "student.safetensors", "metrics.jsonl"])
def test_what_is_damaged_in_a_finished_run_is_made_anew(name, content, tmp_path, capsys):
    train(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / name).write_bytes(content)
    assert train(tmp_path) == 0
    assert "damaged" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.usefixtures("few")
def test_missing_weights_are_made_anew(tmp_path, capsys):
    train(tmp_path)
    before = weights(tmp_path)
    (tmp_path / "student.safetensors").unlink()
    assert train(tmp_path) == 0
    assert weights(tmp_path) == before


def test_two_runs_in_one_folder_are_told_apart(tmp_path, capsys):
    folder, long = tmp_path / "run", LONG.replace("--epochs 40", "--epochs 4000").split()
    running = started(folder, *long)
    assert main(["train", *long, "--out", str(folder)]) == 1
    assert capsys.readouterr().err == f"kdcourse: --out: another run is writing to {folder} now\n"
    running.kill()
    running.communicate()
    with command.held(folder):  # it was let go of
        pass


@pytest.mark.usefixtures("few")
def test_other_options_are_refused_in_the_same_folder(tmp_path, capsys):
    train(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert train(tmp_path, "--seed", "7", epochs=1) == 1
    assert capsys.readouterr().err.endswith(
        f"--seed: the run in {tmp_path} was begun with 0, here it is 7; choose another --out\n"
    )
    assert train(tmp_path, "--teacher-weights", str(TEACHERS / "res16.safetensors"), epochs=1) == 1
    assert "--teacher-weights: the run in" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert train(tmp_path, "--channels-last", epochs=1) == 0


@pytest.mark.usefixtures("few")
def test_a_run_in_the_old_spelling_is_refused_and_left_as_it_is(tmp_path, capsys):
    old = 'student = "plain2"\nteacher = "res16"\nloss = "ce + 4*kd(temperature=4)"\n'
    old += 'images = 200\nepochs = 1\nbatch-size = 50\nschedule = "one-cycle"\n'
    (tmp_path / "options.toml").write_text(old)
    assert train(tmp_path, epochs=1) == 1
    assert capsys.readouterr().err == (
        f"kdcourse: --loss: the run in {tmp_path} was begun with 'ce + 4*kd(temperature=4)', "
        f"here it is {LOSS!r}; choose another --out\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["options.toml"]
    assert (tmp_path / "options.toml").read_text() == old


def test_too_many_images(tmp_path, few, capsys):
    assert train(tmp_path, "--images", "301") == 1
    assert "--images: there are 300 to train on" in capsys.readouterr().err


@pytest.mark.usefixtures("few")
def test_a_diverging_loss_is_one_line(tmp_path, capsys):
    assert train(tmp_path, "--learning-rate", "1e5", "--schedule", "constant", epochs=9) == 1
    assert re.search(r"^kdcourse: the .*loss became nan: .*\n\Z", capsys.readouterr().err, re.M)


def test_missing_data_are_named(tmp_path, capsys):
    given = ["--student", "plain2", "--data-root", str(tmp_path / "none"), "--out", str(tmp_path)]
    assert main(["train", *given]) == 1
    shown = capsys.readouterr().err
    assert f"--data: {tmp_path / 'none'}" in shown
    assert "on the command line --download" in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ArgumentError("image_size", "images differ in size: pass image_size"), "--image-size: im"),
        (ArgumentError("dataset", "SVHN has no labels"), "--data: SVHN has no labels\n"),
        (FileNotFoundError("It cannot be downloaded."), "--data: It cannot be downloaded.\n"),
        (data.CorruptedFileError("a.jpg cannot be read"), "--data: a.jpg cannot be read\n"),
        (ImportError("SVHN cannot be read without scipy"), "--data: SVHN cannot be read without s"),
        (RuntimeError("SVHN could not be downloaded"), "--data: SVHN could not be downloaded\n"),
    ],
)
def test_data_that_cannot_be_read_are_told_in_one_line(error, words, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(command, "from_torchvision", fail)
    assert train(tmp_path) == 1
    shown = capsys.readouterr().err
    assert f"kdcourse: {words}" in shown
    assert "Traceback" not in shown


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert train(tmp_path / "file" / "run") == 1
    assert "kdcourse: --out: " in capsys.readouterr().err


def test_out_is_needed(capsys):
    assert main(["train", "--student", "plain2"]) == 1
    assert capsys.readouterr().err == "kdcourse: --out: say which folder to write to\n"


# --- what happens to folders and files meanwhile


@pytest.fixture
def meanwhile(monkeypatch):
    """Do something to the folder after the line of the second epoch."""

    def act(folder, happening):
        write = command.Record.__call__

        def write_and_act(self, row):
            write(self, row)
            if row["epoch"] == 2:
                happening(folder)

        monkeypatch.setattr(command.Record, "__call__", write_and_act)

    return act


def lost(*names):
    def happening(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return happening


LOST = {
    "everything": shutil.rmtree,
    "the lines": lost("metrics.jsonl"),
    "the options": lost("options.toml"),
    "the checkpoint": lost("checkpoint.pt"),
    "TensorBoard's": lost("tensorboard"),
    "the answers": lost("answers"),
}


@pytest.mark.usefixtures("few")
@pytest.mark.filterwarnings("ignore:the answers to epoch 2 cannot be kept")
@pytest.mark.parametrize("what", LOST)
def test_what_is_lost_meanwhile_is_made_anew(what, tmp_path, meanwhile):
    with_all = ["--tensorboard", "--cache", "3"]
    assert train(tmp_path / "whole", *with_all) == 0
    meanwhile(tmp_path / "run", LOST[what])
    assert train(tmp_path / "run", *with_all) == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} - {"answers"} == {
        *FILES,
        "tensorboard",
    }
    assert timeless(tmp_path / "run") == timeless(tmp_path / "whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert (tmp_path / "run" / "options.toml").read_bytes()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def replaced_by_folder(name):
    def happening(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return happening


def replaced_by_file(folder):
    shutil.rmtree(folder)
    folder.touch()


NAMES = ("checkpoint.pt", "metrics.jsonl", "student.safetensors", "result.json")
IN_THE_WAY = {name: (replaced_by_folder(name), "it is a folder, not a file") for name in NAMES}
IN_THE_WAY["checkpoint.pt "] = replaced_by_file, "a file is where a folder should be"


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_is_in_the_way_meanwhile_is_one_line(name, tmp_path, meanwhile, capsys):
    happening, reason = IN_THE_WAY[name]
    meanwhile(tmp_path / "run", happening)
    assert train(tmp_path / "run") == 1
    path = tmp_path / "run" / name.strip()
    line = f"kdcourse: {path} cannot be written, {reason}\n"
    assert capsys.readouterr().err.endswith(line)


@pytest.mark.usefixtures("few")
def test_a_run_whose_folder_another_one_has_made_anew_ends(tmp_path, meanwhile, capsys):
    with ExitStack() as stack:

        def begun_anew(folder):
            shutil.rmtree(folder)
            stack.enter_context(command.held(folder))

        meanwhile(tmp_path / "run", begun_anew)
        assert train(tmp_path / "run") == 1
    line = f"kdcourse: --out: another run is writing to {tmp_path / 'run'} now\n"
    assert capsys.readouterr().err.endswith(line)
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.usefixtures("few")
def test_a_folder_that_cannot_be_written_to_is_told_before_the_data_are_read(
    tmp_path, monkeypatch, capsys
):
    def read_only(folder):
        raise FileError(f"{folder} cannot be written, the disk is read-only")

    with monkeypatch.context() as patch:
        patch.setattr("kdcourse.files.check_writable", read_only)
        patch.setattr(command, "from_torchvision", None)
        assert train(tmp_path / "new") == 1
    line = f"kdcourse: --out: {tmp_path / 'new'} cannot be written, the disk is read-only\n"
    assert capsys.readouterr().err == line
    train(tmp_path / "new")
    monkeypatch.setattr("kdcourse.files.check_writable", read_only)
    assert train(tmp_path / "new") == 0  # it is finished, and nothing is written


@pytest.mark.usefixtures("few")
def test_a_checkpoint_of_something_else_is_one_line(tmp_path, capsys):
    torch.save([1, 2], tmp_path / "checkpoint.pt")
    assert train(tmp_path) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"kdcourse: {tmp_path / 'checkpoint.pt'} is no checkpoint")
    assert shown.count("\n") == 1


@pytest.mark.usefixtures("few")
def test_names_of_folders_and_files_may_have_spaces_and_umlauts(tmp_path, monkeypatch):
    folder = tmp_path / "zwei wörter"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    save_file(models.by_name("plain2", seed=7).state_dict(), folder / "der lehrer.ß")
    given = ["--teacher", "plain2", "--teacher-weights", str(folder / "der lehrer.ß")]
    assert train(folder / "ein lauf", *given, "--cache", "1", "--tensorboard", epochs=1) == 0
    assert {path.name for path in (folder / "ein lauf").iterdir()} >= FILES


# --- files that hold something else than when a run was begun

CHANGED = "changed after the run in {} was begun; put back what was there, or choose another --out"


def with_teacher(folder, seed, *arguments, capsys):
    """Train with a teacher of that seed, and return what is shown of an error."""
    path = folder / "teacher.safetensors"
    save_file(models.by_name("plain2", seed=seed).state_dict(), path)
    given = ["--teacher", "plain2", "--teacher-weights", str(path), *arguments]
    capsys.readouterr()
    status = train(folder / "run", *given, epochs=2)
    return capsys.readouterr().err if status else ""


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("more", [[], ["--cache", "2"]], ids=["asked", "kept"])
def test_changed_weights_of_a_teacher_are_named_by_their_option(more, tmp_path, capsys):
    assert not with_teacher(tmp_path, 1, *more, capsys=capsys)
    (tmp_path / "run" / "result.json").unlink()
    told = CHANGED.format(tmp_path / "run")
    line = f"kdcourse: --teacher-weights: {tmp_path / 'teacher.safetensors'} {told}\n"
    assert with_teacher(tmp_path, 2, *more, capsys=capsys) == line
    assert not with_teacher(tmp_path, 1, *more, capsys=capsys)


@pytest.mark.parametrize("more", [[], ["--cache", "2"]], ids=["asked", "kept"])
def test_changed_images_are_named_by_their_option(more, tmp_path, monkeypatch, splits, capsys):
    for first in (0, 50):
        found = Splits(splits.train[first:], splits.validation, splits.test)
        monkeypatch.setattr(command, "from_torchvision", lambda *_, found=found, **__: found)
        status = train(tmp_path / "run", *more, epochs=1)
        (tmp_path / "run" / "result.json").unlink(missing_ok=True)
    assert status == 1
    told = f"the images of fashion-mnist {CHANGED.format(tmp_path / 'run')}"
    assert capsys.readouterr().err.endswith(f"kdcourse: --data: {told}\n")


@pytest.mark.usefixtures("few")
def test_damaged_answers_are_named_by_their_option(tmp_path, capsys):
    train(tmp_path, "--cache", "1", epochs=1)
    (tmp_path / "result.json").unlink()
    (tmp_path / "answers" / "card.json").write_text("{")
    assert train(tmp_path, "--cache", "1", epochs=1) == 1
    shown = capsys.readouterr().err
    assert "kdcourse: --cache: " in shown
    assert "card.json is damaged: delete the folder" in shown


# --- TensorBoard


@pytest.mark.usefixtures("few")
def test_tensorboard_shows_the_same_numbers_after_a_resumed_run(tmp_path, monkeypatch):
    with stopping(monkeypatch):
        train(tmp_path, "--tensorboard")
    train(tmp_path, "--tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    columns = set(rows(tmp_path)[0]) - {"epoch"}
    assert set(events.Tags()["scalars"]) == columns
    for column in columns:
        shown = [(event.step, event.value) for event in events.Scalars(column)]
        expected = [(row["epoch"], row[column]) for row in rows(tmp_path)]
        assert [step for step, _ in shown] == [1, 2, 3]
        assert shown == [(step, pytest.approx(value)) for step, value in expected]


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert train(tmp_path / "run", "--tensorboard") == 1
    assert "--tensorboard: " in (shown := capsys.readouterr().err)
    assert "pip install 'kdcourse[train]'" in shown
    assert not (tmp_path / "run").exists()
