"""All that uses a device also runs on a stand-in for a GPU, which there need not be here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from kdcourse.course.bench.gpu import tested

FOLDER = Path(__file__).parent


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason=f"torch {torch.__version__} has no backends written in Python",
)
def test_all_that_uses_a_device_runs_on_the_stand_in():
    named = (path for path in tested.files(FOLDER) if path.name != "test_capture.py")  # on_… has it
    files = [*named, FOLDER / "on_stand_in.py"]
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "stand_in_device", "-k", "stand_in"]
    paths = [str(FOLDER), str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, *map(str, files)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
