"""Judge trained students beyond their accuracy, on one page.

Measure students that train has finished, beside their teacher: accuracy with intervals, fidelity,
calibration, robustness, which classes paid for the gain, cost, and exported forms. Several runs are
compared with each other. The page needs no network.
"""

import argparse

from kdcourse.commands import refused


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders that train has written")
    parser.add_argument(
        "--out",
        default="report.html",
        metavar="FILE",
        help="file to write; JSON if its name ends in .json (report.html)",
    )
    parser.add_argument(
        "--without",
        default="",
        metavar="PARTS",
        help="leave out calibration, fidelity, classes, cost, robustness, export: 'export,cost'",
    )
    parser.add_argument(
        "--baseline",
        metavar="RUN",
        help="the run to compare the others with (the first without a teacher)",
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (the best there is)")


def run(options: argparse.Namespace) -> int:
    from kdcourse.train import report
    from kdcourse.train.options import OptionError

    try:
        return report.main(options)
    except OptionError as error:
        return refused(error)
