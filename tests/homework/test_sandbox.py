"""A submission's functions behave as here, and reach nothing that is not theirs."""

import os
import time

import psutil
import pytest
import torch
from torch import nn

from kdcourse import homework
from kdcourse.homework import landlock, nursery, release
from kdcourse.homework.memory import largest_tensor
from kdcourse.homework.sandbox import Limits, Sandbox, SubmissionError

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
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("exec('raise SystemExit(3)')", "raised SystemExit: 3"),
        ("torch.zeros(10 * 2**28)", "allocate"),
        ("bytearray(10 * 2**30)", "MemoryError"),
        ("os.system('true')", "not available"),
        ("os.fork()", "not available"),
        ("os.kill(os.getppid(), 9)", "not available"),
        ("os.listdir('/')", "not available"),
        ("open('/proc/self/environ').read()", "not available"),
        ("open(os.path.expanduser('~root/.profile')).read()", "not available"),
        ("open('/tmp/kdcourse-was-here', 'w')", "not available"),
        ("os.symlink('/', 'root') or open('root/etc/../root/x')", "not available"),
        ("__import__('socket').create_connection(('127.0.0.1', 9))", "not available"),
        ("os.chdir('/usr')", "not available"),
        ("__import__('ctypes').CDLL(None)", "not available"),
        ("__import__('kdcourse.logit')", "not available"),
        ("open(__import__('kdcourse').__file__).read()", "not available"),
    ],
)
def test_what_does_not_come_back(sandbox, value, problem):
    sandbox.fatal.clear()
    with pytest.raises(SubmissionError) as error:
        sandbox.function("answer")(value)
    assert problem in str(error.value)


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("torch.from_file({master!r}, size=9, dtype=torch.uint8)", "unable to open file"),
        ("__import__('torchvision').io.read_file({master!r})", "from_file"),
        ("torch.from_file('/tmp/kdcourse-was-here', shared=True, size=9)", "unable to open file"),
    ],
)
def test_native_code_meets_the_kernel(sandbox, value, problem):
    sandbox.fatal.clear()
    master = str(release.MASTERS / "1_logit.ipynb")
    with pytest.raises(SubmissionError) as error:
        sandbox.function("answer")(value.format(master=master))
    assert problem in str(error.value)


def test_its_own_folder_is_writable_and_gone_afterwards(sandbox):
    sandbox.fatal.clear()
    answer = sandbox.function("answer")
    assert answer("open('x', 'w').write('hello')") == 5
    assert answer("open('x').read()") == "hello"
    folder = answer("os.getcwd()")
    assert os.listdir(folder)
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
    """It can neither ask the nursery for others nor tell how it ended."""
    cells = {**CELLS, "channels": CHANNELS}
    with Sandbox(cells) as sandbox, Sandbox(cells) as other:
        assert other.function("channels")() == 1
        assert sandbox.function("channels")() == 1


@pytest.mark.skipif(not nursery.FORKS, reason="nothing is forked here")
def test_a_nursery_that_ended_is_replaced():
    with Sandbox(CELLS) as sandbox:
        assert sandbox.function("answer")("1 + 1") == 2
    nursery._process.kill()
    nursery._process.wait()
    with Sandbox(CELLS) as sandbox:
        assert sandbox.function("answer")("1 + 1") == 2


def test_where_nothing_can_be_forked(monkeypatch):
    monkeypatch.setattr(nursery, "FORKS", False)
    with Sandbox(COURSE) as sandbox:
        assert sandbox.function("answer")("print('x' * 100, flush=True) or 1 + 1") == 2
        folder = sandbox.function("answer")("os.getcwd()")
        assert os.path.samefile(folder, sandbox.process.folder.name)
        with pytest.raises(SubmissionError, match="exit status 5"):
            sandbox.function("answer")("os._exit(5)")
    assert not os.path.exists(folder)
    assert sandbox.printed >= 100


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
