"""Rehearses with the packages of a bare machine and no others: ``benchmarks/gpu.sh --rehearse``."""

import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

PACKAGES = (
    *("torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib"),
    *("pytest", "hypothesis", "tqdm", "safetensors"),
)


def make(folder: Path, packages: Iterable[str] = PACKAGES) -> Path:
    """Make the environment, by links to what this one has, and return its Python."""
    venv.create(folder, symlinks=True)
    place = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=place))
    for found in _with_dependencies(packages):
        for top in {path.parts[0] for path in found.files or ()} - {"..", "__pycache__"}:
            link, target = site / top, Path(str(found.locate_file(top)))
            if target.exists() and not link.exists():
                link.symlink_to(target)
    return folder / "bin" / Path(sys.executable).name


def _with_dependencies(names: Iterable[str]) -> list[Distribution]:
    """Return the packages and all that they need, without extras."""
    from packaging.requirements import Requirement

    found: dict[str, Distribution] = {}
    open_names = list(names)
    while open_names:
        name = open_names.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of another system, say
            continue
        needed = map(Requirement, found[name].requires or ())
        open_names += [
            one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    return list(found.values())


def rehearse(arguments: Sequence[str]) -> int:
    """Run a little of everything on the CPU, in such an environment; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        python = make(Path(folder))
        program = [str(python), "-m", "kdcourse.course.bench.gpu", "--small", *arguments]
        return subprocess.run(program).returncode


if __name__ == "__main__":
    sys.exit(rehearse(sys.argv[1:]))
