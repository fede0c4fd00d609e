"""Where the course's own files lie, in a clone and in an installation, and where yours go.

In a clone, the package and what comes with it (notebooks, teachers, results, docs) lie side by
side. An installation has the same files in ``kdcourse/share/``, where nothing is written: what may
change is worked on in a copy. Images are too large to come along; they are kept in a cache.
"""

import os
from pathlib import Path

from kdcourse import files
from kdcourse.signatures import checked

PACKAGE = Path(__file__).parent
INSTALLED = (PACKAGE / "share").is_dir()
COURSE = PACKAGE / "share" if INSTALLED else PACKAGE.parent
RESTORE = (  # what brings the course's own files back
    "pip install --force-reinstall --no-deps kdcourse"
    if INSTALLED
    else f"git checkout -- data, in {COURSE}"
)


def image_folder() -> Path:
    """Return the folder of the images: ``$KDCOURSE_DATA``, the clone's ``data/``, or a cache."""
    named = os.environ.get("KDCOURSE_DATA")
    if named:
        return Path(named)
    if not INSTALLED:
        return COURSE / "data"
    from platformdirs import user_cache_path  # which a clone does without

    return user_cache_path("kdcourse")


@checked
def own_folder(folder: Path) -> Path:
    """Return where to write what belongs into a folder, which may be one of the course's.

    Of an installation's folders, this is a copy in the current folder, such as
    ``kdcourse-results/``. It is made at the first call; later ones add only what is missing.
    """
    place = _copy(folder)
    if place != folder:
        for path in folder.rglob("*"):
            copy = place / path.relative_to(folder)
            if path.is_file() and not copy.exists():
                files.write(copy, path.read_bytes())
    return place


@checked
def latest_folder(folder: Path) -> Path:
    """Return where to read what belongs into a folder: your copy of it, where there is one."""
    return place if (place := _copy(folder)).is_dir() else folder


def _copy(folder: Path) -> Path:
    if INSTALLED and folder.is_relative_to(COURSE):
        return Path(f"kdcourse-{folder.name}").absolute()
    return folder
