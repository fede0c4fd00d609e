"""Words and their definitions: short texts that a small model can learn to write."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kdcourse.checks import check_integer, check_same_samples
from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.files import FileError
from kdcourse.language.vocabulary import END, NO_TOKEN, Characters, Vocabulary, check_token_rows
from kdcourse.places import COURSE
from kdcourse.signatures import check_is, checked

WORDNET = COURSE / "data" / "wordnet" / "definitions.tsv.gz"
BEHIND_THE_WORD = ":"


class Texts:
    """Texts of which the beginning, a prompt, is given, and the rest is to be written."""

    @property
    def prompts(self) -> list[str]:
        """What a model is given."""
        raise NotImplementedError

    @property
    def texts(self) -> list[str]:
        """What it is to write: the same, and what follows until a line's end."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def lessons(self, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
        """Return inputs and targets ``(N, T)``: each token's target is the next one.

        Only what is to be written is learned: the target is −1 within the prompt and behind the
        end, where the input is the end once more.
        """
        return lessons(vocabulary.encode(self.texts), vocabulary.encode(self.prompts), vocabulary)


@dataclass(frozen=True)
class Definitions(Texts):
    """Words with their definitions.

    Attributes:
        words: The words; one with several meanings stands there several times.
        meanings: The definition of each.
        kinds: The part of speech of each: ``noun``, ``verb``, ``adj``, ``adv``; none where they are
            not known.
    """

    words: tuple[str, ...]
    meanings: tuple[str, ...]
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("words", "meanings", "kinds"):
            many = getattr(self, name)
            check_is(name, many, Sequence[str])
            if len(many) != len(self) and (many or name != "kinds"):
                raise ArgumentError(
                    name, f"{name} must be one for each of {len(self)} words, got {len(many)}"
                )
        check_no_end("meanings", self.meanings)

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, places: slice) -> "Definitions":
        return Definitions(self.words[places], self.meanings[places], self.kinds[places])

    @property
    def prompts(self) -> list[str]:
        """What a model is given: the word and a colon."""
        return [f"{word}{BEHIND_THE_WORD}" for word in self.words]

    @property
    def texts(self) -> list[str]:
        """What it is to write: the same, the definition and a line's end."""
        both = zip(self.prompts, self.meanings, strict=True)
        return [f"{prompt}{meaning}{END}" for prompt, meaning in both]

    def in_context(self, contexts: Sequence[str] | None = None) -> "Definitions":
        """Return the same, with something before each word.

        Args:
            contexts: What stands there; by default the part of speech and a space.

        Raises:
            ValueError: There is not one for each word.
        """
        check_is("contexts", contexts, Sequence[str] | None)
        before = [f"{kind} " for kind in self.kinds] if contexts is None else contexts
        if len(before) != len(self):
            raise ArgumentError(
                "contexts",
                f"contexts must be one for each of {len(self)} words, got {len(before)}"
                + ": the parts of speech of these definitions are not known" * (contexts is None),
            )
        both = zip(before, self.words, strict=True)
        return Definitions(tuple(map("".join, both)), self.meanings, self.kinds)


def check_no_end(name: str, texts: Sequence[str]) -> None:
    """Require texts that do not end before they are over."""
    for text in texts:
        if END in text:
            raise ArgumentError(name, f"{name} must hold no end of a line, got {text!r}")


def lessons(texts: Tensor, prompts: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of tokenised texts, of which prompts are not to be learned.

    Args:
        texts: ``(N, T + 1)``, −1 behind their ends.
        prompts: ``(N, P)``, −1 behind their ends.
        vocabulary: Theirs.

    Returns:
        Inputs and targets, ``(N, T)`` each.
    """
    check_token_rows("texts", texts)
    check_token_rows("prompts", prompts)
    check_is("vocabulary", vocabulary, Vocabulary)
    check_same_samples("prompts", prompts, "texts", texts)
    if texts.shape[1] == 0:
        raise ArgumentError("texts", "texts must have at least one token, got none")
    inputs, target = texts[:, :-1].clone(), texts[:, 1:].clone()
    given = (prompts != NO_TOKEN).sum(dim=1, keepdim=True)
    place = torch.arange(1, texts.shape[1], device=texts.device)
    inputs = inputs.masked_fill(inputs == NO_TOKEN, vocabulary.end)
    return inputs, target.masked_fill(place < given, NO_TOKEN)


class DefinitionSplits(NamedTuple):
    """Definitions to learn from, to choose settings by, and to test with: no word is in two."""

    train: Definitions
    validation: Definitions
    test: Definitions

    @property
    def vocabulary(self) -> Characters:
        """All characters that occur."""
        return Characters.of(text for part in self for text in part.texts)


@checked
def wordnet(path: str | Path | None = None, *, held_out: int = 2000) -> DefinitionSplits:
    """Load 51,875 short English definitions of WordNet 3.0, which come with the course.

    Args:
        path: Another file of lines ``word<TAB>part of speech<TAB>definition``, compressed by gzip.
        held_out: Words of validation and of test.

    Source: WordNet 3.0, © 2006 Princeton University, whose licence stands beside the file.
    """
    check_integer("held_out", held_out, 0)
    place = WORDNET if path is None else Path(path)
    meanings: dict[str, list[tuple[str, str]]] = {}
    try:
        for word, kind, meaning in _rows(place):
            meanings.setdefault(word, []).append((meaning, kind))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise FileError(f"{place} cannot be read as definitions: {error}") from error
    words = [*meanings]
    order = torch.randperm(len(words), generator=replay(0)).tolist()
    first, second = held_out, 2 * held_out
    parts = order[second:], order[:first], order[first:second]
    return DefinitionSplits(*(_of([words[n] for n in part], meanings) for part in parts))


def _rows(place: Path) -> list[list[str]]:
    """Read lines of three parts, which end where an editor ends them: not within a meaning."""
    with gzip.open(place, "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    if not rows:
        raise ValueError("it has no line")
    for number, row in enumerate(rows, 1):
        if len(row) != 3:
            raise ValueError(f"line {number} has {len(row)} part(s) between tabs, not 3")
    return rows


def _of(words: Sequence[str], meanings: dict[str, list[tuple[str, str]]]) -> Definitions:
    rows = [(word, *meaning) for word in words for meaning in meanings[word]]
    return Definitions(*zip(*rows, strict=True)) if rows else Definitions((), ())
