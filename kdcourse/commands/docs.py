"""Write the stored measurements into README and docs."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(options: argparse.Namespace) -> None:
    from kdcourse.course import docs

    docs.write()
