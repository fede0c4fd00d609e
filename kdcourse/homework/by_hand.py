"""What a person adds to the grades: points for written answers, a bonus, days late, a note.

It stands in a small CSV file beside the results, with one row for each submission, one column for
each written question, and the columns ``bonus``, ``late``, ``extension`` and ``note``. Grading adds
rows for new submissions and otherwise only reads it, so what stands there survives every further
run. A column with the name of another question overrides the points that its checks gave.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kdcourse import files
from kdcourse.homework.judge import Mark, Verdict
from kdcourse.homework.release import Assignment

SUBMISSION = "submission"
DAYS = ("late", "extension")


@dataclass(frozen=True)
class Entry:
    """What a person says of one submission.

    Attributes:
        points: Points by question.
        bonus: Points beside those of the questions; may be negative.
        late: Days after the deadline.
        extension: Days that were granted.
        note: Words for the student.
    """

    points: Mapping[str, float] = field(default_factory=dict)
    bonus: float = 0.0
    late: float = 0.0
    extension: float = 0.0
    note: str = ""


def update(path: Path, assignment: Assignment, submissions: Iterable[str]) -> dict[str, Entry]:
    """Add a row for each submission that has none, and return what the file says of them.

    Args:
        path: The file; made if it does not exist.
        assignment: Its written questions have columns.
        submissions: Names of the submissions.

    Raises:
        ValueError: The file cannot be read, or says something impossible. It is left as it is.
    """
    separator, header, rows = _read(path)
    written = [question.name for question in assignment.questions if not question.checks]
    columns = [name for name in (*written, "bonus", *DAYS, "note") if name not in header]
    known = _by_submission(path, rows)
    names = [harmless(name) for name in submissions]
    new = [{SUBMISSION: name} for name in names if name not in known]
    entries = {name: _entry(f"{path}, {name}", known.get(name, {}), assignment) for name in names}
    if columns or new:
        table = io.StringIO()
        writer = csv.DictWriter(table, [*header, *columns], restval="", delimiter=separator)
        writer.writeheader()
        writer.writerows([*rows, *new])
        files.write(path, table.getvalue().encode("utf-8-sig"))  # so that Excel reads UTF-8
    return entries


def applied(verdict: Verdict, entry: Entry, penalty: float) -> Verdict:
    """Return a verdict with what a person has added.

    Args:
        verdict: What the checks have given.
        entry: What is added.
        penalty: Percent of the points that each day late costs beyond the extension.
    """
    marks = [
        replace(mark, points=entry.points[mark.question], problem="")
        if mark.question in entry.points
        else mark
        for mark in verdict.marks
    ]
    late = max(0.0, entry.late - entry.extension)
    lost = min(100.0, late * penalty) / 100 * sum(mark.points or 0 for mark in marks)
    if entry.bonus:
        marks.append(Mark("bonus", entry.bonus, 0))
    if late:
        days = f"{late:g} day{'s' * (late != 1)} late, at a cost of {penalty:g} % each"
        marks.append(Mark("late", -round(lost, 2), 0, days))
    return replace(verdict, marks=marks, remarks=[*filter(None, [entry.note]), *verdict.remarks])


def harmless(text: str) -> str:
    """Keep a spreadsheet from reading a student's words as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _read(path: Path) -> tuple[str, list[str], list[dict[str, str]]]:
    """Return what separates the file's values, its columns, and its rows."""
    if not path.exists():
        return ",", [SUBMISSION], []
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not in UTF-8: save it as 'CSV UTF-8'") from None
    lines = [line for line in text.splitlines() if line.strip(" ,;\t")]
    first = lines[0] if lines else ""
    separator = max(",;\t", key=first.count)  # spreadsheets write what their country does
    table = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator)]
    header, *rows = [[value.strip() for value in row] for row in table if any(row)] or [[]]
    if SUBMISSION not in header:
        raise ValueError(f"{path} has no column {SUBMISSION!r}; its first line is {first[:100]!r}")
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has two columns of the same name: {', '.join(header)}")
    if extra := [row for row in rows if len(row) > len(header) and any(row[len(header) :])]:
        raise ValueError(f"{path} has a row with more values than columns: {extra[0]}")
    return separator, header, [dict(zip(header, row, strict=False)) for row in rows]


def _by_submission(path: Path, rows: Iterable[dict[str, str]]) -> dict[str, dict[str, str]]:
    known: dict[str, dict[str, str]] = {}
    for row in rows:
        name = row.get(SUBMISSION, "")
        if name in known:
            raise ValueError(f"{path} has two rows for {name or 'a submission without a name'}")
        known[name] = row
    return known


def _entry(where: str, row: Mapping[str, str], assignment: Assignment) -> Entry:
    points = {}
    for question in assignment.questions:
        if row.get(question.name):
            value = _number(where, question.name, row[question.name])
            if not 0 <= value <= question.points:
                raise ValueError(
                    f"{where}: {question.name} must be between 0 and {question.points:g} points, "
                    f"not {value:g}"
                )
            points[question.name] = value
    days = {name: _number(where, name, row.get(name, "")) for name in DAYS}
    if negative := [name for name, value in days.items() if value < 0]:
        raise ValueError(f"{where}: {negative[0]} is a number of days, and cannot be negative")
    bonus = _number(where, "bonus", row.get("bonus", ""))
    return Entry(points, bonus, **days, note=row.get("note", ""))


def _number(where: str, column: str, text: str) -> float:
    """Read a number, with a decimal point or comma; nothing is zero."""
    try:
        value = float(text.replace(",", ".") or 0)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {column} must be a number, not {text!r:.50}")
    return value
