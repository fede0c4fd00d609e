"""What is handed out is complete, gives nothing away, and is the same at every call."""

import io
import json
import re
import zipfile

import nbformat
import pytest
from otter.api import grade_submission

from kdcourse import places
from kdcourse.__main__ import main
from kdcourse.course import notebooks
from kdcourse.homework import release

STUDENT = notebooks.NOTEBOOKS / "homework"
NAMES = release.names()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    assert main(["homework", "release", str(folder)]) == 0
    return folder


def test_there_are_four_assignments():
    assert NAMES == ["1_logit", "2_feature_relational", "3_teachers_tips", "4_language"]


def test_students_get_no_master():
    """Neither in their folder, nor in what pip installs."""
    given = [path.name for path in STUDENT.rglob("*") if ".ipynb_checkpoints" not in path.parts]
    assert sorted(given) == [f"{name}.ipynb" for name in NAMES]
    assert not release.MASTERS.is_relative_to(notebooks.NOTEBOOKS)
    assert not release.MASTERS.is_relative_to(places.PACKAGE)


def test_where_there_are_no_masters(tmp_path, capsys):
    for asked in (["release", str(tmp_path / "out")], ["grade", "1_logit", str(tmp_path)]):
        assert main(["homework", *asked, "--masters", str(tmp_path)]) == 1
        told = capsys.readouterr().err
        assert "instructors/ in a clone" in told
        assert str(tmp_path) in told
    assert not any(tmp_path.iterdir())


def test_no_path_into_an_installation_is_told(monkeypatch):
    monkeypatch.setattr(release, "INSTALLED", True)
    monkeypatch.setattr(release, "MASTERS", release.MASTERS / "none")
    with pytest.raises(FileNotFoundError, match="no masters of the homework in an installation:"):
        release.names(release.MASTERS)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("x", "is not a notebook"),
        ("{}", "is not a notebook"),
        ((STUDENT / "1_logit.ipynb").read_text(), "is no master: "),
    ],
    ids=["text", "nothing", "student's"],
)
def test_what_is_no_master_is_named(content, told, tmp_path, capsys):
    path = tmp_path / "1_logit.ipynb"
    path.write_text(content)
    assert main(["homework", "release", str(tmp_path / "out"), "--masters", str(tmp_path)]) == 1
    assert f"kdcourse: {path} {told}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_student_notebooks_have_not_drifted_from_their_masters(name, assignments):
    assert (STUDENT / f"{name}.ipynb").read_text() == assignments[name].notebook, (
        "run `python -m kdcourse homework release DIR` and copy DIR/student/* to notebooks/homework"
    )


def test_every_call_writes_the_same_bytes(released, tmp_path):
    paths = release.release(tmp_path)
    assert len(paths) == 2 * len(NAMES) + 1
    for path in paths:
        assert path.read_bytes() == (released / path.relative_to(tmp_path)).read_bytes()


def test_the_zip_holds_the_student_notebooks(released, assignments):
    with zipfile.ZipFile(released / "homework.zip") as archive:
        assert archive.namelist() == [f"{name}.ipynb" for name in NAMES]
        for name in NAMES:
            assert archive.read(f"{name}.ipynb").decode() == assignments[name].notebook
            assert (released / "student" / f"{name}.ipynb").read_text() == assignments[
                name
            ].notebook


@pytest.mark.parametrize("name", NAMES)
def test_students_see_no_solution_and_no_hidden_check(name, assignments, masters):
    text = assignments[name].notebook
    assert "hidden=False" in text
    for word in ("hidden=True", "hidden: ", "_elsewhere", "SOLUTION", "BEGIN TESTS"):
        assert word not in text
    for cell, source in masters[name].items():
        if cell.endswith("-answer"):
            secret = max(source.split("NO PROMPT")[-1].splitlines(), key=len).strip()
            assert len(secret) > 20
            assert json.dumps(secret)[1:-1] not in text


@pytest.mark.parametrize("name", NAMES)
def test_every_question_says_what_it_asks(name, assignments):
    notebook = nbformat.reads(assignments[name].notebook, as_version=4)
    nbformat.validate(notebook)
    cells = {cell.id: cell for cell in notebook.cells}
    assert all(re.fullmatch(r"[a-z0-9-]+", id) for id in cells)
    for question in assignments[name].questions:
        id = question.name.replace("_", "-")
        text = cells[id].source
        assert f"*{question.points} points, about " in text
        assert "minutes" in text
        assert "**Objective:**" in text
        stub = cells[f"{id}-answer"].source
        if question.checks:
            assert re.match(
                rf"def {question.name}\((\s*\w+: [\w.\[\]]+( = 2.0)?,?)+\s*\) -> \S", stub
            )
            assert '    """' in stub
            assert f'raise NotImplementedError("write {question.name}")' in stub
            assert cells[f"{id}-check"].source == f'grader.check("{question.name}")'
            assert "<details><summary>Hint" in text
            required = re.findall(r'hidden=False.*?"""(.*?)"""', question.checks, re.DOTALL)
            assert required == re.findall(r"^- (.*)$", text, re.M)
            worth = [int(re.search(r" \((\d+) points?\)$", one)[1]) for one in required]
        else:
            assert "Graded by hand." in text
            worth = [int(one) for one in re.findall(r"^- .* \((\d+) points?\)$", text, re.M)]
        assert sum(worth) == question.points
    total = sum(question.points for question in assignments[name].questions)
    assert f"**{total} points, about " in cells["title"].source


@pytest.mark.parametrize("name", NAMES)
def test_the_archive_brings_what_a_container_needs(name, assignments):
    with zipfile.ZipFile(io.BytesIO(assignments[name].autograder)) as archive:
        content = set(archive.namelist())
        environment = archive.read("environment.yml").decode()
    assert {"run_autograder", "run_otter.py", "setup.sh", "otter_config.json"} <= content
    assert {f"tests/{one.name}.py" for one in assignments[name].questions if one.checks} <= content
    assert "files/kdcourse/logit.py" in content
    assert "files/data/teachers/res16.safetensors" in content
    assert "files/data/teachers/definitions.safetensors" in content
    assert "files/data/wordnet/definitions.tsv.gz" in content
    assert sum(part.startswith("files/data/FashionMNIST/raw/") for part in content) == 4
    assert not any("instructors" in part or "__pycache__" in part for part in content)
    assert "otter-grader[" in environment
    assert re.search(r"torch==\d", environment)


def test_otter_itself_grades_by_the_archive(released, notebook, tmp_path):
    """As in a container or on Gradescope, where checks run in the notebook's own kernel."""
    name = "3_teachers_tips"
    for solved, share in ((True, 1), (False, 0)):
        path = tmp_path / f"{name}.ipynb"
        path.write_bytes(notebook(name, solved=solved))
        archive = str(released / "autograder" / f"{name}.zip")
        results = grade_submission(str(path), archive, quiet=True)
        assert results.possible == pytest.approx(24)
        assert results.percent == share
