"""From texts to tokens and back."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from kdcourse.checks import check_tensor
from kdcourse.errors import ArgumentError
from kdcourse.signatures import check_is

NO_TOKEN = -1  # what stands behind the end of a text
END = "\n"  # what ends a text


class Vocabulary:
    """Pieces of text, one for each token: what all vocabularies have in common.

    A subclass defines :meth:`split`. A text is its pieces, one behind the other.

    Args:
        pieces: The text of each token, none of them empty, no two the same. Those of a single
            character are all that texts may be made of.
    """

    def __init__(self, pieces: Sequence[str]):
        check_is("pieces", pieces, Sequence[str])
        if not pieces or not all(pieces) or len(set(pieces)) < len(pieces):
            raise ArgumentError("pieces", "pieces must be at least one, none empty, and each once")
        self.pieces = tuple(pieces)
        self._known = {piece for piece in pieces if len(piece) == 1}

    def __len__(self) -> int:
        return len(self.pieces)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} tokens)"

    def identity(self) -> object:
        """Return what distinguishes a vocabulary from others, for the checkpoint."""
        return self.pieces

    @property
    def spans(self) -> Tensor:
        """How many characters each token stands for, ``(V,)``."""
        return torch.tensor([len(piece) for piece in self.pieces])

    @property
    def end(self) -> int:
        """The token that ends a text, a line's end.

        Raises:
            ValueError: The vocabulary has none.
        """
        tokens = self.split([END])[0] if END in self._known else []
        if len(tokens) != 1:
            raise ArgumentError(
                "vocabulary",
                f"vocabulary must have a token of its own for a line's end, {END!r}, which ends a "
                f"text, got {self!r}",
            )
        return tokens[0]

    def split(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, whose characters are all known."""
        raise NotImplementedError(f"{type(self).__name__} must define split(texts)")

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return tokens ``(N, T)``, T that of the longest text; −1 behind the end of another.

        Raises:
            ValueError: A text has a character that the vocabulary has not.
        """
        check_is("texts", texts, Sequence[str])
        unknown = set().union(*texts) - self._known
        if unknown:
            raise ArgumentError(
                "texts", f"texts must be made of the vocabulary's characters, got {sorted(unknown)}"
            )
        rows = self.split(texts)
        tokens = torch.full((len(rows), max(map(len, rows), default=0)), NO_TOKEN)
        for line, row in zip(tokens, rows, strict=True):
            line[: len(row)] = torch.tensor(row, dtype=torch.int64)
        return tokens

    def decode(self, tokens: Tensor) -> list[str]:
        """Return the texts of tokens ``(N, T)``; −1 is nothing.

        Raises:
            ValueError: A token is none of the vocabulary's.
        """
        check_token_rows("tokens", tokens)
        if bool(((tokens < NO_TOKEN) | (tokens >= len(self))).any()):
            raise ArgumentError(
                "tokens",
                f"tokens must lie in [0, {len(self)}), or be −1 for nothing, got from "
                f"{int(tokens.min())} to {int(tokens.max())}",
            )
        return [
            "".join(self.pieces[token] for token in row if token != NO_TOKEN)
            for row in tokens.tolist()
        ]


class Characters(Vocabulary):
    """A vocabulary of characters, one token each.

    >>> vocabulary = Characters.of(["gait: a manner of walking"])
    >>> vocabulary.decode(vocabulary.encode(["walking"]))
    ['walking']

    Args:
        characters: All of them, each once; a token is a place in it.
    """

    def __init__(self, characters: str):
        check_is("characters", characters, str)
        if not characters or len(set(characters)) < len(characters):
            raise ArgumentError("characters", "characters must be at least one, and each once")
        super().__init__(list(characters))
        self.characters = characters
        self._tokens = {character: token for token, character in enumerate(characters)}

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Characters":
        """Return the vocabulary of all characters of some texts."""
        return cls("".join(sorted(set().union(*texts))))

    def split(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self._tokens[character] for character in text] for text in texts]


def check_token_rows(name: str, tokens: Tensor) -> None:
    """Require rows of tokens ``(N, T)``, whose values can be read."""
    check_tensor(name, tokens)
    if tokens.dim() != 2 or tokens.dtype != torch.int64 or tokens.is_meta:
        raise ArgumentError(
            name,
            f"{name} must be torch.int64 of shape (N, T), got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)} on {tokens.device}",
        )
