"""A fresh environment that has the course and exactly what pip would bring along with it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

SITE = Path(sysconfig.get_path("purelib"))


def requirements(name: str, *extras: str) -> set[str]:
    """Return the distributions that pip installs with one, as they are installed here."""
    found, left = set(), [(name, extra) for extra in ("", *extras)]
    while left:
        one, extra = left.pop()
        for needed in map(Requirement, metadata.requires(one) or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                added = {(needed.name, more) for more in ("", *needed.extras)} - found
                found |= added
                left += added
    return {name for name, _ in found}


def link(source, place):
    """Let files be in two places, without copying gigabytes."""
    if Path(source).is_dir():
        shutil.copytree(source, place, copy_function=link, dirs_exist_ok=True)
    elif not Path(place).exists():
        os.link(source, place)


def pip(command, *arguments):
    options = "--quiet", "--no-deps", *arguments
    subprocess.run([sys.executable, "-m", "pip", command, *options], check=True)


class Installation:
    """A fresh environment with exactly the packages that pip would bring along."""

    def __init__(self, place: Path, *extras: str):
        self.home = place / "home"
        self.folder = place / "Übungen zur Vorlesung, Δ"
        for path in (self.home, self.folder):
            path.mkdir(parents=True)
        venv.create(place, symlinks=True)
        self.python = place / "bin" / "python"
        (self.site,) = place.glob("lib/python*/site-packages")
        for name in requirements("kdcourse", *extras):
            self.add(name)
        # What Jupyter's packages keep there, and what may be written.
        (place / "share").symlink_to(Path(sys.prefix) / "share")
        shutil.copytree(Path(sys.prefix) / "etc", place / "etc")
        self.package = self.site / "kdcourse"

    def add(self, name: str):
        """Let an installed distribution be here, too."""
        parts = {Path(file).parts[0] for file in metadata.distribution(name).files}
        for part in parts - {"..", "__pycache__", "bin"}:
            link(SITE / part, self.site / part)

    def install(self, source: Path):
        """Let pip install the course from a wheel or a clone."""
        options = "--no-compile", "--no-index", "--no-build-isolation"
        pip("install", *options, "--target", self.site, source)

    def start(self, *arguments, **options):
        """Start Python in the folder, as a user whose home is empty."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JUPY"))}
        environment |= {"HOME": str(self.home), "OMP_NUM_THREADS": "1"} | options.pop("env", {})
        return subprocess.Popen(
            [self.python, *arguments],
            cwd=self.folder,
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )

    def run(self, *arguments, **options):
        """Run a command of the course, and return its exit status and what it printed."""
        process = self.start("-m", "kdcourse", *map(str, arguments), **options)
        printed, _ = process.communicate(timeout=300)
        return process.returncode, printed

    def listing(self):
        """Return all files of the package with their times."""
        return {path: path.stat().st_mtime_ns for path in self.package.rglob("*")}


@contextmanager
def fresh(*extras: str) -> Iterator[Installation]:
    """Make an environment without the course; its path has spaces, and it is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="installed with ", dir=sys.prefix) as place:
        yield Installation(Path(place), *extras)
