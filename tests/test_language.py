"""Texts, their vocabulary, a small language model, and how it writes."""

import gzip
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdcourse import AttentionRelation, CrossEntropy, LogitKD, fit
from kdcourse.errors import ArgumentError
from kdcourse.files import FileError
from kdcourse.language import Characters, Vocabulary, beam_search, sample, wordnet
from kdcourse.language.definitions import END, Definitions, lessons
from kdcourse.models import capture, language_model

SPLITS = wordnet()
LETTERS = Characters("ab:\n")
EOS = 3


def tiny(seed=0, scale=8.0):
    """A model of four tokens that is not indifferent."""
    model = language_model(8, 2, 2, 4, length=8, seed=seed)
    with torch.no_grad():
        model.classifier.weight.mul_(scale)
    return model.eval()


# --- definitions and vocabulary


def test_no_word_is_in_two_splits_and_all_definitions_are_there():
    words = [set(part.words) for part in SPLITS]
    assert not any(one & other for one, other in itertools.combinations(words, 2))
    assert sum(map(len, SPLITS)) == 51_875
    assert [len(part) for part in words[1:]] == [2000, 2000]
    assert wordnet() == SPLITS
    assert SPLITS.train[:2].texts == [
        f"{p}{m}\n"
        for p, m in zip(SPLITS.train.prompts[:2], SPLITS.train.meanings[:2], strict=True)
    ]
    assert all(":" not in word for word in SPLITS.train.words)


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(FileError, match=r"nothing\.gz"):
        wordnet(tmp_path / "nothing.gz")
    (tmp_path / "own.gz").write_bytes(gzip.compress(b"cat\tnoun\ta pet\ndog\tnoun\tanother\n"))
    own = wordnet(tmp_path / "own.gz", held_out=1)
    assert sorted(own.validation.words + own.test.words) == ["cat", "dog"]
    assert len(own.train) == 0


GOOD = gzip.compress(b"cat\tnoun\ta pet\ndog\tnoun\tanother\n" * 50, mtime=0)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (gzip.compress(b"cat\tnoun\ta pet\n\ndog\tnoun\n"), "line 2 has 1 part.*, not 3"),
        (gzip.compress(b"cat\tnoun\ta pet\twith fur\n"), "line 1 has 4 part.*, not 3"),
        (gzip.compress(b""), "no line"),
        (b"", "no line"),
        (GOOD[:-9], "ended before"),
        (GOOD[:10] + bytes(9) + GOOD[10:], "Error -3"),
    ],
    ids=["short", "long", "empty", "nothing", "cut", "garbled"],
)
def test_what_are_no_definitions_is_named(held, message, tmp_path):
    (tmp_path / "own.gz").write_bytes(held)
    with pytest.raises(FileError, match=rf"own\.gz cannot be read as definitions: .*{message}"):
        wordnet(tmp_path / "own.gz")


def test_a_line_ends_where_an_editor_ends_it(tmp_path):
    (tmp_path / "own.gz").write_bytes(gzip.compress("cat\tnoun\ta\u2028pet\r\n".encode()))
    assert wordnet(tmp_path / "own.gz", held_out=0).train.meanings == ("a\u2028pet",)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ((("a", "b"), ("x",)), "meanings must be one for each of 2 words, got 1"),
        ((("a", "b"), ("x", "y"), ("noun",)), "kinds must be one for each of 2 words, got 1"),
        (("ab", ("x", "y")), "words must be a list"),
        ((("a",), ("x\ny",)), "meanings must hold no end of a line, got 'x.ny'"),
    ],
)
def test_definitions_that_do_not_belong_together_are_refused(given_, message):
    with pytest.raises((ArgumentError, TypeError), match=message):
        Definitions(*given_)


def test_lessons_of_no_text_are_refused():
    none = torch.zeros(0, 0, dtype=torch.int64)
    with pytest.raises(ArgumentError, match="texts must have at least one token"):
        lessons(none, none, LETTERS)
    with pytest.raises(ArgumentError, match="texts must have at least one token"):
        Definitions((), ()).lessons(LETTERS)


@given(st.lists(st.text("ab:\n", max_size=9), min_size=1, max_size=5))
def test_texts_come_back_from_their_tokens(texts):
    tokens = LETTERS.encode(texts)
    assert tokens.shape == (len(texts), max(map(len, texts)))
    assert LETTERS.decode(tokens) == texts


def test_a_vocabulary_of_texts_knows_their_characters_and_no_others():
    vocabulary = Characters.of(["cab", "a b"])
    assert vocabulary.characters == " abc"
    assert len(vocabulary) == 4
    with pytest.raises(ArgumentError, match=r"got \['x'\]"):
        vocabulary.encode(["ax"])
    for bad in ("", "aa"):
        with pytest.raises(ArgumentError, match="each once"):
            Characters(bad)


@pytest.mark.parametrize("token", [-2, 4])
def test_a_token_of_no_vocabulary_is_refused(token):
    with pytest.raises(ArgumentError, match=r"tokens must lie in \[0, 4\), or be −1"):
        LETTERS.decode(torch.tensor([[0, token]]))


def test_a_vocabulary_without_an_end_says_so():
    for vocabulary in (Characters("ab"), Halves(["a", "\n"])):
        with pytest.raises(ArgumentError, match="vocabulary must have a token of its own for a li"):
            _ = vocabulary.end


class Halves(Vocabulary):
    """A vocabulary that says every character twice."""

    def split(self, texts):
        return [[self.pieces.index(one) for one in text for _ in range(2)] for text in texts]


def test_what_is_learned_is_the_definition_and_its_end():
    some = Definitions(("ab", "a"), ("ba", "abba"))
    inputs, target = some.lessons(LETTERS)
    for row, text, prompt in zip(range(2), some.texts, some.prompts, strict=True):
        for place in range(inputs.shape[1]):
            given_ = text[place] if place < len(text) else END
            assert LETTERS.characters[inputs[row, place]] == given_
            asked = text[place + 1] if len(prompt) <= place + 1 < len(text) else None
            wanted = -1 if asked is None else LETTERS.characters.index(asked)
            assert target[row, place] == wanted
    again = lessons(LETTERS.encode(some.texts), LETTERS.encode(some.prompts), LETTERS)
    assert all(torch.equal(a, b) for a, b in zip(again, (inputs, target), strict=True))


# --- the model


def test_no_token_sees_a_later_one():
    model, tokens = tiny(), torch.randint(4, (3, 8), generator=torch.Generator().manual_seed(0))
    logits = model(tokens)
    assert logits.shape == (3, 8, 4)
    for place in range(1, 8):
        changed = tokens.clone()
        changed[:, place:] = 3 - changed[:, place:]
        torch.testing.assert_close(model(changed)[:, :place], logits[:, :place])
        assert not torch.allclose(model(changed)[:, place], logits[:, place])


@pytest.mark.parametrize("pieces", [(8,), (1,) * 8, (3, 1, 4)])
def test_a_cache_gives_what_all_tokens_at_once_do(pieces):
    model, tokens = tiny(), torch.randint(4, (3, 8), generator=torch.Generator().manual_seed(0))
    cache = model.cache()
    parts = [model(piece, cache) for piece in tokens.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens))
    assert cache.used == 8
    with pytest.raises(ArgumentError, match=r"at most 8 in all, got .* behind 8"):
        model(tokens[:, :1], cache)


def test_rows_of_a_cache_change_places():
    model, tokens = tiny(), torch.tensor([[0, 1, 2], [2, 2, 1]])
    cache, rows = model.cache(), torch.tensor([1, 1])
    model(tokens, cache)
    cache.reorder(rows)
    longer = torch.cat([tokens[rows], torch.tensor([[0], [1]])], dim=1)
    torch.testing.assert_close(model(longer[:, 3:], cache)[:, 0], model(longer)[:, 3])


def test_a_model_is_that_of_its_seed_and_says_what_does_not_fit():
    one, other = (language_model(8, 1, 2, 4, seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(ArgumentError, match="multiple of heads"):
        language_model(9, 1, 2, 4)
    with pytest.raises(ArgumentError, match=r"shape \(N, T\)"):
        one(torch.zeros(3, dtype=torch.int64))
    with capture(one, ["stage1.attention.matrix"]) as shown:
        one(torch.zeros(2, 5, dtype=torch.int64))
    matrix = shown["stage1.attention.matrix"]
    assert matrix.shape == (2, 2, 5, 5)
    torch.testing.assert_close(matrix, matrix.tril())


@pytest.mark.parametrize("token", [-1, 4])
def test_a_model_names_tokens_that_it_does_not_know(token):
    with pytest.raises(ArgumentError, match=r"tokens must lie in \[0, 4\), got from .* to "):
        tiny()(torch.tensor([[0, token]]))
    assert tiny()(torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2, 4)


# --- writing


class Plain(nn.Module):
    """The same model, which can only be shown all tokens."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens)


PROMPTS = torch.tensor([[0, -1, -1], [1, 0, -1], [1, 1, 2]])


def naive(model, prompts, length, generator, temperature=1.0):
    """One token after the other, and all tokens looked at again for each."""
    rows = [[row[0]] for row in prompts.tolist()]
    for place in range(1, length):
        logits = torch.stack([model(torch.tensor([row]))[0, -1] for row in rows])
        p = (logits / temperature).softmax(dim=1)
        drawn = torch.multinomial(p, 1, generator=generator)[:, 0].tolist()
        for row, given_, token in zip(rows, prompts.tolist(), drawn, strict=True):
            forced = given_[place] if place < len(given_) else -1
            ended = EOS in row[1:]
            row.append(EOS if ended else forced if forced >= 0 else token)
    return rows


def cut(row):
    return [*itertools.takewhile(lambda t: t >= 0, row)]


def upto_end(row):
    return row[: row.index(EOS, 1) + 1] if EOS in row[1:] else row


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_it_writes_as_the_naive_loop_does_with_a_cache_and_without(seed):
    model = tiny(seed)
    found = []
    for one in (model, Plain(model)):
        draw = torch.Generator().manual_seed(seed)
        tokens = sample(one, PROMPTS, length=8, end=EOS, temperature=0.7, generator=draw)
        found.append([cut(row) for row in tokens.tolist()])
    draw = torch.Generator().manual_seed(seed)
    expected = [upto_end(row) for row in naive(model, PROMPTS, 8, draw, 0.7)]
    assert found == [expected, expected]


@torch.no_grad()
def every_text(model, prompt, length, temperature=1.0):
    """The probability of every text that a model may write."""
    texts = {tuple(prompt): 1.0}
    while any(len(t) < length and EOS not in t[1:] for t in texts):
        longer = {}
        for text, p in texts.items():
            if len(text) == length or EOS in text[1:]:
                longer[text] = longer.get(text, 0.0) + p
                continue
            follow = (model(torch.tensor([text]))[0, -1] / temperature).softmax(dim=0).tolist()
            longer |= {(*text, token): p * q for token, q in enumerate(follow)}
        texts = longer
    return texts


def test_texts_are_as_frequent_as_they_are_probable():
    model, number = tiny(), 20_000
    exact = every_text(model, [1], 4, temperature=1.5)
    assert math.fsum(exact.values()) == pytest.approx(1, abs=1e-5)
    prompts = torch.tensor([[1]]).expand(number, -1)
    draw = torch.Generator().manual_seed(0)
    tokens = sample(model, prompts, length=4, end=EOS, temperature=1.5, generator=draw)
    counts = dict.fromkeys(exact, 0)
    for row in tokens.tolist():
        counts[tuple(cut(row))] += 1
    for text, p in exact.items():
        assert abs(counts[text] / number - p) < 5 * math.sqrt(p * (1 - p) / number) + 1e-4


def test_the_nucleus_holds_as_few_tokens_as_have_the_share_together():
    class Fixed(nn.Module):
        def forward(self, tokens):
            p = torch.tensor([0.5, 0.3, 0.15, 0.05])
            return p.log().expand(*tokens.shape, 4)

    prompts = torch.zeros(2000, 1, dtype=torch.int64)
    for share, count in ((0.4, 1), (0.6, 2), (0.79, 2), (0.9, 3), (1.0, 4)):
        draw = torch.Generator().manual_seed(0)
        tokens = sample(Fixed(), prompts, length=2, end=EOS, top_p=share, generator=draw)
        assert set(tokens[:, 1].tolist()) == {*range(count)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("given_", [{"temperature": 1e-6}, {"temperature": 1e-9}, {"top_p": 1e-46}])
def test_the_coldest_is_the_likeliest_in_any_precision(dtype, given_):
    model = tiny().to(dtype)
    cold = sample(model, PROMPTS, length=8, end=EOS, **given_)
    assert torch.equal(sample(model, PROMPTS, length=8, end=EOS, greedy=True), cold)


def test_the_likeliest_token_is_that_of_a_cold_model():
    model = tiny()
    cold = sample(model, PROMPTS, length=8, end=EOS, temperature=1e-4)
    assert torch.equal(sample(model, PROMPTS, length=8, end=EOS, greedy=True), cold)
    assert torch.equal(beam_search(model, PROMPTS, length=8, end=EOS, beams=1), cold)


def test_half_precision_does_not_decide_between_beams():
    class Fixed(nn.Module):
        def forward(self, tokens):
            logits = torch.tensor([0.001, 0.003, 0.002, -9.0], dtype=torch.bfloat16)
            return logits.expand(*tokens.shape, 4)

    found = beam_search(Fixed(), torch.tensor([[1]]), length=6, end=EOS, beams=4)
    assert found.tolist() == [[1] * 6]


@pytest.mark.parametrize("seed", range(3))
def test_enough_beams_find_the_likeliest_of_all_texts(seed):
    model = tiny(seed, scale=3.0)
    found = beam_search(model, torch.tensor([[0], [1]]), length=4, end=EOS, beams=64)
    for prompt, row in zip(([0], [1]), found.tolist(), strict=True):
        exact = every_text(model, prompt, 4)
        assert exact[tuple(cut(row))] == pytest.approx(max(exact.values()), rel=1e-5)


def test_beams_follow_prompts_of_any_length():
    model = tiny(1, scale=3.0)
    together = beam_search(model, PROMPTS, length=6, end=EOS, beams=8)
    for prompt, row in zip(PROMPTS.tolist(), together.tolist(), strict=True):
        alone = beam_search(model, torch.tensor([cut(prompt)]), length=6, end=EOS, beams=8)
        assert cut(alone[0].tolist()) == cut(row)
        assert row[: len(cut(prompt))] == cut(prompt)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"prompts": torch.zeros(2, dtype=torch.int64)}, r"shape \(N, T\)"),
        ({"prompts": torch.zeros(2, 2)}, "torch.int64"),
        ({"prompts": torch.tensor([[-1, 0]])}, "at least one token each"),
        ({"length": 2}, "length must be at least that of the prompts, 3"),
        ({"temperature": 0}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"length": 10}, "length must be at most 9, as the model reads 8 tokens, got 10"),
        ({"prompts": torch.tensor([[0, EOS, 1]])}, "must not hold the token that ends a text, 3"),
        ({"prompts": torch.tensor([[0, -1, 1]])}, "−1 behind their ends only"),
        ({"prompts": torch.tensor([[0, -2]])}, "−1 behind their ends only"),
        ({"model": tiny(scale=math.nan)}, "its logits are NaN"),
        ({"model": tiny(scale=math.nan), "greedy": True}, "its logits are NaN"),
    ],
)
def test_what_does_not_fit_is_refused(given_, message):
    given_ = {"model": tiny(), "prompts": PROMPTS, "length": 8, "end": EOS, **given_}
    with pytest.raises(ArgumentError, match=message):
        sample(**given_)
    if not given_.keys() & {"temperature", "top_p", "greedy"}:
        with pytest.raises(ArgumentError, match=message):
            beam_search(**given_)


def test_a_text_may_be_one_token_longer_than_what_the_model_reads():
    model = tiny()
    with torch.no_grad():
        model.classifier.bias[EOS] = -99.0
    assert sample(model, PROMPTS, length=9, end=EOS).shape == (3, 9)
    assert beam_search(model, PROMPTS, length=9, end=EOS).shape == (3, 9)


# --- learning


def test_a_student_is_distilled_on_definitions():
    some = SPLITS.train[:64]
    vocabulary = Characters.of(SPLITS.train.texts)
    batches = DataLoader(TensorDataset(*some.lessons(vocabulary)), batch_size=16)
    teacher, student = (
        language_model(width, 2, 2, len(vocabulary), seed=width) for width in (32, 16)
    )
    at = {"class_dim": -1, "ignore_index": -1}
    rate = {"optimizer": lambda weights: torch.optim.AdamW(weights, 3e-3), "progress": False}
    fit(teacher, batches, CrossEntropy(class_dim=-1), epochs=4, **rate)
    relation = AttentionRelation(["stage2.attention.vectors"], 2, joined=True)
    objective = CrossEntropy(class_dim=-1) + LogitKD(1.0, **at) + relation
    history = fit(student, batches, objective, teacher=teacher, epochs=4, **rate)
    for column in ("cross_entropy", "logit_kd", "attention_relation"):
        assert history[column][-1] < history[column][0]
