"""Measure the lecture's claims.

Measure claims over seeds, store every seed, and print the table. What is stored already is not
measured again. Without a clone of the course, results are stored in kdcourse-results in the current
folder, and used in place of ours.
"""

import argparse

from kdcourse.commands import show_results


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(resumes=True)
    parser.add_argument(
        "ids",
        nargs="*",
        metavar="ID",
        help="claims (all by default); or leaderboard, if you like with the names of some boards",
    )
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds (10)")
    parser.add_argument(
        "--jobs", type=int, help="processes side by side (1; on a GPU, one per core and 8 GiB free)"
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="where nets are trained: cpu, or cuda, whose results are kept apart (cpu)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--stored", action="store_true", help="measure nothing; print what is stored"
    )
    instead.add_argument(
        "--check",
        action="store_true",
        help="measure nothing; see whether the code still does what it did when it was measured",
    )


def run(options: argparse.Namespace) -> int:
    from kdcourse.course import claims

    if options.ids[:1] == ["leaderboard"]:
        return _leaderboard(options)
    if options.check:
        deviations = claims.check(options.ids, jobs=options.jobs, device=options.device)
        return _compared(deviations, claims.TOLERANCE)
    if not options.stored:
        how = {"seeds": options.seeds, "jobs": options.jobs, "device": options.device}
        claims.reproduce(options.ids, **how)
    print(claims.table(options.ids, device=_kind(options)))
    show_results()
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    from kdcourse.course import leaderboard
    from kdcourse.course.claims import TOLERANCE

    boards = leaderboard.known(options.ids[1:])
    how = {"jobs": options.jobs, "device": options.device}
    if options.check:
        return _compared(leaderboard.check(boards, **how), TOLERANCE)
    if not options.stored:
        leaderboard.reproduce(boards, seeds=options.seeds, **how)
    for board in boards:
        shown = leaderboard.table(board, seeds=options.seeds, device=_kind(options))
        print(f"{leaderboard.BOARDS[board].about}\n\n{shown}\n")
    return 0


def _kind(options: argparse.Namespace) -> str:
    """Return the kind of device, by which results are stored: ``"cuda"`` of ``"cuda:1"``."""
    return options.device.partition(":")[0]


def _compared(deviations: dict[str, float], tolerance: float) -> int:
    for id, deviation in deviations.items():
        verdict = "matches the code" if deviation <= tolerance else "DIFFERS from the code"
        print(f"{id:<20} {verdict:<21}  worst number off by {deviation:.1e}")
    changed = sum(deviation > tolerance for deviation in deviations.values())
    print(f"{changed} of {len(deviations)} differ; a number may be off by {tolerance:.0e}")
    return int(changed > 0)
