"""Judge trained students beyond their accuracy, on one page.

Measure students that train has finished, beside their teacher: accuracy with intervals, fidelity,
calibration, robustness, who paid for the gain, cost, and exported forms. The page needs no network;
beside the first run, others may be named to compare.
"""

import argparse

from kdcourse.commands import refused


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders that train has written")
    parser.add_argument(
        "--out",
        default="report.html",
        metavar="FILE",
        help="where to; as JSON where it ends in .json (report.html)",
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
        help="the run that others are compared with (the first without a teacher)",
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, mps (the best there is)")


def run(options: argparse.Namespace) -> int:
    from kdcourse.train import report
    from kdcourse.train.options import OptionError

    try:
        return report.main(options)
    except OptionError as error:
        return refused(error)
