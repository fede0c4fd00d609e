"""Judge one submission: otter's checks here, the submission's functions in their sandbox."""

from dataclasses import asdict, dataclass, field
from typing import Any

from kdcourse.homework.release import Assignment, Question
from kdcourse.homework.sandbox import Limits, Sandbox, SubmissionError
from kdcourse.homework.submission import Submission, UnreadableError, read

MANY_CELLS = 5  # more failing cells than this are not listed
MUCH_OUTPUT = 2**20  # bytes


@dataclass
class Check:
    """How one check went.

    Attributes:
        about: what it asks for.
        hidden: whether students may not see it.
        problem: what was wrong; empty if it passed.
    """

    about: str
    hidden: bool
    problem: str


@dataclass
class Mark:
    """The points of one question.

    Attributes:
        question: its name.
        points: reached; None where a person has to say.
        of: points that can be reached.
        problem: why nothing could be checked; empty if it could.
        checks: that ran.
        answer: what was written, of a written question.
    """

    question: str
    points: float | None
    of: float
    problem: str = ""
    checks: list[Check] = field(default_factory=list)
    answer: str = ""

    @property
    def remarks(self) -> str:
        """For the instructor: everything that was wrong, hidden checks included."""
        found = [self.problem, *(check.problem for check in self.checks)]
        return "; ".join(dict.fromkeys(filter(None, found)))


@dataclass
class Verdict:
    """What a submission reached, and what is to be said of it as a whole."""

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

    def to_json(self) -> dict[str, Any]:
        """Return plain data, from which :meth:`from_json` makes the same again."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Verdict":
        """Make a verdict of plain data."""
        marks = [
            Mark(**{**mark, "checks": [Check(**check) for check in mark["checks"]]})
            for mark in stored["marks"]
        ]
        return cls(marks, stored["remarks"])


def judge(data: bytes, assignment: Assignment, limits: Limits | None = None) -> Verdict:
    """Judge the bytes of a notebook, whatever they are."""
    try:
        submission = read(data, assignment)
    except UnreadableError as error:
        return nothing(assignment, str(error))
    with Sandbox(submission.cells, limits) as sandbox:
        marks = [
            run_checks(question, sandbox) if question.checks else _written(question, submission)
            for question in assignment.questions
        ]
    return Verdict(marks, [*submission.remarks, *_remarks(sandbox)])


def nothing(assignment: Assignment, reason: str) -> Verdict:
    """Return a verdict without points, for one reason."""
    marks = [Mark(question.name, 0, question.points) for question in assignment.questions]
    return Verdict(marks, [reason])


def run_checks(question: Question, sandbox: Sandbox) -> Mark:
    """Let the checks of a question judge a submission's function."""
    try:
        function = sandbox.function(question.name)
    except SubmissionError as error:
        return Mark(question.name, 0, question.points, str(error))
    return check(question, {question.name: function})


def check(question: Question, names: dict[str, Any]) -> Mark:
    """Let the checks of a question judge a function, wherever it runs."""
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
    """Take what went wrong out of otter's message, whose last line is ``Error: what``."""
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
    if sandbox.printed > MUCH_OUTPUT:
        remarks.append(f"printed {sandbox.printed // 2**20} MB, which were thrown away")
    return remarks
