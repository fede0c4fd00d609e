"""Train any net, also on many GPUs."""

import argparse

ADD_HELP = False  # `kdcourse.train` reads the options, and explains them


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(passes_on=True, resumes=True)


def run(options: argparse.Namespace) -> int:
    from kdcourse.train.main import main

    return main(options.arguments)
