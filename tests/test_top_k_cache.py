"""A language teacher's answers about texts, which are asked for once."""

import math

import numpy as np
import pytest
import torch
from toys import same, weights

from kdcourse import LogitKD, TopKKD, fit
from kdcourse.errors import ArgumentError, NotFiniteError
from kdcourse.language import Characters, Written, wordnet
from kdcourse.methods.top_k import TopK, top_k_answers, topk_kd_loss
from kdcourse.models import language_model
from kdcourse.teachers import CachedTexts, MomentumTeacher, WrongCacheError, answer_bytes
from kdcourse.training import constant

WORDS = wordnet().train[:150]
VOCABULARY = Characters.of(wordnet().train.texts)
TEXTS = WORDS.lessons(VOCABULARY)
V = len(VOCABULARY)
AT = {"class_dim": -1, "ignore_index": -1}


def model(width=8, seed=1, scale=1.0):
    made = language_model(width, 1, 2, V, length=80, seed=seed)
    with torch.no_grad():
        made.classifier.weight.mul_(scale)
    return made


class Counted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model, self.texts = model(16, seed=3, scale=4.0), 0

    def forward(self, tokens):
        self.texts += len(tokens)
        return self.model(tokens)


def lessons(teacher=None, texts=TEXTS, **options):
    teacher = model(16, seed=3, scale=4.0) if teacher is None else teacher
    return CachedTexts(teacher, *texts, **{"k": 8, "batch_size": 32, **options})


def learn(source, objective=None, epochs=2, **options):
    student = model()
    objective = TopKKD(8, **AT) if objective is None else objective
    options = {"scheduler": constant, "device": "cpu", "progress": False, **options}
    history = fit(student, source, objective, teacher=source.teacher, epochs=epochs, **options)
    return weights(student), history


def every(source):
    return [(*one, target) for one, target in source]


@torch.no_grad()
def test_it_repeats_what_the_teacher_says():
    source, teacher = lessons(), model(16, seed=3, scale=4.0)
    batches = every(source)
    assert len(batches) == len(source) == 5
    assert sum(len(inputs) for inputs, _, _ in batches) == len(WORDS)
    for inputs, answers, target in batches:
        expected = top_k_answers(teacher(inputs), 8, class_dim=-1)
        learned = target >= 0
        assert torch.equal(answers.indices[learned].long(), expected.indices[learned])
        assert torch.equal(
            answers.log_probabilities[learned], expected.log_probabilities[learned].half()
        )
        assert answers.log_probabilities[~learned].isnan().all()
        assert answers.log_probabilities.dtype == torch.float16
        assert answers.indices.dtype == torch.uint8


def test_all_texts_come_in_an_order_of_each_epoch():
    source, seen = lessons(), []
    for epoch in (0, 1, 0):
        source.set_epoch(epoch)
        seen.append(torch.cat([inputs for inputs, _, _ in every(source)]))
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    rows = [sorted(map(tuple, one.tolist())) for one in (*seen[:2], TEXTS[0])]
    assert rows[0] == rows[1] == rows[2]


def test_the_teacher_is_asked_once_for_every_text():
    teacher = Counted()
    learn(lessons(teacher), epochs=3)
    assert teacher.texts == 1 + len(WORDS)  # the first one tells the number of classes


def test_a_student_learns_nearly_what_it_learns_from_the_teacher_itself():
    """Nearly: float16 is all that differs."""
    source = lessons()
    cached, history = learn(source)

    class Live:
        teacher = model(16, seed=3, scale=4.0)

        def __len__(self):
            return len(source)

        def set_epoch(self, epoch):
            source.set_epoch(epoch)

        def __iter__(self):
            for inputs, _, target in every(source):
                yield inputs, target

    live, own = learn(Live())
    for name, weight in cached.items():
        torch.testing.assert_close(weight, live[name], rtol=1e-3, atol=1e-3)
    assert history["top_k_kd"] == pytest.approx(own["top_k_kd"], rel=1e-3)
    assert history["top_k_kd"][-1] < history["top_k_kd"][0]


def test_answers_reach_the_device_of_the_student(device):
    _, history = learn(lessons(), device=device)
    assert history["top_k_kd"] == pytest.approx(learn(lessons())[1]["top_k_kd"], rel=1e-4)


# --- storage


@pytest.mark.parametrize(
    ("classes", "size"), [(2, 1), (256, 1), (257, 2), (32768, 2), (32769, 4), (128_256, 4)]
)
def test_bytes_of_a_million_tokens(classes, size):
    assert answer_bytes(1, classes, 10**6) == (2 + size) * 10**6
    assert answer_bytes(16, classes, 10**6) == min(16, classes) * (2 + size) * 10**6


def test_a_file_is_as_large_as_is_told(tmp_path):
    path = tmp_path / "answers"
    source = lessons(path=path, k=5)
    assert source.tokens == sum(len(meaning) + 1 for meaning in WORDS.meanings)
    assert source.bytes == source.tokens * 15 == (path / "answers.bin").stat().st_size
    every(source)
    assert source.bytes == (path / "answers.bin").stat().st_size
    assert isinstance(source.answers.values, np.memmap)


@torch.no_grad()
def test_float16_costs_a_two_thousandth_of_the_entropy():
    """Of the sum of the probabilities, and so of the gradient; the rest's mass as much again."""
    teacher, student = model(16, seed=3, scale=4.0), model()
    for inputs, answers, target in every(lessons()):
        learned = target >= 0
        exact = top_k_answers(teacher(inputs).double()[learned], 8)
        kept = TopK(answers.indices[learned], answers.log_probabilities[learned])
        p = exact.log_probabilities.exp()
        off = (kept.log_probabilities.double().exp() - p).abs().sum(1)
        entropy = -(p * exact.log_probabilities).sum(1)
        assert (off <= 1.001 * 2**-11 * entropy).all()
        both = [topk_kd_loss(student(inputs)[learned], *one) for one in (kept, exact)]
        assert both[0].item() == pytest.approx(both[1].item(), rel=1e-3)


# --- kept for another program


def test_a_folder_is_taken_up_by_another_program(tmp_path):
    first, _ = learn(lessons(path=tmp_path / "a"))
    teacher = Counted().model
    again = lessons(teacher, path=tmp_path / "a", batch_size=32)
    assert again.answers.knows(0)
    assert same(learn(again)[0], first)
    other_order = lessons(teacher, path=tmp_path / "a", batch_size=16, seed=3)
    assert other_order.answers.knows(0)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"teacher": model(16, seed=4)}, "teacher"),
        ({"texts": WORDS[:149].lessons(VOCABULARY)}, "texts"),
        ({"k": 7}, "k"),
        ({"sampled": True}, "k"),
        ({"temperature": 2.0}, "temperature"),
    ],
    ids=["teacher", "texts", "k", "draws", "temperature"],
)
def test_a_wrong_folder_is_an_error(tmp_path, other, name):
    lessons(path=tmp_path / "a")
    with pytest.raises(WrongCacheError, match=f"{name} was"):
        lessons(path=tmp_path / "a", **other)


def test_an_interrupted_pass_is_asked_again(tmp_path, monkeypatch):
    source = lessons(path=tmp_path / "a")
    monkeypatch.setattr(source.answers, "complete", lambda epoch: None)
    every(source)
    assert not lessons(path=tmp_path / "a").answers.knows(0)


def test_damaged_answers_are_asked_for_again(tmp_path):
    whole, _ = learn(lessons(path=tmp_path / "a"))
    file = tmp_path / "a" / "answers.bin"
    content = bytearray(file.read_bytes())
    content[100] ^= 4
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged: the teacher is asked again"):
        again, _ = learn(lessons(path=tmp_path / "a"))
    assert same(again, whole)


def test_a_run_that_was_stopped_goes_on_as_if_it_were_not(tmp_path):
    whole, _ = learn(lessons(), epochs=3)
    learn(lessons(), epochs=1, checkpoint=tmp_path / "run.pt")
    again, _ = learn(lessons(), epochs=3, checkpoint=tmp_path / "run.pt")
    assert same(again, whole)


# --- other texts, other answers


def test_texts_that_a_teacher_has_written_are_cached_too():
    teacher = model(16, seed=3)
    texts = Written(teacher, WORDS[:20], VOCABULARY, length=40)
    inputs, target = texts.lessons()
    assert len(inputs) == len(target) == 20
    batches = torch.cat([batch.sum(1) for batch, _ in texts])
    assert sorted(batches.tolist()) == sorted(inputs.sum(1).tolist())
    weights_, _ = learn(lessons(teacher, (inputs, target)), epochs=1)
    assert weights_


def test_draws_are_those_of_the_seed_and_teach():
    source = lessons(sampled=True, seed=5)
    first, again = every(source), every(lessons(sampled=True, seed=5, batch_size=32))
    for (_, one, target), (_, other, _) in zip(first, again, strict=True):
        assert torch.equal(one.indices, other.indices)
        mass = one.log_probabilities[target >= 0].double().exp().sum(1)
        torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=2**-11 * math.log(8))
    assert not torch.equal(every(lessons(sampled=True))[0][1].indices, first[0][1].indices)
    _, history = learn(source)
    assert history["top_k_kd"][-1] < history["top_k_kd"][0]


def test_what_does_not_fit_is_told():
    source = lessons()
    with pytest.raises(ArgumentError, match="without logits"):
        learn(source, LogitKD(1.0, **AT))
    with pytest.raises(ArgumentError, match="only the answers of k tokens were recorded"):
        source.teacher.show(torch.zeros(2, 4), ["stage1"])
    with pytest.raises(NotFiniteError, match="top_k_kd"):
        learn(source, TopKKD(class_dim=-1))
    with pytest.raises(ArgumentError, match="temperature must be that of the teacher's answers"):
        learn(source, TopKKD(8, 2.0, **AT))
    with pytest.raises(ArgumentError, match="follows its student"):
        lessons(MomentumTeacher(model()))
    with pytest.raises(ArgumentError, match=r"logits \(N, T, V\)"):
        lessons(torch.nn.EmbeddingBag(V, 4))
    with pytest.raises(ArgumentError, match="the same shape"):
        lessons(texts=(TEXTS[0], TEXTS[1][:, :-1]))
    with pytest.raises(ArgumentError, match="to be learned"):
        lessons(texts=(TEXTS[0], TEXTS[1] * 0 - 1))
