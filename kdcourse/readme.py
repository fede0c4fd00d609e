"""The measured parts of the README, from stored results: tables between markers, a figure."""

from pathlib import Path

from kdcourse import claims, plots
from kdcourse.bench import losses, overhead

README = Path(__file__).parents[1] / "README.md"
FIGURE = "docs/cost-of-losses.png"


def render(text: str) -> str:
    """Return the README's text with its tables as they are stored now."""
    tables = {
        "claims": claims.table(),
        "bench": overhead.table(overhead.load()),
        "bench-losses": losses.table(losses.load()),
    }
    for name, table in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if start not in text or end not in text:
            raise ValueError(f"the README has no place for {start.strip()} … {end}")
        before, rest = text.split(start, 1)
        text = before + start + table + "\n" + end + rest.split(end, 1)[1]
    return text


def write(path: Path = README) -> None:
    """Write the tables into the README, and the figure beside it."""
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
    figure = plots.cost_by_samples(losses.load(), losses.WIDTH)
    figure.savefig(path.parent / FIGURE, dpi=110, metadata={"Software": None})
