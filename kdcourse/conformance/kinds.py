"""What a loss compares: shapes, drawn at random or as small integers, and losses of ours by name.

A kind is read off the loss of ours that another is to conform to: ``student_logits`` are
``(N, K)``, ``student_features`` ``(N, C, H, W)``, ``student_embeddings`` ``(N, D)``. Which
properties a kind has is written down nowhere: what ours is measured to have, the other must have.
"""

import ast
import importlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import kdcourse
from kdcourse.errors import ArgumentError

SHAPES: dict[str, tuple[str, tuple[int, ...]]] = {  # by what the first argument of ours is called
    "logits": ("NK", (4, 5)),
    "features": ("NCHW", (3, 4, 4, 4)),
    "gradient": ("NCHW", (3, 2, 4, 4)),
    "embeddings": ("ND", (5, 4)),
    "vectors": ("NTD", (3, 4, 12)),
}
LETTERS = {2: "NK", 3: "NTD", 4: "NCHW", 5: "NCDHW"}
WORDS = {"N": "samples", "K": "classes", "C": "channels", "D": "dimensions", "T": "positions"}
MOST = {"N": 3, "K": 4}  # of what a small input has, 2 of all else


@dataclass(frozen=True)
class LossKind:
    """What student and teacher show.

    Attributes:
        letters: A letter for each dimension of the student's, the samples N first.
        student, teacher: Shapes.
        probabilities: Whether the teacher shows probabilities over dimension 1.
    """

    letters: str
    student: tuple[int, ...]
    teacher: tuple[int, ...]
    probabilities: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that both have, by their letters: the teacher's width may be another."""
        pairs = zip(self.letters, self.student, self.teacher, strict=False)
        return {letter: size for letter, size, other in pairs if size == other}

    def sized(self, **sizes: int) -> "LossKind":
        """Return the kind with other sizes of these letters."""

        def changed(shape: tuple[int, ...]) -> tuple[int, ...]:
            pairs = zip(self.letters, shape, strict=False)
            return tuple(sizes.get(letter, size) for letter, size in pairs)

        return replace(self, student=changed(self.student), teacher=changed(self.teacher))

    def draw(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Draw what student and teacher show, in float64: normal, the teacher twice as wide."""
        generator = torch.Generator().manual_seed(seed)
        student, teacher = (
            torch.randn(shape, generator=generator, dtype=torch.float64)
            for shape in (self.student, self.teacher)
        )
        return student, self._taught(2 * teacher)

    def small(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs of small integers, those with the fewest samples and classes first."""
        letters = list(self.sizes)
        grown = [
            range(1 + (x == "K"), min(MOST.get(x, 2), size) + 1) for x, size in self.sizes.items()
        ]
        every = sorted(itertools.product(*grown), key=lambda sizes: (sum(sizes), sizes))
        for sizes in every:
            kind = self.sized(**dict(zip(letters, sizes, strict=True)))
            generator = torch.Generator().manual_seed(0)
            for high in (1, 1, 2, 2, 3, 3, 6, 6):
                student, teacher = (
                    torch.randint(-(high > 2), high + 1, shape, generator=generator).double()
                    for shape in (kind.student, kind.teacher)
                )
                yield student, self._taught(teacher)

    def _taught(self, teacher: Tensor) -> Tensor:
        return teacher.softmax(1) if self.probabilities else teacher


def kind_of(reference: Callable, example: tuple[Tensor, Tensor] | None = None) -> LossKind:
    """Read off a loss of ours, or an example of its input, what such losses compare.

    Raises:
        ArgumentError: Neither tells.
    """
    names = list(inspect.signature(reference).parameters)[:2]
    shows_probabilities = len(names) > 1 and names[1].endswith("_probabilities")
    if example is not None:
        student, teacher = (tuple(one.shape) for one in example)
        if not 2 <= len(student) <= 5:
            raise ArgumentError(
                "example", f"example must have from 2 to 5 dimensions, got {student} and {teacher}"
            )
        return LossKind(LETTERS[len(student)], student, teacher, shows_probabilities)
    ending = names[0].rpartition("_")[2] if names else ""
    if ending not in SHAPES:
        raise ArgumentError(
            "like",
            "like must be a loss of ours, whose first argument says what it compares "
            f"({', '.join(f'student_{name}' for name in SHAPES)}); of another one, such as a "
            "lambda around it, give an example=(student, teacher)",
        )
    letters, shape = SHAPES[ending]
    return LossKind(letters, shape, shape, shows_probabilities)


def losses_of_ours() -> dict[str, Callable]:
    """Return the losses of ours that compare what two nets show, by their names."""
    found = {}
    for name, module in kdcourse.public_names().items():
        if name.endswith("_loss") or name.startswith("kd_"):
            function = getattr(importlib.import_module(module), name)
            nets = list(inspect.signature(function).parameters)[:2]
            if nets[0].startswith("student_") and nets[1].startswith("teacher_"):
                found[name] = function
    return found


def loss_of_ours(name: str) -> Callable:
    """Return a loss of ours by its name: ``kd``, ``kd_loss``, ``kd(divergence='reverse')``.

    Raises:
        ArgumentError: There is none of this name, or it is not called so.
    """
    plain, _, options = name.strip().partition("(")
    plain = plain.strip().replace("-", "_").removesuffix("_loss")
    modules = kdcourse.public_names()
    full = f"{plain}_loss" if f"{plain}_loss" in modules else plain
    if full not in modules or not (full.endswith("_loss") or full.startswith("kd_")):
        known = ", ".join(sorted(one.removesuffix("_loss") for one in losses_of_ours()))
        raise ArgumentError("like", f"like must be one of {known}, got {name!r}")
    function = getattr(importlib.import_module(modules[full]), full)
    if not options:
        return function
    given = _options(name)
    if unknown := given.keys() - inspect.signature(function).parameters.keys():
        raise ArgumentError("like", f"like cannot be {name}: {full} takes no {unknown.pop()}")
    return partial(function, **given)


def _options(name: str) -> dict[str, Any]:
    """Read the options in ``name(option=value)``."""
    with suppress(SyntaxError, ValueError):
        called = ast.parse(name.strip(), mode="eval").body
        if isinstance(called, ast.Call) and not called.args:
            return {str(one.arg): ast.literal_eval(one.value) for one in called.keywords}
    raise ArgumentError("like", f"like must be a name, perhaps with options, got {name!r}")
