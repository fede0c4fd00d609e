"""The measured parts of the README, from stored results: tables between markers, and figures."""

from pathlib import Path

from kdcourse.course import claims, plots
from kdcourse.course.bench import chunks, losses, overhead, training

README = Path(__file__).parents[2] / "README.md"
LOSSES, TRAINING = "docs/cost-of-losses.png", "docs/throughput.png"


def render(text: str) -> str:
    """Return the README's text with its tables as they are stored now."""
    tables = {
        "claims": claims.table(),
        "bench": overhead.table(overhead.load()),
        "bench-losses": losses.table(losses.load()),
        "bench-training": training.table(training.load()),
        "bench-chunks": chunks.table(chunks.load()),
    }
    for name, table in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if start not in text or end not in text:
            raise ValueError(f"the README has no place for {start.strip()} … {end}")
        before, rest = text.split(start, 1)
        text = before + start + table + "\n" + end + rest.split(end, 1)[1]
    return text


def write(path: Path = README) -> None:
    """Write the tables into the README, and the figures beside it."""
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
    for name, figure in (
        (LOSSES, plots.cost_by_samples(losses.load(), losses.WIDTH)),
        (TRAINING, plots.throughput(training.load())),
    ):
        figure.savefig(path.parent / name, dpi=110, metadata={"Software": None})
