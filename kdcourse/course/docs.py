"""What README and docs show of the stored results: tables between markers, and figures.

``python -m kdcourse docs`` writes anew what stands between ``<!-- name -->`` and
``<!-- /name -->``. A figure carries a digest of what it shows, so that a stale one is noticed.
"""

import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from kdcourse import files
from kdcourse.course import claims, leaderboard, plots, published, schematics
from kdcourse.course.bench import (
    chunks,
    conformance,
    doctor,
    gradients,
    kernels,
    losses,
    methods,
    overhead,
    sampling,
    scaling,
    startup,
    training,
)
from kdcourse.course.bench.gpu import report
from kdcourse.course.claims import CLAIMS
from kdcourse.course.claims.claim import HOLDS, NOT_SEEN, REPORTED, REVERSED, shown_in
from kdcourse.course.leaderboard import BOARDS
from kdcourse.course.notebooks import course_notebooks, number
from kdcourse.places import COURSE, INSTALLED

MEASURED = "claims", "leaderboard", "published", "benchmarks", "conformance", "gpu"
WITH_RESULTS = *MEASURED, "teaching"
COLOURS = 64  # of a picture, shades included
PAGES = [COURSE / name for name in ("README.md", *(f"docs/{page}.md" for page in WITH_RESULTS))]


def render(text: str) -> str:
    """Return the text of a page with what is stored now between its markers."""
    parts = {
        "verdicts": verdicts,
        "claims": of_notebooks,
        "bench": lambda: overhead.table(overhead.load()),
        "bench-doctor": lambda: doctor.table(doctor.load()),
        "bench-sampling": lambda: sampling.table(sampling.load()),
        "bench-startup": lambda: startup.table(startup.load()),
        "bench-losses": lambda: losses.table(losses.load()),
        "bench-methods": of_methods,
        "bench-training": lambda: training.table(training.load()),
        "bench-scaling": lambda: scaling.table(scaling.load()),
        "bench-gradients": lambda: gradients.table(gradients.load()),
        "bench-chunks": lambda: chunks.table(chunks.load()),
        "bench-kernels": lambda: kernels.table(kernels.load()),
        "conformance": lambda: conformance.table(conformance.load()),
        "conformance-programs": lambda: conformance.programs(conformance.load()),
        "leaderboard": boards,
        "published": published.tables,
        "gpu": report.about,
        "gpu-steps": report.steps_table,
        "gpu-losses": report.losses_table,
        "gpu-criteria": report.criteria_table,
        "gpu-tried": report.tried_table,
    }

    def written(found: re.Match[str]) -> str:
        return f"{found[1]}\n{parts[found[2]]()}\n<!-- /{found[2]} -->"

    return re.sub(r"(<!-- ([\w-]+) -->)\n.*?<!-- /\2 -->", written, text, flags=re.DOTALL)


def verdicts() -> str:
    """Count the claims by their verdict, in a sentence."""
    found = Counter(claims.load(id).verdict for id in CLAIMS)
    return (
        f"Of {found.total() - found[REPORTED]} claims **{found[HOLDS]} hold**, {found[NOT_SEEN]} "
        f"were not seen at this scale, and {found[REVERSED]} came out reversed; "
        f"{found[REPORTED]} further measurements, such as searches for settings, are reported "
        "without a verdict."
    )


def of_methods() -> str:
    """Return what the methods' losses cost: in words, and as a table."""
    costs = methods.load()
    return f"{methods.about(costs)}\n\n{methods.table(costs)}"


def of_notebooks() -> str:
    """Return the claims by notebook: a picture of all effects, then the table."""
    parts = []
    for path, ids in _by_notebook().items():
        drawn = [f"{id} {claims.load(id).verdict}" for id in ids if CLAIMS[id].effects]
        about = f"Forest plot of the claims of notebook {number(path)}: {'; '.join(drawn)}"
        picture = f"![{about}](claims-{number(path)}.png)"
        parts += [f"## {path.stem.replace('_', ' ')}", picture, claims.table(ids)]
    return "\n\n".join(parts)


def boards() -> str:
    """Return the boards of the leaderboard: what was found, in words, figures and a table."""
    if not (measured := _measured_boards()):
        return "Not measured yet."
    named = "; ".join(BOARDS[name].about for name in measured)
    parts = [f"![Gains over KD with their intervals: {named}](leaderboard-gains.png)"]
    if len(measured) > 1:
        parts.append(leaderboard.across({BOARDS[name].about: measured[name] for name in measured}))
    for name in measured:
        about = BOARDS[name].about
        parts += [f"## {about}", leaderboard.summary(name)]
        parts += filter(None, [leaderboard.at_the_edge(name), leaderboard.what_to_take(name)])
        if _is_timed(measured[name]):
            drawn = "gain over labels against the time of a step"
            parts.append(f"![{about}: {drawn}](leaderboard-{name}.png)")
        took = f"Its students were trained for {leaderboard.hours(name):.1f} hours of one core."
        parts += [leaderboard.table(name), took]
    missing = [board.about for name, board in BOARDS.items() if name not in measured]
    return "\n\n".join([*parts, *(f"## {about}\n\nNot measured yet." for about in missing)])


def _measured_boards() -> dict[str, list[leaderboard.Standing]]:
    """Return the standings of the boards that are measured as a whole."""
    found = {}
    for name in BOARDS:
        with suppress(FileNotFoundError):
            found[name] = leaderboard.standings(name)
    return found


def _is_timed(rows: Sequence[leaderboard.Standing]) -> bool:
    return any(row.time is not None for row in rows)


def figures() -> dict[str, Figure]:
    """Return the figures of the docs by their paths."""
    measured = {BOARDS[name].about: rows for name, rows in _measured_boards().items()}
    ranked = {"docs/leaderboard-gains.png": plots.gains(measured)} if measured else {}
    ranked |= {
        f"docs/leaderboard-{name}.png": plots.gain_against_cost(board.about, measured[board.about])
        for name, board in BOARDS.items()
        if _is_timed(measured.get(board.about, []))
    }
    forests = {
        f"docs/claims-{number(path)}.png": plots.forest(*map(claims.load, ids))
        for path, ids in _by_notebook().items()
    }
    return {
        "docs/cost-of-losses.png": plots.cost_by_samples(losses.load(), losses.WIDTH),
        "docs/throughput.png": plots.throughput(training.load()),
        **forests,
        **ranked,
    }


def digest(figure: Figure) -> str:
    """Return a digest of the words, lines and bars of a figure."""
    shown = []
    for axis in figure.axes:
        words = [text.get_text() for text in (axis.xaxis.label, *axis.texts)]
        lines = [np.asarray(line.get_xydata()).ravel() for line in axis.lines]
        boxes = [box for box in axis.containers if isinstance(box, BarContainer)]
        bars = [np.array([bar.get_width() for bar in box.patches]) for box in boxes]
        shown.append((words, [[f"{x:.5g}" for x in places] for places in (*lines, *bars)]))
    return hashlib.sha256(repr(shown).encode()).hexdigest()


def write() -> None:
    """Write the measured parts into README and docs, the figures beside them, and schematics.

    Raises:
        RuntimeError: There is no clone that could hold them.
    """
    if INSTALLED:
        raise RuntimeError("README and docs belong to a clone of the course; there is none here")
    for page in PAGES:
        files.write(page, render(page.read_text(encoding="utf-8")))
    for name, figure in figures().items():
        drawn, about = io.BytesIO(), PngInfo()
        figure.savefig(drawn, format="png", dpi=150)
        about.add_text("Description", digest(figure))
        picture = Image.open(drawn).convert("RGB")
        few = picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)  # a third of the bytes
        with files.whole(COURSE / name) as file:
            few.save(file, format="png", pnginfo=about, optimize=True)
    schematics.write()


def _by_notebook() -> dict[Path, list[str]]:
    """Return the ids of the claims of every notebook."""
    return {path: shown_in(number(path)) for path in course_notebooks()}
