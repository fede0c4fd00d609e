"""A student runs the checks in the notebook: whatever its name, and without the masters."""

import json
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from kdcourse.homework.grader import Grader

NAME = "1_logit"
RIGHT = "torch.softmax(logits / temperature, dim=1)"


@pytest.fixture
def folder(tmp_path, assignments):
    """A folder with the notebook, as a browser names the second download."""
    (tmp_path / "1_logit (1).ipynb").write_text(assignments[NAME].notebook)
    (tmp_path / "broken.ipynb").write_text("{")
    (tmp_path / "other.ipynb").write_text('{"metadata": {"otter": 3}}')
    return tmp_path


def check(folder, body):
    """Check a softened softmax of this body."""
    names = {"grader": Grader(NAME, folder)}
    exec(f"import torch\ndef softened_softmax(logits, temperature):\n    return {body}", names)
    return eval('grader.check("softened_softmax")', names)


def test_what_is_met_and_what_is_not(folder):
    report = check(folder, RIGHT)
    assert repr(report).startswith("4 of 4 requirements met\n✓ ")
    report = check(folder, RIGHT.replace("/", "*"))
    text, page = repr(report), report._repr_html_()
    assert text.startswith("3 of 4 requirements met\n")
    for shown in (text, page):
        assert "✗ The log-odds of two classes" in shown
        assert "the logits are multiplied by τ" in shown
        assert "Divide the logits by τ before the softmax" in shown  # the advice
    assert "<li>" in page


def test_what_the_checks_need_is_said(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "otter.test_files.exception_test", None)
    with pytest.raises(ModuleNotFoundError, match=r"%pip install 'kdcourse\[homework\]'"):
        check(folder, RIGHT)


def test_what_a_function_raises_is_quoted_and_escaped(folder):
    report = check(folder, "1 / 0 or '<b>'")
    assert repr(report).count("Raised ZeroDivisionError: division by zero") == 1
    assert repr(report).count("As above.") == len(report) - 1
    assert not any(one.advice in repr(report) for one in report)  # it is about something else
    report = check(folder, "int('<b>')")
    assert "<b>" not in report._repr_html_()


@pytest.mark.parametrize(
    ("code", "taken"),
    [
        ("from kdcourse.logit import softmax as own", "kdcourse.logit"),
        ("from kdcourse import logit\nown = lambda z, t: logit.softmax(z, t)", "kdcourse.logit"),
        (
            "def own(z, t):\n from kdcourse import logit\n return logit.softmax(z, t)",
            "kdcourse.logit",
        ),
        ("import kdcourse.logit\ndef own(z, t):\n return kdcourse.logit.softmax(z, t)", "kdcourse"),
        ("from kdcourse.checks import at_least_float32 as a\nown = lambda z, t: a(z)", None),
        ("import kdcourse.teachers\nown = lambda z, t: z", None),
    ],
)
def test_what_grading_lacks_is_told(folder, code, taken):
    names = {"grader": Grader(NAME, folder), "__name__": "notebook"}
    exec(f"{code}\ndef softened_softmax(logits, temperature):\n    return own(logits, 1)", names)
    if taken:
        with pytest.raises(ImportError, match=f"softened_softmax uses {taken}.*cannot be imported"):
            eval('grader.check("softened_softmax")', names)
    else:
        assert eval('grader.check("softened_softmax")', names)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("logits.requires_grad_()", "was changed in place: work on a copy"),
        ("torch.nn.Linear(10, 1).weight.add_(1)", "; change weights under torch.no_grad()"),
        ("logits + torch.ones(7)", "; print the two shapes"),
        ("logits[0]", "The shape should be (4, 10), but yours is (10,)"),
    ],
)
def test_errors_say_what_to_do(folder, body, told):
    assert told in repr(check(folder, body))


def test_checks_leave_the_random_numbers_of_the_notebook_alone(folder):
    import torch

    torch.manual_seed(0)
    before = torch.get_rng_state()
    check(folder, RIGHT + " + torch.rand(1)")
    assert torch.equal(torch.get_rng_state(), before)


def test_mistakes_of_the_student(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="save this notebook, or download it again"):
        Grader(NAME, tmp_path_factory.mktemp("empty"))
    with pytest.raises(
        ValueError, match="no checks for 'softmax'; there are checks for kd_gradient, kd_loss,"
    ):
        Grader(NAME, folder).check("softmax")
    with pytest.raises(NameError, match="run the cell that defines it"):
        eval('grader.check("kd_loss")', {"grader": Grader(NAME, folder)})


def test_the_newest_notebook_counts(folder, assignments):
    newer = json.loads(assignments[NAME].notebook)
    newer["metadata"]["otter"]["tests"] = {"new": ""}
    (folder / "newer.ipynb").write_text(json.dumps(newer))
    assert list(Grader(NAME, folder).checks) == ["new"]


def test_a_student_needs_neither_masters_nor_the_grading(assignments, folder, tmp_path):
    """The notebook runs in a kernel of its own, where nothing that grades is loaded."""
    notebook = nbformat.reads(assignments[NAME].notebook, 4)
    wanted = ("setup", "grader")
    cells = [cell for cell in notebook.cells if cell.id in wanted]
    sources = [
        "import sys\nfrom torch.nn import functional as F",
        f"def softened_softmax(logits, temperature):\n    return {RIGHT}",
        'print(grader.check("softened_softmax"))',
        "print([name for name in sys.modules if name in "
        '("kdcourse.homework.judge", "kdcourse.homework.process")])',
    ]
    notebook.cells = cells + [nbformat.v4.new_code_cell(source) for source in sources]
    NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}).execute()
    printed = [cell.outputs[0].text for cell in notebook.cells if cell.get("outputs")]
    assert printed[0].startswith("4 of 4")
    assert printed[1] == "[]\n"
