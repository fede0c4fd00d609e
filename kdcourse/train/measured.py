"""What recipes have measured here, beside what was published."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from kdcourse.places import COURSE, intact, latest
from kdcourse.train import recipes
from kdcourse.train.recipes import percent

RESULTS = COURSE / "data" / "results" / "recipes"
NOT_YET = "not yet"


@dataclass(frozen=True)
class Measured:
    """Test accuracies in percent after the last epoch, by seed, and how they came about."""

    accuracies: dict[int, float]
    seconds: float  # of one seed, on average
    machine: str  # the device, and versions

    def __str__(self) -> str:
        values = list(self.accuracies.values())
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return percent(statistics.fmean(values), deviation)

    @property
    def about(self) -> str:
        """Seeds, device, versions and time."""
        seeds = "seeds" if len(self.accuracies) > 1 else "seed"
        told = f"{seeds} {', '.join(map(str, self.accuracies))}"
        return f"{told}; {self.machine}; {self.seconds:,.0f} s each"


def load(name: str, method: str, folder: Path = RESULTS) -> Measured | None:
    """Read the ``result.json`` of a method's training, by one seed or many; None if there is none.

    It lies in ``NAME/METHOD.json`` in a folder.

    Raises:
        RuntimeError: The file is damaged, or comes from a training of another length.
    """
    path = latest(folder / name / f"{method}.json")
    if not path.is_file():
        return None
    with intact(path):
        stored = json.loads(path.read_text())
        runs = stored.get("seeds") or {stored["seed"]: stored}
        device, torch, python = (
            " and ".join(sorted({run[name] for run in runs.values()}))
            for name in ("device", "torch", "python")
        )
        lengths = {run["epochs"] for run in runs.values()}
        measured = Measured(
            {int(seed): run["test_accuracy"] for seed, run in runs.items()},
            statistics.fmean(run["seconds"] for run in runs.values()),
            f"{device}, torch {torch}, Python {python}",
        )
    expected = recipes.load(name, method).settings["epochs"]
    if lengths != {expected}:
        raise RuntimeError(
            f"{path} comes from {sorted(lengths)} epochs, and the recipe has {expected}"
        )
    return measured


def table() -> str:
    """List all recipes, like with like: what was published, what was measured here, and losses."""
    rows: list[tuple[str, ...]] = [("", "published, %", "measured here, %", "loss")]
    for name in recipes.names():
        rows.append((name,))
        for conditions, group in recipes.comparable(name).items():
            rows.append((f"  {conditions or 'from labels alone'}",))
            rows += [(f"    {method}", *_row(name, method, one)) for method, one in group.items()]
    cells = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths[: len(row)])).rstrip() for row in rows]
    return "\n".join(lines)


def _row(name: str, method: str, recipe: recipes.Recipe) -> tuple[str, str, str]:
    if recipe.why:
        return recipe.target, "no recipe", recipe.why
    here = load(name, method)
    loss = recipe.settings.get("loss", recipes.Options.loss)
    return recipe.target, NOT_YET if here is None else str(here), loss
