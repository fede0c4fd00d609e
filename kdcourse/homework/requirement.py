"""What a question requires, and which of it an answer meets.

A question's checks come in otter's format of test files. Each requirement has one check that is
public and, where the grader runs, one that is hidden: the same on other inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kdcourse.homework.wire import CHANGED, changes, leaves

# What to do about some errors of torch, by a part of their message.
HINTS = {
    "a leaf Variable that requires grad": "change weights under torch.no_grad()",
    "not implemented for 'Half'": "turn half precision into float32 first",
    "must match the size of tensor": "print the two shapes, and see which dimension is which",
    "No module named 'kdcourse": "what you are asked to write cannot be imported here",
}


@dataclass
class Requirement:
    """One requirement of a question, and what was wrong with an answer.

    Attributes:
        about: What is required, and for how many points.
        advice: What to do about it, in one sentence.
        points: Points that it is worth.
        problem: What was wrong on the inputs of the public check; empty if nothing was.
        elsewhere: What was wrong on the inputs of the hidden check, which students do not see.
    """

    about: str
    advice: str
    points: float
    problem: str = ""
    elsewhere: str = ""

    @property
    def met(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.problem or self.elsewhere)


def checked(question: str, checks: str, names: dict[str, Callable[..., Any]]) -> list[Requirement]:
    """Check an answer, wherever it runs.

    Args:
        question: Name of the question.
        checks: Source of its checks.
        names: What the checks ask for by name: the student's function.

    Returns:
        Its requirements, in order.

    Raises:
        ModuleNotFoundError: otter-grader is not installed.
    """
    try:
        from otter.test_files.exception_test import ExceptionTestFile
    except ModuleNotFoundError as error:  # the course itself does without
        advice = "the checks need it: %pip install 'kdcourse[homework]', then check again"
        raise ModuleNotFoundError(f"{error}; {advice}", name=error.name) from None

    careful = {name: _Careful(function) for name, function in names.items()}
    requirements: list[Requirement] = []
    for case in ExceptionTestFile.from_string(checks, question).test_cases:
        with torch.random.fork_rng(devices=[]):  # a check draws; the notebook does not notice
            problem = _problem(case.body, careful)
        if case.hidden:  # it follows the public check of the same requirement
            requirements[-1].elsewhere = problem
            requirements[-1].points = case.points
        else:
            about = (case.body.test_func.__doc__ or "").strip()
            requirements.append(Requirement(about, case.failure_message, case.points, problem))
    return requirements


class _Careful:
    """A function that must leave the tensors it is given as they are, as it must in the sandbox."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        given = leaves([arguments, options])
        before = changes(given)
        result = self.function(*arguments, **options)
        if before != changes(given):
            raise AssertionError(CHANGED)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)


def _problem(check: Any, names: dict[str, Any]) -> str:
    """Return what a check finds wrong; empty if nothing is."""
    try:
        check.call_func(names)
    except Exception as error:
        return described(error)
    return ""


def described(error: Exception) -> str:
    """Return what a check found wrong, or that the answer raised an error, and what helps."""
    text = " ".join(str(error).split())
    if type(error).__name__ not in ("AssertionError", "SubmissionError"):
        text = f"raised {type(error).__name__}: {text}".removesuffix(": ")
    known = [words for part, words in HINTS.items() if part in text]
    return "; ".join([f"{text[:1].upper()}{text[1:500]}", *known])
