"""Trainings of the literature as TOML files: what all share, methods, and pairs of nets.

A file holds options by their names, perhaps ``about``, and perhaps tables ``[methods.NAME]`` with
further options and the test accuracy in percent that was ``published`` (or a list of it and its
deviation over several runs) or is ``measured`` here.

Those of the package also hold tables ``[pairs.NAME]``. A pair says what stands for the ``{names}``
in the options' texts, unless it is the ``[usual]``; a method is a recipe of every pair for which
all its names stand for something. In ``settings`` a pair says which options are its own, where no
method has others; and in ``published`` and ``measured`` its accuracies, by method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

from kdcourse.train.options import OptionError, Options, from_toml, read_toml, unknown

FOLDER = Path(__file__).parents[1] / "recipes"
NOT_RUN = "not yet run here"
ACCURACIES = ("published", "measured")


@dataclass(frozen=True)
class Recipe:
    """One method of a file: fields of :class:`Options`, and its test accuracies in percent."""

    settings: dict[str, Any]
    published: float | None = None  # by its authors or others; None if unknown
    deviation: float | None = None  # of that, over several runs; None if unknown
    measured: float | None = None  # here; None if it was not run yet

    @property
    def target(self) -> str:
        """What was published, with its deviation; empty if that is unknown."""
        known = [f"{part:.2f}" for part in (self.published, self.deviation) if part is not None]
        return " ± ".join(known)


def load(name: str, method: str | None = None) -> Recipe:
    """Read one method of a recipe of the package, or of a file of one's own, if it has any."""
    known = methods(name)
    if method is None and "" not in known:
        raise OptionError(f"--method: say which of {Path(name).stem}: {', '.join(known)}")
    if (method or "") not in known:
        raise OptionError(f"--method: {unknown('method', method or '', known)}")
    return known[method or ""]


def methods(name: str) -> Mapping[str, Recipe]:
    """Return the methods of a recipe or file; without any, it as a whole by an empty name."""
    if name in _pairs():
        return _pairs()[name]
    if not Path(name).is_file():
        raise OptionError(f"RECIPE: {unknown('recipe', name, names())}; nor is there a file")
    return _recipes(read_toml(Path(name)), name)


def names() -> list[str]:
    """List the recipes of the package."""
    return sorted(_pairs())


def table() -> str:
    """List all recipes with the accuracies that were published, and that were measured here."""
    rows = [("recipe", "method", "published, %", "here, %", "loss")]
    for name in names():
        for method, recipe in methods(name).items():
            here = NOT_RUN if recipe.measured is None else f"{recipe.measured:.2f}"
            loss = recipe.settings.get("loss", Options.loss)
            rows.append((name, method, recipe.target, here, loss))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


@cache
def _pairs() -> dict[str, dict[str, Recipe]]:
    """Return the methods of every pair of nets in the package's files."""
    found = {}
    for path in sorted(FOLDER.glob("*.toml")):
        shared = read_toml(path)
        usual = shared.pop("usual", {})
        for name, pair in shared.pop("pairs").items():
            found[name] = _recipes(_of_pair(shared, usual | pair), str(path))
    return found


def _of_pair(shared: Mapping[str, Any], pair: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file would hold that were about one pair."""

    def filled(options: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value.format_map(pair) if isinstance(value, str) else value
            for name, value in options.items()
        }

    tables = {
        method: filled({**pair.get("settings", {}), **own})
        | {key: pair[key][method] for key in ACCURACIES if method in pair.get(key, {})}
        for method, own in shared["methods"].items()
        if _names(own) <= pair.keys()
    }
    return {**filled({key: shared[key] for key in shared if key != "methods"}), "methods": tables}


def _names(options: Mapping[str, Any]) -> set[str]:
    """Return the names that stand in braces in the options' texts."""
    texts = [value for value in options.values() if isinstance(value, str)]
    return {name for text in texts for _, name, *_ in Formatter().parse(text) if name}


def _recipes(table: Mapping[str, Any], source: str) -> dict[str, Recipe]:
    """Return the methods of a table that was read from a file."""
    shared = {key: value for key, value in table.items() if key not in ("about", "methods")}
    found = {}
    for name, own in table.get("methods", {"": {}}).items():
        published, measured = map(own.get, ACCURACIES)
        options = {key: value for key, value in own.items() if key not in ACCURACIES}
        accuracy, deviation = published if isinstance(published, list) else (published, None)
        settings = from_toml({**shared, **options}, source)
        found[name] = Recipe(settings, accuracy, deviation, measured)
    return found
