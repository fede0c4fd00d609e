"""The lecture's schemes on language models: correction, assistant, ensemble, peers, a context."""

import copy
import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from toys import same, weights

from kdcourse import CrossEntropy, FeatureHint, LogitKD, fit, rehearse, teachers
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.language import Characters, Definitions, OnPolicy, Written, wordnet
from kdcourse.models import language_model
from kdcourse.teachers import (
    ClosedTeacher,
    ContextLessons,
    ContextTeacher,
    Ensemble,
    MomentumTeacher,
)
from kdcourse.training import constant

WORDS = wordnet().train[:24]
VOCABULARY = Characters.of([*wordnet().train.texts, *WORDS.in_context().texts])
AT = {"class_dim": -1, "ignore_index": -1}
KD = {"objective": LogitKD(1.0, **AT)}
KNOBS = {
    "epochs": 2,
    "optimizer": lambda trained: torch.optim.AdamW(trained, 3e-3),
    "scheduler": constant,
    "device": "cpu",
    "progress": False,
}


def model(width=8, seed=1, length=90):
    return language_model(width, 1, 2, len(VOCABULARY), length=length, seed=seed)


def batches(words=WORDS):
    """Batches in an order that never changes."""
    inputs, target = words.lessons(VOCABULARY)
    return [*zip(inputs.split(8), target.split(8), strict=True)]


# --- teacher correction


def test_a_teacher_is_corrected_on_the_labels_of_texts():
    teacher, alone = model(), model()
    before = weights(teacher)
    corrected = teachers.correct(teacher, batches(), CrossEntropy(class_dim=-1), **KNOBS)
    fit(alone, batches(), CrossEntropy(class_dim=-1), **KNOBS)
    assert same(weights(corrected), weights(alone))
    assert same(weights(teacher), before)


def test_a_teacher_that_is_corrected_while_it_teaches_learns_from_labels_alone():
    teacher, student = model(16), model()
    corrected, (own, taught) = teachers.correct_online(teacher, student, batches(), **KD, **KNOBS)
    alone = teachers.correct(teacher, batches(), CrossEntropy(class_dim=-1), **KNOBS)
    assert same(weights(corrected), weights(alone))
    assert own["cross_entropy"][-1] < own["cross_entropy"][0]
    assert taught["logit_kd"][-1] < taught["logit_kd"][0]


def test_a_list_of_batches_with_weights_or_names_is_as_good_as_any():
    learned = CrossEntropy(class_dim=-1)
    weighted = [(*batch, (batch[1] >= 0).double()) for batch in batches()]
    named = [{"tokens": inputs, "labels": target} for inputs, target in batches()]
    plain, *others = (
        weights(teachers.correct(model(), source, learned, **KNOBS))
        for source in (batches(), weighted, named)
    )
    assert all(same(plain, one) for one in others)


# --- assistant, born again, peers


@pytest.mark.parametrize("kind", ["definitions", "written", "on policy"])
def test_a_teacher_teaches_an_assistant_and_that_a_student(kind):
    teacher, assistant, student = model(16), model(12), model()
    short = {"length": 30, "batch_size": 8}
    source = {
        "definitions": batches,
        "written": lambda: Written(teacher, WORDS, VOCABULARY, **short),
        "on policy": lambda: OnPolicy(student, WORDS, VOCABULARY, **short),
    }[kind]()
    before = weights(teacher), weights(assistant), weights(student)
    histories = teachers.distill_through(teacher, [assistant], student, source, **KD, **KNOBS)
    assert [len(history["logit_kd"]) for history in histories] == [2, 2]
    assert same(weights(teacher), before[0])
    assert not same(weights(assistant), before[1])
    assert not same(weights(student), before[2])


def test_a_model_is_born_again_first_from_labels():
    family = teachers.born_again(
        lambda seed: model(seed=seed), batches(), generations=3, seed=4, **KD, **KNOBS
    )
    first, second = model(seed=4), model(seed=5)
    fit(first, batches(), CrossEntropy(class_dim=-1), seed=4, **KNOBS)
    fit(second, batches(), copy.deepcopy(KD["objective"]), teacher=first, seed=5, **KNOBS)
    assert same(weights(family[0]), weights(first))
    assert same(weights(family[1]), weights(second))
    assert len(family) == 3


def test_peers_learn_from_each_other():
    peers = [model(seed=1), model(12, seed=2)]
    objective = CrossEntropy(class_dim=-1) + LogitKD(1.0, **AT)
    histories = teachers.mutual_learning(peers, batches(), objective, **KNOBS)
    for history in histories:
        assert history["cross_entropy"][-1] < history["cross_entropy"][0]


def test_labels_alone_stand_where_an_objective_looks():
    def told(objective):
        term = CrossEntropy.at_places_of(objective)
        return term.class_dim, term.ignore_index, term.mask

    assert told(LogitKD()) == (1, -1, None)
    assert told(LogitKD(class_dim=-1)) == (-1, -1, None)
    assert told(LogitKD(class_dim=2, ignore_index=-100, mask="seen")) == (2, -100, "seen")
    both = LogitKD(1.0) + CrossEntropy(0.1, class_dim=-1)
    assert told(both) == (-1, -1, None)
    assert repr(CrossEntropy.at_places_of(LogitKD())) == repr(CrossEntropy())


# --- an ensemble


@pytest.mark.parametrize("combine", ["logits", "probabilities", "vote"])
def test_an_ensemble_teaches_what_its_members_think_of_each_token(combine):
    members, student = [model(seed=2), model(12, seed=3), model(seed=4)], model()
    ensemble = Ensemble(*members, combine=combine, class_dim=-1)
    inputs, target = batches()[0]
    with torch.no_grad():
        logits, own = [member(inputs).double() for member in members], student(inputs).double()
    total, places = 0.0, 0
    for row in range(len(inputs)):
        for place in (target[row] >= 0).nonzero()[:, 0].tolist():
            said = [one[row, place].softmax(0) for one in logits]
            if combine == "logits":
                p = (sum(one[row, place] for one in logits) / 3).softmax(0)
            elif combine == "probabilities":
                p = sum(said) / 3
            else:
                p = torch.zeros_like(said[0])
                for one in said:
                    p[int(one.argmax())] += 1 / 3
            q = own[row, place].softmax(0)
            both = zip(p.tolist(), q.tolist(), strict=True)
            total += sum(a * math.log(a / b) for a, b in both if a > 0)
            places += 1
    history = fit(
        student,
        [(inputs, target)],
        LogitKD(1.0, **AT),
        teacher=ensemble,
        **{**KNOBS, "epochs": 3},
    )
    assert history["logit_kd"][0] == pytest.approx(total / places, rel=1e-5)
    assert history["logit_kd"][-1] < history["logit_kd"][0]


# --- a context


CONTEXTS = ["", "ab ", "a long way before ", *[f"{kind}, " for kind in WORDS.kinds[3:]]]


def test_words_have_parts_of_speech():
    splits = wordnet()
    assert all(len(part.kinds) == len(part) for part in splits)
    assert set(splits.train.kinds) == {"noun", "verb", "adj", "adv"}
    assert WORDS[3:5].kinds == WORDS.kinds[3:5]
    behind = WORDS.in_context()
    for text, kind, own in zip(behind.texts, WORDS.kinds, WORDS.texts, strict=True):
        assert text == f"{kind} {own}"
    assert (behind.meanings, behind.kinds) == (WORDS.meanings, WORDS.kinds)
    assert WORDS.in_context(CONTEXTS).words[2] == "a long way before " + WORDS.words[2]


@pytest.mark.parametrize("contexts", [None, CONTEXTS])
def test_the_teacher_sees_the_context_and_the_student_does_not(contexts):
    lessons = ContextLessons(WORDS, VOCABULARY, contexts)
    said = [f"{kind} " for kind in WORDS.kinds] if contexts is None else contexts
    own, target = WORDS.lessons(VOCABULARY)
    assert len(lessons) == len(WORDS)
    for number, text in enumerate(WORDS.texts):
        views, goal = lessons[number]
        assert torch.equal(views.student, own[number])
        assert torch.equal(goal, target[number])
        whole = said[number] + text
        seen = VOCABULARY.decode(views.teacher["tokens"][None])[0]
        assert seen.rstrip("\n") == whole.rstrip("\n")
        for place, there in enumerate(views.teacher["places"].tolist()):
            if place < len(text) - 1:
                assert there == len(said[number]) + place
                assert seen[there] == text[place]


@torch.no_grad()
def test_it_shows_the_student_what_it_thinks_at_the_same_token():
    teacher, layer = model(16, seed=2), "stage1"
    lessons = ContextLessons(WORDS, VOCABULARY, CONTEXTS)
    views, target = next(iter(DataLoader(lessons, batch_size=len(WORDS))))
    shown = ContextTeacher(teacher).show(views.teacher, [layer])
    assert shown.logits.shape == (*target.shape, len(VOCABULARY))
    assert shown.features[layer].shape == (*target.shape, 16)
    for number, (before, text) in enumerate(zip(CONTEXTS, WORDS.texts, strict=True)):
        tokens = VOCABULARY.encode([before + text])[:, :-1]
        alone = teacher(tokens)[0, len(before) :]
        found = shown.logits[number, : len(text) - 1]
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
        features = teacher.stage1(teacher.stem(tokens))[0, len(before) :]
        found = shown.features[layer][number, : len(text) - 1]
        torch.testing.assert_close(found, features, atol=1e-5, rtol=1e-5)


def test_without_a_context_it_is_any_other_teacher():
    teacher, ends = model(16, seed=2), []
    inputs, target = WORDS.lessons(VOCABULARY)
    empty = ContextLessons(WORDS, VOCABULARY, [""] * len(WORDS))
    plain = TensorDataset(inputs, target)
    for lessons, asked in ((plain, teacher), (empty, ContextTeacher(teacher))):
        student = model()
        fit(student, DataLoader(lessons, batch_size=8), **KD, teacher=asked, **KNOBS)
        ends.append(weights(student))
    assert same(*ends)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda one: one,
        lambda one: Ensemble(one, model(16), class_dim=-1),
        lambda one: ClosedTeacher(one, class_dim=-1),
    ],
    ids=["itself", "ensemble", "closed"],
)
def test_a_copy_without_the_context_learns_to_do_as_with_it(wrap):
    teacher = model(16)
    learned = CrossEntropy(class_dim=-1)
    fit(teacher, batches(WORDS.in_context()), learned, **{**KNOBS, "epochs": 20})
    student = copy.deepcopy(teacher)
    lessons = DataLoader(ContextLessons(WORDS, VOCABULARY), batch_size=8, shuffle=True)
    history = fit(
        student, lessons, **KD, teacher=ContextTeacher(wrap(teacher)), **{**KNOBS, "epochs": 6}
    )
    assert history["logit_kd"][-1] < 0.7 * history["logit_kd"][0]


def test_layers_of_tokens_are_compared_at_the_same_tokens_and_others_not():
    lessons = DataLoader(ContextLessons(WORDS, VOCABULARY), batch_size=8)
    teacher, student = ContextTeacher(model(16, seed=2)), model()
    hint = FeatureHint("stage1", channel_dim=-1)
    history = fit(student, lessons, hint, teacher=teacher, **{**KNOBS, "epochs": 4})
    assert history["feature_hint"][-1] < history["feature_hint"][0]
    views, _ = next(iter(lessons))
    with pytest.raises(ArgumentError, match=r"layers must be of tokens .* stage1\.attention"):
        teacher.show(views.teacher, ["stage1.attention.matrix"])
    with pytest.raises(ArgumentError, match="has no layer 'stage9'"):
        rehearse(student, lessons, FeatureHint("stage9"), teacher=teacher)


def test_what_does_not_fit_is_refused():
    student, lessons = model(), DataLoader(ContextLessons(WORDS, VOCABULARY), batch_size=8)
    with pytest.raises(ArgumentError, match="contexts must be one for each of 24 words, got 1"):
        ContextLessons(WORDS, VOCABULARY, ["noun "])
    with pytest.raises(ArgumentError, match="parts of speech of these definitions are not known"):
        ContextLessons(Definitions(("a",), ("b",)), VOCABULARY)
    with pytest.raises(ArgumentTypeError, match="tokens and places, as ContextLessons do"):
        fit(student, batches(), **KD, teacher=ContextTeacher(model(seed=2)), **KNOBS)
    with pytest.raises(ArgumentError, match=r"tokens must have shape .* at most 60 in all"):
        fit(student, lessons, **KD, teacher=ContextTeacher(model(seed=2, length=60)), **KNOBS)
    with pytest.raises(ArgumentError, match="teacher in a context cannot follow"):
        ContextTeacher(MomentumTeacher(student))
