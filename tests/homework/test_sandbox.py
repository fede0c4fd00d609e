"""A submission's functions behave as here, and reach nothing that is not theirs."""

import contextlib
import os
import platform
import re
import socket
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from kdcourse import homework
from kdcourse.homework import fence, process, release
from kdcourse.homework.memory import largest_tensor
from kdcourse.homework.sandbox import Limits, Sandbox, SubmissionError

pytestmark = pytest.mark.usefixtures("fenced")
CELLS = {
    "imports": "import os, torch\nfrom torch import nn",
    "square": "def square(x, y):\n    return (x * x).sum() + 0 * y.detach().sum()",
    "outer": "def outer(x):\n    return (x[:, None] * x).sum(dim=1)",
    "zero": "@torch.no_grad()\ndef zero(layers):\n    layers[0].weight.zero_()",
    "fill": "def fill(tensors):\n    tensors[1].fill_(3)",
    "answer": "def answer(value):\n    return eval(value)",
    "hang": "def hang():\n    while True: pass",
}

COURSE = {"course": "from kdcourse import data", **CELLS}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(COURSE, Limits(call=10)) as sandbox:
        yield sandbox


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
        ("nn.Linear(1, 1)", "returned a Linear"),
        ("torch.zeros(2**25)", "answered more than 64 MB"),
        ("'x' * 2**21", "answered more than 1 MB"),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("exec('raise SystemExit(3)')", "raised SystemExit: 3"),
        ("torch.zeros(10 * 2**28)", "allocate"),
        ("bytearray(10 * 2**30)", "MemoryError"),
        ("open(os.path.expanduser('~root/.profile')).read()", "No such file"),
        ("open('/tmp/kdcourse-was-here', 'w')", "Read-only file system"),
        ("open('/dev/kdcourse-was-here', 'w')", "Read-only file system"),
        ("os.symlink('/', 'root') or open('root/etc/shadow')", "No such file"),
        ("__import__('kdcourse.logit')", "No module named"),
        ("open('/proc/sys/vm/swappiness', 'w')", "Read-only file system"),
        ("open('/proc/1/mem', 'r+b')", "Read-only file system"),
        ("os.chmod(torch.__file__, 0o777)", "Read-only file system"),
        ("os.chown(torch.__file__, 1, 1)", "Read-only file system"),
        ("os.utime(torch.__file__)", "Read-only file system"),
        ("os.posix_fallocate(os.open('big', os.O_CREAT | os.O_RDWR), 0, 2**29)", "No space left"),
        (
            "os.posix_fallocate(os.open('/dev/shm/big', os.O_CREAT | os.O_RDWR), 0, 2**29)",
            "No space left",
        ),
        ("open({master!r}).read()", "No such file"),
        ("torch.from_file({master!r}, size=9, dtype=torch.uint8)", "unable to open file"),
        ("__import__('torchvision').io.read_file({master!r})", "No such file"),
        ("torch.from_file('/usr/kdcourse-was-here', shared=True, size=9)", "unable to open file"),
    ],
)
def test_what_does_not_come_back(sandbox, value, problem):
    sandbox.fatal.clear()
    master = str(release.MASTERS / "1_logit.ipynb")
    with pytest.raises(SubmissionError) as error:
        sandbox.function("answer")(value.format(master=master) if "{" in value else value)
    assert problem in str(error.value)


def test_the_machine_is_not_there(sandbox):
    """No socket, no other process, no rights, no way to get new ones, and nothing of the course."""
    sandbox.fatal.clear()
    answer = sandbox.function("answer")
    server = socket.socket(socket.AF_UNIX)
    server.bind("\0kdcourse-test")  # abstract, as those of Python's fork server
    server.listen()
    with server, socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=2) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(0.5)
        connect = "__import__('socket').socket({}).connect({!r})"
        for kind, address in (("1", "\0kdcourse-test"), ("2", tcp.getsockname())):
            with pytest.raises(SubmissionError, match="refused"):
                answer(connect.format(kind, address))
        answer(f"__import__('socket').socket(type=2).sendto(b'x', {udp.getsockname()!r})")
        with pytest.raises(TimeoutError):
            udp.recv(1)
    own = "[int(one) for one in os.listdir('/proc') if one.isdigit()]"
    assert len(answer(own)) <= 2  # the first process, and Python
    limit = "__import__('resource').getrlimit(__import__('resource').RLIMIT_NOFILE)"
    assert answer(limit) == [fence.FILES] * 2
    status = answer("open('/proc/self/status').read()")
    assert set(re.findall(r"^Cap\w+:\s*(\w+)$", status, re.M)) == {"0" * 16}
    assert "NoNewPrivs:\t1" in status
    assert answer("os.system('unshare --user true 2> /dev/null')") != 0
    course = Path(homework.__file__).parents[1]
    seen = answer(
        f"[str(one) for one in __import__('pathlib').Path({str(course)!r}).rglob('*.py')]"
    )
    assert sorted(seen) == sorted(str(course / f"{name}.py") for name in fence.ALLOWED)


def test_nothing_stays_behind():
    """What a submission has started ends with it, wherever it hides."""
    mark = f"kdcourse-{os.getpid()}-stays"
    daemon = (
        f"import os; os.fork() and os._exit(0); os.setsid(); os.execlp('sleep', {mark!r}, '99')"
    )
    with Sandbox(CELLS) as sandbox:
        answer = sandbox.function("answer")
        for _ in range(5):
            answer(f"os.spawnlp(os.P_NOWAIT, 'sleep', {mark!r}, '99') and 1")
        assert answer(f"__import__('subprocess').run(['python3', '-c', {daemon!r}]) and 1") == 1
        assert len(_running(mark)) >= 5
    assert not _running(mark)


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
def test_it_cannot_make_its_first_process_outlive_the_grader():
    with Sandbox({**CELLS, "outlive": OUTLIVE}) as sandbox:
        with contextlib.suppress(SubmissionError):  # where the kernel lets nobody trace
            assert sandbox.function("outlive")() == 0
        inside = psutil.Process(sandbox.process.process.pid).children(recursive=True)
        assert len(inside) >= 3
    psutil.wait_procs(inside, timeout=10)
    assert not any(one.is_running() for one in inside)


def test_more_threads_than_anybody_needs(monkeypatch):
    monkeypatch.setattr(process, "THREADS", 50)
    bomb = "[__import__('threading').Thread(target=__import__('time').sleep, args=(99,)).start()"
    with Sandbox(CELLS) as sandbox, pytest.raises(SubmissionError, match="more than 50 threads"):
        sandbox.function("answer")(f"{bomb} for _ in range(60)] and __import__('time').sleep(99)")


def test_where_there_is_no_bubblewrap(monkeypatch):
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


def test_where_bubblewrap_may_not_build_a_fence(monkeypatch):
    monkeypatch.setattr(fence.shutil, "which", lambda _: "/bin/false")
    with pytest.raises(fence.NoFenceError, match=r"does not run here.*user namespaces"):
        fence.check()


def _running(mark):
    return [one for one in psutil.process_iter(["cmdline"]) if mark in (one.info["cmdline"] or ())]


def test_its_own_folder_is_writable_and_gone_afterwards(sandbox):
    sandbox.fatal.clear()
    answer = sandbox.function("answer")
    assert answer("open('x', 'w').write('hello')") == 5
    assert answer("open('x').read()") == "hello"
    folder = answer("os.getcwd()")
    assert not os.listdir(folder)  # it is in the sandbox's memory, not on this disk
    sandbox._close()
    assert not os.path.exists(folder)


def test_the_environment_is_not_handed_on(sandbox, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    sandbox._close()
    assert sandbox.function("answer")("os.environ.get('SECRET_TOKEN')") is None


CHANNELS = """
import stat
def channels():
    found = 0
    for number in range(3, 256):
        try:
            mode = os.fstat(number).st_mode
        except OSError:
            continue
        found += stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)
    return found
"""


def test_it_holds_no_channel_but_its_own():
    """Neither another submission's, nor one to anything else of the grader."""
    cells = {**CELLS, "channels": CHANNELS}
    with Sandbox(cells) as sandbox, Sandbox(cells) as other:
        assert other.function("channels")() == 2  # requests, answers
        assert sandbox.function("channels")() == 2


def test_what_notebooks_do_works(sandbox):
    """Magics, plots, progress bars, the course's images, an optimiser, a file of one's own."""
    sandbox._close()
    sandbox.cells |= {
        "plot": "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
        "time": "%timeit -n1 -r1 torch.zeros(3)",
        "bar": "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass",
        "images": "from kdcourse import models\nimages = data.fashion_mnist().test[:8].inputs()",
        "train": "net = models.by_name('plain4', seed=0)\n"
        "optimizer = torch.optim.AdamW(net.parameters())\n"
        "net(images).sum().backward()\noptimizer.step()\ntorch.save(net.state_dict(), 'net.pt')",
        "grader": "import otter\ngrader = otter.Notebook('x.ipynb')\ngrader.check('square')",
        "await": "import asyncio\nawait asyncio.sleep(0)",
    }
    assert sandbox.function("answer")("sum(1 for _ in net.parameters())") > 4
    assert not sandbox.cell_errors


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
    assert not process.is_running()


def test_one_that_waits_is_stopped_too():
    with Sandbox(CELLS, Limits(call=0.5)) as sandbox:
        answer = sandbox.function("answer")
        began = time.monotonic()
        with pytest.raises(SubmissionError, match="took too long"):
            answer("__import__('time').sleep(1000)")
        assert time.monotonic() - began < 60


def test_cells_that_end_the_process_are_left_out():
    with Sandbox({**CELLS, "a": "os._exit(3)"}) as sandbox:
        assert sandbox.function("answer")("2 + 3") == 5
        assert sandbox.cell_errors == {"a": "ended its process (exit status 3)"}


def test_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(homework.sandbox, "MOST_ENDED", 2)
    cells = {str(number): "import os; os._exit(4)" for number in range(20)}
    with (
        Sandbox(cells) as sandbox,
        pytest.raises(SubmissionError, match="ended its process 2 times"),
    ):
        sandbox.function("answer")


def test_the_time_for_all_is_limited():
    with Sandbox(CELLS, Limits(call=5, total=1)) as sandbox:
        with pytest.raises(SubmissionError, match="took too long"):
            sandbox.function("hang")()
        with pytest.raises(SubmissionError, match="used up"):
            sandbox.function("square")
