"""Grade submissions in parallel: results and a summary for the instructor, pages for students."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from kdcourse import files
from kdcourse.homework import by_hand, fence, release, summary
from kdcourse.homework.feedback import page
from kdcourse.homework.judge import Verdict, judge, nothing
from kdcourse.homework.sandbox import Limits
from kdcourse.processes import workers

FAILED = "not graded, the grader failed"
COLUMNS = ("submission", "question", "points", "of", "remarks")


def grade(
    name: str,
    submissions: Iterable[Path],
    out: Path,
    *,
    jobs: int = 2,
    again: bool = False,
    limits: Limits | None = None,
    late_penalty: float = 10.0,
    masters: Path = release.MASTERS,
) -> dict[str, Verdict]:
    """Grade submissions, and write the results.

    Beside ``out`` there are then a page for each student (``-feedback``), a summary of the class
    (``-summary.html``), and a file for what is given by hand (``-by-hand.csv``).

    A submission that was graded before is not graded again unless the notebook or the assignment
    has changed: its verdict is stored beside its page. What is given by hand is added at every run.

    Args:
        name: Name of the assignment.
        submissions: Notebooks, or folders that are searched for notebooks.
        out: The CSV file to write.
        jobs: Number of submissions that are graded in parallel.
        again: Whether to grade everything anew.
        limits: What each submission may use.
        late_penalty: Percent of the points that each day late costs.
        masters: Folder of the masters.

    Returns:
        The verdicts by the name of the submission, which is its path below the folder that all have
        in common.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if not 0 <= late_penalty <= 100:
        raise ValueError(f"late_penalty must be between 0 and 100, got {late_penalty}")
    if out.is_dir():
        raise ValueError(f"--out: {out} is a folder; say which file to write the results to")
    folder = beside(out, "-feedback")
    for place in (out.parent, folder):
        files.check_writable(place)
    limits = limits or Limits()
    assignment = replace(release.build(name, masters), autograder=b"")  # only its checks are needed
    contents = {label: path.read_bytes() for label, path in _labelled(submissions).items()}
    entries = by_hand.update(beside(out, "-by-hand.csv"), assignment, contents)
    rules = repr((assignment.questions, assignment.notebook, limits)).encode()
    keys = {label: hashlib.sha256(rules + data).hexdigest() for label, data in contents.items()}
    record = folder / "results.json"
    stored = _stored(record)
    known = {
        label: Verdict.from_json(stored[label]["verdict"])
        for label, key in keys.items()
        if stored.get(label, {}).get("key") == key and not again
    }
    left = {label: contents[label] for label in contents if label not in known}
    if left and not limits.unsafe:
        fence.check()
    for label, verdict in tqdm(
        _judge_all(left, assignment, limits, jobs),
        total=len(contents),
        initial=len(known),
        unit="notebook",
    ):
        known[label] = verdict
        if not has_failed(verdict):
            stored[label] = {"key": keys[label], "verdict": asdict(verdict)}
            _write(record, json.dumps(stored, indent=1))  # at once: a run that is stopped can go on
    verdicts = {
        label: by_hand.applied(known[label], entry, late_penalty)
        for label, entry in zip(contents, entries.values(), strict=True)
    }
    for label, verdict in verdicts.items():
        _write(folder / f"{label}.html", page(name, label, verdict))
    _write_csv(out, verdicts)
    _write(beside(out, "-summary.html"), summary.page(assignment, verdicts))
    return verdicts


def _judge_all(
    contents: Mapping[str, bytes], assignment: release.Assignment, limits: Limits, jobs: int
) -> Iterator[tuple[str, Verdict]]:
    """Judge notebooks in parallel, and yield each verdict as soon as there is one."""
    set_forkserver_preload(["kdcourse.homework.judge", "otter.test_files"])
    pool = ThreadPoolExecutor(jobs)
    running = {
        pool.submit(_judge_aside, data, assignment, limits): label
        for label, data in contents.items()
    }
    try:
        for done in as_completed(running):
            error = done.exception()  # an error of the grader must not stop the others
            told = files.sentence(error) if isinstance(error, OSError) else repr(error)
            reason = f"{FAILED}: {told}"
            yield running[done], nothing(assignment, reason) if error else done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _stored(record: Path) -> dict[str, Any]:
    """Return the verdicts that are stored, as plain data."""
    try:
        return dict(json.loads(record.read_text())) if record.is_file() else {}
    except (ValueError, TypeError):
        raise ValueError(f"{record} is damaged: delete it, and all is graded anew") from None


def _judge_aside(data: bytes, assignment: release.Assignment, limits: Limits) -> Verdict:
    """Judge in a fresh process, which shares its random numbers and settings with no other."""
    with workers(1, "forkserver") as aside:
        return aside.submit(judge, data, assignment, limits).result()


def has_failed(verdict: Verdict) -> bool:
    """Whether the grader has failed, not the submission; the next run tries again."""
    return any(remark.startswith(FAILED) for remark in verdict.remarks)


def beside(out: Path, what: str) -> Path:
    """Return the path of something that belongs to a CSV, by the end of its name."""
    return out.with_name(out.stem + what)


def _labelled(submissions: Iterable[Path]) -> dict[str, Path]:
    """Find the notebooks, and name each by its path below the common folder, without .ipynb."""
    paths: list[Path] = []
    for path in submissions:
        if not path.exists():
            raise ValueError(f"no such file or folder: {path}")
        found = path.rglob("*.ipynb") if path.is_dir() else [path]
        paths += [one for one in found if ".ipynb_checkpoints" not in one.parts]
    paths = sorted({path.resolve() for path in paths if path.is_file()})
    if not paths:
        raise ValueError("no notebooks among the submissions")
    common = Path(os.path.commonpath([path.parent for path in paths]))
    labelled: dict[str, Path] = {}
    for path in paths:
        # A name may hold bytes that are no text, and spaces at its ends, which spreadsheets drop.
        name = os.fsencode(path.relative_to(common)).decode(errors="backslashreplace")
        label = Path(name.removesuffix(".ipynb").strip()).as_posix()
        while label in labelled:
            label += "_"
        labelled[label] = path
    return labelled


def _write_csv(out: Path, verdicts: Mapping[str, Verdict]) -> None:
    rows: list[tuple[str, ...]] = [COLUMNS]
    for label, verdict in verdicts.items():
        for mark in verdict.marks:
            points = "" if mark.points is None else f"{mark.points:g}"
            rows.append((label, mark.question, points, f"{mark.of:g}", mark.remarks))
        total = f"{verdict.points:g}", f"{verdict.of:g}"
        rows.append((label, "total", *total, "; ".join(verdict.remarks)))
    table = io.StringIO()
    writer = csv.writer(table)
    for label, *numbers, remarks in rows:
        writer.writerow([by_hand.harmless(label), *numbers, by_hand.harmless(remarks)])
    _write(out, table.getvalue())


def _write(path: Path, text: str) -> None:
    """Write a file: all of it, or nothing."""
    files.write(path, text.encode(errors="backslashreplace"))
