"""What was published of the recipes, beside what was measured here: like with like."""

import re

from kdcourse.train import measured, recipes
from kdcourse.train.recipes import Recipe

NOT_YET = f"*{measured.NOT_YET}*"
CODE = "`{}`"


def tables() -> str:
    """Return a chapter for every pair of nets, with a table for each budget and augmentation."""
    return "\n\n".join(_chapter(name) for name in recipes.names())


def _chapter(name: str) -> str:
    groups = recipes.comparable(name)
    labels = groups.pop("")
    teacher = recipes.load(name, "kd").settings["teacher"]
    student = name.removeprefix(f"{teacher}-")
    baselines = _table({"teacher": "teacher", "alone": "student"}, name, labels)
    alone = f"From labels alone, {labels['alone'].conditions(CODE)}:"
    parts = [f"## {teacher} → {student}", alone, baselines]
    for group in groups.values():
        methods = {m: m for m in group if m not in {one.after for one in group.values()}}
        conditions = group[next(iter(methods))].conditions(CODE)
        parts += [f"### {conditions}", _table(methods, name, group)]
    return "\n\n".join(parts)


def _table(shown: dict[str, str], name: str, group: dict[str, Recipe]) -> str:
    """Return rows for some methods of a pair, by what they are called."""
    head = "method", "published, %", "source", "batch, rate", "measured here, %"
    rows: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    for method, called in shown.items():
        recipe = group[method]
        source = _linked(recipe.source) if recipe.target else ""
        rate = "" if recipe.why else recipe.rate
        row = called, _held(recipe.target), source, _held(rate), _here(name, method, recipe)
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _here(name: str, method: str, recipe: Recipe) -> str:
    """Say what was measured, and how, or why nothing was."""
    if recipe.why:
        return f"no recipe: {recipe.why}"
    here = measured.load(name, method)
    return NOT_YET if here is None else f"{_held(str(here))} ({here.about})"


def _held(text: str) -> str:
    """Keep numbers that belong together in one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _linked(source: str) -> str:
    """Let authors and years lead to their papers."""
    paper = r"([A-Z][\w ,.]* \d{4}) \(arXiv (\d{4}\.\d{5})\)"
    return re.sub(paper, r"[\1](https://arxiv.org/abs/\2)", source)
