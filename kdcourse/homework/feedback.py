"""The page that a student gets back: public checks in full, hidden ones only as a count."""

from html import escape

from kdcourse.homework.judge import Mark, Verdict

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:48em;margin:2em auto;padding:0 1em}"
    "h2{margin:1.5em 0 .2em}blockquote{white-space:pre-wrap;border-left:3px solid #888;"
    "margin:0;padding-left:1em}"
)


def page(assignment: str, submission: str, verdict: Verdict) -> str:
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


def _open(verdict: Verdict) -> str:
    left = sum(mark.of for mark in verdict.marks if mark.points is None)
    return f", and {left:g} to be graded by hand" if left else ""


def _question(mark: Mark) -> list[str]:
    points = "graded by hand" if mark.points is None else f"{mark.points:g}"
    lines = [f"<h2>{escape(mark.question)}: {points} of {mark.of:g}</h2>"]
    if mark.problem:
        lines.append(f"<p>{escape(mark.problem)}</p>")
    if mark.answer:
        lines.append(f"<blockquote>{escape(mark.answer)}</blockquote>")
    public = [check for check in mark.checks if not check.hidden]
    if public:
        lines += ["<ul>", *(_item(check.about, check.problem) for check in public), "</ul>"]
    hidden = [check for check in mark.checks if check.hidden]
    if hidden:
        passed = sum(not check.problem for check in hidden)
        lines.append(f"<p>{passed} of {len(hidden)} hidden checks passed.</p>")
    return lines


def _item(about: str, problem: str) -> str:
    if not problem:
        return f"<li>✓ {escape(about)}</li>"
    return f"<li>✗ {escape(about)}<br>{escape(problem)}</li>"
