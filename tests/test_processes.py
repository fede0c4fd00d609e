"""Training in two and three processes: the same weights as in one, and what happens if one dies."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import many_processes
import psutil
import pytest
import resuming
import torch
from many_processes import (
    CASES,
    MESSAGES,
    PLACES,
    accumulated,
    checkpointed,
    norms,
    partly_labelled,
    states,
    whole,
)
from torch import nn
from toys import images, same, terms, weights

from kdcourse import logit, processes, relational
from kdcourse.models import capture
from kdcourse.training.parallel import synchronized

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def command_line(count: int, what: str, folder: Path, *rest: str) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    return [*command, many_processes.__file__, what, str(folder), *rest]


def environment(**more: str) -> dict[str, str]:
    own = map(str, (Path(__file__).parents[1], Path(__file__).parent))
    paths = os.pathsep.join([*own, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **more}


def torchrun(
    count: int, what: str, folder: Path, *rest: str, **more: str
) -> subprocess.CompletedProcess:
    command = command_line(count, what, folder, *rest)
    return subprocess.run(command, **PIPES, env=environment(**more), timeout=400)


def assert_close(one, other):
    # Some terms compute in float32, whatever the net.
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def results(request, tmp_path_factory):
    """What many processes learned in every case."""
    folder = tmp_path_factory.mktemp("processes")
    done = torchrun(request.param, "cases", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.mark.parametrize("name", CASES)
def test_ten_steps_give_the_weights_of_one_process(results, name):
    initial = many_processes.BEGUN.get(name, many_processes.student)().state_dict()
    alone = states(CASES[name]())
    assert_close(results["weights"][name], alone)
    assert any(not torch.equal(alone[0][weight], initial[weight]) for weight in initial)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_step_sends_one_message(results, name):
    assert results["messages"][name] == MESSAGES[name][1]


def test_some_batches_have_no_bright_corner():
    """So that a weight goes without a gradient in a step, as it may in a share."""
    batches = images(many_processes.SAMPLES).batches(many_processes.BATCH)
    bright = [int(many_processes.bright_corner(inputs).sum()) for inputs, _ in batches]
    assert min(bright) == 0
    assert 1 in bright


def test_every_term_is_tried():
    assert {term.__name__ for term in terms()} < CASES.keys()
    source = Path(many_processes.__file__).read_text()
    assert [d for d in logit.DIVERGENCES[1:] if f'divergence="{d}"' not in source] == []


def test_a_batch_in_parts_gives_the_weights_of_one_in_one_piece(results):
    expected = states(whole())
    assert_close(results["weights"]["accumulated"], expected)
    assert_close(states(accumulated()), expected)


@pytest.mark.parametrize("name", PLACES)
def test_parts_in_which_other_numbers_of_places_count_add_up(results, name):
    alone = states(PLACES[name]())
    assert_close(results["weights"][f"{name}, accumulated"], alone)
    assert_close(states(PLACES[name](accumulate=3)), alone)


def test_the_history_is_what_the_nets_show_of_all_samples(results):
    """At a rate of zero, so that it can be computed from the batches of every epoch."""
    own, theirs, data = many_processes.student(), many_processes.teacher(), images(50, seed=9)
    shown = own(data.inputs()).argmax(dim=1)
    expected = {"validation_accuracy": (shown == data.target).double().mean().item()}
    assert len(results["rows"]) == many_processes.EPOCHS
    for epoch, row in enumerate(results["rows"]):
        sums, data = Counter(), partly_labelled()
        for inputs, target in data.batches(many_processes.BATCH, epoch=epoch):
            with capture(own, ["embedding"]) as one, capture(theirs, ["embedding"]) as other:
                logits, known = own(inputs), target >= 0
                theirs(inputs)
            log_p = logits.log_softmax(dim=1)[known, target[known]]
            distance = relational.rkd_distance_loss(one["embedding"], other["embedding"])
            labels = -log_p.sum().item() / max(1, int(known.sum()))
            sums["cross_entropy"] += len(target) * labels / len(data)
            sums["rkd_distance"] += len(target) * distance.item() / len(data)
            right = (logits.argmax(dim=1) == target).sum().item()
            sums["train_accuracy"] += right / (data.target >= 0).sum().item()
        loss = sums["cross_entropy"] + sums["rkd_distance"]
        expected |= {"epoch": epoch + 1, "loss": loss, "learning_rate": 0.0, **sums}
        assert row == pytest.approx(expected, rel=1e-5)


def test_a_killed_process_ends_the_run_and_the_checkpoint_resumes(tmp_path):
    (tmp_path / "alone").mkdir()
    expected = states(checkpointed(tmp_path / "alone"))
    done = torchrun(2, "killed", tmp_path)
    assert done.returncode != 0
    message = f"another process has ended; the same command resumes from {tmp_path / 'run.pt'}"
    assert message in done.stderr
    assert torch.load(tmp_path / "run.pt", weights_only=True)["taken"] == 5  # after one epoch
    stopped = (tmp_path / "run.pt").read_bytes()

    done = torchrun(3, "resumed", tmp_path)  # in more processes than before
    assert done.returncode == 0, done.stdout + done.stderr
    assert_close(torch.load(tmp_path / "resumed.pt", weights_only=True), expected)

    (tmp_path / "run.pt").write_bytes(stopped)
    assert_close(states(checkpointed(tmp_path)), expected)  # and in one


def test_a_resumed_run_ends_like_an_uninterrupted_one_bit_by_bit(tmp_path):
    """In three processes: the sum of three gradients depends on their order, that of two not."""
    done = torchrun(3, "bit by bit", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "found.json").read_text()) == {
        run.__name__: [[]] * 3 for run in resuming.RUNS
    }


def train_command(folder: Path, *launcher: str) -> subprocess.Popen:
    """Start the command line in a folder, with a path that is relative to it."""
    folder.mkdir(exist_ok=True)
    options = "--student plain2 --images 96 --batch-size 32 --validation 40 --device cpu --out run"
    arguments = ["-m", "torch.distributed.run", *launcher, "-m", "kdcourse", "train"]
    command = [sys.executable, *arguments, *options.split(), "--epochs", "1"]
    return subprocess.Popen(command, **PIPES, env=environment(), cwd=folder)


def on_two_machines(folders: Sequence[Path]) -> list[tuple[int, str]]:
    """Train in a process on each of two machines, which differ in the folder where they start."""
    with socket.create_server(("localhost", 0)) as free:
        address = ["--master-addr=localhost", f"--master-port={free.getsockname()[1]}"]
    machines = [
        train_command(folder, "--nnodes=2", f"--node-rank={rank}", *address)
        for rank, folder in enumerate(folders)
    ]
    errors = [machine.communicate(timeout=400)[1] for machine in machines]
    return [(m.returncode, error) for m, error in zip(machines, errors, strict=True)]


def test_two_machines_learn_what_two_processes_on_one_do(tmp_path):
    one, *two = (tmp_path / name for name in ("one", "first", "second"))
    alone = train_command(one, "--standalone", "--nproc-per-node=2")
    _, errors = alone.communicate(timeout=400)
    assert alone.returncode == 0, errors
    ends = on_two_machines(two)
    assert [status for status, _ in ends] == [0, 0], ends
    expected, found = ((at / "run" / "student.safetensors").read_bytes() for at in (one, two[0]))
    assert found == expected
    assert list(two[1].iterdir()) == []  # only the main process writes


def test_what_differs_between_processes_is_named(tmp_path):
    done = torchrun(2, "differing", tmp_path)
    assert done.returncode != 0
    message = "augment must be the same in all processes, got ['number 0', 'number 1']"
    assert done.stderr.count(f"ArgumentError: {message}") >= 2  # as each of them says


def test_a_process_that_is_stopped_is_reported_by_the_others(tmp_path):
    running = subprocess.Popen(command_line(2, "stopped", tmp_path), **PIPES, env=environment())
    lines = []
    for line in running.stderr:
        lines.append(line)
        if "kdcourse: ended" in line:
            break
    for child in psutil.Process(running.pid).children(recursive=True):
        child.kill()  # torchrun would wait for the stopped one
    running.communicate(timeout=60)
    assert re.search(r"kdcourse: ended, since process 1 has not answered for 3 seconds", lines[-1])
    assert running.returncode != 0


def test_processes_end_when_their_launcher_is_killed(tmp_path):
    running = subprocess.Popen(command_line(2, "orphaned", tmp_path), **PIPES, env=environment())
    notes = [tmp_path / f"{rank}.pid" for rank in (0, 1)]
    while not all(note.exists() and note.read_text() for note in notes):
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    orphans = [psutil.Process(int(note.read_text())) for note in notes]
    running.kill()
    assert psutil.wait_procs(orphans, timeout=60)[1] == []
    running.communicate(timeout=60)


def test_batch_norm_of_all_processes_is_torchs_and_ends_as_what_it_was():
    class Own(nn.BatchNorm2d):
        pass

    model = nn.Sequential(norms(), Own(2), nn.SyncBatchNorm(2), nn.InstanceNorm2d(2))
    before, names = [type(part) for part in model.modules()], list(model.state_dict())
    attributes = [vars(part).keys() for part in model.modules()]
    norm = model[0][1]
    with suppress(KeyboardInterrupt), synchronized([model, norm]):
        assert type(norm) is nn.SyncBatchNorm
        assert type(model[1]) is Own  # which may do something else
        assert list(model.state_dict()) == names
        raise KeyboardInterrupt
    assert [type(part) for part in model.modules()] == before
    assert [vars(part).keys() for part in model.modules()] == attributes


def test_batch_norm_of_all_processes_is_that_of_one_where_there_is_one():
    one, other = norms(), norms()
    many_processes.trained(own=one)
    many_processes.trained(own=other, sync_batch_norm=True)
    assert same(weights(one), weights(other))


def test_batches_too_small_to_be_shared_out_are_named():
    with pytest.raises(ValueError, match=r"holds 4 sample\(s\), too few for 1.*accumulate=5"):
        many_processes.trained(accumulate=5)


def test_one_process_needs_nothing():
    assert (processes.count(), processes.rank(), processes.is_main()) == (1, 0, True)
    with processes.joined("cpu") as device:
        assert device == "cpu"
    assert processes.from_main(lambda: 3) == 3
    tensor = torch.ones(3)
    assert processes.all_samples(tensor) is tensor
    assert processes.total(tensor) is tensor


def test_a_worker_that_is_killed_is_told():
    with processes.workers(1) as pool, pytest.raises(processes.LostProcessError, match="--jobs"):
        list(processes.each(os._exit, [(3,)], pool))


def test_as_many_share_a_device_as_it_has_room_for(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * 2**30, 80 * 2**30))
    rooms = {"cpu": [1, 3, 4], "cuda": [1, 2, 2], "mps": [1, 1, 1]}
    for kind, expected in rooms.items():
        device = torch.device(kind)
        assert [processes.at_once(device, most) for most in (1, 3, 9)] == expected
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 80 * 2**30))
    assert processes.at_once(torch.device("cuda"), 9) == 1
