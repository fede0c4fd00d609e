"""A vocabulary of byte-pair pieces: what it splits a text into, and that all else takes it."""

import builtins
import copy
import itertools
import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcourse.errors import ArgumentError
from kdcourse.files import FileError
from kdcourse.language import Characters, OnPolicy, Pieces, Vocabulary, Written, wordnet
from kdcourse.language.definitions import END, lessons
from kdcourse.models import language_model
from kdcourse.training.fingerprint import fingerprint

WORDS = wordnet().train[:2000]
PIECES = Pieces.of(WORDS.texts, size=256)
(EOS,) = PIECES.encode([END])[0].tolist()


def words_of(text):
    """Each word with the blank before it; a colon and a line's end alone."""
    words = [""]
    for before, character in itertools.pairwise(" " + text):
        if character in " :\n" or before in ":\n":
            words.append("")
        words[-1] += character
    return [word for word in words if word]


def naive(text, merges):
    """Join the pair that was found first, as long as there is one."""
    found = []
    for word in words_of(text):
        pieces = list(word)
        for first, second in merges:
            place = 0
            while place < len(pieces) - 1:
                if pieces[place : place + 2] == [first, second]:
                    pieces[place : place + 2] = [first + second]
                place += 1
        found += pieces
    return found


def naive_merges(texts, count):
    """Join again and again what stands side by side most often; of equals, the first by number."""
    words = [list(word) for text in texts for word in words_of(text)]
    order = sorted({character for word in words for character in word})
    merges = []
    while len(order) < count:
        pairs = {}
        for word in words:
            for pair in itertools.pairwise(word):
                pairs[pair] = pairs.get(pair, 0) + 1
        first, second = min(pairs, key=lambda p: (-pairs[p], *map(order.index, p)))
        merges.append((first, second))
        order.append(first + second)
        for word in words:
            place = 0
            while place < len(word) - 1:
                if word[place : place + 2] == [first, second]:
                    word[place : place + 2] = [first + second]
                place += 1
    return merges


def test_pieces_are_what_often_stands_side_by_side():
    texts = WORDS[:60].texts
    vocabulary = Pieces.of(texts, size=70)
    assert list(vocabulary.merges) == naive_merges(texts, 70)
    assert vocabulary.pieces == (
        *sorted(set().union(*texts)),
        *(first + second for first, second in vocabulary.merges),
    )


def test_a_text_is_split_as_the_definition_says():
    some = WORDS[:100].texts
    for text, row in zip(some, PIECES.encode(some).tolist(), strict=True):
        expected = naive(text, PIECES.merges)
        assert [PIECES.pieces[token] for token in row if token >= 0] == expected


@given(st.lists(st.text("abc :\n", max_size=12), min_size=1, max_size=4))
def test_texts_come_back_from_their_tokens(texts):
    tokens = PIECES.encode(texts)
    assert PIECES.decode(tokens) == texts
    spans = PIECES.spans[tokens.clamp_min(0)] * (tokens >= 0)
    assert spans.sum(dim=1).tolist() == list(map(len, texts))


def test_a_prompt_is_the_beginning_of_its_text():
    prompts, texts = PIECES.encode(WORDS.prompts), PIECES.encode(WORDS.texts)
    assert torch.equal(texts[:, : prompts.shape[1]][prompts >= 0], prompts[prompts >= 0])
    ends = (texts == EOS).sum(dim=1)
    assert ends.unique().tolist() == [1]
    for mark in ":\n":
        assert [piece for piece in PIECES.pieces if mark in piece] == [mark]


def test_the_same_texts_have_the_same_pieces_and_a_file_keeps_them(tmp_path):
    again = Pieces.of(WORDS.texts, size=256)
    PIECES.save(tmp_path / "pieces.json")
    read = Pieces.load(tmp_path / "pieces.json")
    for other in (again, read, copy.deepcopy(PIECES), pickle.loads(pickle.dumps(PIECES))):
        assert (other.pieces, other.merges) == (PIECES.pieces, PIECES.merges)
        assert fingerprint(other) == fingerprint(PIECES)
        assert torch.equal(other.encode(WORDS.texts), PIECES.encode(WORDS.texts))
    assert fingerprint(Pieces(PIECES.pieces)) != fingerprint(PIECES)
    assert repr(PIECES) == "Pieces(256 tokens)"


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="size must be at least the number of characters"):
        Pieces.of(["abc"], size=2)
    with pytest.raises(ArgumentError, match="which must have some"):
        Pieces.of([])
    with pytest.raises(ArgumentError, match="merges must be of pieces, got 'a' and 'b'"):
        Pieces(["a", "b"], [("a", "b")])
    with pytest.raises(ArgumentError, match=r"got \['§'\]"):
        PIECES.encode(["a§"])
    for content in ("nonsense", json.dumps({"pieces": ["a"]}), json.dumps([1])):
        (tmp_path / "own.json").write_text(content)
        with pytest.raises(FileError, match=r"own\.json cannot be read as a vocabulary"):
            Pieces.load(tmp_path / "own.json")
    with pytest.raises(NotImplementedError, match="Vocabulary must define split"):
        Vocabulary(["a"]).encode(["a"])


def test_without_the_library_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install tokenizers"):
        Pieces(["a"])


@pytest.mark.parametrize("vocabulary", [PIECES, Characters.of(WORDS.texts)], ids=repr)
def test_lessons_and_sources_take_any_vocabulary(vocabulary):
    some = WORDS[:8]
    inputs, target = some.lessons(vocabulary)
    again = lessons(vocabulary.encode(some.texts), vocabulary.encode(some.prompts), vocabulary)
    assert all(torch.equal(a, b) for a, b in zip(again, (inputs, target), strict=True))
    learned = vocabulary.decode(target)
    assert learned == [f"{meaning}{END}" for meaning in some.meanings]
    model = language_model(8, 1, 2, len(vocabulary), seed=0)
    for source in (OnPolicy(model, some, vocabulary), Written(model, some, vocabulary)):
        ((inputs, target),) = source
        assert inputs.shape == target.shape
        texts = vocabulary.decode(inputs)
        assert all(any(text.startswith(prompt) for prompt in some.prompts) for text in texts)
