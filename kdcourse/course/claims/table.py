"""The table of measured claims, in Markdown, as docs/claims.md shows it."""

from collections.abc import Iterable
from pathlib import Path

from kdcourse.course.claims.claim import CLAIMS, known
from kdcourse.course.claims.results import RESULTS, Result, load


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


def compressed(*results: Result) -> str:
    """Return one row a compressed model: parameters, size, accuracies untrained and retrained.

    Args:
        results: of ``pruned`` and ``quantized``, which have the same dense model.
    """
    lines = [
        "| model | non-zero parameters | size, kB | untrained | labels | taught |",
        "|---|---|---|---|---|---|",
    ]

    def size(result: Result, name: str) -> tuple[str, str]:
        """Non-zero parameters and kilobytes."""
        parameters, kilobytes = (result.mean(f"{name} {k}") for k in ("parameters", "kilobytes"))
        return f"{parameters:,.0f}", f"{kilobytes:.0f}"

    first = results[0]
    lines.append(_row("dense", *size(first, "dense"), f"{first.mean('dense'):.1f}", "", ""))
    for result in results:
        names = [n.removesuffix(" taught") for n in result.runs[0] if n.endswith(" taught")]
        for name in names:
            arms = (f"{result.mean(f'{name} {a}'):.1f}" for a in ("untrained", "labels", "taught"))
            lines.append(_row(name, *size(result, name), *arms))
    return "\n".join(lines)


def verdicts(notebook: int, folder: Path = RESULTS) -> str:
    """Return a line for each claim of a notebook: its verdict and its name."""
    ids = [id for id, claim in CLAIMS.items() if claim.notebook == notebook]
    return "\n".join(f"{load(id, folder).verdict:>22}  {id}" for id in ids)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
