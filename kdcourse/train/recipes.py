"""Trainings of the literature as TOML files: what all share, methods, and pairs of nets.

A file holds options by their names, perhaps ``about`` and the ``source`` of accuracies, and perhaps
tables ``[methods.NAME]`` with further options and the test accuracy in percent that was
``published`` (or a list of it and its deviation over several runs). A method may have a ``source``
of its own. It may come ``after`` another one, with whose student it begins. If it cannot be run,
its table says ``why``.

Those of the package also hold tables ``[pairs.NAME]``. A pair says what stands for the ``{names}``
in the options' texts, unless it is the ``[usual]`` (for a text that is but one name, what stands
for it need not be a text); a method is a recipe of every pair for which
all its names stand for something. In ``settings`` a pair says which options are its own, where no
method has others; and in ``published`` its accuracies, by method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

from kdcourse.train.options import OptionError, Options, from_toml, read_toml, unknown
from kdcourse.training.knobs import EPOCHS

FOLDER = Path(__file__).parents[1] / "recipes"
TOLD = ("published", "source", "after", "why")  # of a method, beside its options


@dataclass(frozen=True)
class Recipe:
    """One method of a file: fields of :class:`Options`, and what is known of its test accuracy."""

    settings: dict[str, Any]
    published: float | None = None  # in percent, by its authors or others; None if unknown
    deviation: float | None = None  # of that, over several runs; None if unknown
    source: str = ""  # of both
    after: str | None = None  # the method with whose student this one begins
    budget: str = ""  # its epochs or steps, with those of the method before it
    own_student: bool = False  # whether its student is not that of the other methods
    why: str = ""  # it cannot be run; empty if it can

    @property
    def target(self) -> str:
        """What was published, with its deviation; empty if that is unknown."""
        return percent(self.published, self.deviation)

    def conditions(self, code: str = "{}") -> str:
        """Tell budget, augmentation and kind of student: only methods that share them are compared.

        Args:
            code: How what is written in Python is shown.
        """
        seen = [self.settings.get(name, "none") for name in ("augment", "views")]
        told = " and ".join(code.format(text) for text in seen if text != "none")
        another = ["another student"] * self.own_student
        return ", ".join([self.budget, told or "no augmentation", *another])

    @property
    def of_labels(self) -> bool:
        """Whether it learns from labels alone, as usual and from the start."""
        return self.settings.get("loss") == "CrossEntropy()" and self.after is None

    @property
    def rate(self) -> str:
        """The size of a batch, and the learning rate."""
        size, rate = (
            self.settings.get(name, getattr(Options, name))
            for name in ("batch_size", "learning_rate")
        )
        return f"{size}, {rate:g}"


def percent(mean: float | None, deviation: float | None) -> str:
    """Write an accuracy with its deviation, as far as they are known."""
    return " ± ".join(f"{part:.2f}" for part in (mean, deviation) if part is not None)


def load(name: str, method: str | None = None) -> Recipe:
    """Read one method of a recipe of the package, or of a file of one's own, if it has any."""
    known = methods(name)
    if method is None and "" not in known:
        raise OptionError(f"--method: say which of {Path(name).stem}: {', '.join(known)}")
    if (method or "") not in known:
        if (other := _all(name).get(method or "")) is not None:
            raise OptionError(f"--method: {method} cannot be run for {name}: {other.why}")
        raise OptionError(f"--method: {unknown('method', method or '', known)}")
    return known[method or ""]


def methods(name: str) -> Mapping[str, Recipe]:
    """Return the methods of a recipe or file; without any, it as a whole by an empty name."""
    return {method: recipe for method, recipe in _all(name).items() if not recipe.why}


def names() -> list[str]:
    """List the recipes of the package."""
    return sorted(_pairs())


def comparable(name: str) -> dict[str, dict[str, Recipe]]:
    """Return what is known of a recipe, by the conditions under which its methods are compared.

    Those that learn from labels alone come first, by an empty name; then the conditions that most
    share. Within each, the best that was published comes first, and a method that another one comes
    after beside it. Methods that cannot be run are there, too.
    """
    known = _all(name)
    follower = {recipe.after: recipe for recipe in known.values() if recipe.after}
    groups: dict[str, dict[str, Recipe]] = {"": {}}
    for method, recipe in sorted(known.items(), key=lambda one: -(one[1].published or 0)):
        told = follower.get(method, recipe).conditions()
        key = "" if recipe.of_labels and not recipe.why else told
        groups.setdefault(key, {})[method] = recipe
    return dict(sorted(groups.items(), key=lambda one: (one[0] != "", -len(one[1]))))


def _all(name: str) -> Mapping[str, Recipe]:
    """Return the methods of a recipe or file, and those that cannot be run."""
    if name in _pairs():
        return _pairs()[name]
    if not Path(name).is_file():
        raise OptionError(f"RECIPE: {unknown('recipe', name, names())}; nor is there a file")
    return _recipes(read_toml(Path(name)), name)


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
        whole = {f"{{{name}}}": value for name, value in pair.items()}
        return {
            name: whole.get(value, value.format_map(pair)) if isinstance(value, str) else value
            for name, value in options.items()
        }

    published = pair.get("published", {})
    tables: dict[str, Any] = {}
    for method, own in shared["methods"].items():
        missing = _names(own) - pair.keys()
        if (missing and method not in published) or own.get("after", method) not in {
            *tables,
            method,
        }:
            continue
        known = {name: value for name, value in own.items() if not _names({name: value}) & missing}
        tables[method] = filled({**pair.get("settings", {}), **known})
        if missing:
            tables[method]["why"] = f"not known for this pair: {', '.join(sorted(missing))}"
        if method in published:
            tables[method]["published"] = published[method]
    return {**filled({key: shared[key] for key in shared if key != "methods"}), "methods": tables}


def _names(options: Mapping[str, Any]) -> set[str]:
    """Return the names that stand in braces in the options' texts."""
    texts = [value for value in options.values() if isinstance(value, str)]
    return {name for text in texts for _, name, *_ in Formatter().parse(text) if name}


def _recipes(table: Mapping[str, Any], origin: str) -> dict[str, Recipe]:
    """Return the methods of a table that was read from a file."""
    beside = ("about", "methods", "source")
    shared = {key: value for key, value in table.items() if key not in beside}
    found: dict[str, Recipe] = {}
    for name, own in table.get("methods", {"": {}}).items():
        published, source, after, why = map(own.get, TOLD)
        accuracy, deviation = published if isinstance(published, list) else (published, None)
        if after is not None and after not in found:
            raise OptionError(f"{origin}: {name} comes after {unknown('method', after, found)}")
        options = {key: value for key, value in own.items() if key not in TOLD}
        settings = from_toml({**shared, **options}, origin)
        before = [] if after is None else [found[after].budget]
        found[name] = Recipe(
            settings,
            accuracy,
            deviation,
            source or table.get("source", ""),
            after,
            budget=" + ".join([*before, _budget(settings)]),
            own_student="student" in own,
            why=why or "",
        )
    return found


def _budget(settings: Mapping[str, Any]) -> str:
    """Say for how long a training lasts."""
    if "steps" in settings:
        return f"{settings['steps']:,} steps"
    return f"{settings.get('epochs', EPOCHS)} epochs"
