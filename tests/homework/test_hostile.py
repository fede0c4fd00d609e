"""What hostile submissions try, kind by kind; none gains a point, or changes anything outside.

Each kind is code that runs in a submission whose only answer is wrong. After each, its question
earns nothing, another submission's grade is as before, and nothing outside has changed or was
reached. Scripts in answers, which concern the page of feedback, are in ``test_grade.py``.
"""

import contextlib
import os
import re
import socket
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from kdcourse import homework, places
from kdcourse.homework import fence, release, syscalls
from kdcourse.homework.judge import run_checks
from kdcourse.homework.release import Question
from kdcourse.homework.sandbox import Limits, Sandbox, SubmissionError

pytestmark = pytest.mark.usefixtures("fenced")
COURSE = Path(homework.__file__).parent.parent
MARK = f"kdcourse-{os.getpid()}-was-here"

CHECKS = '''
from otter.test_files import test_case
OK_FORMAT = False
name = "double"
points = 1

@test_case(points=None, hidden=False)
def it_doubles(double):
    """Each entry is doubled, and its gradient is 2."""
    import torch
    x = torch.arange(3.0, requires_grad=True)
    result = double(x)
    assert torch.equal(result, torch.tensor([0.0, 2.0, 4.0])), "not doubled"
    result.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0], "wrong gradient"
    assert x.tolist() == [0.0, 1.0, 2.0], "x is changed"
'''
QUESTION = Question("double", 1, CHECKS)
RIGHT = {"answer": "def double(x):\n    return 2 * x"}
WRONG = {
    "imports": "import ctypes, gc, json, os, signal, socket, subprocess, sys, threading, time\n"
    "from unittest.mock import patch\nimport torch\nfrom torch import Tensor, nn\n"
    "libc = ctypes.CDLL(None, use_errno=True)",
    "answer": "def wrong(x):\n    return x + 1\ndouble = wrong",
    # Runs all lines, and returns what the last one is worth.
    "attempt": "def attempt(code, outside):\n    globals().update(outside)\n"
    "    *lines, last = code.strip().splitlines()\n    exec('\\n'.join(lines), globals())\n"
    "    return eval(last, globals())",
}
LIMITS = Limits(call=10, total=1000, memory=3 * 2**29)
# Takes back what can be, so that one kind does not hide the next.
RESTORE = "patch.stopall()\nsys.settrace(None)\ndouble = wrong"
DAEMONS = """
daemon = "import os; os.fork() and os._exit(0); os.setsid(); os.execlp('sleep', 'MARK', '99')"
for _ in range(10):
    _ = os.spawnlp(os.P_NOWAIT, 'sleep', 'MARK', '99')
    _ = subprocess.run(['python3', '-c', daemon])
1
"""
# The worker's own ends of its pipes.
PIPES = """
pipes = [one for one in gc.get_objects() if type(one).__name__ == "Connection"]
replies, = (one for one in pipes if one.writable)
"""

# Code, and what its outcome must match. In the code: MARK, and the names that `outside` holds.
ESCAPES = {
    # Files of the course, of whoever grades, and of others
    "read a master": ("open(master).read()", "No such file"),
    "read a master by native code": (
        "torch.from_file(master, size=9, dtype=torch.uint8)",
        "unable to open file",
    ),
    "read a master by another package": (
        "__import__('torchvision').io.read_file(master)",
        "No such file",
    ),
    "import a solution": ("__import__('kdcourse.logit')", "No module named"),
    "look for checks in the course": (
        "import pathlib\nsorted(map(str, pathlib.Path(course).rglob('*.py')))",
        "^" + re.escape(str(sorted(map(str, fence.ALLOWED)))) + "$",
    ),
    "read another submission's files": ("open(neighbour + '/own.txt').read()", "No such file"),
    "read the home of whoever grades": (
        "open(os.path.expanduser('~root/.profile')).read()",
        "No such file",
    ),
    "follow a link": ("os.symlink('/', 'root')\nopen('root/etc/shadow')", "No such file"),
    "make a hard link": ("os.link(torch.__file__, 'linked')", "cross-device link"),
    "change a file's mode": ("os.chmod(torch.__file__, 0o777)", "Read-only file system"),
    "change a file's owner": ("os.chown(torch.__file__, 1, 1)", "Read-only file system"),
    "change a file's times": ("os.utime(torch.__file__)", "Read-only file system"),
    "map a file of the system": (
        "torch.from_file('/usr/MARK', shared=True, size=9)",
        "unable to open file",
    ),
    "write anywhere else": (
        "def write(folder):\n    try:\n        open(f'{folder}/MARK', 'w')\n"
        "    except OSError as error:\n        return error.errno\n"
        "{write(one) for one in ('/', '/usr', '/tmp', '/etc', '/proc', course)} <= {2, 30}",
        "True",  # no such folder, or one that is read-only
    ),
    "leave a file in shared memory": (
        "_ = open('/dev/shm/MARK', 'w').write('x')\nos.listdir('/dev/shm')",
        r"^\['MARK'\]$",
    ),
    "delete everything": ("os.system('rm -rf ~ /dev/shm /root /etc 2> /dev/null')", "^256$"),
    "make a device": (
        "os.mknod('disk', 0o60666, os.makedev(254, 0))\nopen('disk', 'rb')",
        "Operation not permitted|Permission denied",
    ),
    # Other processes
    "see what is running": (
        "sum(one.isdigit() for one in os.listdir('/proc'))",
        "^[12]$",  # the first process, and Python
    ),
    "signal the grader": ("os.kill(grader, signal.SIGKILL)", "No such process"),
    "signal the process above": ("os.kill(1, signal.SIGKILL)", "None"),
    "read the grader's memory": ("open(f'/proc/{grader}/mem', 'rb')", "No such file"),
    "read the grader's variables": ("open(f'/proc/{grader}/environ').read()", "No such file"),
    "read the first process's variables": (
        "'SECRET_TOKEN' in open('/proc/1/environ').read()",
        "False",
    ),
    "read its own variables": ("os.environ.get('SECRET_TOKEN')", "None"),
    "write to the first process": (
        "open('/proc/1/mem', 'r+b')",
        "Read-only file system|returned a",  # in a container, that is itself
    ),
    "change the kernel's settings": (
        "open('/proc/sys/vm/swappiness', 'w')",
        "Read-only file system",
    ),
    "find another channel": (
        "import stat\ndef channel(number):\n    try:\n        mode = os.fstat(number).st_mode\n"
        "    except OSError:\n        return False\n"
        "    return stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)\n"
        "sum(map(channel, range(3, 256)))",
        "^2$",  # requests, replies
    ),
    # Network
    "connect to an abstract socket": (
        "socket.socket(socket.AF_UNIX).connect('\\0MARK')",
        "refused",
    ),
    "connect to a socket's file": ("socket.socket(socket.AF_UNIX).connect(unix)", "No such file"),
    "connect to a port of this machine": ("socket.socket().connect(tuple(tcp))", "refused"),
    "connect to another machine": (
        "socket.socket().connect(('192.0.2.1', 80))",
        "Network is unreachable",
    ),
    "send a datagram": ("socket.socket(type=2).sendto(b'x', tuple(udp))", "^1$"),
    # Rights
    "have capabilities": (
        "import re\nset(re.findall(r'Cap\\w+:\\s*(\\w+)', open('/proc/self/status').read()))"
        " == {'0' * 16}",
        "True",
    ),
    "gain rights": ("'NoNewPrivs:\\t1' in open('/proc/self/status').read()", "True"),
    "change the root folder": ("os.chroot('.')", "Operation not permitted"),
    "make a user namespace": ("libc.unshare(0x10000000)", "^-1$"),
    "mount a file system": ("libc.mount(b'none', b'.', b'tmpfs', 0, None)", "^-1$"),
    "have more files than allowed": (
        "[open('/dev/null') for _ in range(2000)]",
        "Too many open files",
    ),
    # The worker
    "search memory for the grader": (
        "[one for one in gc.get_objects() if type(one).__name__ in ('Question', 'Verdict')]",
        r"^\[\]$",
    ),
}
# Only the filter of system calls stops these, or stops them early.
FILTERED = {
    "trace the first process": ("libc.ptrace(16, 1, 0, 0)\nctypes.get_errno()", "^1$"),
    "list sockets by netlink": ("socket.socket(socket.AF_NETLINK)", "family not supported"),
    "talk to the machine's host": ("socket.socket(socket.AF_VSOCK)", "family not supported"),
    "talk to the kernel's ciphers": ("socket.socket(socket.AF_ALG)", "family not supported"),
    "hide a family's number": (
        "libc.syscall.argtypes = [ctypes.c_long] * 4\n"
        "libc.syscall(calls['socket'], 1 << 32 | socket.AF_NETLINK, 3, 0)",
        "^-1$",
    ),
    "take memory that belongs to no process": ("os.memfd_create('x')", "not implemented"),
    "make a namespace by clone": (
        "[(libc.syscall(calls['clone'], flag | 17, 0, 0, 0, 0), ctypes.get_errno())"
        " for flag in flags] == [(-1, 1)] * len(flags)",
        "True",
    ),
    "make any other refused call": (
        "[one for one in refused if libc.syscall(calls[one], 0, 0, 0) != -1"
        " or ctypes.get_errno() not in (1, 38)]",
        r"^\[\]$",
    ),
}
LIES = {
    "patch torch": (
        "true = lambda *_, **__: True\n"
        "for name in ('equal', 'allclose', 'Tensor.equal', 'Tensor.all', 'Tensor.__eq__'):\n"
        "    _ = patch(f'torch.{name}', true).start()\n1",
        "^1$",
    ),
    "patch builtins": (
        "for name in ('abs', 'sum', 'any', 'all'):\n"
        "    _ = patch(f'builtins.{name}', lambda *_: True).start()\n"
        "_ = patch('builtins.AssertionError', type('Nothing', (Exception,), {})).start()\n1",
        "^1$",
    ),
    "patch otter": (
        "import otter\notter.Notebook.check = otter.test_files.ExceptionTestFile.score = 100\n1",
        "^1$",
    ),
    "patch the worker": (
        "worker, = (one for one in gc.get_objects() if type(one).__name__ == 'Worker')\n"
        "reply = {'value': 1.0, 'largest': 0, 'states': [], 'points': 100, 'passed': True}\n"
        "patch.object(worker, 'call', lambda *_: reply).start() and 1",
        "^1$",
    ),
    "patch what writes replies": (
        "forged = json.dumps({'value': True, 'largest': 0, 'states': [], 'points': 100})\n"
        "patch('json.dumps', lambda *_, **__: forged).start() and 1",
        "True",
    ),
    "patch what writes tensors": (
        "import safetensors.torch\n"
        "data = safetensors.torch.save({'0': torch.full((3,), 100.0)})\n"
        "patch('safetensors.torch.save', lambda *_: data).start() and 1",
        "^1$",
    ),
    "trace every line": (
        "def trace(frame, *_):\n    frame.f_trace_lines = True\n    return trace\n"
        "sys.settrace(trace)",
        "None",
    ),
    "return a tensor that lies": (
        "class Liar(Tensor):\n    __eq__ = equal = lambda *_: True\n"
        "    tolist = lambda _: [0., 2., 4.]\n"
        "double = lambda x: (x + 1).as_subclass(Liar)\n1",
        "^1$",
    ),
    "return a number that lies": (
        "class Liar(float):\n    __eq__ = lambda *_: True\ndouble = lambda x: Liar(5)\nLiar(5)",
        r"^5\.0$",
    ),
    "return not a number": ("double = lambda x: x * float('nan')\nfloat('nan')", "^nan$"),
    "return a huge number": ("double = lambda x: 10**4000\nlen(str(double(1)))", "^4001$"),
    "return an object that runs code": (
        "class Runs:\n    __reduce__ = lambda _: (os.system, ('touch MARK',))\nRuns()",
        "returned a Runs",
    ),
    "return a module": ("nn.Linear(1, 1)", "returned a Linear"),
    "return a tensor that holds nothing": ("torch.ones(2, device='meta')", "raised"),
    "return itself": ("endless = []\nendless.append(endless)\nendless", "Circular|Recursion"),
    "lie about gradients": (
        "class Lie(torch.autograd.Function):\n    @staticmethod\n    def forward(_, x):\n"
        "        return x + 1\n    @staticmethod\n    def backward(_, gradient):\n"
        "        return 2 * gradient\ndouble = Lie.apply\n1",
        "^1$",
    ),
    "return gradients of another shape": (
        "double = lambda x: (2 * x.detach()).requires_grad_()\n"
        "patch('torch.autograd.grad', lambda *_, **__: [torch.ones(99)]).start() and 1",
        "^1$",
    ),
    "change its arguments unseen": (
        "double = lambda x: x.data.mul_(2).clone().requires_grad_()\n1",
        "^1$",
    ),
    "raise an error that runs code": (
        "class Trap(Exception):\n    def __str__(self):\n        raise SystemExit(0)\n"
        "(_ for _ in ()).throw(Trap())",
        "^raised Trap$",
    ),
    "exit politely": ("sys.exit(0)", "raised SystemExit: 0"),
    "recur without end": ("recur = lambda: recur()\nrecur()", "RecursionError"),
    "do more when it ends": (
        "import atexit\natexit.register(lambda: os.system('touch /dev/shm/MARK')) and 1",
        "^1$",
    ),
    # These two go on while the process does.
    "go on in a thread": (
        "def go_on():\n    while True:\n        globals().update(double=lambda x: True)\n"
        "        time.sleep(0.01)\nthreading.Thread(target=go_on, daemon=True).start()",
        "None",
    ),
    "change the cells by a hook": (
        "shell = get_ipython()\nshell.events.register('pre_run_cell', lambda *_: 1 / 0)\n"
        "shell.input_transformers_post.append(lambda lines: ['points = 100'])",
        "None",
    ),
}
BOMBS = {
    "more memory than allowed": ("torch.zeros(10 * 2**28)", "allocate"),
    "more bytes than allowed": ("bytearray(10 * 2**30)", "MemoryError"),
    "more than 1 GiB of files": (
        "def fill(name):\n    with open(name, 'wb') as file:\n        for _ in range(600):\n"
        "            file.write(bytes(2**20))\nfill('big')",
        "No space left",
    ),
    "more than 1 GiB in shared memory": (
        "os.posix_fallocate(os.open('/dev/shm/big', os.O_CREAT | os.O_RDWR), 0, 2**30)",
        "No space left",
    ),
    "as many files as fit": (
        "for number in range(20_000):\n    open(str(number), 'x').close()\nlen(os.listdir())",
        r"^\d+$",
    ),
    "a flood of output": ("sum(os.write(2, bytes(2**20)) for _ in range(200))", r"^\d+$"),
}
# These end the process, or make the grader end it.
ENDS = {
    "exit": ("os._exit(3)", r"ended its process \(exit status 3\)"),
    "abort": ("os.abort()", r"ended its process \(signal \d+\)"),
    "crash in native code": ("ctypes.string_at(0)", r"ended its process \(signal 11\)"),
    "compute without end": ("while True: pass\n1", "took too long"),
    "wait without end": ("time.sleep(1000)", "took too long"),
    "more threads than anybody needs": (
        "for _ in range(60): threading.Thread(target=time.sleep, args=(99,)).start()\n"
        "time.sleep(99)",
        "more than 50 threads|start new thread",
    ),
    "a bomb of forks": (
        "for _ in range(60):\n    if not os.fork():\n        time.sleep(99)\ntime.sleep(99)",
        "more than (50 threads|1.5 GiB of memory)|unavailable",
    ),
    "memory of many processes": (
        "for _ in range(4):\n    if not os.fork():\n        own = b'x' * 2**29\n"
        "        time.sleep(99)\ntime.sleep(99)",
        r"more than 1\.5 GiB of memory|signal 9",
    ),
    "a tensor too large to send": ("torch.zeros(2**25)", "answered more than 64 MB"),
    "a text too long to send": ("'x' * 2**21", "answered more than 1 MB"),
    "a reply nested without end": (
        "patch('json.dumps', lambda *_, **__: '[' * 2**19).start() and 1",
        "an answer that cannot be read",
    ),
    "a reply about a tensor that is not there": ("{'tensor': '9'}", "cannot be read"),
    "a forged reply": (PIPES + "replies.send_bytes(b'all questions passed')", "cannot be read"),
    "a reply that never ends": (
        PIPES + "os.write(replies.fileno(), bytes([0, 0, 16, 0]) + b'{')\ntime.sleep(1000)",
        "took too long",
    ),
    "closed pipes": ("os.closerange(3, 256)", "ended its process"),
}
# In a container, an engine counts these, and refuses more.
COUNTED = {
    "more threads than anybody needs",
    "a bomb of forks",
    "memory of many processes",
}
KINDS = {**ESCAPES, **FILTERED, **LIES, **BOMBS, **ENDS}

PLACES = ("/", "/usr", "/tmp", "/etc", "/dev", "/dev/shm", str(COURSE), str(places.COURSE), ".")


class Field:
    """A hostile submission and its neighbour, and around them what neither may reach.

    Args:
        folder: A folder outside.
        opened: Takes what has to be closed in the end, and returns it.
    """

    def __init__(self, folder, opened):
        self.streams = [opened(socket.socket(family)) for family in (socket.AF_UNIX,) * 2]
        self.streams += [opened(socket.socket())]
        self.datagrams = opened(socket.socket(type=socket.SOCK_DGRAM))
        addresses = f"\0{MARK}", str(folder / "unix"), ("127.0.0.1", 0)
        for server, address in zip(self.streams, addresses, strict=True):
            server.bind(address)
            server.listen()
        self.datagrams.bind(("127.0.0.1", 0))
        for server in (*self.streams, self.datagrams):
            server.setblocking(False)
        self.hostile = opened(Sandbox(WRONG, LIMITS))
        self.neighbour = opened(Sandbox(RIGHT, LIMITS))
        assert self.points(self.neighbour) == 1
        neighbours = Path(self.neighbour.process.folder.name)
        refused = [*syscalls.REFUSED, *syscalls.ABSENT]
        calls = {name: _number(name) for name in (*refused, "clone", "socket")}
        self.given = {
            "master": str(release.MASTERS / "1_logit.ipynb"),
            "course": str(COURSE),
            "grader": os.getpid(),
            "neighbour": str(neighbours),
            "unix": addresses[1],
            "tcp": self.streams[2].getsockname(),
            "udp": self.datagrams.getsockname(),
            "calls": {name: number for name, number in calls.items() if number >= 0},
            "refused": [name for name in refused if calls[name] >= 0],
            "flags": syscalls.NAMESPACES,
        }
        self.watched = [Path(torch.__file__), release.MASTERS / "1_logit.ipynb", folder, neighbours]
        self.before = self.outside()

    def attempt(self, code, seconds=LIMITS.call):
        """Run code in the hostile submission; return what it is worth, or what went wrong."""
        self.hostile.fatal.clear()
        attempt = self.hostile.function("attempt")  # in a new process where the last one has ended
        self.hostile.limits = replace(LIMITS, call=seconds)
        try:
            return str(attempt(code.replace("MARK", MARK), self.given))
        except SubmissionError as error:
            return str(error)
        finally:
            self.hostile.limits = LIMITS

    def points(self, sandbox):
        """Grade the question of a submission."""
        sandbox.fatal.clear()
        return run_checks(QUESTION, sandbox).points

    def outside(self):
        """What must not change: files, folders, and that nobody leaves or connects anything."""
        status = [os.stat(path) for path in self.watched]
        kept = [(one.st_mode, one.st_uid, one.st_size, one.st_mtime_ns) for one in status]
        left = [place for place in PLACES if os.path.lexists(f"{place}/{MARK}")]
        reached = []
        for server in self.streams:
            with contextlib.suppress(BlockingIOError):
                reached.append(server.accept()[0].close())
        with contextlib.suppress(BlockingIOError):
            reached.append(self.datagrams.recv(1))
        return kept, left, reached


def _number(name):
    """The number of a system call on this machine; negative where it has none."""
    if not syscalls.program():
        return -1
    import pyseccomp

    return pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        change = stack.enter_context(pytest.MonkeyPatch.context())
        change.setattr(fence, "THREADS", 50)
        change.setenv("SECRET_TOKEN", "x")
        yield Field(tmp_path_factory.mktemp("outside"), stack.enter_context)


def test_there_are_enough_kinds():
    assert len(KINDS) == sum(map(len, (ESCAPES, FILTERED, LIES, BOMBS, ENDS))) >= 39


@pytest.mark.parametrize("kind", KINDS)
def test_hostile(kind, field):
    if kind in FILTERED and not syscalls.program():
        pytest.skip("no libseccomp here: system calls are not filtered")
    if kind in COUNTED and fence.check() != "bwrap":
        pytest.skip("left to the container's engine")
    code, expected = KINDS[kind]
    seconds = 0.5 if expected == "took too long" else LIMITS.call
    assert re.search(expected.replace("MARK", MARK), field.attempt(code, seconds))
    assert field.points(field.hostile) == 0
    assert field.points(field.neighbour) == 1
    assert field.outside() == field.before
    field.hostile._request("run", RESTORE)


def test_nothing_stays_behind(field):
    """What a submission has started ends with it, wherever it hides."""
    assert field.attempt(DAEMONS) == "1"
    for _ in range(200):  # the last of them may have to start yet
        if len(_running()) >= 20:
            break
        time.sleep(0.05)
    assert len(_running()) >= 20
    field.hostile.process.close()
    field.hostile.process = None
    assert not _running()
    assert field.points(field.neighbour) == 1
    assert field.outside() == field.before


def _running():
    return [one for one in psutil.process_iter(["cmdline"]) if MARK in (one.info["cmdline"] or ())]
