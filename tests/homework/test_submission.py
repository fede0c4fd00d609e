"""Nothing that a student wrote is lost, whatever became of the notebook's cells on the way."""

import json

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell

from kdcourse.homework.cells import seal
from kdcourse.homework.judge import _written
from kdcourse.homework.submission import read

NAME, QUESTION = "1_logit", "kl_or_cross_entropy"
ID, ANSWER = "kl-or-cross-entropy", "kl-or-cross-entropy-answer"
UNANSWERED = "_Type your answer here, replacing this text._"  # as otter writes it
WORDS = "They do not differ: the gradients are equal."


@pytest.fixture
def handed_in(assignments):
    """Read the released notebook after a change of its list of cells."""

    def handed_in(change, keep_ids=True):
        notebook = json.loads(assignments[NAME].notebook)
        for cell in notebook["cells"]:
            cell["source"] = "".join(cell["source"])
        change(notebook["cells"])
        if not keep_ids:
            notebook["nbformat_minor"] = 4
            for cell in notebook["cells"]:
                cell.pop("id", None)
                cell["metadata"] = {}
        return read(json.dumps(notebook).encode(), assignments[NAME])

    return handed_in


CODE = "import math\n\n\ndef kd_loss(s, t, temperature):\n    return 0"


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


def between_the_lines_of_the_question(cells):
    cells[place(cells, ID)]["source"] += f" {WORDS}"


def merged_with_the_next_question(cells):
    at = place(cells, ANSWER)
    cells[at + 1]["source"] = f"{WORDS}\n\n{cells[at + 1]['source']}"
    del cells[at]


def in_a_string(cells):
    cells[place(cells, ANSWER)] = new(f"answer = {WORDS!r}", new_code_cell)


def with_other_line_ends(cells):
    fill(cells)
    for cell in cells:
        cell["source"] = cell["source"].replace("\n", "\r\n")


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
    in_a_string,
    merged_with_the_next_question,
    with_other_line_ends,
    copied,
    the_whole_question_copied,
]


@pytest.mark.parametrize("keep_ids", [True, False], ids=["with ids", "without ids"])
@pytest.mark.parametrize("change", IN_PLACE, ids=lambda change: change.__name__)
def test_an_answer_is_all_that_stands_below_its_question(change, keep_ids, handed_in):
    submission = handed_in(change, keep_ids)
    said = submission.texts[QUESTION].removeprefix("answer = ").strip("#' ")
    assert " ".join(said.split()) == WORDS
    assert [name for name, text in submission.texts.items() if text] == [QUESTION]
    assert not submission.lost


def test_an_answer_between_the_lines_of_the_question_is_shown_with_its_line(handed_in):
    for keep_ids in (True, False):
        text = handed_in(between_the_lines_of_the_question, keep_ids).texts[QUESTION]
        assert text.endswith(WORDS)
        assert "\n" not in text


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


def in_a_string_at_the_end(cells):
    cells.append(new(f"answer = {WORDS!r}", new_code_cell))


def printed_at_the_end(cells):
    cells.append(new(f"x = 1\nprint({WORDS!r})", new_code_cell))


def without_its_question_in_a_string(cells):
    without_its_question(cells)
    cells[place(cells, ANSWER)] = new(f"answer = {WORDS!r}", new_code_cell)


def in_a_cell_that_checks(cells):
    cells[place(cells, "kd-loss-check")]["source"] += f"  \n# {WORDS}"


def above_a_function(cells):
    cells[place(cells, "kd-loss-answer")]["source"] = f"# {WORDS}\n{CODE}"


def beside_the_minutes(cells):
    cells[place(cells, "minutes")]["source"] += f"\n# {WORDS}"


def in_the_only_cell(cells):
    cells[:] = [new(f"{CODE}\n\n# {WORDS}", new_code_cell)]


@pytest.mark.parametrize("keep_ids", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        only_elsewhere,
        without_its_question,
        without_its_question_in_a_string,
        at_the_end,
        in_a_string_at_the_end,
        printed_at_the_end,
        in_a_cell_that_checks,
        above_a_function,
        beside_the_minutes,
        in_the_only_cell,
        moved_to_the_top,
        the_question_reworded,
    ],
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


def test_scratch_work_is_no_answer(handed_in, assignments):
    (question,) = (one for one in assignments[NAME].questions if one.name == QUESTION)
    work = "x = torch.randn(3, 4)\nprint(x.sum(), 'x')"
    submission = handed_in(lambda cells: cells.append(new(work, new_code_cell)))
    assert _written(question, submission).points == 0


def test_the_handouts_words_are_nobodys_answer_in_another_edition_either(handed_in, assignments):
    """The handout was released before a question was worded anew."""

    def reword(cells):
        for id in ("kd-loss", ID, "train-student-try"):
            cell = cells[place(cells, id)]
            cell["source"] = cell["source"].replace("the", "THE")
            cell["metadata"]["released"] = seal(cell["source"])

    submission = handed_in(reword)
    assert not any(submission.texts.values())
    assert not submission.asides
    assert "THE test images" not in " ".join(submission.cells.values())


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


@pytest.mark.parametrize("kind", [new_markdown_cell, new_raw_cell])
def test_code_in_a_cell_of_another_kind_is_run(kind, handed_in):
    def change(cells):
        cells[place(cells, "kd-loss-answer")] = new(CODE, kind)

    submission = handed_in(change)
    assert CODE in submission.cells.values()
    assert any("is not a code cell, but was run as one" in one for one in submission.remarks)
    assert not submission.texts["kd_loss"]


def test_code_merged_with_its_question_is_run(handed_in):
    def change(cells):
        cells[place(cells, "kd-loss")]["source"] += f"\n\n{CODE}"
        del cells[place(cells, "kd-loss-answer")]

    for keep_ids in (True, False):
        assert CODE in handed_in(change, keep_ids).cells.values()


@pytest.mark.parametrize("at", [0, 1])
def test_a_stub_does_not_come_before_the_answer_and_a_draft_in_words_neither(at, handed_in):
    for kind in (new_code_cell, new_markdown_cell):
        submission = handed_in(
            lambda cells, kind=kind: cells.insert(
                place(cells, "kd-loss-answer") + at, new(CODE, kind)
            )
        )
        defining = [one for one in submission.cells.values() if "def kd_loss" in one]
        assert defining[-1] == CODE

    def draft(cells):
        fill(cells, "kd-loss-answer", CODE)
        cells.insert(place(cells, "kd-loss-answer") + at, new("def kd_loss(): ...", new_raw_cell))

    submission = handed_in(draft)
    assert CODE in submission.cells.values()
    assert submission.texts["kd_loss"] == "def kd_loss(): ..."


def test_words_about_code_are_not_run(handed_in):
    text = f"My idea:\n\n```python\n{CODE}\n```"
    submission = handed_in(lambda cells: fill(cells, text=text))
    assert submission.texts[QUESTION] == text
    assert not any(CODE in source for source in submission.cells.values())


def test_a_function_in_a_cell_to_try_things_counts(handed_in):
    tried = "train-student-try"
    assert not any("Try it" in source for source in handed_in(lambda _: None).cells.values())
    more = "def train_student(student, inputs, target, teacher_logits):\n    pass"

    def change(cells):
        cells[place(cells, tried)]["source"] += f"\n\n\n{more}"

    assert more in handed_in(change).cells.values()  # and what is tried there cannot fail


def test_magics_are_code(handed_in):
    source = f"%matplotlib inline\n!pip list\n{CODE}"
    submission = handed_in(lambda cells: fill(cells, "kd-loss-answer", source))
    assert source in submission.cells.values()
    assert not any(submission.texts.values())


def test_what_is_defined_twice_is_remarked(handed_in):
    def change(cells):
        fill(cells, "kd-loss-answer", CODE)
        cells.append(new(CODE, new_code_cell))

    assert handed_in(change).remarks == ["kd_loss is defined 2 times; the last one counts"]


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


def broken_metadata(cells):
    for cell in cells:
        cell["metadata"] = []


def cells_of_no_known_kind(cells):
    for cell in cells:
        cell["cell_type"] = 7


def lists_of_lines(cells):
    for cell in cells:
        cell["source"] = cell["source"].splitlines(keepends=True)


def words_for_a_cell(cells):
    cells[place(cells, ANSWER)] = WORDS


def thousands_of_tags(cells):
    for cell in cells:
        cell["metadata"]["tags"] = [0, "a", None, {}] * 5_000


@pytest.mark.parametrize(
    "damage",
    [
        broken_metadata,
        cells_of_no_known_kind,
        lists_of_lines,
        words_for_a_cell,
        thousands_of_tags,
    ],
)
def test_a_notebook_may_be_invalid(damage, handed_in):
    def change(cells):
        fill(cells)
        damage(cells)

    assert handed_in(change).texts[QUESTION] == WORDS


@pytest.mark.parametrize(
    "cells",
    [
        [new("x = [" + "[0], " * 9_000 + "]", new_code_cell)] * 200,
        [new("x = " + "(" * 40_000, new_code_cell)],
        [new("## " * 300_000)],
        [new("def kd_loss(" * 50_000, new_code_cell)],
        [new("a", new_code_cell), new("b")] * 20_000,
    ],
    ids=["long", "nested", "headings", "definitions", "cells"],
)
def test_a_notebook_alone_does_not_keep_the_grader_busy(cells, handed_in):
    submission = handed_in(
        lambda own: own.extend(dict(cell, id=f"x{i}") for i, cell in enumerate(cells))
    )
    assert len(submission.cells) > 5
