"""What all exercises share: an answer is checked, and what is wrong is said in words."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from kdcourse.homework.requirement import described

EMPTY = "Not answered yet: replace the ... in the cell above, run it, then run this cell again."


def exercise(check: Callable[[Any], str | None]) -> Callable[[Any], None]:
    """Turn a function that asserts what is right of an answer into an exercise's check.

    The check prints whether the answer is right. It never raises: an exercise that is left out
    must not stop the notebook. What the function returns, if anything, is added to the praise.
    """

    @functools.wraps(check)
    def checked(answer: Any) -> None:
        if answer is ...:
            print(EMPTY)
            return
        try:
            with torch.random.fork_rng(devices=[]):  # a check draws; the notebook does not notice
                lesson = check(answer)
        except Exception as error:
            print(f"✗ Not yet. {described(error)}")
        else:
            print(f"✓ Right. {lesson or ''}".rstrip())

    return checked
