"""Trainings of the literature as TOML files: settings shared by the methods, and each method's own.

A file holds options by their names, perhaps ``about``, and perhaps tables ``[methods.NAME]`` with
further options and the test accuracy in percent that was ``published`` or is ``measured`` here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcourse.train.options import OptionError, Options, from_toml, read_toml, unknown

FOLDER = Path(__file__).parents[1] / "recipes"
NOT_RUN = "not yet run here"


@dataclass(frozen=True)
class Recipe:
    """One method of a file: fields of :class:`Options`, and its test accuracies in percent."""

    settings: dict[str, Any]
    published: float | None = None  # by its authors or others; None if unknown
    measured: float | None = None  # here; None if it was not run yet


def load(name: str, method: str | None = None) -> Recipe:
    """Read one method of a recipe of the package, or of a file of one's own, if it has any."""
    known = methods(name)
    if method is None and "" not in known:
        raise OptionError(f"--method: say which of {Path(name).stem}: {', '.join(known)}")
    if (method or "") not in known:
        raise OptionError(f"--method: {unknown('method', method or '', known)}")
    return known[method or ""]


def methods(name: str) -> dict[str, Recipe]:
    """Return the methods of a recipe or file; without any, it as a whole by an empty name."""
    path = next(filter(Path.is_file, (FOLDER / f"{name}.toml", Path(name))), None)
    if path is None:
        raise OptionError(f"RECIPE: {unknown('recipe', name, names())}; nor is there a file")
    shared = read_toml(path)
    shared.pop("about", None)
    tables = shared.pop("methods", {"": {}})
    return {
        name: Recipe(
            published=own.pop("published", None),
            measured=own.pop("measured", None),
            settings=from_toml({**shared, **own}, str(path)),
        )
        for name, own in tables.items()
    }


def names() -> list[str]:
    """List the recipes of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def table() -> str:
    """List all recipes with the accuracies that were published, and that were measured here."""
    rows = [("recipe", "method", "loss", "published, %", "here, %")]
    for name in names():
        for method, recipe in methods(name).items():
            here = NOT_RUN if recipe.measured is None else f"{recipe.measured:.2f}"
            published = "" if recipe.published is None else f"{recipe.published:.2f}"
            loss = recipe.settings.get("loss", Options.loss)
            rows.append((name, method, loss, published, here))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)
