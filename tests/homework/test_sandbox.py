"""A submission's functions behave as here, and end when they must.

What hostile ones try is in ``test_hostile.py``.
"""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from kdcourse import homework, places
from kdcourse.homework import fence, release, syscalls
from kdcourse.homework.memory import largest_tensor
from kdcourse.homework.sandbox import Limits, Sandbox, SubmissionError

pytestmark = pytest.mark.usefixtures("fenced")
CELLS = {
    "imports": "import os, torch\nfrom torch import nn",
    "square": "def square(x, y):\n    return (x * x).sum() + 0 * y.detach().sum()",
    "outer": "def outer(x):\n    return (x[:, None] * x).sum(dim=1)",
    "zero": "@torch.no_grad()\ndef zero(layers):\n    layers[0].weight.zero_()",
    "fill": "def fill(tensors):\n    tensors[1].fill_(3)",
    "unseen": "def unseen(x):\n    return x.data.fill_(3)",
    "answer": "def answer(value):\n    return eval(value)",
    "hang": "def hang():\n    while True: pass",
}

# Magics, plots, progress bars, the course's images, an optimiser, a file of one's own.
USUAL = {
    "plot": "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
    "time": "%timeit -n1 -r1 torch.zeros(3)",
    "bar": "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass",
    "images": "from kdcourse import data, models\nimages = data.fashion_mnist().test[:8].inputs()",
    "train": "net = models.by_name('plain4', seed=0)\n"
    "optimizer = torch.optim.AdamW(net.parameters())\n"
    "net(images).sum().backward()\noptimizer.step()\ntorch.save(net.state_dict(), 'net.pt')",
    "grader": "import otter\ngrader = otter.Notebook('x.ipynb')\ngrader.check('square')",
    "await": "import asyncio\nawait asyncio.sleep(0)",
    "processes": "from multiprocessing import get_context\n"
    "with get_context('fork').Pool(2) as pool:\n    assert pool.map(abs, [1, -2]) == [1, 2]",
    "loader": "from torch.utils.data import DataLoader\n"
    "batches = list(DataLoader(images, batch_size=4, num_workers=1))",
}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox({**CELLS, **USUAL}, Limits(call=20)) as sandbox:
        yield sandbox


@pytest.fixture
def bubblewrap():
    if fence.check() != "bwrap":
        pytest.skip("bubblewrap does not work here")


def test_what_notebooks_do_works(sandbox):
    assert sandbox.function("answer")("sum(1 for _ in net.parameters()) + len(batches)") > 6
    assert not sandbox.cell_errors


def test_a_result_is_differentiated_in_the_other_process(sandbox):
    square = sandbox.function("square")
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = torch.ones(2, requires_grad=True)
    loss = square(x, y)
    assert loss.item() == 14
    (3 * loss).backward()
    assert x.grad.tolist() == [6.0, 12.0, 18.0]
    assert y.grad is None
    assert not square(x.detach(), y.detach()).requires_grad


def test_gradcheck_goes_through(sandbox):
    outer = sandbox.function("outer")
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outer, x)


def test_modules_that_change_there_change_here_and_tensors_must_not(sandbox):
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    kept = layers[1].weight.clone()
    assert sandbox.function("zero")(layers) is None
    assert not layers[0].weight.any()
    assert torch.equal(layers[1].weight, kept)
    x = torch.ones(3)
    with pytest.raises(SubmissionError, match="changed in place"):
        sandbox.function("fill")([torch.ones(2), x])
    assert torch.equal(sandbox.function("unseen")(x), torch.full((3,), 3.0))
    assert torch.equal(x, torch.ones(3))


def test_the_largest_tensor_is_seen(sandbox):
    assert largest_tensor(sandbox.function("outer"), torch.ones(30)) == 900
    assert largest_tensor(lambda x: (x[:, None] * x).sum(dim=1), torch.ones(30)) == 900


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1.5", 1.5), ("True", True), ("'a'", "a"), ("None", None), ("(1, [2])", [1, [2]])],
)
def test_plain_results_come_back(sandbox, value, expected):
    assert sandbox.function("answer")(value) == expected


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("object()", "returned a object"),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("exec('raise ValueError')", "raised ValueError"),
    ],
)
def test_what_does_not_come_back(sandbox, value, problem):
    with pytest.raises(SubmissionError, match=problem):
        sandbox.function("answer")(value)


OUTLIVE = """
import ctypes
libc = ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
registers = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip".split()
registers += "cs eflags rsp ss fs_base gs_base ds es fs gs".split()

class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in registers]

def outlive():
    libc.ptrace(16, 1, None, None)  # attach to the first process
    os.waitpid(1, 0x40000000)
    old = Registers()
    libc.ptrace(12, 1, None, ctypes.addressof(old))
    new = Registers.from_buffer_copy(old)
    new.orig_rax, new.rax, new.rip = 2**64 - 1, 157, old.rip - 2  # again a system call: prctl
    new.rdi, new.rsi = 1, 0  # no signal when the parent ends
    libc.ptrace(13, 1, None, ctypes.addressof(new))
    libc.ptrace(9, 1, None, None)
    os.waitpid(1, 0x40000000)
    got = Registers()
    libc.ptrace(12, 1, None, ctypes.addressof(got))
    libc.ptrace(13, 1, None, ctypes.addressof(old))
    libc.ptrace(17, 1, None, None)
    return got.rax
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="it is written for this processor")
def test_it_cannot_make_its_first_process_outlive_the_grader(bubblewrap, monkeypatch):
    """Not even where it may trace it, as system calls are not filtered."""
    monkeypatch.setattr(syscalls, "program", bytes)
    with Sandbox({**CELLS, "outlive": OUTLIVE}) as sandbox:
        with contextlib.suppress(SubmissionError):  # where the kernel lets nobody trace
            assert sandbox.function("outlive")() == 0
        inside = psutil.Process(sandbox.process.process.pid).children(recursive=True)
        assert len(inside) >= 3
    psutil.wait_procs(inside, timeout=10)
    assert not any(one.is_running() for one in inside)


def test_where_there_is_no_fence(monkeypatch):
    monkeypatch.setattr(fence.shutil, "which", lambda _: None)
    with pytest.raises(fence.NoFenceError, match=r"apt install bubblewrap.*--unsafe"):
        fence.check()
    with Sandbox(CELLS, Limits(unsafe=True)) as sandbox:
        assert sandbox.function("answer")("print('x' * 100, flush=True) or 1 + 1") == 2
        folder = sandbox.function("answer")("os.getcwd()")
        assert os.path.samefile(folder, sandbox.process.folder.name)
        with pytest.raises(SubmissionError, match="exit status 5"):
            sandbox.function("answer")("os._exit(5)")
    assert not os.path.exists(folder)
    assert sandbox.printed >= 100


GRADER = """
import sys
from kdcourse.homework.sandbox import Limits, Sandbox

with Sandbox({"hang": sys.argv[1]}, Limits(unsafe=True)) as sandbox:
    sandbox.function("anything")
"""


def test_what_hangs_without_a_fence_ends_with_a_grader_that_is_killed(tmp_path):
    note = tmp_path / "number"
    hang = f"import os\nopen({str(note)!r}, 'w').write(f'{{os.getpid()}}.')\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", GRADER, hang]) as grader:
        while not (note.exists() and note.read_text().endswith(".")):
            assert grader.poll() is None
            time.sleep(0.05)
        hanging = psutil.Process(int(note.read_text()[:-1]))
        grader.kill()
    try:
        hanging.wait(30)  # seconds; it has ended, or this raises an error
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            hanging.kill()


def test_where_bubblewrap_may_not_build_a_fence(monkeypatch):
    monkeypatch.setattr(fence.shutil, "which", lambda _: "/bin/false")
    with pytest.raises(fence.NoFenceError, match=r"no fence can be built here.*user namespaces"):
        fence.check()


def test_without_libseccomp_system_calls_are_not_filtered(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    syscalls.program.cache_clear()
    assert syscalls.program() == b""
    need = fence.Need(Path("/own"), {}, 2**30, 60)
    assert "--seccomp" not in fence.KINDS["bwrap"]("bwrap", need).words
    syscalls.program.cache_clear()


SYSTEMD = """#!/bin/sh
echo "$@" >> {log}
while [ "$1" != "${{1#--}}" ]; do shift; done
exec "$@"
"""


def test_where_systemd_limits_all_processes_together(bubblewrap, monkeypatch, tmp_path):
    log = _program(tmp_path, monkeypatch, "systemd-run", SYSTEMD)
    fence._manager.cache_clear()
    need = fence.Need(Path("/own"), {"A": "b"}, 2**30, 60)
    started = fence.around(need).start(["env"], stdout=subprocess.PIPE)
    assert b"A=b" in started.communicate()[0]
    assert started.returncode == 0
    tried, used = log.read_text().splitlines()
    whose = "--user" if os.getuid() else "--system"
    assert tried == f"{whose} --scope --quiet --collect --no-ask-password true"
    limits = "MemoryMax=1073741824", "MemorySwapMax=0", f"TasksMax={fence.THREADS}"
    assert " ".join(f"--property={one}" for one in limits) in used
    fence._manager.cache_clear()


# Does as an engine does, without a container: a process in a group of its own, ended by name.
ENGINE = """#!/bin/sh
echo "$@" >> {log}
case $1 in
  run) for word; do case $word in --env=*) export "${{word#--env=}}";; esac; done
    for word; do shift; [ $word = kdcourse-homework ] && break; done
    [ "$6 $7" = "-- grep" ] && exit 0
    exec 3<&0
    setsid "$@" <&3 & echo $! > {log}.pid; wait $! ;;
  kill) kill -9 -$(cat {log}.pid) ;;
  image) exit 1 ;;
esac
"""


def test_a_container_where_bubblewrap_is_missing(monkeypatch, tmp_path):
    log = _program(tmp_path, monkeypatch, "podman", ENGINE)
    which = shutil.which
    monkeypatch.setattr(fence.shutil, "which", lambda name: name == "podman" and which(name))
    assert fence.check() == "podman"
    with Sandbox(CELLS, Limits(call=0.5)) as sandbox:
        answer = sandbox.function("answer")
        assert answer("torch.ones(3)").tolist() == [1, 1, 1]
        assert answer("os.environ.get('HOME')") == sandbox.process.folder.name
        inside = psutil.Process(answer("os.getpid()"))
        with pytest.raises(SubmissionError, match="took too long"):
            answer("__import__('time').sleep(1000)")
        inside.wait(10)  # seconds; it has ended, or this raises an error
    image, made, tried, used, *ended = log.read_text().splitlines()
    assert image.startswith("image inspect")
    assert made == "import - kdcourse-homework"
    assert "grep" in tried
    assert {
        *("--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only"),
        *("--memory=4294967296", "--memory-swap=4294967296", f"--pids-limit={fence.PROCESSES}"),
    } <= set(used.split())
    shown = re.findall(r"--mount=type=bind,source=(\S+),target=\1,readonly", used)
    assert used.count("--mount") == len(shown)
    assert str(places.COURSE) not in shown
    assert not [path for path in map(Path, shown) if release.MASTERS.is_relative_to(path)]
    name = re.search(r"--name (\S+)", used)[1]
    assert set(ended) == {f"kill {name}"}


def _program(folder, monkeypatch, name, source):
    """Put a program in front of all others, and return the file that it writes its words to."""
    log = folder / "log"
    (folder / name).write_text(source.format(log=log))
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log


def test_its_own_folder_is_writable_and_gone_afterwards(sandbox):
    answer = sandbox.function("answer")
    assert answer("open('x', 'w').write('hello')") == 5
    assert answer("open('x').read()") == "hello"
    folder = answer("os.getcwd()")
    assert "x" not in os.listdir(folder)  # it is in the sandbox's memory, not on this disk
    sandbox._close()
    assert not os.path.exists(folder)


def test_a_function_that_hangs_is_stopped_and_not_called_again():
    with Sandbox(CELLS, Limits(call=1)) as sandbox:
        hang, square = sandbox.function("hang"), sandbox.function("square")
        with pytest.raises(SubmissionError, match="took too long"):
            hang()
        began = time.monotonic()
        with pytest.raises(SubmissionError, match="took too long"):
            hang()
        assert time.monotonic() - began < 0.1
        assert float(square(torch.ones(2), torch.ones(2))) == 2
        process = psutil.Process(sandbox.process.process.pid)
        answer = sandbox.function("answer")
        sandbox.left = 0  # seconds, of those for all requests together
        with pytest.raises(SubmissionError, match="used up"):
            square(torch.ones(2), torch.ones(2))
        sandbox.left = 0.1
        with pytest.raises(SubmissionError, match="took too long"):
            answer("exec('while True: pass')")
        assert sandbox.left <= 0
        assert not process.is_running()


def test_cells_that_end_the_process_are_left_out_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(homework.sandbox, "MOST_ENDED", 2)
    with Sandbox({**CELLS, "a": "os._exit(3)"}) as sandbox:
        assert sandbox.function("answer")("2 + 3") == 5
        assert sandbox.cell_errors == {"a": "ended its process (exit status 3)"}
        with pytest.raises(SubmissionError, match="exit status 4"):
            sandbox.function("answer")("os._exit(4)")
        with pytest.raises(SubmissionError, match="ended its process 2 times"):
            sandbox.function("square")
