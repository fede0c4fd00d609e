"""The command line: ``python -m kdcourse COMMAND``."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdcourse import files

Run = Callable[[argparse.Namespace], int | None]  # a command; without a status, it went well
WRONGLY_CALLED = 2  # the status that argparse gives, too
ENDED_BY_READER = 141  # the status of a program whose output is no longer read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the course's commands and return its exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.run in (_lab, _train):  # whose options are read by others
        options.arguments = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status = options.run(options) or 0
        print(end="", flush=True)  # as long as it can be told that nobody gets it
        return status
    except ModuleNotFoundError as error:
        extra = f"'kdcourse[{options.extra}]'" if options.extra else "kdcourse"
        print(f"kdcourse: {error}; pip install {extra} brings it", file=sys.stderr)
        return 1
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        _let_go_of_output()
        if isinstance(error, BrokenPipeError):  # whoever reads has seen enough, as `head`
            return ENDED_BY_READER
        print(f"kdcourse: {_told(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        resumed = options.run in (_train, _reproduce, _grade)
        hint = "; the same command goes on where it stopped" * resumed
        print(f"kdcourse: interrupted{hint}", file=sys.stderr)
        return 130


def _told(error: Exception) -> str:
    return files.sentence(error) if isinstance(error, OSError) else str(error)


def _refused(error: Exception) -> int:
    """Say in a line why a command was not carried out, and return its status."""
    print(f"kdcourse: {_told(error)}", file=sys.stderr)
    return WRONGLY_CALLED


def _let_go_of_output() -> None:
    """Forget output that cannot be written, about which Python would complain at its end."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(commands: Any, name: str, run: Run, extra: str = "", **texts: Any) -> Any:
    """Add a command; ``extra`` names the optional dependencies that it needs."""
    made = commands.add_parser(name, **texts)
    made.set_defaults(run=run, extra=extra)
    return made


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kdcourse", description="Knowledge distillation, taught and measured."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = partial(_command, commands)

    command(
        "lab",
        _lab,
        help="open the notebooks in JupyterLab",
        description="Open the notebooks in JupyterLab. Options are passed on to it, such as "
        "--no-browser or --port 8890. Without a clone of the course, they are copied into "
        "kdcourse-notebooks in the current folder, where nothing is ever overwritten.",
    )
    command("train", _train, help="train any net, also on many GPUs", add_help=False)

    _add_report(command)
    _add_doctor(command)
    _add_check(command)

    _add_reproduce(command)

    teachers = command("teachers", _teachers, help="train the teachers that ship with the course")
    teachers.add_argument("names", nargs="*", metavar="NAME", help="teachers (all by default)")
    teachers.add_argument(
        "--folder", help="where to store them (data/teachers of the clone, or kdcourse-teachers)"
    )

    bench = command("bench", _bench, extra="test", help="measure what the package costs, as ratios")
    for name, what in (
        ("training", "images per second of a distillation epoch instead (ten minutes)"),
        ("chunks", "time and memory of KD with 128,000 classes instead (needs 3 GB, five minutes)"),
        ("gradients", "what hand-written gradients save instead"),
        ("methods", "time and memory of the methods' losses instead, beside their authors' form"),
        ("doctor", "what a doctor costs that looks at a run instead (ten minutes)"),
        ("sampling", "what a cache saves when language models write instead"),
        ("startup", "seconds that importing the package takes instead"),
        ("leaderboard", "what a step by each method of the leaderboard costs instead"),
        ("kernels", "memory and seconds that each notebook's kernel takes instead (ten minutes)"),
    ):
        bench.add_argument(f"--{name}", action="store_true", help=what)
    bench.add_argument("--rounds", type=int, default=9, help="rounds of each comparison (9)")

    notebooks = command("notebooks", _notebooks, help="run the notebooks and store their outputs")
    notebooks.add_argument("paths", nargs="*", metavar="FILE", help="notebooks (all by default)")
    notebooks.add_argument(
        "--normalize",
        action="store_true",
        help="run nothing, store them as they are in the form that the course keeps",
    )

    _add_homework(commands.add_parser("homework", help="release and grade the homework"))

    site = command("site", _site, extra="docs", help="build the course as a web site")
    site.add_argument(
        "--folder", type=Path, default=Path("build/site"), help="where to (build/site)"
    )

    slides = command("slides", _slides, extra="docs", help="write the notebooks as slides to show")
    slides.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("build/slides"),
        metavar="FOLDER",
        help="where to (build/slides)",
    )

    command("docs", _docs, help="write the stored measurements into README and docs")
    return parser


def _add_report(command: Any) -> None:
    report = command(
        "report",
        _report,
        help="judge trained students beyond their accuracy, on one page",
        description="Measure students that train has finished, beside their teacher: accuracy with "
        "intervals, fidelity, calibration, robustness, who paid for the gain, cost, and exported "
        "forms. The page needs no network; beside the first run, others may be named to compare.",
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="folders that train has written")
    report.add_argument(
        "--out",
        default="report.html",
        metavar="FILE",
        help="where to; as JSON where it ends in .json (report.html)",
    )
    report.add_argument(
        "--without",
        default="",
        metavar="PARTS",
        help="leave out calibration, fidelity, classes, cost, robustness, export: 'export,cost'",
    )
    report.add_argument(
        "--baseline",
        metavar="RUN",
        help="the run that others are compared with (the first without a teacher)",
    )
    report.add_argument("--device", metavar="NAME", help="cpu, cuda, mps (the best there is)")


def _add_doctor(command: Any) -> None:
    doctor = command(
        "doctor",
        _doctor,
        help="look at a run for what goes wrong in it",
        description="Examine what `train` has written, or is writing: student, teacher, data and "
        "loss are made again from its options, a few batches are looked at, and so is its history. "
        "Nothing is trained or written. The exit status is 0 without a remark, 1 with some, and 2 "
        "if there is no run that can be examined.",
    )
    doctor.add_argument("folder", type=Path, metavar="DIR", help="what --out of train was")
    doctor.add_argument(
        "--alone", type=Path, metavar="DIR", help="the same by labels alone, to compare with"
    )
    doctor.add_argument("--batches", type=int, default=4, help="batches to look at (4)")
    doctor.add_argument(
        "--device", help="cpu, cuda, cuda:1 or mps (that of the run, or the best there is)"
    )


def _add_check(command: Any) -> None:
    checking = command(
        "check",
        _check_loss,
        help="find out which convention a loss of yours follows, and what breaks",
        description="Compare a loss of anybody's with one of ours: the factor between them, in "
        "words and as a function of N, K and τ, and every property that does not hold, by the "
        "smallest input that shows it. The exit status is 0 if it conforms, perhaps up to a "
        "factor, 1 if it does not, and 2 if it cannot be checked.",
    )
    checking.add_argument(
        "place", nargs="?", metavar="MODULE:FUNCTION", help="the loss, or FILE.py:FUNCTION"
    )
    checking.add_argument(
        "--as",
        dest="like",
        default="kd",
        metavar="LOSS",
        help="the loss of ours that it is to be, such as kd, rkd_distance or "
        "\"kd(divergence='reverse')\" (kd)",
    )
    checking.add_argument(
        "--teacher-first", action="store_true", help="the loss takes the teacher's output first"
    )
    checking.add_argument(
        "--foreign",
        action="store_true",
        help="check the losses of other libraries instead, as far as they are installed, and "
        "store what was found",
    )


def _add_reproduce(command: Any) -> None:
    reproduce = command(
        "reproduce",
        _reproduce,
        help="measure the lecture's claims",
        description="Measure claims over seeds, store every seed, and print the table. "
        "What is stored already is not measured again. Without a clone of the course, results are "
        "stored in kdcourse-results in the current folder, and take the place of ours.",
    )
    reproduce.add_argument(
        "ids",
        nargs="*",
        metavar="ID",
        help="claims (all by default); or leaderboard, perhaps with the names of some boards",
    )
    reproduce.add_argument("--seeds", type=int, default=10, help="number of seeds (10)")
    reproduce.add_argument(
        "--jobs", type=int, help="processes side by side (1; on a GPU one a core and 8 GiB free)"
    )
    reproduce.add_argument(
        "--device",
        default="cpu",
        help="where nets are trained: cpu, or cuda, whose results are kept apart (cpu)",
    )
    instead = reproduce.add_mutually_exclusive_group()
    instead.add_argument(
        "--stored", action="store_true", help="measure nothing, print what is stored"
    )
    instead.add_argument(
        "--check",
        action="store_true",
        help="measure nothing, see whether the code still does what it did when it was measured",
    )


def _add_homework(homework: argparse.ArgumentParser) -> None:
    steps = homework.add_subparsers(required=True, metavar="STEP")
    release = _command(
        steps,
        "release",
        _release,
        extra="homework",
        help="write student notebooks, autograder archives, and a zip to hand out",
    )
    release.add_argument("folder", metavar="DIR", type=Path, help="where to")
    _add_masters(release)
    grade = _command(
        steps,
        "grade",
        _grade,
        extra="homework",
        help="grade notebooks that came back",
        description="Grade notebooks, each in a sandbox of its own. What was graded before and has "
        "not changed is not graded again.",
    )
    grade.add_argument("assignment", metavar="ASSIGNMENT", help="such as 1_logit")
    grade.add_argument(
        "submissions", nargs="+", metavar="SUBMISSION", type=Path, help="notebooks, or folders"
    )
    grade.add_argument("--out", type=Path, default=Path("grades.csv"), help="CSV (grades.csv)")
    grade.add_argument("--jobs", type=int, default=2, help="submissions side by side (2)")
    grade.add_argument("--again", action="store_true", help="grade also what has not changed")
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


def _add_masters(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--masters",
        type=Path,
        metavar="DIR",
        help="folder of the masters (instructors/ of the clone)",
    )


# Each command imports what it needs, so that --help answers at once.


def _lab(options: argparse.Namespace) -> None:
    from kdcourse.course import lab

    lab.serve(options.arguments)


def _train(options: argparse.Namespace) -> int:
    from kdcourse.train.main import main

    return main(options.arguments)


def _report(options: argparse.Namespace) -> int:
    from kdcourse.train import report
    from kdcourse.train.options import OptionError

    try:
        return report.main(options)
    except OptionError as error:
        return _refused(error)


def _doctor(options: argparse.Namespace) -> int:
    from kdcourse.train.examine import examine

    try:
        report = examine(
            options.folder, options.alone, batches=options.batches, device=options.device
        )
    except (ValueError, OSError, RuntimeError) as error:  # 1 means that something was found
        return _refused(error)
    print(report)
    return int(bool(report.findings))


def _check_loss(options: argparse.Namespace) -> int:
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
        return _refused(error)
    print(report)
    return int(not report.passed)


def _check_foreign() -> int:
    from kdcourse.course.bench import conformance

    missing = conformance.measure()
    print(conformance.table(conformance.load()))
    print(*missing, sep="\n")
    _show_results()
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    from kdcourse.course import claims

    if options.ids[:1] == ["leaderboard"]:
        return _reproduce_leaderboard(options)
    if options.check:
        deviations = claims.check(options.ids, jobs=options.jobs, device=options.device)
        return _check(deviations, claims.TOLERANCE)
    if not options.stored:
        how = {"seeds": options.seeds, "jobs": options.jobs, "device": options.device}
        claims.reproduce(options.ids, **how)
    print(claims.table(options.ids, device=options.device.partition(":")[0]))
    _show_results()
    return 0


def _reproduce_leaderboard(options: argparse.Namespace) -> int:
    from kdcourse.course import leaderboard
    from kdcourse.course.claims import TOLERANCE

    boards = leaderboard.known(options.ids[1:])
    how = {"jobs": options.jobs, "device": options.device}
    if options.check:
        return _check(leaderboard.check(boards, **how), TOLERANCE)
    if not options.stored:
        leaderboard.reproduce(boards, seeds=options.seeds, **how)
    for board in boards:
        shown = leaderboard.table(board, seeds=options.seeds)
        print(f"{leaderboard.BOARDS[board].about}\n\n{shown}\n")
    return 0


def _show_results() -> None:
    """Say where your results are, without a clone, which keeps them."""
    from kdcourse.course.claims.results import RESULTS
    from kdcourse.places import own_folder

    if (folder := own_folder(RESULTS)) != RESULTS and folder.is_dir():
        print(f"results: {folder}")


def _check(deviations: dict[str, float], tolerance: float) -> int:
    for id, deviation in deviations.items():
        verdict = "matches the code" if deviation <= tolerance else "DIFFERS from the code"
        print(f"{id:<20} {verdict:<21}  worst number off by {deviation:.1e}")
    changed = sum(deviation > tolerance for deviation in deviations.values())
    print(f"{changed} of {len(deviations)} differ; a number may be off by {tolerance:.0e}")
    return int(changed > 0)


def _teachers(options: argparse.Namespace) -> None:
    from kdcourse.places import own_folder
    from kdcourse.teachers import shipped

    folder = own_folder(Path(options.folder or shipped.TEACHERS))
    names = shipped.known(options.names)  # before any is trained
    for name in names:
        card = shipped.train_teacher(name, folder)
        for key, unit in {"test_accuracy": "%", "test_nats": "per character"}.items():
            if key in card:
                tested = f"{key.replace('_', ' ')} {card[key]} {unit}"
                print(f"{name}: {tested}, sha256 {card['sha256']}")
    print(f"stored in {folder}")
    if folder != shipped.TEACHERS:
        print(f"pretrained({names[0]!r}, {str(folder)!r}) loads one of them")


def _bench(options: argparse.Namespace) -> None:
    from kdcourse.course import leaderboard
    from kdcourse.course.bench import (
        chunks,
        doctor,
        gradients,
        kernels,
        losses,
        methods,
        overhead,
        sampling,
        startup,
        training,
    )

    if options.training:
        print(training.table(training.measure(rounds=options.rounds)))
    if options.chunks:
        print(chunks.table(chunks.measure()))
    if options.kernels:
        print(kernels.table(kernels.measure()))
    if options.gradients:
        print(gradients.table(gradients.measure(rounds=options.rounds)))
    if options.methods:
        print(methods.table(methods.measure(rounds=options.rounds)))
    if options.doctor:
        print(doctor.table(doctor.measure(rounds=options.rounds)))
    if options.sampling:
        print(sampling.table(sampling.measure(rounds=options.rounds)))
    if options.startup:
        print(startup.table(startup.measure(rounds=options.rounds)))
    if options.leaderboard:
        leaderboard.cost.measure(rounds=options.rounds)
    instead = ("training", "chunks", "kernels", "gradients", "methods", "sampling", "startup")
    if not any(getattr(options, name) for name in (*instead, "doctor", "leaderboard")):
        # The losses first: they need a library that may be missing.
        print(losses.table(losses.measure(rounds=options.rounds)))
        print(overhead.table(overhead.measure(rounds=options.rounds)))
    _show_results()


def _notebooks(options: argparse.Namespace) -> None:
    from kdcourse.course import notebooks
    from kdcourse.places import own_copy

    paths = [Path(path) for path in options.paths]
    if not paths:
        folder = own_copy(notebooks.NOTEBOOKS)
        if folder == notebooks.NOTEBOOKS:
            notebooks.write_map()
        paths = [folder / notebooks.START, *notebooks.course_notebooks(folder)]
    work = notebooks.store if options.normalize else notebooks.run
    work(paths)


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


def _site(options: argparse.Namespace) -> int:
    from kdcourse.course import site

    return site.build(options.folder)


def _slides(options: argparse.Namespace) -> None:
    from kdcourse.course import slides

    for path in slides.build(options.folder):
        print(path)


def _docs(options: argparse.Namespace) -> None:
    from kdcourse.course import docs

    docs.write()


if __name__ == "__main__":
    sys.exit(main())
