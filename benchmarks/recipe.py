#!/usr/bin/env python3
"""Train a recipe of the literature, and before it its teacher and whatever it begins with.

    python benchmarks/recipe.py resnet56-resnet20 kd [OPTION ...]

It may be cut off: the same command goes on, in as many runs as it takes. Options are those of
``python -m kdcourse train``, and hold for the teacher, too. With ``--seeds 0-4``, students learn
from the first of the teachers, and begin with the first of the students before them. What comes out
lies in ``recipe-runs/resnet56-resnet20/kd``: ``result.json`` has the test accuracy after the last
epoch, seeds, device, versions and seconds, ``options.toml`` all settings. ``RECIPE_RUNS`` names
another folder for it.
"""

import os
import subprocess
import sys
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CLONE))
from kdcourse.train.options import OptionError  # noqa: E402
from kdcourse.train.recipes import load  # noqa: E402


def main(pair: str, method: str, *options: str) -> None:
    """Train a method of a pair, after what it needs."""
    runs = Path(os.environ.get("RECIPE_RUNS", "recipe-runs")) / pair
    try:
        chain = [method]
        while (after := load(pair, chain[0]).after) is not None:
            chain.insert(0, after)
        taught = [name for name in chain if load(pair, name).settings["teacher"] != "none"]
    except OptionError as error:
        sys.exit(f"recipe.py: {error}")
    if taught:
        train(pair, "teacher", runs, *options)
    for before, name in zip([None, *chain], chain, strict=False):
        given = [*options]
        if name in taught:
            given += ["--teacher-weights", weights(runs / "teacher")]
        if before is not None:
            given += ["--student-weights", weights(runs / before)]
        train(pair, name, runs, *given)


def train(pair: str, method: str, runs: Path, *options: str) -> None:
    """Run one training to its end, or exit as it does."""
    command = [sys.executable, "-m", "kdcourse", "train", pair, "--method", method]
    paths = [str(CLONE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([*command, "--out", str(runs / method), *options], env=environment)
    if done.returncode:
        sys.exit(done.returncode)


def weights(folder: Path) -> str:
    """Return where a training has put its student, the first seed's if there are many."""
    seeds = [int(path.name.removeprefix("seed-")) for path in folder.glob("seed-*")]
    return str((folder / f"seed-{min(seeds)}" if seeds else folder) / "student.safetensors")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        print(__doc__)
        sys.exit(2)
    main(*sys.argv[1:])
