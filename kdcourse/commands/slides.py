"""Write the notebooks as slides for a lecture."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(extra="docs")
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("build/slides"),
        metavar="FOLDER",
        help="where to write them (build/slides)",
    )


def run(options: argparse.Namespace) -> None:
    from kdcourse.course import slides

    for path in slides.build(options.folder):
        print(path)
