"""The summary of a class holds for one and for many, and shows what needs a person."""

import re
from dataclasses import replace

import pytest

from kdcourse.homework.judge import Mark, Verdict, nothing
from kdcourse.homework.release import Assignment, Question
from kdcourse.homework.requirement import Requirement
from kdcourse.homework.summary import page

ASSIGNMENT = Assignment("1_x", (Question("loss", 3, "checks"), Question("why", 2, "")), "", b"")


def verdict(easy, hard, why=None, minutes=20.0):
    """A verdict whose two requirements have these problems in public and elsewhere."""
    requirements = [
        Requirement("It is <easy>. (1 point)", "Look.", 1, *easy),
        Requirement("It is hard. (2 points)", "Look again.", 2, *hard),
    ]
    points = sum(one.points for one in requirements if one.met)
    marks = [Mark("loss", points, 3, requirements=requirements), Mark("why", why, 2)]
    return Verdict(marks, [], {"loss": minutes})


CLASS = {
    "ann": verdict(("", ""), ("", ""), 2),
    "bob": verdict(("", ""), ("no", "no"), 1, 40.0),
    "<cleo>": verdict(("", ""), ("", "seen"), None, 60.0),
    "dan": nothing(ASSIGNMENT, "the file is empty"),
}


def cells(html):
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_numbers_of_a_class():
    html = page(ASSIGNMENT, CLASS)
    assert "Out of 5 points, the mean is 2.0 and the median 1.5." in html
    assert "Answers still to be graded by hand in 1 submission are not counted yet." in html
    rows = cells(html)
    assert ["loss", "1.2 of 3", "42%", "40 (3)"] in rows
    assert ["why", "1.0 of 2", "50%", ""] in rows
    hard = ["loss", "It is hard. (2 points)", "33%", "1"]
    easy = ["loss", "It is &lt;easy&gt;. (1 point)", "100%", ""]
    assert rows.index(hard) < rows.index(easy)
    assert ["dan", "the file is empty"] in rows
    assert "<cleo>" not in html
    assert html.count('<figure role="img" aria-label="') == html.count("<svg") == 2


@pytest.mark.parametrize("many", [1, 300])
def test_one_and_many(many):
    verdicts = {f"s{number}": CLASS["ann"] for number in range(many)}
    html = page(ASSIGNMENT, verdicts)
    assert html == page(ASSIGNMENT, dict(verdicts))  # the same bytes
    assert "Submissions with remarks" not in html


def test_nobody_could_be_graded():
    html = page(ASSIGNMENT, {"a": CLASS["dan"], "b": CLASS["dan"]})
    assert "the mean is 0.0" in html


def test_a_bonus_and_a_penalty_are_in_the_totals():
    marks = [*CLASS["ann"].marks, Mark("bonus", 3, 0), Mark("late", -0.5, 0, "1 day late")]
    html = page(ASSIGNMENT, {"ann": replace(CLASS["ann"], marks=marks)})
    assert "the mean is 7.5" in html
    assert "Submissions with remarks" not in html
