"""Files that are written whole, and one sentence for what goes wrong with files and folders."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REASONS = {  # by the system's numbers
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is full",
    errno.EFBIG: "files of that size are not allowed here",
    errno.EROFS: "the disk is read-only",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "you have no right to do so"),
    errno.ENOENT: "it is not there, or no longer",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file is where a folder should be"),
    **dict.fromkeys((errno.EISDIR, errno.ENODEV), "it is a folder, not a file"),
    errno.ENAMETOOLONG: "its name is too long",
}
ELSEWHERE = "free some space, or set the environment variable TMPDIR to another folder"


class FileError(OSError):
    """A file or folder that cannot be used; the message says which, why, and what to do."""


@contextmanager
def whole(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file to write all of it, or nothing; its folder is made if it is not there.

    The content is written aside, forced to disk, and then takes the place of the old file in one
    step of the file system, so that a reader finds the old or the new content, never half of it.

    Raises:
        FileError: It cannot be written; the message says why.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".partial")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise


def write(path: str | Path, content: str | bytes) -> None:
    """Write a file: all of it, or nothing."""
    with whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def check_writable(folder: str | Path) -> None:
    """Require, before any work, that files can be written into a folder, which may not be there.

    Raises:
        FileError: They cannot; the message says why.
    """
    folder = Path(folder).absolute()
    with told(folder):
        there = next(filter(os.path.lexists, (folder, *folder.parents)))
        with tempfile.TemporaryFile(dir=there) as file:  # leaves no trace
            file.write(b"written")
            file.flush()


@contextmanager
def temporary_told() -> Iterator[None]:
    """Name the temporary folder in the error of a disk that is full, and say what to do.

    It stands around the use of :mod:`tempfile`, where nothing is written elsewhere.
    """
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise FileError(why(error)) from None
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise FileError(
            f"the temporary folder {folder} cannot hold it, {why(error)}: {ELSEWHERE}"
        ) from error


def is_full(error: BaseException) -> bool:
    """Whether an error comes from a disk that is full."""
    return _number(error) in FULL


def why(error: BaseException) -> str:
    """Return in a few words why the system refuses something; of other errors, the message."""
    if "No usable temporary directory" in str(error):  # as libraries find at their import
        return f"there is no temporary folder that can be written to: {ELSEWHERE}"
    number = _number(error)
    return str(error) if number is None else REASONS.get(number, os.strerror(number).lower())


def sentence(error: OSError) -> str:
    """Return what the system refuses, and why."""
    names = [name for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return ": ".join([*map(os.fsdecode, names[-1:]), why(error)])


@contextmanager
def told(path: str | Path) -> Iterator[None]:
    """Name the file or folder that cannot be written, and say why."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FileError) or _number(error) is None:
            raise
        gone = isinstance(error, FileNotFoundError)
        reason = "its folder was removed meanwhile" if gone else why(error)
        stays = "; what was there stays" if os.path.isfile(path) else ""
        where = error.filename2 or error.filename if isinstance(error, IsADirectoryError) else path
        raise FileError(f"{where} cannot be written, {reason}{stays}") from error


def _number(error: BaseException) -> int | None:
    """Return the system's number of an error; None if there is none."""
    number = getattr(error, "errno", None)
    found = re.search(r"(?:\[Errno|os error) (\d+)", str(error))  # of several, or from elsewhere
    if number is None and found:
        number = int(found[1])
    return errno.ENOSPC if "file write failed" in str(error) else number  # as torch says it
