"""Where the course's own files lie, in a clone and in an installation, and where yours go.

In a clone, the package and what comes with it (notebooks, teachers, results, docs) lie side by
side. An installation has the same files in ``kdcourse/share/``, where nothing is written: what
changes is kept in a folder of yours. Images are too large to come along; they are kept in a cache.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcourse import files
from kdcourse.signatures import checked

PACKAGE = Path(__file__).parent
INSTALLED = (PACKAGE / "share").is_dir()
COURSE = PACKAGE / "share" if INSTALLED else PACKAGE.parent
RESTORE = (  # what brings the course's own files back
    "pip install --force-reinstall --no-deps, with the course's wheel"
    if INSTALLED
    else f"git checkout -- data, in {COURSE}"
)
YOURS = tuple(f"kdcourse-{name}" for name in ("leaderboard", "notebooks", "results", "teachers"))


def image_folder() -> Path:
    """Return the folder of the images: ``$KDCOURSE_DATA``, the clone's ``data/``, or a cache."""
    named = os.environ.get("KDCOURSE_DATA")
    if named:
        return Path(os.path.expanduser(named)).absolute()
    if not INSTALLED:
        return COURSE / "data"
    from platformdirs import user_cache_path  # which a clone does without

    return user_cache_path("kdcourse")


def keep_image_folder() -> None:
    """Let programs that are started in another folder find the images that this one finds."""
    if os.environ.get("KDCOURSE_DATA"):
        os.environ["KDCOURSE_DATA"] = str(image_folder())


@checked
def own_folder(folder: Path) -> Path:
    """Return where to write what belongs into a folder, which may be one of the course's.

    Of an installation's folders, this is one of yours in the current folder, such as
    ``kdcourse-results/``, which need not be there yet. Inside of one of yours, it is the one beside
    it: notebooks, which run where they lie, find your results.
    """
    if not (INSTALLED and folder.is_relative_to(COURSE)):
        return folder
    here = Path.cwd()
    yours = (place.parent for place in (here, *here.parents) if place.name in YOURS)
    return next(yours, here) / f"kdcourse-{folder.name}"


@checked
def own_copy(folder: Path) -> Path:
    """Copy what is missing of the course's folder into yours (:func:`own_folder`); return it."""
    place = own_folder(folder)
    if place != folder:
        for path in folder.rglob("*"):
            copy = place / path.relative_to(folder)
            if path.is_file() and not copy.exists():
                files.write(copy, path.read_bytes())
    return place


@checked
def latest(path: Path) -> Path:
    """Return where to read a file that may be the course's: yours, where there is one."""
    own = own_folder(path.parent) / path.name
    return own if own.is_file() else path


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Say which file is damaged, and what to do, where its content is not what it should be."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        ours = path.is_relative_to(COURSE)
        advice = f"restore it ({RESTORE})" if ours else "delete it, or put a good copy in its place"
        raise RuntimeError(f"{path} is damaged: {advice}") from error
