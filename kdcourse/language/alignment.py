"""Two vocabularies: where both nets are about to read the same rest of a text.

A token is predicted at a *place*, behind those before it. Where student and teacher split a text
into tokens of their own, their places are others; but now and then both have read the same
characters, and between two such places they read the same *chunk*, each in its own tokens::

    student   w|a|l|k|i|n|g| |o|n
    teacher   walk   |ing  | on
    chunks    1      |2    |3
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdcourse.batch import SeparateViews
from kdcourse.checks import (
    check_integer,
    check_same_device,
    check_same_samples,
    check_same_shape,
    check_tensor,
)
from kdcourse.errors import ArgumentError
from kdcourse.language.vocabulary import NO_TOKEN, Vocabulary, check_token_rows
from kdcourse.objective import Lesson
from kdcourse.precision import readable
from kdcourse.prediction_term import PredictionTerm
from kdcourse.signatures import check_is, checked


def characters_read(tokens: Tensor, spans: Tensor) -> Tensor:
    """Return how many characters of its text a net has read with each token, ``(N, T)``.

    Args:
        tokens: ``(N, T)``; −1 is nothing.
        spans: ``(V,)``, how many characters each token stands for (:attr:`Vocabulary.spans`).
    """
    check_token_rows("tokens", tokens)
    check_tensor("spans", spans)
    check_same_device("spans", spans, "tokens", tokens)
    if spans.dim() != 1 or spans.dtype != torch.int64 or len(spans) == 0:
        raise ArgumentError(
            "spans",
            f"spans must be torch.int64 of shape (V,), got {spans.dtype} of shape "
            f"{tuple(spans.shape)}",
        )
    if readable(tokens) and bool((tokens >= len(spans)).any()):
        raise ArgumentError("tokens", f"tokens must lie in [0, {len(spans)}), as spans has so many")
    read = spans[tokens.clamp_min(0)]
    return read.masked_fill(tokens == NO_TOKEN, 0).cumsum(dim=1)


def common_places(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Find the places of one net at which the other has read as much.

    Args:
        one: ``(N, M)``, how much has been read at each place; a negative number takes no part.
        other: ``(N, T)``, the same of the other net; no number stands twice in a row.

    Returns:
        The other's place ``(N, M)``, 0 where there is none, and whether there is one.
    """
    check_token_rows("one", one)
    check_token_rows("other", other)
    check_same_samples("one", one, "other", other)
    same = (one[:, :, None] == other[:, None, :]) & (one >= 0)[:, :, None]
    return same.int().argmax(dim=2), same.any(dim=2)


def common_chunks(
    student_starts: Tensor, teacher_starts: Tensor, student_ends: Tensor
) -> tuple[Tensor, Tensor]:
    """Number the chunks of texts that lie between common places of student and teacher.

    A chunk is left out if one of the student's places within it does not count, or if the teacher's
    tokens end before it does.

    Args:
        student_starts: ``(N, T)``, the characters read at each place of the student.
        teacher_starts: ``(N, T')``, those of the teacher, whose last token ends a text, and what
            follows is padding.
        student_ends: ``(N, T)``, the characters read with the token that the student is to predict
            at a place; −1 where a place does not count.

    Returns:
        The number of the chunk to which the next token belongs, ``(N, T)`` and ``(N, T')``, which
        rises along the text; 0 where it belongs to none.
    """
    check_token_rows("student_starts", student_starts)
    check_token_rows("teacher_starts", teacher_starts)
    check_same_samples("teacher_starts", teacher_starts, "student_starts", student_starts)
    check_token_rows("student_ends", student_ends)
    check_same_shape("student_ends", student_ends, "student_starts", student_starts)
    end = student_ends.amax(dim=1, keepdim=True)
    inside = student_starts < end
    own = torch.where(inside, student_starts, -1)
    theirs = torch.where(teacher_starts < end, teacher_starts, -1)
    _, begins = common_places(own, theirs)
    _, as_well = common_places(theirs, own)
    numbers, others = begins.cumsum(dim=1), as_well.cumsum(dim=1)
    ended = (teacher_starts == end).any(dim=1, keepdim=True)
    torn = (inside & (student_ends < 0)) | ((numbers == numbers[:, -1:]) & ~ended)
    broken = torch.zeros_like(numbers[:, :1]).expand(-1, numbers.shape[1] + 1)
    broken = broken.scatter_add(1, numbers, torn.long()) > 0
    numbers = numbers.masked_fill(broken.gather(1, numbers) | ~inside, 0)
    return numbers, others.masked_fill(broken.gather(1, others) | (theirs < 0), 0)


class Read(NamedTuple):
    """How far both nets have read the same texts, in characters.

    Attributes:
        student_starts: ``(N, T)``, at each place of the student.
        teacher_starts: ``(N, T')``, at each place of the teacher.
        student_ends: ``(N, T)``, with the student's next token; −1 where a place does not count.
        weights: ``(N, T)``, how much the student's places count.
    """

    student_starts: Tensor
    teacher_starts: Tensor
    student_ends: Tensor
    weights: Tensor


class AlignedTerm(PredictionTerm):
    """A term on predictions of nets that may read different tokens of the same texts.

    Its batches are ``(SeparateViews(student's tokens, teacher's tokens), target)``, as
    :class:`InTwoVocabularies` makes them.

    Args:
        student_vocabulary: What the student reads. Without vocabularies, places are the same.
        teacher_vocabulary: What the teacher reads.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`; with vocabularies, a target of −1 does not
            count if nothing else is said.
    """

    needs_logits = True
    student_vocabulary: Vocabulary | None = None
    teacher_vocabulary: Vocabulary | None = None

    def __init__(
        self,
        student_vocabulary: Vocabulary | None = None,
        teacher_vocabulary: Vocabulary | None = None,
        *,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        if ignore_index is None and student_vocabulary is not None:
            ignore_index = NO_TOKEN
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_is("student_vocabulary", student_vocabulary, Vocabulary | None)
        check_is("teacher_vocabulary", teacher_vocabulary, Vocabulary | None)
        if (student_vocabulary is None) != (teacher_vocabulary is None):
            raise ArgumentError(
                "teacher_vocabulary", "student_vocabulary and teacher_vocabulary go together"
            )
        if student_vocabulary is not None and teacher_vocabulary is not None:
            self.student_vocabulary = student_vocabulary
            self.teacher_vocabulary = teacher_vocabulary
            self._student_spans = nn.Buffer(student_vocabulary.spans, persistent=False)
            self._teacher_spans = nn.Buffer(teacher_vocabulary.spans, persistent=False)

    def read(self, lesson: Lesson) -> Read | None:
        """Return what both nets have read, or None if their places are the same."""
        if self.student_vocabulary is None:
            return None
        own, theirs, target = lesson.inputs, lesson.teacher_inputs, lesson.target
        if own is theirs:
            raise ArgumentError(
                "train",
                "train must yield batches (SeparateViews(student's tokens, teacher's tokens), "
                "target), as InTwoVocabularies makes them: both nets got the same tokens",
            )
        starts = characters_read(own, self._student_spans)
        ends = starts + self._student_spans[target.clamp_min(0)]
        weights = self.counting(lesson)
        assert weights is not None  # as ignore_index is known
        ends = ends.masked_fill(weights == 0, -1)
        read = Read(starts, characters_read(theirs, self._teacher_spans), ends, weights)
        _check_same_texts(read)
        return read


def _check_same_texts(read: Read) -> None:
    """Require, where values can be read, that the teacher's tokens end where a text does."""
    if readable(read.student_ends):
        end = read.student_ends.amax(dim=1, keepdim=True)
        passed, met = read.teacher_starts >= end, read.teacher_starts == end
        if not bool((met.any(dim=1) | ~passed.any(dim=1) | (end < 0)[:, 0]).all()):
            raise ArgumentError(
                "train",
                "train must yield the tokens of the same texts for student and teacher, in the "
                "vocabularies that the term was given",
            )


@checked
class InTwoVocabularies:
    """Lessons of a student whose teacher reads the same texts in tokens of its own.

    >>> lessons = InTwoVocabularies(OnPolicy(student, words, characters), characters, pieces)
    >>> fit(student, lessons, ChunkLikelihood(characters, pieces, class_dim=-1), teacher=teacher)

    A batch is ``(SeparateViews(inputs, texts), target)``: the teacher's tokens are those of the
    whole text, to its end.

    Args:
        source: Yields batches ``(inputs, target)`` as :func:`kdcourse.language.definitions.lessons`
            makes them: a ``DataLoader``, :class:`OnPolicy`, :class:`Written`.
        student_vocabulary: That of these batches.
        teacher_vocabulary: The teacher's.
        length: Tokens that the teacher can read, at most; of a longer text, it reads the beginning.
    """

    def __init__(
        self,
        source: Iterable,
        student_vocabulary: Vocabulary,
        teacher_vocabulary: Vocabulary,
        *,
        length: int = 80,
    ):
        check_integer("length", length, 1)
        self.source, self.length = source, length
        self.student_vocabulary, self.teacher_vocabulary = student_vocabulary, teacher_vocabulary
        self.end = teacher_vocabulary.end

    def identity(self) -> tuple[object, ...]:
        """Return what the batches depend on."""
        return self.source, self.student_vocabulary, self.teacher_vocabulary, self.length

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """Be in all else what the source is, which may have a sampler, or epochs."""
        if name.startswith("__") or name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)

    def __iter__(self) -> Iterator[tuple[SeparateViews, Tensor]]:
        for inputs, target in self.source:
            texts = self.student_vocabulary.decode(whole_texts(inputs, target))
            tokens = self.teacher_vocabulary.encode(texts)[:, : self.length]
            theirs = tokens.masked_fill(tokens == NO_TOKEN, self.end).to(inputs.device)
            yield SeparateViews(inputs, theirs), target


def whole_texts(inputs: Tensor, target: Tensor) -> Tensor:
    """Return the tokens of the texts that lessons were made of, ``(N, T + 1)``, −1 behind the end.

    Args:
        inputs: ``(N, T)``.
        target: ``(N, T)``, of which the last one that is not −1 ends a text.
    """
    check_token_rows("inputs", inputs)
    check_token_rows("target", target)
    check_same_shape("target", target, "inputs", inputs)
    place = torch.arange(inputs.shape[1] + 1, device=inputs.device)
    learned = target != NO_TOKEN
    last = torch.where(learned, place[1:], 0).amax(dim=1, keepdim=True)
    tokens = nn.functional.pad(inputs, (0, 1), value=NO_TOKEN)
    tokens[:, 1:] = torch.where(learned, target, tokens[:, 1:])
    return tokens.masked_fill((place > last) | (last == 0), NO_TOKEN)
