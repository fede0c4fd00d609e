"""Build the course as a web site, this version beside those that the folder holds already."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(extra="docs")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/site"), help="where to write it (build/site)"
    )


def run(options: argparse.Namespace) -> None:
    from kdcourse.course import site

    print(site.build(options.folder))
