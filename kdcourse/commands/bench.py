"""Measure what the package costs, as ratios.

Without an option, what losses and training cost in time and memory, beside a library's losses and
a loop that is written out.
"""

import argparse
from importlib import import_module

from kdcourse.commands import show_results

INSTEAD = {
    "training": "images per second of a distillation epoch instead (ten minutes)",
    "scaling": "images per second of one process and of two instead (five minutes)",
    "chunks": "time and memory of KD with 128,000 classes instead (needs 3 GB, five minutes)",
    "gradients": "what hand-written gradients save instead",
    "methods": "time and memory of the methods' losses instead, beside their authors' form",
    "doctor": "what it costs to let a doctor watch a run instead (ten minutes)",
    "sampling": "what a cache saves when language models write texts instead",
    "startup": "seconds that it takes to import the package instead",
    "leaderboard": "what a step costs with each method of the leaderboard instead",
    "kernels": "memory and seconds that each notebook's kernel takes instead (ten minutes)",
}
ONCE = ("chunks", "kernels")  # they take minutes
# The losses first: they need a library that may be missing.
BY_DEFAULT = ("losses", "overhead")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(extra="test")
    for name, what in INSTEAD.items():
        parser.add_argument(f"--{name}", action="store_true", help=what)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each comparison (9)")


def run(options: argparse.Namespace) -> None:
    chosen = [name for name in INSTEAD if getattr(options, name)]
    for name in chosen or BY_DEFAULT:
        if name == "leaderboard":
            from kdcourse.course.leaderboard import cost

            cost.measure(rounds=options.rounds)
        else:
            benchmark = import_module(f"kdcourse.course.bench.{name}")
            how = {} if name in ONCE else {"rounds": options.rounds}
            print(benchmark.table(benchmark.measure(**how)))
    show_results()
