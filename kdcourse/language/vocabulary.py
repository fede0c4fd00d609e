"""From texts to tokens and back."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from kdcourse.checks import check_tensor
from kdcourse.errors import ArgumentError
from kdcourse.signatures import check_is

NO_TOKEN = -1  # what stands behind the end of a text


class Characters:
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
        self.characters = characters
        self._tokens = {character: token for token, character in enumerate(characters)}

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Characters":
        """Return the vocabulary of all characters of some texts."""
        return cls("".join(sorted(set().union(*texts))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return tokens ``(N, T)``, T that of the longest text; −1 behind the end of another.

        Raises:
            ValueError: A text has a character that the vocabulary has not.
        """
        check_is("texts", texts, Sequence[str])
        unknown = set().union(*texts) - self._tokens.keys()
        if unknown:
            raise ArgumentError(
                "texts", f"texts must be made of the vocabulary's characters, got {sorted(unknown)}"
            )
        longest = max(map(len, texts), default=0)
        tokens = torch.full((len(texts), longest), NO_TOKEN)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = torch.tensor([self._tokens[c] for c in text], dtype=torch.int64)
        return tokens

    def decode(self, tokens: Tensor) -> list[str]:
        """Return the texts of tokens ``(N, T)``; −1 is nothing."""
        check_token_rows("tokens", tokens)
        return [
            "".join(self.characters[token] for token in row if token != NO_TOKEN)
            for row in tokens.tolist()
        ]


def check_token_rows(name: str, tokens: Tensor) -> None:
    """Require rows of tokens ``(N, T)``, whose values can be read."""
    check_tensor(name, tokens)
    if tokens.dim() != 2 or tokens.dtype != torch.int64 or tokens.is_meta:
        raise ArgumentError(
            name,
            f"{name} must be torch.int64 of shape (N, T), got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)} on {tokens.device}",
        )
