"""Whose texts does a student learn from? Sources of batches for :func:`kdcourse.training.fit`.

Each batch is ``(inputs, target)`` as :func:`kdcourse.language.definitions.lessons` makes it. What
:class:`Written` holds are a teacher's texts, written once, to be learned as any others:
*sequence-level* distillation. :class:`OnPolicy` lets the student write, too, anew for each batch,
and so shows it its own mistakes, which the teacher judges token by token; that is for terms that
compare the two nets (``LogitKD(class_dim=-1, ignore_index=-1)``), since the labels of the student's
texts are its own words.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse import processes
from kdcourse.checks import check_module, check_number, check_positive
from kdcourse.data import replay_seed
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.language.definitions import Texts, lessons
from kdcourse.language.vocabulary import NO_TOKEN, Vocabulary
from kdcourse.language.writing import check_manner, check_task, sample
from kdcourse.signatures import check_is, checked

Write = Callable[[nn.Module, Tensor, torch.Generator], Tensor]


class _Texts:
    """Batches of prompts in an order of each epoch's own, and what makes texts of them.

    In many processes, each takes its own part of every batch.
    """

    shares_out = True

    def __init__(
        self,
        definitions: Texts,
        vocabulary: Vocabulary,
        *,
        length: int,
        batch_size: int,
        seed: int,
        **how: Any,
    ):
        check_is("definitions", definitions, Texts)
        check_is("vocabulary", vocabulary, Vocabulary)
        check_positive(length=length, batch_size=batch_size)
        for name in how.keys() - {"temperature", "top_p", "greedy"}:
            raise ArgumentTypeError(name, f"there is no argument {name} that tells how to write")
        check_manner(**how)
        if len(definitions) == 0:
            raise ArgumentError("definitions", "definitions must hold at least one")
        self.definitions, self.vocabulary = definitions, vocabulary
        self.length, self.batch_size, self.seed, self.how = length, batch_size, seed, how
        self.prompts = vocabulary.encode(definitions.prompts)
        self.end = vocabulary.end
        self.epoch = 0
        if length <= self.prompts.shape[1]:
            raise ArgumentError(
                "length",
                f"length must be above that of the prompts, {self.prompts.shape[1]}, got {length}",
            )

    def identity(self) -> tuple[object, ...]:
        """Return what the batches depend on, but for what a model has learned in the meantime."""
        texts = self.definitions, self.vocabulary
        return *texts, self.length, self.batch_size, self.seed, self.how

    def __len__(self) -> int:
        return -(-len(self.definitions) // self.batch_size)

    @property
    def samples(self) -> int:
        """The number of texts of an epoch."""
        return len(self.definitions)

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of an epoch, which it is drawn from."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.Generator().manual_seed(replay_seed(self.seed, self.epoch))
        drawn = replay_seed(self.seed + 1, self.epoch, processes.rank())
        draw = torch.Generator().manual_seed(drawn)
        for rows in torch.randperm(len(self.definitions), generator=order).split(self.batch_size):
            number, of = processes.part()
            own = rows.tensor_split(of)[number]
            texts = self.texts(own, draw)
            yield lessons(texts, self.prompts[own].to(texts.device), self.vocabulary)

    def texts(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        """Return the texts of some of the prompts ``(N, T)``."""
        raise NotImplementedError

    def written(self, model: nn.Module, rows: Tensor, draw: torch.Generator) -> Tensor:
        """Let a model write, on its device, and bring the texts to the CPU."""
        place = next(model.parameters(), self.prompts).device
        drawn = (
            draw
            if place.type == "cpu"
            else torch.Generator(place).manual_seed(int(torch.randint(2**31, (1,), generator=draw)))
        )
        prompts = self.prompts[rows].to(place)
        return sample(
            model, prompts, length=self.length, end=self.end, generator=drawn, **self.how
        ).cpu()


@checked
class Written(_Texts):
    """Texts that a model has written once: sequence-level distillation.

    >>> fit(student, Written(teacher, words, vocabulary), CrossEntropy(class_dim=-1))

    Args:
        model: Who writes, at the first batch; a language model.
        definitions: Whose words are the prompts; or other texts with prompts.
        vocabulary: The model's.
        length: Tokens of a text, with its prompt, at most.
        batch_size: Texts a batch.
        seed: Of the order of the texts, and of what is drawn.
        how: As for :func:`kdcourse.language.sample`: ``temperature``, ``top_p``, ``greedy``.

    Source: Kim, Rush 2016 (arXiv 1606.07947), section 3.2, where beams write.
    """

    def __init__(
        self,
        model: nn.Module,
        definitions: Texts,
        vocabulary: Vocabulary,
        *,
        length: int = 80,
        batch_size: int = 64,
        seed: int = 0,
        **how: Any,
    ):
        check_module("model", model)
        super().__init__(
            definitions, vocabulary, length=length, batch_size=batch_size, seed=seed, **how
        )
        check_task(model, self.prompts, length, self.end)
        self.model = model
        self.all: Tensor | None = None

    def identity(self) -> tuple[object, ...]:
        return *super().identity(), self.model

    def texts(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        if self.all is None:
            once = torch.Generator().manual_seed(replay_seed(self.seed, -1))
            every = torch.arange(len(self.definitions))
            self.all = _padded([self.written(self.model, some, once) for some in every.split(512)])
        return self.all[rows]

    def lessons(self) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of all texts, in the order of their prompts."""
        every = torch.arange(len(self.definitions))
        return lessons(self.texts(every, torch.Generator()), self.prompts, self.vocabulary)


@checked
class OnPolicy(_Texts):
    """Texts of the data, of the teacher and of the student, each batch anew.

    >>> lessons = OnPolicy(student, words, vocabulary, share=0.5)
    >>> fit(student, lessons, LogitKD(1.0, class_dim=-1, ignore_index=-1), teacher=teacher)

    Args:
        student: Who learns, and writes.
        definitions: Whose words are the prompts; or other texts with prompts.
        vocabulary: Both nets'.
        share: That of the texts that the student writes, in [0, 1]; λ of GKD.
        teacher: Who writes other texts.
        teacher_share: That of the texts that the teacher writes; by default, if there is one, all
            that the student does not write. The rest are the definitions, in full.
        length: Tokens of a text that is written, with its prompt, at most.
        batch_size: Texts a batch.
        seed: Of the order of the texts, and of what is drawn.
        how: As for :func:`kdcourse.language.sample`: ``temperature``, ``top_p``, ``greedy``.

    Source: Agarwal et al. 2024 (arXiv 2306.13649), algorithm 1, where a whole batch is either.
    """

    def __init__(
        self,
        student: nn.Module,
        definitions: Texts,
        vocabulary: Vocabulary,
        *,
        share: float = 0.5,
        teacher: nn.Module | None = None,
        teacher_share: float | None = None,
        length: int = 80,
        batch_size: int = 64,
        seed: int = 0,
        **how: Any,
    ):
        check_module("student", student)
        check_number("share", share, 0.0, 1.0)
        if teacher_share is None:
            teacher_share = 0.0 if teacher is None else 1.0 - share
        check_number("teacher_share", teacher_share, 0.0, 1.0)
        if share + teacher_share > 1 or (teacher is None and teacher_share > 0):
            raise ArgumentError(
                "teacher_share",
                "teacher_share needs a teacher, and at most what the student leaves of one, got "
                f"{teacher_share} beside share={share}",
            )
        super().__init__(
            definitions, vocabulary, length=length, batch_size=batch_size, seed=seed, **how
        )
        if share > 0:
            check_task(student, self.prompts, length, self.end)
        if teacher is not None and teacher_share > 0:
            check_task(teacher, self.prompts, length, self.end)
        self.student, self.share = student, share
        self.teacher, self.teacher_share = teacher, teacher_share
        self.own = vocabulary.encode(definitions.texts)

    def identity(self) -> tuple[object, ...]:
        shares = self.share, self.teacher_share
        return *super().identity(), *shares, self.teacher, repr(self.student)

    def texts(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        drawn = torch.rand(len(rows), generator=draw)
        by_student, by_either = drawn < self.share, drawn < self.share + self.teacher_share
        by_teacher = by_either & ~by_student
        parts, places = [], []
        for writes, writer in (
            (~by_either, None),
            (by_teacher, self.teacher),
            (by_student, self.student),
        ):
            some = rows[writes]
            if len(some):
                parts.append(self.own[some] if writer is None else self.written(writer, some, draw))
                places.append(writes.nonzero()[:, 0])
        return _padded(parts)[torch.cat(places).argsort()]


def _padded(parts: list[Tensor]) -> Tensor:
    """Join texts of different lengths, as long as the longest."""
    longest = max(part.shape[1] for part in parts)
    room = (nn.functional.pad(part, (0, longest - part.shape[1]), value=NO_TOKEN) for part in parts)
    return torch.cat([*room])
