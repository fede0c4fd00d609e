"""Nothing that a student wrote is lost, whatever became of the notebook's cells on the way."""

import json

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell

from kdcourse.homework.judge import _written
from kdcourse.homework.submission import UNANSWERED, read

NAME, QUESTION = "1_logit", "kl_or_cross_entropy"
ID, ANSWER = "kl-or-cross-entropy", "kl-or-cross-entropy-answer"
WORDS = "They do not differ: the gradients are equal."


@pytest.fixture
def handed_in(assignments):
    """Read the released notebook after a change of its list of cells."""

    def handed_in(change, keep_ids=True):
        notebook = json.loads(assignments[NAME].notebook)
        change(notebook["cells"])
        if not keep_ids:
            notebook["nbformat_minor"] = 4
            for cell in notebook["cells"]:
                cell.pop("id", None)
                cell["metadata"] = {}
        return read(json.dumps(notebook).encode(), assignments[NAME])

    return handed_in


def place(cells, id):
    return next(number for number, cell in enumerate(cells) if cell.get("id") == id)


def fill(cells, id=ANSWER, text=WORDS):
    cells[place(cells, id)]["source"] = text


def new(text, kind=new_markdown_cell):
    return dict(kind(text))


def split(cells):
    """JupyterLab's split cell: the last part keeps the id."""
    at = place(cells, ANSWER)
    first, last = WORDS.split(": ")
    cells[at]["source"] = last
    cells.insert(at, new(f"{first}:"))


def below_the_placeholder(cells):
    cells.insert(place(cells, ANSWER) + 1, new(WORDS))


def above_the_placeholder(cells):
    cells.insert(place(cells, ANSWER), new(WORDS))


def beside_the_placeholder(cells):
    fill(cells, text=f"{UNANSWERED}\n\n{WORDS}")


def merged_with_the_question(cells):
    at = place(cells, ID)
    cells[at]["source"] += "\n\n" + WORDS
    del cells[at + 1]


def in_a_raw_cell(cells):
    cells[place(cells, ANSWER)] = new(WORDS, new_raw_cell)


def in_a_code_cell(cells):
    cells[place(cells, ANSWER)] = new(WORDS, new_code_cell)


def as_a_comment(cells):
    cells[place(cells, ANSWER)] = new(f"# {WORDS}", new_code_cell)


def moved_to_the_top(cells):
    fill(cells)
    cells.insert(0, cells.pop(place(cells, ANSWER)))


def copied(cells):
    fill(cells)
    at = place(cells, ANSWER)
    cells[at]["id"] = "pasted-1"


def the_whole_question_copied(cells):
    at = place(cells, ID)
    copy = [dict(cell, id=f"copy-{cell['id']}") for cell in cells[at : at + 2]]
    copy[1]["source"] = WORDS
    cells[at + 2 : at + 2] = copy


def the_question_reworded(cells):
    fill(cells)
    cells[place(cells, ID)]["source"] = "## 5 · My answer"


IN_PLACE = [
    fill,
    split,
    below_the_placeholder,
    above_the_placeholder,
    beside_the_placeholder,
    merged_with_the_question,
    in_a_raw_cell,
    in_a_code_cell,
    as_a_comment,
    copied,
    the_whole_question_copied,
]


@pytest.mark.parametrize("keep_ids", [True, False], ids=["with ids", "without ids"])
@pytest.mark.parametrize("change", IN_PLACE, ids=lambda change: change.__name__)
def test_an_answer_is_all_that_stands_below_its_question(change, keep_ids, handed_in):
    submission = handed_in(change, keep_ids)
    assert " ".join(submission.texts[QUESTION].lstrip("# ").split()) == WORDS
    assert [name for name, text in submission.texts.items() if text] == [QUESTION]
    assert not submission.lost


@pytest.mark.parametrize("change", [moved_to_the_top, the_question_reworded])
def test_ids_help_where_they_are_left(change, handed_in):
    assert WORDS in handed_in(change).texts[QUESTION]


def only_elsewhere(cells):
    cells.insert(3, new(WORDS))


def without_its_question(cells):
    fill(cells)
    del cells[place(cells, ID)]


def at_the_end(cells):
    cells.append(new(WORDS))


@pytest.mark.parametrize("keep_ids", [True, False])
@pytest.mark.parametrize(
    "change",
    [only_elsewhere, without_its_question, at_the_end, moved_to_the_top, the_question_reworded],
)
def test_where_no_answer_is_in_place_a_person_sees_all_text(
    change, keep_ids, handed_in, assignments
):
    submission = handed_in(change, keep_ids)
    (question,) = (one for one in assignments[NAME].questions if one.name == QUESTION)
    mark = _written(question, submission)
    assert mark.points is None
    assert WORDS in mark.answer
    assert mark.problem.startswith("to be graded by hand")


def test_only_where_nothing_is_written_it_is_not_answered(handed_in, assignments):
    (question,) = (one for one in assignments[NAME].questions if one.name == QUESTION)
    for keep_ids in (True, False):
        submission = handed_in(lambda cells: None, keep_ids)
        assert not any(submission.texts.values())
        mark = _written(question, submission)
        assert (mark.points, mark.problem) == (0, "not answered")


def test_a_note_below_a_code_question_is_kept_there(handed_in):
    submission = handed_in(
        lambda cells: cells.insert(place(cells, "kd-loss-check"), new("I tried hard."))
    )
    assert submission.texts["kd_loss"] == "I tried hard."


CODE = "import math\n\n\ndef kd_loss(s, t, temperature):\n    return 0"


@pytest.mark.parametrize("kind", [new_markdown_cell, new_raw_cell])
def test_code_in_a_cell_of_another_kind_is_run(kind, handed_in):
    def change(cells):
        cells[place(cells, "kd-loss-answer")] = new(CODE, kind)

    submission = handed_in(change)
    assert CODE in submission.cells.values()
    assert any("is no code cell, but was run as one" in one for one in submission.remarks)
    assert not submission.texts["kd_loss"]


def test_words_about_code_are_not_run(handed_in):
    text = f"My idea:\n\n```python\n{CODE}\n```"
    submission = handed_in(lambda cells: fill(cells, text=text))
    assert submission.texts[QUESTION] == text
    assert not any(CODE in source for source in submission.cells.values())


def test_a_function_in_a_cell_to_try_things_counts(handed_in):
    tried = "train-student-try"
    assert not any("Try it" in source for source in handed_in(lambda _: None).cells.values())
    more = "\n\n\ndef train_student(student, inputs, target, teacher_logits):\n    pass"

    def change(cells):
        cells[place(cells, tried)]["source"] += more

    assert any("Try it" in source for source in handed_in(change).cells.values())


def test_what_is_defined_twice_is_remarked(handed_in):
    submission = handed_in(lambda cells: cells.append(new(CODE, new_code_cell)))
    assert submission.remarks == ["kd_loss is defined 2 times; the last one counts"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ('minutes = {"kd_loss": 25, "kd_gradient": None}', {"kd_loss": 25.0}),
        ('minutes = {"kd_loss": 1e9, "kd_gradient": -1, "nosuch": 3}', {}),
        ('minutes = {"kd_loss": "long", "kd_gradient": 7.5}', {"kd_gradient": 7.5}),
        ("minutes = 90", {}),
        ('minutes = {"kd_loss": open("x")}', {}),
        ("minutes = {" + "[" * 900 + "]" * 900 + ": 1}", {}),
    ],
)
def test_minutes(source, told, handed_in):
    assert handed_in(lambda cells: fill(cells, "minutes", source)).minutes == told


@pytest.mark.parametrize(
    "cells",
    [
        [new("x = " + "(" * 40_000, new_code_cell)],
        [new("## " * 300_000)],
        [new("def kd_loss(" * 50_000, new_code_cell)],
        [new("a", new_code_cell), new("b")] * 20_000,
    ],
    ids=["nested", "headings", "definitions", "cells"],
)
def test_a_notebook_alone_does_not_keep_the_grader_busy(cells, handed_in):
    submission = handed_in(
        lambda own: own.extend(dict(cell, id=f"x{i}") for i, cell in enumerate(cells))
    )
    assert len(submission.cells) > 5
