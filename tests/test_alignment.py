"""Where two tokenisations of a text meet, and the losses that compare nets there."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_predictions import K, drawn, value_and_gradient
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from toys import same, weights

from kdcourse import CrossEntropy, fit
from kdcourse.batch import SeparateViews
from kdcourse.errors import ArgumentError
from kdcourse.language import Characters, InTwoVocabularies, OnPolicy, Vocabulary
from kdcourse.language.alignment import characters_read, common_chunks, whole_texts
from kdcourse.language.definitions import Definitions
from kdcourse.logit import decoupled_kd_loss, softmax
from kdcourse.methods.chunk_likelihood import ChunkLikelihood, chunk_likelihood_loss
from kdcourse.methods.universal_logit import UniversalLogitKD
from kdcourse.models import language_model
from kdcourse.objective import Lesson, Outputs
from kdcourse.training import constant
from kdcourse.training.parallel import Counts


class Greedy(Vocabulary):
    """Takes the longest piece that fits, from the left."""

    def split(self, texts):
        return [list(self.tokens(text)) for text in texts]

    def tokens(self, text):
        while text:
            fits = [piece for piece in self.pieces if text.startswith(piece)]
            longest = max(fits, key=len)
            yield self.pieces.index(longest)
            text = text[len(longest) :]


LETTERS = Characters("ab:\n")
TWOS = Greedy(["ab", "ba", "aa", "a", "b", ":", "\n"])
THREES = Greedy(["aba", "bb", "a", "b", ":", "\n"])
VOCABULARIES = [LETTERS, TWOS, THREES]
WORDS = Definitions(("ab", "b", "aab", "ba"), ("abaab", "bbb", "a", "abab" * 3))
PAIRS = list(itertools.permutations(VOCABULARIES, 2))
every_pair = pytest.mark.parametrize(("own", "theirs"), PAIRS)
TEMPERATURES = [1.0, 100.0]
TARGET = torch.tensor([0, 4, 3, 2, 1, 0, 4])
STUDENT, TEACHER = drawn(7, K), drawn(7, K, seed=1)
CHUNKS = torch.tensor([[1, 1, 2, 0], [1, 2, 2, 2]]), torch.tensor([[0, 1, 2], [1, 2, 0]])


def counted(s, count=7):
    """Labels as in TARGET, made where the student is."""
    return torch.arange(count, device=s.device) * 4 % K


def in_chunks(s, t):
    """The first six places as two texts of three tokens."""
    own, theirs = (z[:6].view(2, 3, K) for z in (s, t))
    place = torch.arange(6, device=s.device).view(2, 3) % 3
    return chunk_likelihood_loss(
        own,
        theirs,
        counted(s, 6).view(2, 3),
        2.0,
        student_chunks=place // 2 + 1,
        teacher_chunks=place,
        class_dim=-1,
    )


LOSSES = {
    "targets": lambda s, t: chunk_likelihood_loss(s, t, counted(s), 1.0),
    "warm targets": lambda s, t: chunk_likelihood_loss(s, t, counted(s)),
    "chunks": in_chunks,
}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


# --- where they meet


def ends_of(vocabulary, row):
    """How many characters each token of a text ends behind."""
    return [*itertools.accumulate(len(vocabulary.pieces[token]) for token in row)]


def meeting(own, theirs, prompt, text):
    """The chunks behind the prompt, as ranges of tokens of both."""
    rows = [next(iter(v.split([text]))) for v in (own, theirs)]
    starts = [[0, *ends_of(v, row)] for v, row in zip((own, theirs), rows, strict=True)]
    marks = sorted(set(starts[0]) & set(starts[1]))
    marks = [mark for mark in marks if mark >= len(prompt)]
    return rows, [
        tuple(range(line.index(a), line.index(b)) for line in starts)
        for a, b in itertools.pairwise(marks)
    ]


def lesson_of(own, theirs, words=WORDS, **more):
    """Return the batch of all words, with random logits of both nets."""
    batches = InTwoVocabularies([words.lessons(own)], own, theirs, **more)
    ((inputs, target),) = batches
    logits = [
        drawn(*tokens.shape, len(v), seed=seed)
        for seed, tokens, v in ((0, inputs.student, own), (1, inputs.teacher, theirs))
    ]
    shown = (Outputs(logits=z) for z in logits)
    return Lesson(
        next(shown), target, next(shown), inputs=inputs.student, teacher_inputs=inputs.teacher
    )


@every_pair
def test_chunks_lie_between_common_ends_of_tokens(own, theirs):
    lesson = lesson_of(own, theirs)
    read = ChunkLikelihood(own, theirs, class_dim=-1).read(lesson)
    numbers = common_chunks(*read[:3])
    for place, (prompt, text) in enumerate(zip(WORDS.prompts, WORDS.texts, strict=True)):
        _, chunks = meeting(own, theirs, prompt, text)
        for net in (0, 1):
            expected = [0] * numbers[net].shape[1]
            for number, ranges in enumerate(chunks, start=1):
                for token in ranges[net]:
                    expected[token - 1] = number  # it is predicted at the place before
            found = numbers[net][place].tolist()
            order = sorted({0, *numbers[0][place].tolist()})
            assert [order.index(number) for number in found] == expected


def test_characters_read():
    tokens = torch.tensor([[0, 3, 6, -1], [2, -1, -1, -1]])
    assert characters_read(tokens, TWOS.spans).tolist() == [[2, 3, 4, 4], [2, 2, 2, 2]]
    with pytest.raises(ArgumentError, match=r"tokens must lie in \[0, 7\)"):
        characters_read(tokens + 1, TWOS.spans)


@given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=4))
def test_texts_come_back_from_lessons(meanings):
    words = Definitions(("ab",) * len(meanings), tuple(meanings))
    for vocabulary in VOCABULARIES:
        tokens = whole_texts(*words.lessons(vocabulary))
        assert vocabulary.decode(tokens) == words.texts


def test_a_chunk_with_a_place_that_does_not_count_does_not_count():
    starts, other = torch.arange(1, 7)[None], torch.tensor([[1, 3, 4, 7]])
    ends = starts + 1
    assert [each.tolist() for each in common_chunks(starts, other, ends)] == [
        [[1, 1, 2, 3, 3, 3]],
        [[1, 2, 3, 0]],
    ]
    ends[0, 4] = -1
    assert [each.tolist() for each in common_chunks(starts, other, ends)] == [
        [[1, 1, 2, 0, 0, 0]],
        [[1, 2, 0, 0]],
    ]
    cut = common_chunks(starts, other[:, :3], starts + 1)
    assert [each.tolist() for each in cut] == [[[1, 1, 2, 0, 0, 0]], [[1, 2, 0]]]


# --- the likelihood of chunks


def binary_kl(p, q):
    parts = ((p, q), (1 - p, 1 - q))
    return math.fsum(a * math.log(a / b) for a, b in parts if a > 0)


def naive_chunks(own, theirs, lesson, temperature, weight=None):
    """Every chunk of every text, token by token."""
    p, q = (softmax(z, class_dim=-1) for z in (lesson.teacher_logits, lesson.student_logits))
    values, counts = [], []
    for place, (prompt, text) in enumerate(zip(WORDS.prompts, WORDS.texts, strict=True)):
        rows, chunks = meeting(own, theirs, prompt, text)
        for ranges in chunks:
            likely = [
                math.prod(float(net[place, t - 1, row[t]]) for t in tokens)
                for net, row, tokens in zip((q, p), rows, ranges, strict=True)
            ]
            student, teacher = (each ** (1 / temperature) for each in likely)
            values.append(temperature * binary_kl(teacher, student))
            ones = [1.0 if weight is None else float(weight[place, t - 1]) for t in ranges[0]]
            counts.append(min(ones))
    summed = math.fsum(v * w for v, w in zip(values, counts, strict=True))
    return summed / math.fsum(counts), math.fsum(counts)


@every_pair
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_equals_a_loop_over_chunks(own, theirs, temperature):
    lesson = lesson_of(own, theirs)
    term = ChunkLikelihood(own, theirs, temperature, class_dim=-1)
    expected, count = naive_chunks(own, theirs, lesson, temperature)
    assert term.loss(lesson).item() == pytest.approx(expected, rel=1e-9)
    assert term.count(lesson).item() == count
    lesson.weight = torch.rand(lesson.target.shape, generator=torch.Generator().manual_seed(0))
    lesson.weight[1, 2] = 0
    expected, count = naive_chunks(own, theirs, lesson, temperature, lesson.weight)
    assert term.loss(lesson).item() == pytest.approx(expected, rel=1e-6)
    assert term.count(lesson).item() == pytest.approx(count)


def test_of_one_vocabulary_each_token_is_a_chunk():
    """What is left is the target's part of decoupled KD."""
    s, t, target = drawn(2, 5, K), drawn(2, 5, K, seed=1), torch.randint(K, (2, 5))
    expected = decoupled_kd_loss(s, t, target, alpha=1.0, beta=0.0, temperature=1.0, class_dim=-1)
    numbers = torch.arange(1, 6).expand(2, -1)
    for chunks in ({}, {"student_chunks": numbers, "teacher_chunks": numbers}):
        value = chunk_likelihood_loss(s, t, target, 1.0, class_dim=-1, **chunks)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [1e-2, 1.0, 100.0, 1e6])
def test_where_both_agree_there_is_nothing_to_learn(temperature):
    value, gradient = value_and_gradient(chunk_likelihood_loss, STUDENT, STUDENT, TARGET)
    assert value.item() == pytest.approx(0, abs=1e-14)
    assert gradient.abs().max() < 1e-12


def test_when_hot_surprises_are_compared():
    own, theirs = (-F.log_softmax(z, 1).gather(1, TARGET[:, None]) for z in (STUDENT, TEACHER))
    expected = (theirs * (theirs / own).log() - theirs + own).mean()
    value = chunk_likelihood_loss(STUDENT, TEACHER, TARGET, 1e6)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("sure", [5.0, 20.0, 60.0])
def test_it_is_exact_where_both_are_all_but_certain(sure):
    """In float32, one minus a probability would have been zero."""
    s, t = torch.tensor([[sure, 0.0]]), torch.tensor([[sure / 2, 0.0]])
    target = torch.zeros(1, dtype=torch.int64)
    value, gradient = value_and_gradient(chunk_likelihood_loss, s, t, target, 1.0)
    p, q = (1 / (1 + math.exp(m)) for m in (sure / 2, sure))  # of the other class
    expected = (1 - p) * (math.log1p(-p) - math.log1p(-q)) + p * math.log(p / q)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert gradient[0].tolist() == pytest.approx([p - q, q - p], rel=1e-5)


def test_it_loses_what_might_have_come_instead():
    """The student may share out among other classes what is left as it likes."""
    mixed = TEACHER.clone()
    for row, label in zip(mixed, TARGET.tolist(), strict=True):
        others = [k for k in range(K) if k != label]
        row[others] = row[others].roll(1)
    value, gradient = value_and_gradient(chunk_likelihood_loss, mixed, TEACHER, TARGET)
    assert value.item() == pytest.approx(0, abs=1e-13)
    assert gradient.abs().max() < 1e-11


def as_the_authors(s, t, target, theirs, temperature=100.0):
    """Cross-entropy of chunks whose tokens a matrix tells, without a factor."""
    tokens = [target, theirs]
    sums = []
    for z, token, numbers in zip((s, t), tokens, CHUNKS, strict=True):
        log_p = z.log_softmax(-1).gather(-1, token[..., None])[..., 0]
        matrix = F.one_hot(numbers, 3)[..., 1:].to(log_p)
        sums.append(torch.einsum("ntc,nt->nc", matrix, log_p) / temperature)
    x, y = sums
    return -(y.exp() * x + (1 - y.exp()) * (1 - x.exp()).log()).mean()


def test_is_the_authors_up_to_factor_and_entropy():
    s, t = drawn(2, 4, K), drawn(2, 3, K, seed=1)
    target, theirs = torch.randint(K, (2, 4)), torch.randint(K, (2, 3))
    told = {"student_chunks": CHUNKS[0], "teacher_chunks": CHUNKS[1], "teacher_target": theirs}
    found = value_and_gradient(chunk_likelihood_loss, s, t, target, class_dim=-1, **told)
    expected = value_and_gradient(lambda z: 100 * as_the_authors(z, t, target, theirs), s)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf, 1e300])
def test_what_does_not_count_may_hold_anything(padding):
    s, t = drawn(2, 4, K), drawn(2, 3, K, seed=1)
    target, theirs = torch.randint(K, (2, 4)), torch.randint(K, (2, 3))
    told = {"student_chunks": CHUNKS[0], "teacher_chunks": CHUNKS[1], "class_dim": -1}
    loss = chunk_likelihood_loss
    expected = value_and_gradient(loss, s, t, target, teacher_target=theirs, **told)
    s, t = (
        z.masked_fill((c == 0)[..., None], padding) for z, c in zip((s, t), CHUNKS, strict=True)
    )
    target, theirs = (
        y.masked_fill(c == 0, -1) for y, c in zip((target, theirs), CHUNKS, strict=True)
    )
    found = value_and_gradient(loss, s, t, target, teacher_target=theirs, **told)
    # Up to rounding: where all is finite, logarithms are taken in another way.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    none = value_and_gradient(loss, s, t, target, teacher_target=theirs, mask=CHUNKS[0] < 0, **told)
    assert none[0] == 0
    assert not none[1].any()


# --- universal logit distillation at such places


def naive_universal(own, theirs, lesson, places):
    """Pair by pair: where chunks begin, or the k-th token with the k-th."""
    p, q = (softmax(z, class_dim=-1) for z in (lesson.student_logits, lesson.teacher_logits))
    values = []
    for place, (prompt, text) in enumerate(zip(WORDS.prompts, WORDS.texts, strict=True)):
        rows, chunks = meeting(own, theirs, prompt, text)
        pairs = [tuple(tokens[0] - 1 for tokens in ranges) for ranges in chunks]
        if places == "order":
            firsts = pairs[0]
            numbers = [range(first, len(row) - 1) for first, row in zip(firsts, rows, strict=True)]
            pairs = list(zip(*numbers, strict=False))
        for mine, other in pairs:
            lines = [sorted(net[place, t].tolist()) for net, t in ((p, mine), (q, other))]
            size = max(map(len, lines))
            one, two = ([*line[::-1], *[0.0] * (size - len(line))] for line in lines)
            values.append(math.fsum(abs(a - b) for a, b in zip(one, two, strict=True)))
    return math.fsum(values) / len(values), len(values)


@every_pair
@pytest.mark.parametrize("places", ["text", "order"])
def test_sorted_predictions_are_compared_where_both_meet(own, theirs, places):
    lesson = lesson_of(own, theirs)
    term = UniversalLogitKD(own, theirs, places=places, class_dim=-1)
    expected, count = naive_universal(own, theirs, lesson, places)
    assert term.loss(lesson).item() == pytest.approx(expected, rel=1e-9)
    assert term.count(lesson).item() == count


# --- training


def tiny(vocabulary, seed=0, width=8):
    return language_model(width, 1, 2, len(vocabulary), length=40, seed=seed)


KNOBS = {"epochs": 2, "learning_rate": 0.1, "progress": False}
TERMS = {
    "universal": lambda own, theirs: UniversalLogitKD(own, theirs, class_dim=-1),
    "in order": lambda own, theirs: UniversalLogitKD(own, theirs, class_dim=-1, places="order"),
    "chunks": lambda own, theirs: ChunkLikelihood(own, theirs, class_dim=-1),
}


@every_pair
@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_a_student_learns_from_a_teacher_with_other_tokens(own, theirs, make, device):
    student, teacher = tiny(own), tiny(theirs, seed=1, width=16)
    source = OnPolicy(student, WORDS, own, share=0.5, length=30, batch_size=2)
    batches = InTwoVocabularies(source, own, theirs, length=40)
    objective = CrossEntropy(class_dim=-1, ignore_index=-1) + make(own, theirs)
    history = fit(student, batches, objective, teacher=teacher, device=device, **KNOBS)
    assert all(map(math.isfinite, history["loss"]))


@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_parts_of_a_batch_are_one_step(make):
    """What counts is known before the nets are asked."""
    found = []
    for accumulate in (1, 3):
        student, teacher = tiny(LETTERS).double(), tiny(TWOS, seed=1).double()
        batches = InTwoVocabularies([WORDS.lessons(LETTERS)], LETTERS, TWOS)
        fit(
            student,
            batches,
            make(LETTERS, TWOS),
            teacher=teacher,
            accumulate=accumulate,
            device="cpu",
            **KNOBS,
        )
        found.append(weights(student))
    for one, other in zip(*(each.values() for each in found), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_run_that_was_stopped_goes_on_as_if_it_were_not(tmp_path):
    def run(epochs, **more):
        student = tiny(LETTERS)
        source = OnPolicy(student, WORDS, LETTERS, length=30, batch_size=2)
        batches = InTwoVocabularies(source, LETTERS, TWOS)
        objective, knobs = ChunkLikelihood(LETTERS, TWOS, class_dim=-1), KNOBS | {"epochs": epochs}
        fit(
            student,
            batches,
            objective,
            teacher=tiny(TWOS, seed=1),
            scheduler=constant,
            **knobs,
            **more,
        )
        return weights(student)

    whole = run(3)
    run(1, checkpoint=tmp_path / "run.pt")
    assert same(run(3, checkpoint=tmp_path / "run.pt"), whole)


def test_a_loader_yields_the_same_batches_for_both():
    loader = DataLoader(TensorDataset(*WORDS.lessons(LETTERS)), batch_size=2)
    batches = InTwoVocabularies(loader, LETTERS, TWOS)
    assert len(batches) == 2
    assert batches.sampler is loader.sampler
    texts = [
        text
        for inputs, _ in batches
        for text in TWOS.decode(inputs.teacher.masked_fill(_padding(inputs.teacher), -1))
    ]
    assert texts == WORDS.texts
    (inputs, _) = next(iter(InTwoVocabularies(loader, LETTERS, TWOS, length=3)))
    assert inputs.teacher.shape == (2, 3)


def _padding(tokens):
    ends = tokens == len(TWOS) - 1
    return ends.cumsum(dim=1) - ends.long() > 0


def test_what_a_teacher_cannot_read_to_its_end_does_not_count():
    whole, cut = lesson_of(LETTERS, TWOS), lesson_of(LETTERS, TWOS, length=5)
    for make in TERMS.values():
        term = make(LETTERS, TWOS)
        assert 0 < term.count(cut) < term.count(whole)
        assert term.loss(cut).isfinite()
    counts = Counts(torch.device("cpu"), [ChunkLikelihood(LETTERS, TWOS)])
    views = SeparateViews(cut.inputs, cut.teacher_inputs)
    assert counts.counted(views, cut.target)[2] == ChunkLikelihood(LETTERS, TWOS).count(cut)


def test_what_does_not_fit_is_refused():
    lesson = lesson_of(LETTERS, TWOS)
    with pytest.raises(ArgumentError, match="go together"):
        ChunkLikelihood(LETTERS)
    with pytest.raises(ArgumentError, match="the tokens of the same texts"):
        ChunkLikelihood(LETTERS, Greedy(["aaaa", *TWOS.pieces[1:]]), class_dim=-1).loss(lesson)
    lesson.teacher_inputs = lesson.inputs
    with pytest.raises(ArgumentError, match="as InTwoVocabularies makes them"):
        UniversalLogitKD(LETTERS, TWOS, class_dim=-1).loss(lesson)
    s = drawn(2, 3, K)
    target = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ArgumentError, match="student_chunks and teacher_chunks go together"):
        chunk_likelihood_loss(s, s, target, class_dim=-1, student_chunks=target)
    told = {"student_chunks": target, "teacher_chunks": target + 4}
    with pytest.raises(ArgumentError, match=r"teacher_chunks must lie in \[0, 3\]"):
        chunk_likelihood_loss(s, s, target, class_dim=-1, **told)
    with pytest.raises(ArgumentError, match="without chunks"):
        chunk_likelihood_loss(s, s[:, :2], target, class_dim=-1)
    expected = "ChunkLikelihood(class_dim=-1, temperature=100.0)"
    assert repr(ChunkLikelihood(class_dim=-1)) == expected
    told = repr(ChunkLikelihood(LETTERS, TWOS))
    assert "student_vocabulary=Characters(4 tokens), teacher_vocabulary=Greedy(7 tokens)" in told
