"""Where things lie, also as in an installation: it is told apart by two constants only."""

import os
import shutil
from pathlib import Path

import pytest
from jupyterlab import labapp
from toys import images

from kdcourse import data, places
from kdcourse.__main__ import main
from kdcourse.course import claims, lab, notebooks
from kdcourse.course.bench import startup
from kdcourse.course.claims import results
from kdcourse.teachers import shipped


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Take the course for an installation; returns the current folder, which is empty."""
    here = tmp_path / "Übungen zur Vorlesung"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(places, "INSTALLED", True)
    return here


@pytest.mark.parametrize("named", ["pictures", "~/pictures"])
def test_the_image_folder_stays_when_the_current_folder_changes(named, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KDCOURSE_DATA", named)
    monkeypatch.chdir(tmp_path)
    places.keep_image_folder()
    monkeypatch.chdir("/")
    assert data.data_root() == tmp_path / "pictures"
    assert os.environ["KDCOURSE_DATA"] == str(tmp_path / "pictures")
    assert data.data_root("~/pictures") == tmp_path / "pictures"


def test_no_image_folder_is_named_where_none_was(monkeypatch):
    monkeypatch.setenv("KDCOURSE_DATA", "")
    places.keep_image_folder()
    assert os.environ["KDCOURSE_DATA"] == ""


def test_notebooks_that_run_elsewhere_find_the_images(tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    cell = "import os; print(os.environ['KDCOURSE_DATA'])"
    path = written(tmp_path / "notes" / "a.ipynb", cell)
    monkeypatch.setenv("KDCOURSE_DATA", "pictures")
    monkeypatch.chdir(tmp_path)
    assert main(["notebooks", str(path)]) == 0
    assert str(tmp_path / "pictures") in path.read_text()


def written(path, *cells):
    made = notebooks.nbformat.v4.new_notebook()
    made.cells = [notebooks.nbformat.v4.new_code_cell(cell) for cell in cells]
    notebooks.nbformat.write(made, path)
    return path


def test_notebooks_are_copied_once_and_where_one_is_missing(installed):
    folder = places.own_copy(notebooks.NOTEBOOKS)
    assert folder == installed / "kdcourse-notebooks"
    (folder / "index.ipynb").write_text("mine")
    (folder / "2_logit.ipynb").unlink()
    assert places.own_copy(notebooks.NOTEBOOKS) == folder
    assert (folder / "index.ipynb").read_text() == "mine"
    assert (folder / "2_logit.ipynb").is_file()


def test_jupyterlab_finds_the_images_and_your_notebooks(installed, monkeypatch):
    monkeypatch.setattr(labapp.LabApp, "launch_instance", lambda options: None)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("KDCOURSE_DATA", "pictures")
    lab.serve()
    assert Path.cwd() == installed / "kdcourse-notebooks"
    assert data.data_root() == installed / "pictures"


def test_your_start_page_is_run_as_it_is(installed, monkeypatch):
    page = places.own_copy(notebooks.NOTEBOOKS) / notebooks.START
    written(page, "1 + 1")
    asked = []
    monkeypatch.setattr(notebooks, "run", asked.extend)
    before = page.read_text()
    assert main(["notebooks"]) == 0
    assert asked[0] == page
    assert page.read_text() == before


def test_inside_of_your_folders_they_are_the_same(installed, monkeypatch):
    """Neither copied into themselves, nor out of sight for a notebook."""
    folder = places.own_copy(notebooks.NOTEBOOKS)
    mine = installed / "kdcourse-results" / "gap.json"
    mine.parent.mkdir()
    shutil.copyfile(results.RESULTS / "gap.json", mine)
    for inside in (folder, folder / "homework", mine.parent):
        monkeypatch.chdir(inside)
        assert places.own_copy(notebooks.NOTEBOOKS) == folder
        assert places.latest(results.RESULTS / "gap.json") == mine
    assert not list(folder.rglob("kdcourse-*"))


def test_your_results_stand_beside_ours(installed, capsys):
    assert claims.reproduce(["same-gradient"], seeds=11, progress=False)[0].runs.keys() == {
        *range(11)
    }
    kept = installed / "kdcourse-results"
    assert [path.name for path in kept.iterdir()] == ["same-gradient.json"]
    assert main(["reproduce", "--stored"]) == 0
    shown = capsys.readouterr().out
    assert f"results: {kept}" in shown
    assert "not measured yet" not in shown
    (kept / "same-gradient.json").unlink()
    assert len(results.load("same-gradient").runs) == 10
    assert claims.check(["same-gradient"], progress=False)["same-gradient"] < claims.TOLERANCE


def test_your_benchmarks_are_shown(installed, capsys):
    rows = startup.load()
    startup.STORE.save(rows[:1])
    assert startup.load() == rows[:1]
    assert [path.name for path in installed.glob("*/*")] == ["bench-startup.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"runs": {"x": {}}}'])
def test_a_damaged_result_is_named(content, installed, capsys):
    path = installed / "kdcourse-results" / "same-gradient.json"
    path.parent.mkdir()
    path.write_text(content)
    for option in ("--stored", "--check"):
        assert main(["reproduce", "same-gradient", option]) == 1
        assert capsys.readouterr().err.endswith(
            f"kdcourse: {path} is damaged: delete it, or put a good copy in its place\n"
        )


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_damaged_benchmark_is_named(content, tmp_path):
    store = startup.Store(tmp_path / "bench.json", "measure", startup.Comparison)
    store.path.write_text(content)
    with pytest.raises(RuntimeError, match=r"bench\.json is damaged: delete it"):
        store.load()


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_damaged_card_is_named(content, tmp_path):
    folder = shutil.copytree(shipped.TEACHERS, tmp_path / "teachers")
    (folder / "res16.json").write_text(content)
    with pytest.raises(RuntimeError, match=r"res16\.json is damaged: delete it"):
        shipped.pretrained("res16", folder)


def test_an_own_teacher_is_loaded_as_it_is_said(installed, monkeypatch, capsys):
    few = data.Splits(images(20), images(20), images(20))
    monkeypatch.setattr(shipped, "fashion_mnist", lambda: few)
    recipe = shipped.Recipe("plain2", images=20, epochs=1, augmented=False)
    monkeypatch.setitem(shipped.RECIPES, "res16", recipe)
    assert main(["teachers", "res16"]) == 0
    said = capsys.readouterr().out.splitlines()[-1].removesuffix(" loads one of them")
    assert str(installed / "kdcourse-teachers") in said
    eval(said, {"pretrained": shipped.pretrained})
    assert len(list((installed / "kdcourse-teachers").iterdir())) == 2
