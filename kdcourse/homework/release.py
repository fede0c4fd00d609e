"""From master notebooks to what students get and what a grader needs, by means of otter-grader.

Masters (:mod:`kdcourse.homework.master`) hold solutions and the inputs of hidden checks. The same
masters give the same bytes at every call.
"""

import io
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import requires, version
from pathlib import Path

import nbformat
from packaging.requirements import Requirement

from kdcourse import files
from kdcourse.course.notebooks import read
from kdcourse.data import fashion_mnist
from kdcourse.homework.cells import SEAL, seal
from kdcourse.homework.master import spell_out
from kdcourse.language.definitions import WORDNET
from kdcourse.places import COURSE, INSTALLED, PACKAGE, image_folder
from kdcourse.teachers.shipped import TEACHERS

MASTERS = COURSE / "instructors"  # in a clone only: they hold the solutions
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


@dataclass(frozen=True)
class Question:
    """One question of an assignment.

    Attributes:
        name: Name of the question, and of the function that it asks for.
        points: Points that it is worth.
        checks: Source of its checks, for each requirement a public and a hidden one; empty where a
            person grades.
    """

    name: str
    points: float
    checks: str


@dataclass(frozen=True)
class Assignment:
    """An assignment as released.

    Attributes:
        name: Name of the assignment, such as ``1_logit``.
        questions: The questions, in order.
        notebook: The student's notebook, as the text of its file.
        autograder: Zip archive for Gradescope, and for otter's own grading in containers.
    """

    name: str
    questions: tuple[Question, ...]
    notebook: str
    autograder: bytes = field(repr=False)


def names(masters: Path = MASTERS) -> list[str]:
    """Return the names of all assignments.

    Raises:
        FileNotFoundError: There is none in the folder of the masters.
    """
    found = sorted(path.stem for path in masters.glob("*.ipynb"))
    if not found:
        where = "in an installation" if INSTALLED and masters == MASTERS else f"in {masters}"
        raise FileNotFoundError(
            f"there are no masters of the homework {where}: say --masters DIR, the folder "
            "instructors/ in a clone of the course; they hold the solutions, and are not installed"
        )
    return found


def release(folder: Path, masters: Path = MASTERS) -> list[Path]:
    """Write student notebooks, autograder archives, and a zip to hand out; return their paths."""
    files.check_writable(folder)
    assignments = [build(name, masters) for name in names(masters)]
    handout = {f"{one.name}.ipynb": one.notebook.encode() for one in assignments}
    content = {f"student/{name}": data for name, data in handout.items()}
    content |= {f"autograder/{one.name}.zip": one.autograder for one in assignments}
    content["homework.zip"] = _zip(handout)
    for name, data in content.items():
        files.write(folder / name, data)
    return [folder / name for name in content]


def build(name: str, masters: Path = MASTERS) -> Assignment:
    """Build an assignment from its master.

    Raises:
        ValueError: There is no such assignment, or this is not a master.
        FileNotFoundError: There are no masters, or no images for the checks.
    """
    if name not in (known := names(masters)):
        raise ValueError(f"no assignment {name!r}; there are {', '.join(known)}")
    master = masters / f"{name}.ipynb"
    source = read(master)
    points = spell_out(source)
    if not points:
        raise ValueError(f"{master} is no master: it has no cell that begins with # BEGIN QUESTION")
    kept = {cell.id for cell in source.cells}
    with files.temporary_told(), tempfile.TemporaryDirectory() as aside:
        student, archive = _assign(source, name, Path(aside))
    with zipfile.ZipFile(io.BytesIO(archive)) as parts:
        content = {part: parts.read(part) for part in parts.namelist()}
    questions = [
        Question(question, worth, content.get(f"tests/{question}.py", b"").decode())
        for question, worth in points.items()
    ]
    return Assignment(name, tuple(questions), _normal(student, kept), _zip(content))


def _assign(
    master: nbformat.NotebookNode, name: str, aside: Path
) -> tuple[nbformat.NotebookNode, bytes]:
    """Let otter build the student's notebook and the autograder in a temporary folder."""
    from otter.assign import main as otter_assign

    path = aside / f"{name}.ipynb"
    nbformat.write(master, path)
    ignored = shutil.ignore_patterns("__pycache__", "share")
    shutil.copytree(PACKAGE, aside / "kdcourse", ignore=ignored)
    fashion_mnist()  # raises if its files are missing or damaged
    for part in (image_folder() / "FashionMNIST", TEACHERS, WORDNET.parent):  # which checks read
        shutil.copytree(part, aside / "data" / part.name, ignore=shutil.ignore_patterns("*-ubyte"))
    (aside / "requirements.txt").write_text("\n".join(_requirements()))
    otter_assign(str(path), str(aside / "made"), no_run_tests=True, no_pdfs=True)
    (archive,) = (aside / "made" / "autograder").glob("*.zip")
    student = nbformat.read(aside / "made" / "student" / path.name, as_version=4)
    return student, archive.read_bytes()


def _requirements() -> list[str]:
    """Return what the course requires, in the versions that are installed."""
    needed = [Requirement(line) for line in requires("kdcourse") or ()]
    names = [one.name for one in needed if not one.marker or one.marker.evaluate({"extra": ""})]
    return [f"{name}=={version(name).split('+')[0]}" for name in names]


def _normal(student: nbformat.NotebookNode, kept: set[str]) -> str:
    """Give the cells that otter has added meaningful names, and seal those not to be written in."""
    before = ""
    for cell in student.cells:
        if cell.id not in kept:
            check = re.match(r'grader\.check\("(\w+)"\)', cell.source)
            if check:
                cell.id = f"{check[1].replace('_', '-')}-check"
            else:
                cell.id = f"{before}-{'answer' if cell.metadata.get('tags') else 'end'}"
        if not (before := cell.id).endswith(("-answer", "minutes")):
            cell.metadata[SEAL] = seal(cell.source)
    return nbformat.writes(student) + "\n"


def _zip(content: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o755 << 16  # some are scripts that Gradescope runs
            archive.writestr(entry, content[name])
    return packed.getvalue()
