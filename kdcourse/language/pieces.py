"""A vocabulary of pieces of words, as language models have it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdcourse import files
from kdcourse.checks import check_integer
from kdcourse.errors import ArgumentError
from kdcourse.language.definitions import BEHIND_THE_WORD
from kdcourse.language.vocabulary import END, Vocabulary
from kdcourse.signatures import check_is, checked

# No piece reaches beyond a word with the blank before it. What ends a prompt or a text stands
# alone, so that a prompt's tokens are the first of its text's.
ALONE = BEHIND_THE_WORD + END
WORDS = rf"[{ALONE}]| ?[^ {ALONE}]+| "


@checked
class Pieces(Vocabulary):
    """A vocabulary of byte-pair pieces: what often stands side by side becomes one token.

    >>> vocabulary = Pieces.of(wordnet().train.texts)
    >>> vocabulary.save("pieces.json")

    The library ``tokenizers`` finds them, and splits texts into them.

    Args:
        pieces: The text of each token.
        merges: Pairs of pieces that become one, in the order in which they do.

    Source: Sennrich, Haddow, Birch 2016 (arXiv 1508.07909), section 3.2, on characters.
    """

    def __init__(self, pieces: Sequence[str], merges: Sequence[tuple[str, str]] = ()):
        super().__init__(pieces)
        self.merges = tuple((first, second) for first, second in merges)
        known = set(self.pieces)
        for first, second in self.merges:
            if not known.issuperset((first, second, first + second)):
                raise ArgumentError(
                    "merges", f"merges must be of pieces, got {first!r} and {second!r}"
                )
        tokens = {piece: token for token, piece in enumerate(self.pieces)}
        self._splitter = _tokenizer(vocab=tokens, merges=list(self.merges))

    @classmethod
    def of(cls, texts: Iterable[str], *, size: int = 1024) -> "Pieces":
        """Return the vocabulary of the pieces that some texts are best written in.

        Args:
            texts: The same texts have the same pieces.
            size: Tokens at most, at least as many as the texts have characters.
        """
        check_is("texts", texts, Iterable[str])
        texts = list(texts)
        check_integer("size", size, 1)
        characters = set().union(*texts)
        if not 0 < len(characters) <= size:
            raise ArgumentError(
                "size" if characters else "texts",
                f"size must be at least the number of characters in texts, which must have some: "
                f"got {size} and {len(characters)}",
            )
        tokenizer = _tokenizer()
        trainer = _library().trainers.BpeTrainer(vocab_size=size, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        model = json.loads(tokenizer.to_str())["model"]
        return cls(sorted(model["vocab"], key=model["vocab"].__getitem__), model["merges"])

    @classmethod
    def load(cls, path: str | Path) -> "Pieces":
        """Read the vocabulary that :meth:`save` has written."""
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(held["pieces"], held["merges"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise files.FileError(f"{path} cannot be read as a vocabulary: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the vocabulary into a file, in JSON."""
        held = {"pieces": self.pieces, "merges": self.merges}
        files.write(path, json.dumps(held, ensure_ascii=False))

    def identity(self) -> object:
        return self.pieces, self.merges

    def split(self, texts: Sequence[str]) -> list[list[int]]:
        return [text.ids for text in self._splitter.encode_batch(list(texts))]


def _library() -> Any:
    """Return the library, which is loaded only where it is used."""
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            "a vocabulary of pieces needs the library tokenizers: pip install tokenizers"
        ) from error
    return tokenizers


def _tokenizer(**model: Any) -> Any:
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE(**model))
    words = library.Regex(WORDS)
    tokenizer.pre_tokenizer = library.pre_tokenizers.Split(words, behavior="isolated")
    return tokenizer
