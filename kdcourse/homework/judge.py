"""Judge one submission: otter's checks run here, the submission's functions in their sandbox."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kdcourse.homework.feedback import BY_HAND
from kdcourse.homework.release import Assignment, Question
from kdcourse.homework.requirement import Requirement, checked
from kdcourse.homework.sandbox import Limits, Sandbox, SubmissionError
from kdcourse.homework.submission import Submission, UnreadableError, read
from kdcourse.training.device import one_thread

MANY_CELLS = 5  # more failing cells than this are not listed
MUCH_OUTPUT = 2**20  # bytes


@dataclass
class Mark:
    """The points of one question.

    Attributes:
        question: Name of the question.
        points: Points that were earned; None where a person has to decide.
        of: Points that can be earned.
        problem: Why nothing could be checked; empty if it could.
        requirements: What the question requires, and whether it is met.
        answer: What the student wrote in words.
    """

    question: str
    points: float | None
    of: float
    problem: str = ""
    requirements: list[Requirement] = field(default_factory=list)
    answer: str = ""

    @property
    def remarks(self) -> str:
        """Everything that was wrong, on hidden inputs too: for the instructor."""
        found = [self.problem]
        for one in self.requirements:
            found += [one.problem, one.elsewhere]
        return "; ".join(dict.fromkeys(filter(None, found)))


@dataclass
class Verdict:
    """The marks of a submission, remarks on it, and the minutes that its questions took."""

    marks: list[Mark]
    remarks: list[str] = field(default_factory=list)
    minutes: dict[str, float] = field(default_factory=dict)

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
            Mark(**{**mark, "requirements": [Requirement(**one) for one in mark["requirements"]]})
            for mark in stored["marks"]
        ]
        return cls(marks, stored["remarks"], stored["minutes"])


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
    for mark in marks:
        mark.answer = mark.answer or submission.texts[mark.question]
    return Verdict(marks, [*submission.remarks, *_remarks(sandbox)], submission.minutes)


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
    return check(question, function)


def check(question: Question, function: Callable[..., Any]) -> Mark:
    """Apply the checks of a question to a function, wherever it runs."""
    requirements = checked(question.name, question.checks, {question.name: function})
    points = sum(one.points for one in requirements if one.met)
    return Mark(question.name, points, question.points, requirements=requirements)


def _written(question: Question, submission: Submission) -> Mark:
    """Leave it to a person, who is shown all text of the notebook where no answer is in place."""
    name, answer = question.name, submission.texts[question.name]
    everything = "\n\n".join(filter(None, [*submission.texts.values(), *submission.asides]))
    if not everything:
        return Mark(name, 0, question.points, "not answered")
    problem = BY_HAND
    if not answer or name in submission.lost:
        problem += ": nothing is written below this question, so all text in the notebook is shown"
        answer = everything
    return Mark(name, None, question.points, problem, answer=answer)


def _remarks(sandbox: Sandbox) -> list[str]:
    remarks = [f"{name} {error}" for name, error in sandbox.cell_errors.items()]
    if len(remarks) > MANY_CELLS:
        remarks[MANY_CELLS:] = [f"and {len(remarks) - MANY_CELLS} more cells with errors"]
    if sandbox.limits.unsafe:
        remarks.append("graded without a sandbox (--unsafe)")
    if sandbox.printed > MUCH_OUTPUT:
        remarks.append(f"printed {sandbox.printed // 2**20} MB of output, which was discarded")
    return remarks
