"""Find out which convention a loss of yours follows, and what breaks.

Compare any loss with one of ours: the factor between them, in words and as a function of N, K and
τ, and every property that does not hold, with the smallest input that shows it. The exit status is
0 if the loss conforms, perhaps up to a factor, 1 if it does not, and 2 if it cannot be checked.
"""

import argparse

from kdcourse.commands import refused, show_results


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place", nargs="?", metavar="MODULE:FUNCTION", help="the loss, or FILE.py:FUNCTION"
    )
    parser.add_argument(
        "--as",
        dest="like",
        default="kd",
        metavar="LOSS",
        help="the loss of ours to compare it with, such as kd, rkd_distance or "
        "\"kd(divergence='reverse')\" (kd)",
    )
    parser.add_argument(
        "--teacher-first", action="store_true", help="the loss takes the teacher's output first"
    )
    parser.add_argument(
        "--foreign",
        action="store_true",
        help="check the losses of other libraries instead, where these are installed, and "
        "store what was found",
    )


def run(options: argparse.Namespace) -> int:
    from kdcourse.conformance import check
    from kdcourse.conformance.loading import loss_from
    from kdcourse.errors import ExplainedError

    if options.foreign:
        return _check_foreign()
    try:
        loss, imports = loss_from(options.place or "")
        first = options.teacher_first or None
        report = check(loss, options.like, teacher_first=first, imports=imports)
    except ExplainedError as error:
        return refused(error)
    print(report)
    return int(not report.passed)


def _check_foreign() -> int:
    from kdcourse.course.bench import conformance

    missing = conformance.measure()
    print(conformance.table(conformance.load()))
    print(*missing, sep="\n")
    show_results()
    return 0
