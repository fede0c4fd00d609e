import io
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from toys import Projected, images, net, noisy, same, train, weights

from kdcourse.augmentation import pad_crop_flip
from kdcourse.feature import FeatureHint
from kdcourse.methods.contrastive import CRD
from kdcourse.methods.curriculum_temperature import CTKD
from kdcourse.methods.norm_and_direction import NormAndDirection
from kdcourse.teachers import ClosedTeacher
from kdcourse.tips import Consistent
from kdcourse.training import CrossEntropy, LogitKD, WarmUp
from kdcourse.training.checkpoint import CorruptedCheckpointError, OtherRunError, load, save

STATE = {"weights": torch.arange(1000.0), "rows": [{"loss": 0.5}], "name": "run"}


@pytest.fixture(autouse=True)
def one_thread():
    """One thread here as in the killed processes: sums are taken in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def brighten(pixels, generator):
    """An augmentation that is a plain function; other processes have it at other addresses."""
    shift = torch.randint(20, (len(pixels), 1, 1, 1), generator=generator)
    return pixels.clamp(max=235) + shift.byte()


def distilled(student, checkpoint=None, **options):
    """A run with everything that has to be taken up again: momentum, schedule, order of the
    images, augmentation, dropout, batch norm, and a term with a weight of its own."""
    objective = CrossEntropy() + 4.0 * LogitKD() + Projected()
    settings = {"teacher": net(4, seed=2), "epochs": 4, "augment": brighten, **options}
    return objective, train(student, objective, checkpoint=checkpoint, **settings)


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]


@contextmanager
def interrupted(student, after, told="the same call resumes"):
    """Press Ctrl-C when the student is called once more than ``after`` times."""
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt

    handle = student.register_forward_pre_hook(count)
    with pytest.warns(UserWarning, match=told):
        yield
    handle.remove()


# --- taking up a run


@pytest.mark.parametrize("after", [[0], [1], [3], [7], [11], [4, 4, 4]], ids=str)
def test_resumed_run_ends_like_an_uninterrupted_one(after, tmp_path):
    whole = noisy()
    terms, history = distilled(whole)
    for steps in after:
        student = noisy()
        with interrupted(student, steps):
            assert distilled(student, tmp_path / "run.pt")[1].interrupted
    student = noisy()
    resumed_terms, resumed = distilled(student, tmp_path / "run.pt")
    assert same(weights(student), weights(whole))
    assert same(weights(resumed_terms), weights(terms))
    assert without_seconds(resumed) == without_seconds(history)
    assert not resumed.interrupted


TERMS_THAT_LEARN = {
    "hint": lambda: FeatureHint("stage2"),
    "memory": lambda: CRD(memory=40, width=4),
    "class means": NormAndDirection,
    "warm-up": lambda: WarmUp(LogitKD(), 7),
    "temperature": lambda: CTKD(steps=7),
}


@pytest.mark.parametrize("term", TERMS_THAT_LEARN.values(), ids=list(TERMS_THAT_LEARN))
@pytest.mark.parametrize("anew", [False, True], ids=["", "added up anew"])
def test_the_same_call_resumes_also_with_the_same_objective(term, anew, tmp_path):
    options = {"teacher": net(4, seed=2), "epochs": 3}
    whole, student, own = net(), net(), term()
    expected, objective = CrossEntropy() + term(), CrossEntropy() + own

    def call(student):
        aim = CrossEntropy() + own if anew else objective
        return train(student, aim, checkpoint=tmp_path / "run.pt", **options)

    train(whole, expected, **options)
    for steps in (4, 4):
        with interrupted(student, steps):
            call(student)
    history = call(student)
    assert same(weights(student), weights(whole))
    assert same(weights(objective), weights(expected))
    again = call(net())
    assert without_seconds(again) == without_seconds(history)


def test_a_run_that_began_with_trained_terms_is_another_one(tmp_path):
    options = {"teacher": net(4, seed=2), "epochs": 2, "checkpoint": tmp_path / "run.pt"}
    objective = CrossEntropy() + FeatureHint("stage2")
    train(net(), objective, **options)
    options["checkpoint"].unlink()
    with pytest.warns(UserWarning, match="was trained before"):
        train(net(), objective, **options)
    with pytest.raises(OtherRunError, match="its objective is"):
        train(net(), CrossEntropy() + FeatureHint("stage2"), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"train": DataLoader(TensorDataset(images().inputs(), images().target), 32, shuffle=True)},
        {"optimizer": partial(torch.optim.AdamW, lr=0.01)},
        {"scheduler": lambda o, steps: torch.optim.lr_scheduler.LambdaLR(o, lambda i: 1 / (1 + i))},
        {"autocast": True},
        {"validation": images(40, seed=1)},
        {"teacher": ClosedTeacher(net(4), top_k=2)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_any_run_can_be_resumed(options, tmp_path):
    objective = CrossEntropy() + LogitKD()
    options = {"teacher": net(4, seed=2), "epochs": 3, **options}
    whole, broken, student = noisy(), noisy(), noisy()
    history = train(whole, objective, **options)
    with interrupted(broken, 6):  # in the third epoch (in the second, with a validation set)
        train(broken, objective, checkpoint=tmp_path / "run.pt", **options)
    resumed = train(student, objective, checkpoint=tmp_path / "run.pt", **options)
    assert same(weights(student), weights(whole))
    assert without_seconds(resumed) == without_seconds(history)


def test_finished_run_is_not_trained_again(tmp_path):
    student, again = noisy(), noisy()
    _, history = distilled(student, tmp_path / "run.pt")
    calls = []
    again.register_forward_pre_hook(lambda *_: calls.append(1))
    _, repeated = distilled(again, tmp_path / "run.pt")
    assert not calls
    assert same(weights(again), weights(student))
    assert repeated.rows == history.rows


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("seed", {"seed": 1}),
        ("epochs", {"epochs": 3}),
        ("batch_size", {"batch_size": 31, "train": images(93)}),
        ("learning_rate", {"learning_rate": 0.2}),
        ("weight_decay", {"weight_decay": 0.0}),
        ("augment", {"augment": pad_crop_flip()}),
        ("views", {"views": Consistent(pad_crop_flip())}),
        ("accumulate", {"accumulate": 2}),
        ("sync_batch_norm", {"sync_batch_norm": True}),
        ("clip", {"clip": 1.0}),
        ("output", {"output": torch.neg}),
        ("autocast", {"autocast": True}),
        ("optimizer", {"optimizer": partial(torch.optim.AdamW, lr=0.1)}),
        ("scheduler", {"scheduler": lambda o, steps: torch.optim.lr_scheduler.StepLR(o, steps)}),
        ("teacher", {"teacher": ClosedTeacher(net(4, seed=2))}),
        ("validation", {"validation": images(40)}),
        ("train", {"train": images(128)}),
        ("objective", {"objective": CrossEntropy() + 3.0 * LogitKD()}),
        ("objective", {"objective": CrossEntropy() + 4.0 * LogitKD(2)}),
        ("student", {"student": net(3)}),
    ],
)
def test_checkpoint_of_another_run_is_refused(setting, options, tmp_path):
    own = {"student": net(), "objective": CrossEntropy() + 4.0 * LogitKD()}
    own |= {"teacher": net(4, seed=2), "checkpoint": tmp_path / "run.pt"}
    train(**own)
    written = (tmp_path / "run.pt").read_bytes()
    other = {**own, "student": net(), **options}
    before = weights(other["student"])
    with pytest.raises(ValueError, match=f"another run: its {setting} is"):
        train(**other)
    assert same(weights(other["student"]), before)
    assert (tmp_path / "run.pt").read_bytes() == written


def test_a_setting_that_is_newer_than_the_checkpoint_is_not_held_against_it(tmp_path):
    path = tmp_path / "run.pt"
    train(net(), checkpoint=path)
    state = torch.load(path, weights_only=True)
    del state["settings"]["sync_batch_norm"]
    torch.save(state, path)
    assert len(train(net(), checkpoint=path)) == 2


def test_run_that_diverges_keeps_its_last_good_checkpoint(tmp_path):
    student, calls = net(), []

    def burst(module, _, logits):
        calls.append(1)
        return logits * (float("nan") if len(calls) > 6 else 1.0)

    handle = student.register_forward_hook(burst)
    with pytest.raises(FloatingPointError):
        train(student, checkpoint=tmp_path / "run.pt", epochs=4)
    handle.remove()
    again, whole = net(), net()
    assert len(train(again, checkpoint=tmp_path / "run.pt", epochs=4)) == 4
    train(whole, epochs=4)
    assert same(weights(again), weights(whole))


def test_resume_on_device(device, tmp_path):
    options = {"device": device, "augment": None}
    whole, broken, student = net(), net(), net()
    distilled(whole, **options)
    with interrupted(broken, 7):
        distilled(broken, tmp_path / "run.pt", **options)
    places = set()
    hook = student.register_forward_pre_hook(lambda _, given: places.add(given[0].device.type))
    _, history = distilled(student, tmp_path / "run.pt", **options)
    hook.remove()
    assert history["epoch"] == [1, 2, 3, 4]
    assert places == {torch.device(device).type}
    assert {one.device.type for one in student.parameters()} == {"cpu"}  # where it was before
    torch.testing.assert_close(weights(student), weights(whole))


# --- killed processes

# Where a process kills itself, on reaching it for the second time. Each dies later in the run than
# the one before, for it takes up the checkpoint left behind.
MOMENTS = ["step", "writing", "before sync", "before replace", "after replace"]
KILLED_RUN = {"epochs": 16}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX systems do")
def test_killed_run_ends_like_an_uninterrupted_one(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    student = noisy()
    terms, _ = distilled(student, **KILLED_RUN)
    killed = torch.load(tmp_path / "weights.pt")
    assert same(killed["student"], weights(student))
    assert same(killed["terms"], weights(terms))


def kill_again_and_again(folder):
    """Start the same run in one process after the other, all but the last of which are killed.

    They are forked from here, where torch is imported and has not computed anything.
    """
    torch.optim.SGD([torch.ones(1)], lr=0.1)  # it imports for seconds, and so would every child
    random.seed(0)
    pauses = [random.uniform(0, 0.03) for _ in range(6)]
    for moment in [*MOMENTS, *pauses, None]:
        child = os.fork()
        if child == 0:
            run_until(moment, folder)
        if moment in pauses:
            wait_for_a_save(Path(folder) / "run.pt", child)
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if moment in MOMENTS and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9):
            sys.exit(f"{moment}: expected to be killed, status {status}")
    sys.exit(os.waitstatus_to_exitcode(status))


def wait_for_a_save(path, child):
    before = path.stat().st_mtime_ns
    look = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while path.stat().st_mtime_ns == before and os.waitid(os.P_PID, child, look) is None:
        time.sleep(0.001)


def run_until(moment, folder):
    torch.set_num_threads(1)
    student = noisy()
    if moment == "step":
        student.register_forward_pre_hook(second_time(die))
    if moment == "writing":
        torch.save = second_time(partial(write_half, torch.save), torch.save)
    if moment == "before sync":
        os.fsync = second_time(die, os.fsync)
    if moment == "before replace":
        os.replace = second_time(die, os.replace)
    if moment == "after replace":
        os.replace = second_time(partial(call_and_die, os.replace), os.replace)
    try:
        terms, _ = distilled(student, Path(folder) / "run.pt", **KILLED_RUN)
        if moment is None:
            parts = {"student": weights(student), "terms": weights(terms)}
            torch.save(parts, Path(folder) / "weights.pt")
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def second_time(fatal, harmless=lambda *_: None):
    calls = iter([harmless])
    return lambda *arguments: next(calls, fatal)(*arguments)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def write_half(function, state, file):
    whole = io.BytesIO()
    function(state, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()
    die()


def call_and_die(function, *arguments):
    function(*arguments)
    die()


# --- writing and reading


def test_what_is_saved_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "run.pt"
    save(path, STATE)
    state = load(str(path))
    assert torch.equal(state["weights"], STATE["weights"])
    assert {k: v for k, v in state.items() if k != "weights"} == {
        k: v for k, v in STATE.items() if k != "weights"
    }
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]


@pytest.mark.parametrize("function", ["torch.save", "os.fsync", "os.replace"])
def test_save_that_fails_leaves_the_old_checkpoint(function, tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    save(path, STATE)
    written = path.read_bytes()

    def fail(*arguments):
        if function == "torch.save":
            arguments[1].write(written[:700])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(function, fail)
        with pytest.raises(OSError, match="no space"):
            save(path, {"weights": torch.zeros(5)})
    assert path.read_bytes() == written
    save(path, {"weights": torch.zeros(5)})  # whatever is left of the failure is not in the way
    assert torch.equal(load(path)["weights"], torch.zeros(5))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told_and_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path, opened = tmp_path / "run.pt", open
    save(path, STATE)
    written = path.read_bytes()

    def full(file, *arguments, **options):
        aside = str(file).endswith(".partial")
        return opened("/dev/full" if aside else file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", full)
        with pytest.raises(OSError, match=r"run\.pt cannot be written, the disk is full"):
            save(path, STATE)
    assert path.read_bytes() == written
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.parametrize("name", ["nothing.pt", "."])
def test_missing_checkpoint(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load(tmp_path / name)


def damaged(written):
    middle = len(written) // 2
    yield "empty", b""
    yield "first byte", written[:1]
    yield "half", written[:middle]
    yield "all but the last byte", written[:-1]
    yield "hole", written[: middle - 200] + written[middle + 200 :]
    yield "zeros", bytes(len(written))
    yield "text", b"a note\n" * 100
    yield "noise", random.Random(0).randbytes(5000)


def test_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "run.pt"
    save(path, STATE)
    for kind, content in damaged(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CorruptedCheckpointError, match=r"run\.pt"):
            pytest.fail(f"{kind}: {load(path)}")


@pytest.mark.parametrize("content", [{"weights": torch.ones(3)}, torch.ones(3), [1, 2]], ids=str)
def test_file_of_something_else_is_no_checkpoint(content, tmp_path):
    torch.save(content, tmp_path / "run.pt")
    with pytest.raises(CorruptedCheckpointError, match=r"run\.pt"):
        train(net(), checkpoint=tmp_path / "run.pt")


class Malicious:
    """Makes a folder when it is unpickled by a reader that trusts it."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("legacy", [True, False], ids=["pickle", "torch"])
def test_code_in_a_checkpoint_is_not_executed(legacy, tmp_path):
    path, trace = tmp_path / "run.pt", tmp_path / "executed"
    state = {"settings": {}, "rows": [], "student_weights": Malicious(trace)}
    if legacy:
        path.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, path)
    for attempt in (load, lambda path: train(net(), checkpoint=path)):
        with pytest.raises(CorruptedCheckpointError, match="readable"):
            attempt(path)
        assert not trace.exists()
    torch.load(path, weights_only=False) if not legacy else pickle.loads(path.read_bytes())
    assert trace.exists()  # the file is as bad as it should be


if __name__ == "__main__":
    kill_again_and_again(sys.argv[1])
