"""The measured parts of the README: tables between markers, written from stored results."""

from pathlib import Path

from kdcourse import claims
from kdcourse.bench import losses, overhead

README = Path(__file__).parents[1] / "README.md"


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
    """Write the tables into the README."""
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
