"""What ``train`` has written into a run's folder, to be read again."""

from pathlib import Path

from kdcourse.train.command import OPTIONS
from kdcourse.train.options import OptionError, Options, from_toml, read_toml

SAME = ("data", "image_size", "validation")  # what runs must have in common to be compared


def read_options(folder: Path, *needed: str) -> Options:
    """Return the options of the run in a folder.

    Args:
        folder: What ``--out`` of ``train`` was.
        needed: Names of files that must be there, too.

    Raises:
        OptionError: There is no such run, or it is one of many seeds.
    """
    require(folder, OPTIONS, *needed)
    path = folder / OPTIONS
    return Options(**from_toml(read_toml(path), str(path)))


def require(folder: Path, *names: str) -> None:
    """Require files in a run's folder, by their names."""
    seeds = sorted(folder.glob(f"seed-*/{OPTIONS}"))
    if seeds:
        raise OptionError(
            f"{folder} holds a training of many seeds; name one of them, such as {seeds[0].parent}"
        )
    for name in names:
        if not (folder / name).is_file():
            raise OptionError(
                f"{folder} holds no run of train, or not all of it: there is no {name}"
            )
