"""Find out what is going wrong in a run.

Examine what `train` has written, or is still writing: student, teacher, data and loss are made
again from its options, and a few batches and the history are looked at. Nothing is trained or
written. The exit status is 0 if there is no remark, 1 if there is one, and 2 if there is no run to
examine.
"""

import argparse
from pathlib import Path

from kdcourse.commands import refused


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the folder that train was given as --out"
    )
    parser.add_argument(
        "--alone",
        type=Path,
        metavar="DIR",
        help="a run of the same student on labels alone, to compare with",
    )
    parser.add_argument("--batches", type=int, default=4, help="number of batches to look at (4)")
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
