"""Run the notebooks and store their outputs."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="FILE", help="notebooks (all by default)")
    parser.add_argument(
        "--normalize",
        action="store_true",
        help="run nothing; store them as they are, in the form that the course keeps",
    )


def run(options: argparse.Namespace) -> None:
    from kdcourse.course import notebooks
    from kdcourse.places import own_copy

    paths = [Path(path) for path in options.paths]
    if not paths:
        folder = own_copy(notebooks.NOTEBOOKS)
        if folder == notebooks.NOTEBOOKS:
            notebooks.write_map()
        paths = [folder / notebooks.START, *notebooks.course_notebooks(folder)]
    work = notebooks.store if options.normalize else notebooks.run
    work(paths)
