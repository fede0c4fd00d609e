"""Judge one submission: otter's checks run here, the submission's functions in their sandbox."""

from dataclasses import dataclass, field
from typing import Any

from kdcourse.homework.release import Assignment, Question
from kdcourse.homework.sandbox import Limits, Sandbox, SubmissionError
from kdcourse.homework.submission import Submission, UnreadableError, read
from kdcourse.training.device import one_thread

MANY_CELLS = 5  # more failing cells than this are not listed
MUCH_OUTPUT = 2**20  # bytes


@dataclass
class Check:
    """The outcome of one check.

    Attributes:
        about: What the check asks for.
        hidden: Whether the check is hidden from students.
        problem: What was wrong; empty if the check passed.
    """

    about: str
    hidden: bool
    problem: str


@dataclass
class Mark:
    """The points of one question.

    Attributes:
        question: Name of the question.
        points: Points that were earned; None where a person has to decide.
        of: Points that can be earned.
        problem: Why nothing could be checked; empty if it could.
        checks: The checks that ran.
        answer: The text of the answer to a written question.
    """

    question: str
    points: float | None
    of: float
    problem: str = ""
    checks: list[Check] = field(default_factory=list)
    answer: str = ""

    @property
    def remarks(self) -> str:
        """Everything that was wrong, hidden checks included: for the instructor."""
        found = [self.problem, *(check.problem for check in self.checks)]
        return "; ".join(dict.fromkeys(filter(None, found)))


@dataclass
class Verdict:
    """The marks of a submission, and remarks on it as a whole."""

    marks: list[Mark]
    remarks: list[str] = field(default_factory=list)

    @property
    def points(self) -> float:
        """Points of all questions that were graded."""
        return sum(mark.points or 0 for mark in self.marks)

    @property
    def of(self) -> float:
        """Points of all questions."""
        return sum(mark.of for mark in self.marks)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Verdict":
        """Restore a verdict from the plain data that :func:`dataclasses.asdict` makes of it."""
        marks = [
            Mark(**{**mark, "checks": [Check(**check) for check in mark["checks"]]})
            for mark in stored["marks"]
        ]
        return cls(marks, stored["remarks"])


def judge(data: bytes, assignment: Assignment, limits: Limits | None = None) -> Verdict:
    """Judge a notebook from its bytes, whatever they hold."""
    try:
        submission = read(data, assignment)
    except UnreadableError as error:
        return nothing(assignment, str(error))
    with one_thread(), Sandbox(submission.cells, limits) as sandbox:
        marks = [
            run_checks(question, sandbox) if question.checks else _written(question, submission)
            for question in assignment.questions
        ]
    return Verdict(marks, [*submission.remarks, *_remarks(sandbox)])


def nothing(assignment: Assignment, reason: str) -> Verdict:
    """Return a verdict of no points, and the reason."""
    marks = [Mark(question.name, 0, question.points) for question in assignment.questions]
    return Verdict(marks, [reason])


def run_checks(question: Question, sandbox: Sandbox) -> Mark:
    """Apply the checks of a question to a submission's function."""
    try:
        function = sandbox.function(question.name)
    except SubmissionError as error:
        return Mark(question.name, 0, question.points, str(error))
    return check(question, {question.name: function})


def check(question: Question, names: dict[str, Any]) -> Mark:
    """Apply the checks of a question to a function, wherever it runs."""
    from otter.test_files import TestFile
    from otter.test_files.exception_test import ExceptionTestFile

    test: TestFile = ExceptionTestFile.from_string(question.checks, question.name)
    test.run(names)
    checks = [
        Check(
            (result.test_case.body.test_func.__doc__ or "").strip(),
            result.test_case.hidden,
            "" if result.passed else _problem(result.message),
        )
        for result in test.test_case_results
    ]
    return Mark(question.name, round(test.score, 6), question.points, checks=checks)


def _problem(message: str) -> str:
    """Return what went wrong, from the last line of otter's message: ``Error: what``."""
    kind, _, text = message.strip().splitlines()[-1].partition(": ")
    return (text if kind in ("AssertionError", "SubmissionError") else f"{kind}: {text}")[:500]


def _written(question: Question, submission: Submission) -> Mark:
    answer = submission.answers[question.name]
    if not answer:
        return Mark(question.name, 0, question.points, "not answered")
    return Mark(question.name, None, question.points, "to be graded by hand", answer=answer)


def _remarks(sandbox: Sandbox) -> list[str]:
    remarks = [f"{name} {error}" for name, error in sandbox.cell_errors.items()]
    if len(remarks) > MANY_CELLS:
        remarks[MANY_CELLS:] = [f"and {len(remarks) - MANY_CELLS} more cells with errors"]
    if sandbox.limits.unsafe:
        remarks.append("graded without a sandbox (--unsafe)")
    if sandbox.printed > MUCH_OUTPUT:
        remarks.append(f"printed {sandbox.printed // 2**20} MB, which were thrown away")
    return remarks
