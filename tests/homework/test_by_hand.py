"""What a person adds to the grades survives every run, and what cannot be is refused."""

import csv
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcourse.homework.by_hand import Entry, applied, update
from kdcourse.homework.judge import Mark, Verdict
from kdcourse.homework.release import Assignment, Question

ASSIGNMENT = Assignment(
    "1_x", (Question("loss", 4, "checks"), Question("why", 2, ""), Question("how", 3, "")), "", b""
)
HEADER = ["submission", "why", "how", "bonus", "late", "extension", "note"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "grades-by-hand.csv"


def table(path):
    return list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


def test_the_file_is_made_with_a_row_for_each(path):
    assert update(path, ASSIGNMENT, ["ann", "=bob"]) == {"ann": Entry(), "'=bob": Entry()}
    assert table(path) == [HEADER, ["ann", *[""] * 6], ["'=bob", *[""] * 6]]


def test_what_a_person_wrote_is_read_and_kept(path):
    text = "note;submission;late;why;mine;extension\n\nwell done; ann ;3;1,5;x;1\n;gone;;2;y;\n"
    path.write_bytes(text.encode("utf-8-sig"))
    entries = update(path, ASSIGNMENT, ["ann", "new"])
    assert entries["ann"] == Entry({"why": 1.5}, 0, 3, 1, "well done")
    assert entries["new"] == Entry()
    kept = path.read_text("utf-8-sig")
    assert kept.splitlines() == [
        "note;submission;late;why;mine;extension;how;bonus",
        "well done;ann;3;1,5;x;1;;",
        ";gone;;2;y;;;",
        ";new;;;;;;",
    ]
    before = path.stat().st_mtime_ns
    assert update(path, ASSIGNMENT, ["ann", "new"]) == entries
    assert path.stat().st_mtime_ns == before


words = st.text(st.characters(exclude_categories=("Cs", "Cc"))).map(str.strip)
names = words.filter(bool)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    notes=st.dictionaries(names, words, min_size=1, max_size=4),
    separator=st.sampled_from(",;\t"),
    ending=st.sampled_from(["\n", "\r\n"]),
    new=st.lists(names, unique=True, max_size=3),
)
def test_no_word_is_lost(notes, separator, ending, new, path):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator=ending)
    writer.writerows([["submission", "note"], *notes.items()])
    path.write_bytes(file.getvalue().encode())
    for _ in range(2):
        update(path, ASSIGNMENT, [*new, *notes])
        header, *rows = csv.reader(
            io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), delimiter=separator
        )
        own = {row[0]: row[header.index("note")] for row in rows}
        assert notes.items() <= own.items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,why\nann,1", "has no column 'submission'; its first line is 'name,why'"),
        ("submission,why\nann,two", "ann: why must be a number, not 'two'"),
        ("submission,why\nann,nan", "ann: why must be a number, not 'nan'"),
        ("submission,why\nann,2.5", "ann: why must be between 0 and 2 points, not 2.5"),
        ("submission,loss\nann,-1", "ann: loss must be between 0 and 4 points, not -1"),
        ("submission,late\nann,-1", "ann: late is a number of days"),
        ("submission,bonus\nann,1.000.5", "ann: bonus must be a number"),
        ("submission,why\nann,1\nann,2", "has two rows for ann"),
        ("submission,why,why\nann,1,2", "has two columns of the same name"),
        ("submission,why\nann,1,2", "more values than columns"),
    ],
)
def test_what_cannot_be_is_refused_and_left_as_it_is(text, message, path):
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        update(path, ASSIGNMENT, ["ann", "bob"])
    assert str(path) in str(error.value)
    assert path.read_text() == text


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_told(encoding, path):
    path.write_bytes("submission,note\nann,fünf".encode(encoding))
    with pytest.raises(ValueError, match="save it as 'CSV UTF-8'"):
        update(path, ASSIGNMENT, ["ann"])


VERDICT = Verdict(
    [
        Mark("loss", 4, 4),
        Mark("why", None, 2, "to be graded by hand", answer="So."),
        Mark("how", 0, 3),
    ],
    ["a remark"],
    {"loss": 5.0},
)


def test_points_by_hand_fill_and_override():
    verdict = applied(VERDICT, Entry({"why": 1.5, "loss": 3}), 10)
    assert [mark.points for mark in verdict.marks] == [3, 1.5, 0]
    assert verdict.marks[1] == Mark("why", 1.5, 2, answer="So.")
    assert verdict.points == 4.5
    assert verdict.of == 9
    assert (verdict.remarks, verdict.minutes) == (VERDICT.remarks, VERDICT.minutes)
    assert applied(VERDICT, Entry(), 10) == VERDICT


@pytest.mark.parametrize(
    ("late", "extension", "penalty", "points"),
    [
        (2, 0, 10, 3.2),
        (2, 1, 10, 3.6),
        (2, 3, 10, 4),
        (30, 0, 10, 0),
        (1, 0, 0, 4),
        (0.5, 0, 50, 3),
    ],
)
def test_days_late_cost_a_share_of_the_points(late, extension, penalty, points):
    verdict = applied(VERDICT, Entry(late=late, extension=extension), penalty)
    assert verdict.points == pytest.approx(points)
    assert verdict.of == 9


def test_a_bonus_is_not_late():
    verdict = applied(VERDICT, Entry({"why": 2}, bonus=1.5, late=1, note="Thanks"), 50)
    assert [(mark.question, mark.points) for mark in verdict.marks[3:]] == [
        ("bonus", 1.5),
        ("late", -3),
    ]
    assert verdict.points == 4.5
    assert verdict.remarks == ["Thanks", "a remark"]
