"""The table of measured claims, in Markdown, as the README shows it."""

from collections.abc import Iterable
from pathlib import Path

from kdcourse.claims.claim import CLAIMS, known
from kdcourse.claims.results import RESULTS, load


def table(ids: Iterable[str] = (), folder: Path = RESULTS) -> str:
    """Return one row an effect: statement, effect with its interval, seeds, seconds, verdict."""
    lines = [
        "| claim | the lecture says | measured | mean [95 % interval] | seeds | s/seed | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for id in known(ids):
        try:
            result = load(id, folder)
        except FileNotFoundError:
            lines.append(_row(f"`{id}`", CLAIMS[id].statement, "", "", "", "", "not measured yet"))
            continue
        claim = result.claim
        seeds, seconds = len(result.runs), sum(result.seconds.values()) / len(result.runs)
        measured = [(e.label, str(e)) for e in result.estimates]
        for bound in claim.bounds:
            worst = max(run[bound.deviation] for run in result.runs.values())
            measured.append((bound.label, f"off by {worst:.0e}" if worst else "equal"))
        measured = measured or [("", "")]
        for number, (label, value) in enumerate(measured):
            first = number == 0
            head = (f"`{id}`", claim.statement) if first else ("", "")
            tail = (f"{seeds}", f"{seconds:.0f}", f"**{result.verdict}**") if first else ("",) * 3
            lines.append(_row(*head, label, value, *tail))
    return "\n".join(lines)


def verdicts(notebook: int, folder: Path = RESULTS) -> str:
    """Return a line for each claim of a notebook: its verdict and its name."""
    ids = [id for id, claim in CLAIMS.items() if claim.notebook == notebook]
    return "\n".join(f"{load(id, folder).verdict:>22}  {id}" for id in ids)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
