"""Open the notebooks in JupyterLab.

Options such as --no-browser or --port 8890 are passed on to JupyterLab. Without a clone of the
course, the notebooks are copied into kdcourse-notebooks in the current folder, where nothing is
ever overwritten.
"""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(passes_on=True)


def run(options: argparse.Namespace) -> None:
    from kdcourse.course import lab

    lab.serve(options.arguments)
