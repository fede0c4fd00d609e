"""What was measured as tables in Markdown, and the table of claims that docs/claims.md shows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdcourse.course.claims.claim import (
    CLAIMS,
    HOLDS,
    NOT_SEEN,
    REPORTED,
    REVERSED,
    known,
    shown_in,
)
from kdcourse.course.claims.results import RESULTS, Result, load


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    escaped = ([cell.replace("|", r"\|") for cell in cells] for cells in (head, *rows))
    first, *others = (f"| {' | '.join(cells)} |" for cells in escaped)
    return "\n".join([first, "|" + "---|" * len(head), *others])


def table(ids: Iterable[str] = (), folder: Path = RESULTS, device: str = "cpu") -> str:
    """Return one row an effect: statement, effect with its interval, seeds, seconds, verdict."""
    interval = "mean [95 % interval]"
    head = ("claim", "statement", "measured", interval, "seeds", "s/seed", "verdict")
    rows: list[Sequence[str]] = []
    for id in known(ids):
        named = f"`{id}`", CLAIMS[id].statement
        try:
            result = load(id, folder, device)
        except FileNotFoundError:
            rows.append((*named, "", "", "", "", "not measured yet"))
            continue
        measured = [(e.label, str(e)) for e in result.estimates]
        for bound in result.claim.bounds:
            worst = max(result.values(bound.deviation))
            measured.append((bound.label, f"off by {worst:.0e}" if worst else "equal"))
        first, *others = measured or [("", "")]
        seeds = len(result.runs)
        seconds = f"{sum(result.seconds.values()) / seeds:.0f}"
        rows.append((*named, *first, f"{seeds}", seconds, f"**{result.verdict}**"))
        rows += [("", "", *other, "", "", "") for other in others]
    return markdown(head, rows)


def compressed(*results: Result) -> str:
    """Return one row a compressed model: parameters, size, accuracies untrained and retrained.

    Args:
        results: Those of ``pruned`` and ``quantized``, which have the same dense model.
    """

    def row(result: Result, name: str, *accuracies: str) -> list[str]:
        parameters, kilobytes = (result.mean(f"{name} {k}") for k in ("parameters", "kilobytes"))
        means = [f"{result.mean(accuracy):.1f}" for accuracy in accuracies]
        return [name, f"{parameters:,.0f}", f"{kilobytes:.0f}", *means]

    arms = ("untrained", "labels", "taught")
    rows = [[*row(results[0], "dense", "dense"), "", ""]]
    for result in results:
        names = [n.removesuffix(" taught") for n in result.runs[0] if n.endswith(" taught")]
        rows += [row(result, name, *(f"{name} {arm}" for arm in arms)) for name in names]
    return markdown(("model", "non-zero parameters", "size, kB", *arms), rows)


WORDS = {  # of the verdicts
    HOLDS: "✓ **holds**",
    NOT_SEEN: "○ not seen at this scale",
    REVERSED: "✗ **reversed**",
    REPORTED: "reported",
}


def verdicts(notebook: str, folder: Path = RESULTS) -> str:
    """Return one row a claim of a notebook: its statement, and what was measured of it.

    Searches for settings, which say nothing about the lecture, are left out.
    """
    shown = [load(id, folder) for id in shown_in(notebook) if not CLAIMS[id].search]
    rows = [(r.claim.statement, WORDS[r.verdict], f"{len(r.runs)}") for r in shown]
    return markdown(("claim", "measured", "seeds"), rows)


def counted(notebook: str, folder: Path = RESULTS) -> str:
    """Count the claims of a notebook by verdict, in words: ``"3 claims: 2 hold, 1 not seen"``.

    Searches for settings are left out, as in :func:`verdicts`.
    """
    shown = [id for id in shown_in(notebook) if not CLAIMS[id].search]
    found = Counter(load(id, folder).verdict for id in shown)
    words = {
        HOLDS: "hold",
        NOT_SEEN: "not seen",
        REVERSED: "reversed",
        REPORTED: "reported",
    }
    parts = [f"{found[verdict]} {word}" for verdict, word in words.items() if found[verdict]]
    return f"{len(shown)} claims: {', '.join(parts)}"
