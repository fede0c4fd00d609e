"""How a class did, as a page for its instructor: totals, questions, requirements, open cases."""

import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import mean, median

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdcourse.homework.feedback import BY_HAND
from kdcourse.homework.judge import Mark, Verdict
from kdcourse.homework.release import Assignment

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "figure{margin:1em 0}svg{max-width:100%;height:auto}table{border-collapse:collapse}"
    "td,th{text-align:left;padding:.2em .8em .2em 0;border-bottom:1px solid #ddd;"
    "vertical-align:top}"
)
COLOUR = "#3b6ea5"


def page(assignment: Assignment, verdicts: Mapping[str, Verdict]) -> str:
    """Return the summary of all verdicts on an assignment as HTML; the same for the same verdicts.

    Args:
        assignment: What was graded.
        verdicts: The verdicts by the name of the submission.
    """
    title = f"{assignment.name}: {len(verdicts)} submission{'s' * (len(verdicts) != 1)}"
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *_totals(assignment, list(verdicts.values())),
        *_questions(assignment, list(verdicts.values())),
        *_requirements(list(verdicts.values())),
        *_remarked(verdicts),
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def _totals(assignment: Assignment, verdicts: Sequence[Verdict]) -> list[str]:
    totals = [verdict.points for verdict in verdicts]
    of = sum(question.points for question in assignment.questions)
    waiting = sum(any(mark.points is None for mark in one.marks) for one in verdicts)
    said = (
        f"Out of {of:g} points, the mean is {mean(totals):.1f} and the median {median(totals):.1f}."
    )
    if waiting:
        where = f"{waiting} submission{'s' * (waiting != 1)}"
        said += f" Answers still to be graded by hand in {where} are not counted yet."
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    highest = max(of, *totals)
    axes.hist(
        totals, bins=min(20, max(5, round(of))), range=(min(0, *totals), highest), color=COLOUR
    )
    axes.set(xlabel="points", ylabel="submissions")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return [f"<p>{said}</p>", _picture(figure, f"Histogram of the totals. {said}")]


def _questions(assignment: Assignment, verdicts: Sequence[Verdict]) -> list[str]:
    rows, names, shares = [], [], []
    for question in assignment.questions:
        marks = [
            one for verdict in verdicts for one in verdict.marks if one.question == question.name
        ]
        given = [mark.points for mark in marks if mark.points is not None]
        share = mean(given) / question.points if given else 0.0
        took = [one.minutes[question.name] for one in verdicts if question.name in one.minutes]
        names.append(question.name)
        shares.append(share)
        rows.append(
            (
                question.name,
                f"{mean(given):.1f} of {question.points:g}" if given else "not yet graded",
                f"{share:.0%}" if given else "",
                f"{median(took):.0f} ({len(took)})" if took else "",
            )
        )
    figure = Figure(figsize=(7, 0.6 + 0.35 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.barh(names, [100 * share for share in shares], color=COLOUR)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="mean % of the points")
    heads = ("question", "mean points", "success", "median minutes (reported by)")
    return [
        "<h2>Questions</h2>",
        _picture(figure, "Success on each question, as in the table below."),
        *_table(heads, rows),
    ]


def _requirements(verdicts: Sequence[Verdict]) -> list[str]:
    by_name: dict[tuple[str, str], list[tuple[bool, bool]]] = {}
    for mark in (mark for verdict in verdicts for mark in verdict.marks):
        for one in mark.requirements:
            outcome = one.met, not one.problem and not one.met
            by_name.setdefault((mark.question, one.about), []).append(outcome)
    counted = [
        (mean(met for met, _ in outcomes), sum(only for _, only in outcomes), *name)
        for name, outcomes in by_name.items()
    ]
    hardest = sorted(counted, key=lambda row: row[0])
    rows = [(q, about, f"{share:.0%}", f"{only or ''}") for share, only, q, about in hardest]
    heads = ("question", "requirement", "met by", "met only on the public inputs")
    return ["<h2>Requirements, hardest first</h2>", *_table(heads, rows)]


def _remarked(verdicts: Mapping[str, Verdict]) -> list[str]:
    rows = [
        (name, "; ".join(dict.fromkeys([*verdict.remarks, *_problems(verdict.marks)])))
        for name, verdict in verdicts.items()
    ]
    rows = [row for row in rows if row[1]]
    if not rows:
        return []
    return ["<h2>Submissions with remarks</h2>", *_table(("submission", "remarks"), rows)]


def _problems(marks: Iterable[Mark]) -> list[str]:
    """Return why questions could not be checked, or need more than a look at the answer."""
    return [
        f"{one.question}: {one.problem}"
        for one in marks
        if one.of and one.problem not in ("", BY_HAND)
    ]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(tag: str, values: Sequence[str]) -> str:
        return "".join(f"<{tag}>{escape(value)}</{tag}>" for value in values)

    body = (f"<tr>{line('td', row)}</tr>" for row in rows)
    return ["<table>", f"<tr>{line('th', heads)}</tr>", *body, "</table>"]


def _picture(figure: Figure, words: str) -> str:
    drawn = io.StringIO()
    with rc_context({"svg.hashsalt": words, "font.size": 10}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    svg = drawn.getvalue().partition("<svg")[2]
    return f'<figure role="img" aria-label="{escape(words)}"><svg{svg}</figure>'
