"""Release and grade the homework."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(extra="homework")
    steps = parser.add_subparsers(required=True, metavar="STEP")
    _add_release(
        steps.add_parser(
            "release",
            help="write student notebooks, autograder archives, and a zip to hand out",
        )
    )
    _add_grade(
        steps.add_parser(
            "grade",
            help="grade notebooks that came back",
            description="Grade notebooks, each in a sandbox of its own. Those that were graded "
            "before and have not changed are not graded again.",
        )
    )


def _add_release(release: argparse.ArgumentParser) -> None:
    release.set_defaults(run=_release)
    release.add_argument("folder", metavar="DIR", type=Path, help="where to write them")
    _add_masters(release)


def _add_grade(grade: argparse.ArgumentParser) -> None:
    grade.set_defaults(run=_grade, resumes=True)
    grade.add_argument("assignment", metavar="ASSIGNMENT", help="such as 1_logit")
    grade.add_argument(
        "submissions", nargs="+", metavar="SUBMISSION", type=Path, help="notebooks, or folders"
    )
    grade.add_argument(
        "--out", type=Path, default=Path("grades.csv"), help="CSV file to write (grades.csv)"
    )
    grade.add_argument("--jobs", type=int, default=2, help="submissions to grade side by side (2)")
    grade.add_argument("--again", action="store_true", help="grade what has not changed, too")
    grade.add_argument(
        "--late-penalty",
        type=float,
        default=10.0,
        metavar="PERCENT",
        help="of the points, for each day late beyond the extension (10)",
    )
    grade.add_argument(
        "--unsafe",
        action="store_true",
        help="grade without a sandbox: notebooks have all your rights",
    )
    _add_masters(grade)


def _add_masters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--masters",
        type=Path,
        metavar="DIR",
        help="folder of the masters (instructors/ of the clone)",
    )


def _release(options: argparse.Namespace) -> None:
    from kdcourse.homework import release

    for path in release.release(options.folder, options.masters or release.MASTERS):
        print(path)


def _grade(options: argparse.Namespace) -> int:
    from kdcourse.homework import grade, release
    from kdcourse.homework.sandbox import Limits

    verdicts = grade.grade(
        options.assignment,
        options.submissions,
        options.out,
        jobs=options.jobs,
        again=options.again,
        limits=Limits(unsafe=options.unsafe),
        late_penalty=options.late_penalty,
        masters=options.masters or release.MASTERS,
    )
    for label, verdict in verdicts.items():
        print(f"{label}: {verdict.points:g} of {verdict.of:g}", *verdict.remarks, sep="; ")
    left = sum(mark.points is None for verdict in verdicts.values() for mark in verdict.marks)
    print(f"results: {options.out}")
    print(f"summary: {grade.beside(options.out, '-summary.html')}")
    print(f"pages for students: {grade.beside(options.out, '-feedback')}")
    print(f"points by hand ({left} to be given): {grade.beside(options.out, '-by-hand.csv')}")
    return int(any(map(grade.has_failed, verdicts.values())))
