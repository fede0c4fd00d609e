"""Look at a run for what goes wrong in it.

Examine what `train` has written, or is writing: student, teacher, data and loss are made again from
its options, a few batches are looked at, and so is its history. Nothing is trained or written. The
exit status is 0 without a remark, 1 with some, and 2 if there is no run that can be examined.
"""

import argparse
from pathlib import Path

from kdcourse.commands import refused


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="what --out of train was")
    parser.add_argument(
        "--alone", type=Path, metavar="DIR", help="the same by labels alone, to compare with"
    )
    parser.add_argument("--batches", type=int, default=4, help="batches to look at (4)")
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1 or mps (that of the run, or the best there is)"
    )


def run(options: argparse.Namespace) -> int:
    from kdcourse.train.examine import examine

    try:
        report = examine(
            options.folder, options.alone, batches=options.batches, device=options.device
        )
    except (ValueError, OSError, RuntimeError) as error:  # 1 means that something was found
        return refused(error)
    print(report)
    return int(bool(report.findings))
