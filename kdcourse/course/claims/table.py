"""What was measured as tables in Markdown, and the table of claims that docs/claims.md shows."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from kdcourse.course.claims.claim import CLAIMS, known, shown_in
from kdcourse.course.claims.results import RESULTS, Result, load


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    escaped = ([cell.replace("|", r"\|") for cell in cells] for cells in (head, *rows))
    first, *others = (f"| {' | '.join(cells)} |" for cells in escaped)
    return "\n".join([first, "|" + "---|" * len(head), *others])


def table(ids: Iterable[str] = (), folder: Path = RESULTS) -> str:
    """Return one row an effect: statement, effect with its interval, seeds, seconds, verdict."""
    interval = "mean [95 % interval]"
    head = ("claim", "the lecture says", "measured", interval, "seeds", "s/seed", "verdict")
    rows: list[Sequence[str]] = []
    for id in known(ids):
        try:
            result = load(id, folder)
        except FileNotFoundError:
            rows.append((f"`{id}`", CLAIMS[id].statement, "", "", "", "", "not measured yet"))
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
            named = (f"`{id}`", claim.statement) if first else ("", "")
            tail = (f"{seeds}", f"{seconds:.0f}", f"**{result.verdict}**") if first else ("",) * 3
            rows.append((*named, label, value, *tail))
    return markdown(head, rows)


def compressed(*results: Result) -> str:
    """Return one row a compressed model: parameters, size, accuracies untrained and retrained.

    Args:
        results: of ``pruned`` and ``quantized``, which have the same dense model.
    """

    def size(result: Result, name: str) -> tuple[str, str]:
        """Non-zero parameters and kilobytes."""
        parameters, kilobytes = (result.mean(f"{name} {k}") for k in ("parameters", "kilobytes"))
        return f"{parameters:,.0f}", f"{kilobytes:.0f}"

    arms, first = ("untrained", "labels", "taught"), results[0]
    head = ("model", "non-zero parameters", "size, kB", *arms)
    rows: list[Sequence[str]] = [
        ("dense", *size(first, "dense"), f"{first.mean('dense'):.1f}", "", "")
    ]
    for result in results:
        names = [n.removesuffix(" taught") for n in result.runs[0] if n.endswith(" taught")]
        for name in names:
            accuracies = (f"{result.mean(f'{name} {arm}'):.1f}" for arm in arms)
            rows.append((name, *size(result, name), *accuracies))
    return markdown(head, rows)


def verdicts(notebook: int, folder: Path = RESULTS) -> str:
    """Return a line for each claim of a notebook: its verdict and its name."""
    return "\n".join(f"{load(id, folder).verdict:>22}  {id}" for id in shown_in(notebook))
