"""The measured parts of README and docs, from stored results: tables between markers, and figures.

What stands between ``<!-- name -->`` and ``<!-- /name -->`` is written anew by
``python -m kdcourse docs``.
"""

import re
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

from kdcourse.course import claims, plots
from kdcourse.course.bench import chunks, losses, overhead, training
from kdcourse.course.claims import CLAIMS
from kdcourse.course.claims.claim import HOLDS, NOT_SEEN, REPORTED, REVERSED
from kdcourse.course.notebooks import course_notebooks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs/claims.md", ROOT / "docs/benchmarks.md"]


def verdicts() -> str:
    """Count the claims by their verdict, in a sentence."""
    found = Counter(claims.load(id).verdict for id in CLAIMS)
    return (
        f"Of {found.total() - found[REPORTED]} claims **{found[HOLDS]} hold**, {found[NOT_SEEN]} "
        f"were not seen at this scale, and {found[REVERSED]} came out reversed; "
        f"{found[REPORTED]} further measurements, such as searches for settings, are reported "
        "without a verdict."
    )


def of_notebooks() -> str:
    """Return the claims by notebook: a picture of all effects, then the table."""
    parts = []
    for path in course_notebooks():
        number, name = path.stem.split("_", 1)
        ids = [id for id, claim in CLAIMS.items() if claim.notebook == int(number)]
        about = f"Forest plot of the claims of notebook {number}: {forest_text(ids)}"
        parts += [f"## {number} {name}", f"![{about}](claims-{number}.png)", claims.table(ids)]
    return "\n\n".join(parts)


def forest_text(ids: list[str]) -> str:
    """Say in words what a forest plot shows: the verdict on every claim that has effects."""
    said = [f"{id} {claims.load(id).verdict}" for id in ids if CLAIMS[id].effects]
    return "; ".join(said)


def figures() -> dict[str, Figure]:
    """Return the figures of the docs, by their paths."""
    drawn = {
        "docs/cost-of-losses.png": plots.cost_by_samples(losses.load(), losses.WIDTH),
        "docs/throughput.png": plots.throughput(training.load()),
    }
    for path in course_notebooks():
        number = int(path.stem[0])
        results = [claims.load(id) for id, claim in CLAIMS.items() if claim.notebook == number]
        drawn[f"docs/claims-{number}.png"] = plots.forest(*results)
    return drawn


def render(text: str) -> str:
    """Return a page's text with what stands between its markers as it is stored now."""
    parts = {
        "verdicts": verdicts,
        "claims": of_notebooks,
        "bench": lambda: overhead.table(overhead.load()),
        "bench-losses": lambda: losses.table(losses.load()),
        "bench-training": lambda: training.table(training.load()),
        "bench-chunks": lambda: chunks.table(chunks.load()),
    }

    def written(found: re.Match[str]) -> str:
        return f"{found[1]}\n{parts[found[2]]()}\n<!-- /{found[2]} -->"

    return re.sub(r"(<!-- ([\w-]+) -->)\n.*?<!-- /\2 -->", written, text, flags=re.DOTALL)


def write() -> None:
    """Write the measured parts into README and docs, and the figures beside them."""
    for page in PAGES:
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
    for name, figure in figures().items():
        figure.savefig(ROOT / name, dpi=110, metadata={"Software": None})
