"""What a student is shown: each requirement, whether it is met, and what to do about it."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from kdcourse.homework.requirement import Requirement

if TYPE_CHECKING:  # a student's notebook lists requirements, and needs no grader for that
    from kdcourse.homework.judge import Mark, Verdict

BY_HAND = "to be graded by hand"
STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:48em;margin:2em auto;padding:0 1em}"
    "h2{margin:1.5em 0 .2em}blockquote{white-space:pre-wrap;border-left:3px solid #888;"
    "margin:0;padding-left:1em}"
)


def page(assignment: str, submission: str, verdict: "Verdict") -> str:
    """Return the feedback on one submission as HTML."""
    title = f"{assignment}: {submission}"
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p><strong>{verdict.points:g} of {verdict.of:g} points</strong>{_open(verdict)}</p>",
        *(f"<p>Note: {escape(remark)}</p>" for remark in verdict.remarks),
        *(line for mark in verdict.marks for line in _question(mark)),
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def _open(verdict: "Verdict") -> str:
    left = sum(mark.of for mark in verdict.marks if mark.points is None)
    return f", with {left:g} still to be graded by hand" if left else ""


def _question(mark: "Mark") -> list[str]:
    if mark.points is None:
        points = f"{mark.of:g} points, {BY_HAND}"
    else:  # a bonus is beside the points
        points = f"{mark.points:g} of {mark.of:g}" if mark.of else f"{mark.points:g}"
    lines = [f"<h2>{escape(mark.question)}: {points}</h2>"]
    if mark.problem not in ("", BY_HAND):
        lines.append(f"<p>{escape(mark.problem)}</p>")
    if mark.answer:
        lines.append(f"<blockquote>{escape(mark.answer)}</blockquote>")
    return lines + (listed(mark.requirements) if mark.requirements else [])


def listed(requirements: Sequence[Requirement]) -> list[str]:
    """List requirements in HTML; what a hidden check has found is not shown."""
    items = (f"<li>{'<br>'.join(map(escape, entry))}</li>" for entry in entries(requirements))
    return ['<ul style="list-style: none; padding-left: 0">', *items, "</ul>"]


def entries(requirements: Sequence[Requirement]) -> list[list[str]]:
    """Say of each requirement whether it is met, and if not, what was wrong and what to do.

    What is wrong with several of them in the same way is said once, without their advice.
    """
    problems = [one.problem for one in requirements]
    lines = []
    for place, one in enumerate(requirements):
        line = [f"{'✓' if one.met else '✗'} {one.about}"]
        if one.problem and one.problem in problems[:place]:
            line.append("As above.")
        elif one.problem and one.problem in problems[place + 1 :]:
            line.append(one.problem)
        elif not one.met:
            line += [
                one.problem or "Met on the inputs of grader.check, but not on others.",
                one.advice,
            ]
        lines.append(line)
    return lines
