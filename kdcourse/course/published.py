"""What was published of the recipes, beside what was measured here: like with like."""

import re

from kdcourse.train import measured, recipes
from kdcourse.train.recipes import Recipe

NOT_YET = f"*{measured.NOT_YET}*"


def tables() -> str:
    """Return a chapter for every pair of nets, with a table for each budget and augmentation."""
    return "\n\n".join(_chapter(name) for name in recipes.names())


def _chapter(name: str) -> str:
    groups = recipes.comparable(name)
    labels = groups.pop("")
    teacher = recipes.load(name, "kd").settings["teacher"]
    student = name.removeprefix(f"{teacher}-")
    baselines = _table({"teacher": "teacher", "alone": "student"}, name, labels)
    alone = f"From labels alone, {_as_code(labels['alone'].conditions)}:"
    parts = [f"## {teacher} → {student}", alone, baselines]
    for conditions, group in groups.items():
        methods = {m: m for m in group if m not in {one.after for one in group.values()}}
        parts += [f"### {_as_code(conditions)}", _table(methods, name, group)]
    return "\n\n".join(parts)


def _table(shown: dict[str, str], name: str, group: dict[str, Recipe]) -> str:
    """Return rows for some methods of a pair, by what they are called."""
    rows = [("method", "published, %", "source", "measured here, %", "batch, rate", "how")]
    rows.append(("---",) * len(rows[0]))
    for method, called in shown.items():
        recipe = group[method]
        here = None if recipe.why else measured.load(name, method)
        rows.append(
            (
                called,
                recipe.target,
                _linked(recipe.source) if recipe.target else "",
                str(here or ("no recipe" if recipe.why else NOT_YET)),
                "" if recipe.why else recipe.rate,
                here.about if here else recipe.why,
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _as_code(conditions: str) -> str:
    """Mark the calls in a text."""
    return re.sub(r"\w+\([^()]*\)", r"`\g<0>`", conditions)


def _linked(source: str) -> str:
    """Let the numbers of papers lead to them."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", source)
