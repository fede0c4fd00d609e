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
from importlib.metadata import requires
from pathlib import Path

import nbformat

from kdcourse.homework.cells import SEAL, seal
from kdcourse.homework.master import spell_out

COURSE = Path(__file__).parents[2]
MASTERS = COURSE / "instructors"
DATA = ("FashionMNIST", "teachers")  # read by the checks, and therefore part of the archives
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


def names() -> list[str]:
    """Return the names of all assignments."""
    return sorted(path.stem for path in MASTERS.glob("*.ipynb"))


def release(folder: Path) -> list[Path]:
    """Write student notebooks, autograder archives, and a zip to hand out; return their paths."""
    assignments = [build(name) for name in names()]
    handout = {f"{one.name}.ipynb": one.notebook.encode() for one in assignments}
    files = {f"student/{name}": data for name, data in handout.items()}
    files |= {f"autograder/{one.name}.zip": one.autograder for one in assignments}
    files["homework.zip"] = _zip(handout)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return [folder / name for name in files]


def build(name: str) -> Assignment:
    """Build an assignment from its master.

    Raises:
        ValueError: There is no such assignment.
    """
    if name not in names():
        known = ", ".join(names()) or f"none in {MASTERS}: releasing and grading need a clone"
        raise ValueError(f"no assignment {name!r}; there are {known}")
    source = nbformat.read(MASTERS / f"{name}.ipynb", as_version=4)
    points = spell_out(source)
    kept = {cell.id for cell in source.cells}
    with tempfile.TemporaryDirectory() as aside:
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
    shutil.copytree(
        COURSE / "kdcourse", aside / "kdcourse", ignore=shutil.ignore_patterns("__pycache__")
    )
    for part in DATA:
        shutil.copytree(COURSE / "data" / part, aside / "data" / part)
    (aside / "requirements.txt").write_text("\n".join(_requirements()))
    otter_assign(str(path), str(aside / "made"), no_run_tests=True, no_pdfs=True)
    (archive,) = (aside / "made" / "autograder").glob("*.zip")
    student = nbformat.read(aside / "made" / "student" / path.name, as_version=4)
    return student, archive.read_bytes()


def _requirements() -> list[str]:
    """Return the requirements of the course, in the versions that were tested."""
    needed = {
        re.split(r"[^\w.-]", line)[0] for line in requires("kdcourse") or [] if "extra" not in line
    }
    lines = (COURSE / "constraints.txt").read_text().splitlines()
    return [line.split(";")[0] for line in lines if line.split("==")[0] in needed]


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
