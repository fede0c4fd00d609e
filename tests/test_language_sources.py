"""Whose texts a student learns from: its teacher's, its own, or those of the data."""

import copy

import pytest
import torch
from toys import CLASSES, images, same, weights

from kdcourse import LogitKD, UniversalLogitKD, fit
from kdcourse.augmentation import Flip
from kdcourse.errors import ArgumentError
from kdcourse.language import (
    Characters,
    InTwoVocabularies,
    OnPolicy,
    Written,
    sample,
    wordnet,
)
from kdcourse.models import language_model, plain
from kdcourse.teachers import CachedLessons, CachedTexts
from kdcourse.tips import Consistent
from kdcourse.training import CrossEntropy, constant
from kdcourse.training.epochs import Epochs
from kdcourse.training.fingerprint import fingerprint
from kdcourse.training.knobs import Knobs

WORDS = wordnet().train[:24]
VOCABULARY = Characters.of(wordnet().train.texts)
AT = {"class_dim": -1, "ignore_index": -1}
SMALL = {"length": 40, "batch_size": 8}


def model(width=8, seed=1):
    return language_model(width, 1, 2, len(VOCABULARY), length=80, seed=seed)


def texts_of(source, epoch=0):
    """Return what the rows of an epoch's batches say, from the first token to the last target."""
    source.set_epoch(epoch)
    found = []
    for inputs, target in source:
        for row, goal in zip(inputs, target, strict=True):
            last = int((goal >= 0).nonzero().max())
            found.append(
                VOCABULARY.decode(torch.cat([row[: last + 1], goal[last : last + 1]])[None])[0]
            )
    return found


def test_all_texts_are_there_once_in_an_order_of_each_epoch():
    source = OnPolicy(model(), WORDS, VOCABULARY, share=0.0, **SMALL)
    first, second = texts_of(source), texts_of(source, 1)
    assert len(source) == 3
    assert sorted(first) == sorted(second) == sorted(WORDS.texts)
    assert first != second
    assert texts_of(source) == first


def test_a_teachers_texts_are_written_once():
    teacher = model()
    source = Written(teacher, WORDS, VOCABULARY, greedy=True, **SMALL)
    texts = texts_of(source)
    prompts = VOCABULARY.encode(WORDS.prompts)
    (end,) = VOCABULARY.encode(["\n"])[0].tolist()
    expected = VOCABULARY.decode(sample(teacher, prompts, length=40, end=end, greedy=True))
    assert sorted(texts) == sorted(expected)
    with torch.no_grad():
        teacher.classifier.bias.add_(torch.randn(len(VOCABULARY)) * 9)
    assert sorted(texts_of(source, 1)) == sorted(expected)


def test_a_students_texts_are_its_own_anew():
    student = model()
    source = OnPolicy(student, WORDS, VOCABULARY, share=1.0, greedy=True, **SMALL)
    before = texts_of(source)
    assert all(any(text.startswith(p) for p in WORDS.prompts) for text in before)
    with torch.no_grad():
        student.classifier.bias.zero_()[5] = 99.0
    now = texts_of(source)
    assert now != before
    assert all(text.endswith(VOCABULARY.characters[5] * 3) for text in now)


def test_shares_are_those_asked_for():
    student, teacher = model(), model(seed=2)
    with torch.no_grad():
        for one, token in ((student, 5), (teacher, 6)):
            one.classifier.bias[token] = 99.0
    source = OnPolicy(student, WORDS, VOCABULARY, share=0.25, teacher=teacher, **SMALL)
    marks = [VOCABULARY.characters[token] for token in (5, 6)]
    last = [text[-1] for epoch in range(20) for text in texts_of(source, epoch)]
    assert set(last) == set(marks)
    assert last.count(marks[0]) / len(last) == pytest.approx(0.25, abs=0.06)
    shares = {"share": 0.25, "teacher": teacher, "teacher_share": 0.35}
    source = OnPolicy(student, WORDS, VOCABULARY, **shares, **SMALL)
    every = [text for epoch in range(20) for text in texts_of(source, epoch)]
    whole = {text.strip() for text in WORDS.texts}
    of = [sum(t[-1] == mark and t.strip() not in whole for t in every) for mark in marks]
    of += [sum(text.strip() in whole for text in every)]
    assert sum(of) == len(every)
    assert [count / len(every) for count in of] == pytest.approx([0.25, 0.35, 0.4], abs=0.06)


@pytest.mark.parametrize("kind", ["written", "on policy"])
def test_a_run_that_was_stopped_goes_on_as_if_it_were_not(kind, tmp_path):
    teacher = model(16, seed=3)

    def run(epochs, **more):
        student = model()
        if kind == "written":
            source, objective = (
                Written(teacher, WORDS, VOCABULARY, **SMALL),
                CrossEntropy(class_dim=-1),
            )
        else:
            source = OnPolicy(student, WORDS, VOCABULARY, share=0.5, **SMALL)
            objective = LogitKD(1.0, **AT)
        fit(
            student,
            source,
            objective,
            teacher=teacher if kind == "on policy" else None,
            epochs=epochs,
            scheduler=constant,
            progress=False,
            **more,
        )
        return weights(student)

    whole = run(3)
    run(1, checkpoint=tmp_path / "run.pt")
    assert same(run(3, checkpoint=tmp_path / "run.pt"), whole)


@pytest.mark.parametrize("kind", ["written", "on policy", "two vocabularies"])
@pytest.mark.parametrize("fresh", [True, False], ids=["a fresh student", "the same student"])
def test_a_run_goes_on_with_the_source_that_it_began_with(kind, fresh, tmp_path):
    """As in a notebook, where the cell with ``fit`` is run again."""
    student, teacher = model(), model(16, seed=3)
    source = Written(teacher, WORDS, VOCABULARY, **SMALL)
    objective, asked = CrossEntropy(class_dim=-1), None
    if kind != "written":
        source = OnPolicy(student, WORDS, VOCABULARY, share=0.5, **SMALL)
        objective, asked = LogitKD(1.0, **AT), teacher
    if kind == "two vocabularies":
        other = Characters(VOCABULARY.characters[::-1])
        source = InTwoVocabularies(source, VOCABULARY, other)
        objective = UniversalLogitKD(VOCABULARY, other, class_dim=-1)
    start = copy.deepcopy(student.state_dict())

    def run(epochs, file):
        how = {"scheduler": constant, "checkpoint": tmp_path / file, "progress": False}
        fit(student, source, objective, teacher=asked, epochs=epochs, **how)

    run(3, "whole.pt")
    whole = weights(student)
    student.load_state_dict(start)
    run(1, "run.pt")
    if fresh:
        student.load_state_dict(start)
    run(3, "run.pt")
    assert same(weights(student), whole)


def lessons_in_batches_of_11():
    """Sources with 24 texts, or images, of which the last batch holds two."""
    teacher, how = model(), {"length": 40, "batch_size": 11}
    on_policy = OnPolicy(teacher, WORDS, VOCABULARY, **how)
    yield on_policy
    yield Written(teacher, WORDS, VOCABULARY, **how)
    yield InTwoVocabularies(on_policy, VOCABULARY, VOCABULARY)
    yield CachedTexts(teacher, *WORDS.lessons(VOCABULARY), batch_size=11)
    views = Consistent(Flip())
    yield CachedLessons(plain(2, classes=CLASSES), images(24), views=views, epochs=1, batch_size=11)


@pytest.mark.parametrize("number", range(5))
def test_a_last_batch_that_is_too_small_is_refused_before_any_step(number):
    source = [*lessons_in_batches_of_11()][number]
    for parts, accumulate in ((3, 3), (3, 1), (4, 2)):  # on one, three and two processes
        epochs = Epochs(source, torch.device("cpu"), Knobs(accumulate=accumulate))
        with pytest.raises(ArgumentError, match=r"last batch of an epoch holds 2 sample\(s\), too"):
            epochs.check_parts(parts)
    Epochs(source, torch.device("cpu"), Knobs(accumulate=2)).check_parts(2)


def test_another_source_is_another_run():
    student, teacher = model(), model(seed=2)
    given = {"student": student, "definitions": WORDS, "vocabulary": VOCABULARY, **SMALL}
    others = (
        {"share": 0.25},
        {"seed": 1},
        {"temperature": 0.5},
        {"length": 41},
        {"batch_size": 9},
        {"definitions": WORDS[:9]},
        {"teacher": teacher},
        {"teacher": teacher, "teacher_share": 0.25},
        {"teacher": model(seed=3)},
    )
    made = [OnPolicy(**{**given, **other}) for other in ({}, *others)]
    other = Characters(VOCABULARY.characters[::-1])
    made += [Written(one, WORDS, VOCABULARY, **SMALL) for one in (student, teacher)]
    made += [InTwoVocabularies(made[0], VOCABULARY, v) for v in (VOCABULARY, other)]
    made += [InTwoVocabularies(made[0], VOCABULARY, other, length=9)]
    assert len({fingerprint(source) for source in made}) == len(made)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"top_k": 3}, "no argument top_k"),
        ({"share": 1.5}, "share"),
        ({"teacher_share": 0.1}, "teacher_share needs a teacher"),
        ({"teacher": model(), "share": 0.5, "teacher_share": 0.6}, "teacher_share needs"),
        ({"definitions": WORDS[:0]}, "at least one"),
        ({"length": 0}, "length"),
        ({"length": 3}, "length must be above that of the prompts"),
        ({"length": 82}, "length must be at most 81, as the model reads 80 tokens"),
        ({"temperature": 0}, "temperature must be"),
        ({"temperature": "cold"}, "temperature must be a real number"),
        ({"top_p": 2}, "top_p must be"),
        ({"greedy": 3}, "greedy must be True or False"),
        (
            {"vocabulary": Characters(VOCABULARY.characters.replace("\n", ""))},
            "vocabulary must have a token of its own for a line's end",
        ),
    ],
)
def test_what_does_not_fit_is_refused(given_, message):
    given_ = {"student": model(), "definitions": WORDS, "vocabulary": VOCABULARY, **given_}
    with pytest.raises((ArgumentError, TypeError), match=message):
        OnPolicy(**given_)
