"""The exercises in the notebooks: their solutions are right, and not everything else is, too."""

import re

import nbformat
import pytest

from kdcourse.course.exercises.exercise import EMPTY, exercise
from kdcourse.course.notebooks import course_notebooks

SOLUTION = re.compile(
    r"<details><summary>Solution</summary>.*?```python\n(.+?)```.*?</details>", re.DOTALL
)
WRONG = [None, 0, 0.5, "?", [], lambda *_, **__: 0.0, lambda *given, **__: given and given[0]]


def exercises():
    """Notebook, number, and the cells of every exercise: statement, answer and check."""
    for path in course_notebooks():
        cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
        for name in cells:
            if re.fullmatch(r"exercise-\d", name):
                parts = [cells[name], cells[f"{name}-answer"], cells[f"{name}-check"]]
                yield pytest.param(cells["setup"], *parts, id=f"{path.stem} {name}")


EVERY_EXERCISE = pytest.mark.parametrize(("setup", "stated", "answer", "check"), [*exercises()])


def names_after(*sources):
    """The names in a notebook after these cells were run."""
    names = {}
    for source in sources:
        exec(source, names)
    return names


@EVERY_EXERCISE
def test_it_has_minutes_a_hint_and_an_empty_cell(setup, stated, answer, check, capsys):
    assert re.match(r"\*\*Exercise \w+\.\d · .+\*\* \(\d+ minutes\)\. ", stated.source)
    assert "<details><summary>Hint</summary>" in stated.source
    name, value = answer.source.split("\n")[-1].split(" = ")
    assert value.startswith("...")
    exec(check.source, names_after(setup.source, answer.source))
    assert capsys.readouterr().out == f"{EMPTY}\n"
    assert f"({name})" in check.source


@EVERY_EXERCISE
def test_the_solution_is_right(setup, stated, answer, check, capsys):
    (solution,) = SOLUTION.findall(stated.source)
    exec(check.source, names_after(setup.source, solution))
    assert capsys.readouterr().out.startswith("✓ Right.")


@EVERY_EXERCISE
def test_other_answers_are_not(setup, stated, answer, check, capsys):
    name = answer.source.split("\n")[-1].split(" = ")[0]
    names = names_after(setup.source)
    for wrong in WRONG:
        exec(check.source, names | {name: wrong})
        assert capsys.readouterr().out.startswith("✗ Not yet. "), wrong


def test_what_is_wrong_is_said_in_words_and_never_raised(capsys):
    @exercise
    def even(answer):
        if answer() % 2:
            raise AssertionError("the number is odd")  # pytest rewrites what `assert` says
        return "It is even."

    for answer in (lambda: 2, lambda: 3, lambda: 1 / 0, ...):
        even(answer)
    assert capsys.readouterr().out.split("\n") == [
        "✓ Right. It is even.",
        "✗ Not yet. The number is odd",
        "✗ Not yet. Raised ZeroDivisionError: division by zero",
        EMPTY,
        "",
    ]
