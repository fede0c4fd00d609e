"""``python -m kdcourse train``: one training, many, or a first look at what it takes."""

import os
from collections.abc import Sequence
from typing import Any

from kdcourse.train import command, dry_run, measured, recipes, seeds
from kdcourse.train.options import OptionError, Options
from kdcourse.train.parser import parser
from kdcourse.train.plan import prepare
from kdcourse.train.record import told


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit status."""
    asked = vars(parser().parse_args(arguments))
    name, method = asked.pop("recipe"), asked.pop("method")
    if asked.pop("recipes"):
        print(measured.table())
        return 0
    if name is None and method is not None:
        raise OptionError("--method: there is no recipe to take it from")
    recipe = recipes.Recipe({}) if name is None else recipes.load(name, method)
    only_look = asked.pop("dry_run")
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in asked.items()}
    options = _options(recipe.settings, given)
    if (only_look or options.seeds) and "TORCHELASTIC_RUN_ID" in os.environ:
        raise OptionError(f"--{'dry-run' if only_look else 'seeds'}: call it without torchrun")
    if recipe.after and not (options.student_weights or only_look):
        raise OptionError(
            f"--student-weights: {method} begins with the student.safetensors of {recipe.after}"
        )
    if only_look:
        print(dry_run.report(prepare(options, need_weights=False)))
        return 0
    published = f" (published: {recipe.target} %)" if recipe.target else ""
    if options.seeds:
        return seeds.run(options, published)
    result = command.run(options)
    if result is not None:
        for text in result.get("written", ()):
            print(f"the student writes: {text}")
        print(f"{told(result)}{published}, in {options.out}")
    return 0


def _options(recipe: dict[str, Any], given: dict[str, Any]) -> Options:
    """Put what is said on the command line above what a file says: also one seed above many."""
    for said in (recipe, given):
        if "seed" in said and "seeds" in said:
            raise OptionError("--seeds: say --seed or --seeds, not both")
    instead = {"seeds": None, "jobs": None} if "seed" in given else {}
    return Options(**{**recipe, **instead, **given})
