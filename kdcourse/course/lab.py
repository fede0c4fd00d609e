"""The notebooks in JupyterLab (``python -m kdcourse lab``)."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdcourse import files
from kdcourse.course.notebooks import NOTEBOOKS, START
from kdcourse.places import image_folder, keep_image_folder, own_copy


def serve(arguments: Sequence[str] = ()) -> None:
    """Start JupyterLab, with its own options, in the folder of the notebooks."""
    # One thread is as fast as two for the course's small nets, and much faster on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # labconfig/: the state of widgets is saved with the notebook, for saved_widgets.py; nobody asks
    # whether to look for news and updates, the course is offline; ← and → move sliders, which in
    # Notebook 7 would never see them.
    ours = [os.environ.get("JUPYTER_CONFIG_PATH", ""), str(Path(__file__).parent)]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, ours))
    options = [
        f"--LabApp.default_url=/lab/tree/{START}",
        "--ServerApp.jpserver_extensions={'kdcourse.course.saved_widgets': True}",
        *arguments,
    ]
    if getattr(os, "geteuid", lambda: 1)() == 0:  # as in a container, where Jupyter would refuse
        options.append("--allow-root")
    keep_image_folder()
    folder = own_copy(NOTEBOOKS)
    with _writable_home():
        from jupyterlab.labapp import LabApp  # which looks for the home when it is imported

        os.chdir(folder)
        LabApp.launch_instance(options)


@contextmanager
def _writable_home() -> Iterator[None]:
    """Make a home for the time being, for JupyterLab and its kernels, where there is none."""
    from jupyter_core import paths

    kept = paths.jupyter_runtime_dir(), paths.jupyter_data_dir(), paths.jupyter_config_dir()
    if all(_writable(Path(path)) for path in kept):
        yield
        return
    print(
        f"kdcourse: {Path.home()} cannot be written to; what JupyterLab keeps there, such as its "
        "settings, is gone when it ends",
        file=sys.stderr,
    )
    os.environ["KDCOURSE_DATA"] = str(image_folder())
    with files.temporary_told(), tempfile.TemporaryDirectory(prefix="kdcourse-home-") as home:
        os.environ["HOME"] = home
        yield


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which may have to be made first."""
    try:
        files.check_writable(folder)
    except files.FileError:
        return False
    return True
