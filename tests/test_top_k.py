"""Answers of k tokens: KL by definition, what it leaves out, and which forms of it are biased."""

import itertools
import math

import pytest
import torch
from test_predictions import SHAPES, K, drawn, example_of, value_and_gradient

from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.logit import kd_loss
from kdcourse.methods.top_k import (
    RESTS,
    TopK,
    TopKKD,
    sampled_answers,
    top_k_answers,
    topk_kd_loss,
)
from kdcourse.objective import Lesson, Outputs

STUDENT, TEACHER = drawn(7, K), drawn(7, K, seed=1)
LOSSES = {
    "two of them": lambda s, t: topk_kd_loss(s, *top_k_answers(t, 2)),
    "three of them, softened": lambda s, t: topk_kd_loss(s, *top_k_answers(t, 3, temperature=2)),
    "all of them": lambda s, t: topk_kd_loss(s, *top_k_answers(t, K)),
    "renormalised": lambda s, t: topk_kd_loss(s, *top_k_answers(t, 2), rest="none"),
}


def example(name):
    """Student and teacher of a loss, for the tests of every loss."""
    return STUDENT, TEACHER


# The definition at one place, in Python's own floats.


def softmax(z, temperature=1.0):
    powers = [math.exp(v / temperature) for v in z]
    return [v / math.fsum(powers) for v in powers]


def kl(p, q):
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a)


def naive(s, t, k, temperature=1.0, rest="tail"):
    p, q = softmax(t, temperature), softmax(s, temperature)
    best = sorted(range(len(p)), key=lambda i: -p[i])[:k]
    p, q = [p[i] for i in best], [q[i] for i in best]
    if rest == "tail" and k < len(s):
        p, q = [*p, 1 - math.fsum(p)], [*q, 1 - math.fsum(q)]
    whole = math.fsum(p)
    return temperature**2 * kl([a / whole for a in p], q)


def logits_of(answers):
    """Logits of a teacher whose prediction these answers are, if it has no rest."""
    rows = torch.full(
        (*answers.log_probabilities.shape[:-1], K), -math.inf, dtype=answers.log_probabilities.dtype
    )
    return rows.scatter_reduce(-1, answers.indices, answers.log_probabilities, "amax")


def gradient(loss, student):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student), student)[0]


@pytest.mark.parametrize(("shape", "class_dim"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("k", "temperature", "rest"), [(1, 1.0, "tail"), (3, 2.0, "tail"), (2, 0.5, "none")]
)
def test_it_equals_its_definition_at_places(shape, class_dim, k, temperature, rest):
    s, t, target, mask, weight = example_of(shape, class_dim)
    rows = [z.movedim(class_dim, -1).reshape(-1, K).tolist() for z in (s, t)]
    counted, labels = (weight * mask).flatten().tolist(), target.masked_fill(~mask, -100)
    each = [naive(a, b, k, temperature, rest) for a, b in zip(*rows, strict=True)]
    expected = math.fsum(w * v for w, v in zip(counted, each, strict=True)) / math.fsum(counted)
    answers = top_k_answers(t, k, temperature=temperature, class_dim=class_dim)
    assert answers.log_probabilities.shape == answers.indices.shape == (*target.shape, k)
    options = {"rest": rest, "class_dim": class_dim}
    loss = topk_kd_loss(s, *answers, mask=mask, weight=weight, **options)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    lesson = Lesson(Outputs(logits=s), labels, Outputs(logits=t), weight=weight)
    term = TopKKD(k, temperature, ignore_index=-100, **options)
    assert term.loss(lesson).item() == pytest.approx(expected, rel=1e-9)
    lesson.teacher = Outputs(top_k=answers)
    assert term.loss(lesson).item() == pytest.approx(expected, rel=1e-9)


def test_what_does_not_count_may_be_anything():
    s, t, _, mask, _ = example_of((3, 4, K), -1)
    answers = top_k_answers(t, 2, class_dim=-1)
    places = mask[..., None]
    broken = TopK(answers.indices.where(places, 10**6), answers[1].where(places, math.nan))
    for rest in RESTS:
        options = {"rest": rest, "class_dim": -1, "mask": mask}
        clean = value_and_gradient(topk_kd_loss, s, *answers, **options)
        found = value_and_gradient(topk_kd_loss, s.where(places, math.inf), *broken, **options)
        torch.testing.assert_close(found, clean)
        nothing = topk_kd_loss(s, *broken, rest=rest, class_dim=-1, mask=torch.zeros_like(mask))
        assert nothing == 0


@pytest.mark.parametrize("temperature", [1.0, 3.0, 40.0])
def test_of_all_tokens_it_is_kd(temperature):
    s, t = STUDENT, TEACHER
    answers = top_k_answers(t, 99, temperature=temperature)
    assert answers.indices.shape == (7, K)
    found = value_and_gradient(topk_kd_loss, s, *answers)
    expected = value_and_gradient(kd_loss, s, t, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_class_that_is_masked_in_both_does_not_count():
    s, t = (z.index_fill(1, torch.tensor([1, 3]), -math.inf) for z in (STUDENT, TEACHER))
    for k in (2, 3, 4, 5):
        found = value_and_gradient(topk_kd_loss, s, *top_k_answers(t, k))
        few = [z[:, [0, 2, 4]] for z in (s, t)]
        alone = value_and_gradient(topk_kd_loss, few[0], *top_k_answers(few[1], k))
        torch.testing.assert_close(found[0], alone[0])
        torch.testing.assert_close(found[1][:, [0, 2, 4]], alone[1])
        assert not found[1][:, [1, 3]].any()


def test_the_chain_rule_says_what_it_leaves_out():
    """And so, that it is a lower bound, zero only where the k and the rest's mass agree."""
    for k in (1, 2, 3, 4):
        answers = top_k_answers(TEACHER, k)
        known = torch.zeros_like(TEACHER, dtype=torch.bool).scatter(1, answers.indices, True)
        each = [(z.softmax(1), z.masked_fill(known, -math.inf)) for z in (TEACHER, STUDENT)]
        left = 1 - answers.log_probabilities.exp().sum(1)
        log_p, log_q = (others.log_softmax(1) for _, others in each)
        among = (log_p.exp() * (log_p - log_q).masked_fill(known, 0)).sum(1)
        loss = topk_kd_loss(STUDENT, *answers)
        whole = kd_loss(STUDENT, TEACHER, 1.0)
        assert 0 < loss < whole + 1e-12
        torch.testing.assert_close(loss + (left * among).mean(), whole)
        agreeing = TEACHER.where(known, TEACHER[:, :1] * 0 + other_logit(TEACHER, known))
        assert topk_kd_loss(agreeing, *answers) < 1e-14
    assert kd_loss(agreeing, TEACHER, 1.0) < 1e-14  # of four of five, the rest is one


def other_logit(logits, known):
    """The logit that all others would share, at the mass that they have."""
    others = logits.masked_fill(known, -math.inf).logsumexp(1, keepdim=True)
    return others - (~known).sum(1, keepdim=True).log()


# --- bias


def biases(student, teacher, k):
    """The sums of what gradients differ by from those of KD, with the rest and without."""
    answers, places = top_k_answers(teacher, k), len(teacher)
    whole = gradient(lambda z: kd_loss(z, teacher, 1.0), student)
    found = [
        gradient(lambda z, rest=rest: topk_kd_loss(z, *answers, rest=rest), student)
        for rest in RESTS
    ]
    left = 1 - answers.log_probabilities.exp().sum(1)
    return left, *(places * (one - whole).abs().sum(1) for one in found)


def test_renormalising_is_wrong_by_twice_the_rest_and_the_rests_mass_by_less():
    left, with_rest, without = biases(STUDENT, TEACHER, 2)
    torch.testing.assert_close(without, 2 * left)
    known = torch.zeros_like(TEACHER, dtype=torch.bool)
    known = known.scatter(1, top_k_answers(TEACHER, 2).indices, True)
    p, q = (z.masked_fill(known, -math.inf).softmax(1) for z in (TEACHER, STUDENT))
    torch.testing.assert_close(with_rest, left * (q - p).abs().sum(1))
    assert (with_rest <= 2 * left).all()
    left, with_rest, without = biases(TEACHER, TEACHER, 2)  # the student has arrived
    torch.testing.assert_close(without, 2 * left)
    assert with_rest.max() < 1e-14


@pytest.mark.parametrize("rest", RESTS)
def test_where_a_student_ends(rest):
    """With the rest's mass at the teacher's k probabilities; else with all of them scaled up."""
    teacher = torch.tensor([[2.0, 1.0, 0.0, -0.5, -1.0]], dtype=torch.float64)
    answers, p = top_k_answers(teacher, 2), teacher.softmax(1)
    student = torch.zeros_like(teacher).requires_grad_()
    optimizer = torch.optim.SGD([student], 2.0)
    for _ in range(2000):
        optimizer.zero_grad()
        topk_kd_loss(student, *answers, rest=rest).backward()
        optimizer.step()
    q = student.detach().softmax(1)
    expected = p[:, :2] if rest == "tail" else p[:, :2] / p[:, :2].sum()
    off = 1e-9 if rest == "tail" else 1e-3  # what rules tokens out falls as one over the steps
    torch.testing.assert_close(q[:, :2], expected, atol=off, rtol=0)
    torch.testing.assert_close(q[:, 2:].sum(), 1 - expected.sum(), atol=off, rtol=0)


def test_leaving_the_sum_as_it_is_is_renormalising_at_another_weight():
    """Σ p log p/q over the k: its gradient is P times as long at each place."""
    student, teacher = STUDENT[:1], TEACHER[:1]
    answers = top_k_answers(teacher, 2)
    p = answers.log_probabilities.exp()

    def plain(z):
        log_q = z.log_softmax(1).gather(1, answers.indices)
        return (p * (answers.log_probabilities - log_q)).sum()

    ours = gradient(lambda z: topk_kd_loss(z, *answers, rest="none"), student)
    torch.testing.assert_close(gradient(plain, student), p.sum() * ours)


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_the_gradient_of_draws_is_right_in_the_mean(draws):
    """By all that may be drawn, with its probability."""
    student, teacher = STUDENT[:1], TEACHER[:1]
    p, total, mean = teacher.softmax(1)[0], 0.0, torch.zeros_like(student)
    for drawn_ in itertools.product(range(K), repeat=draws):
        probability = math.prod(p[i].item() for i in drawn_)
        tokens = sorted(set(drawn_))
        frequencies = torch.tensor([[drawn_.count(i) / draws for i in tokens]], dtype=p.dtype)
        answers = TopK(torch.tensor([tokens]), frequencies.log())
        mean += probability * gradient(lambda z, a=answers: topk_kd_loss(z, *a), student)
        total += probability
    assert total == pytest.approx(1)
    expected = gradient(lambda z: kd_loss(z, teacher, 1.0), student)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)


def test_draws_are_counted_and_are_as_frequent_as_they_are_probable():
    teacher = TEACHER[:1].expand(20_000, -1)
    answers = sampled_answers(teacher, 8, temperature=2.0, generator=replay(0))
    p, found = (TEACHER[0] / 2).softmax(0), answers.log_probabilities.exp()
    assert answers.temperature == 2
    assert torch.equal(8 * found.round(decimals=6), (8 * found).round())
    torch.testing.assert_close(found.sum(1), torch.ones(20_000, dtype=p.dtype))
    assert (answers.indices.sort(1).values.diff(dim=1) > 0).all()
    mean = torch.zeros(K, dtype=p.dtype).index_add(0, answers.indices.flatten(), found.flatten())
    deviation = (p * (1 - p) / (8 * 20_000)).sqrt()
    assert ((mean / 20_000 - p).abs() < 4.5 * deviation).all()


def test_answers_that_were_drawn_are_predictions_without_a_rest():
    answers = sampled_answers(TEACHER, 3, generator=replay(0))
    for rest in RESTS:
        found = value_and_gradient(topk_kd_loss, STUDENT, *answers, rest=rest)
        expected = value_and_gradient(kd_loss, STUDENT, logits_of(answers), 1.0)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


# --- numbers at their limits


def test_a_sure_student_still_learns_what_it_leaves_out():
    """One less what it is sure of would be zero in float32."""
    sure = torch.tensor([[60.0, 0.0, 0.0, 0.0, 1.0]])
    answers = top_k_answers(torch.tensor([[3.0, 0.0, 0.0, 0.0, 0.0]]), 1)
    found = value_and_gradient(topk_kd_loss, sure, *answers)
    exact = TopK(answers.indices, answers.log_probabilities.double())
    expected = value_and_gradient(topk_kd_loss, sure.double(), *exact)
    torch.testing.assert_close([one.double() for one in found], [*expected])
    far = value_and_gradient(topk_kd_loss, 10 * sure, *answers)
    assert all(one.isfinite().all() for one in far)
    assert far[1][0, 0] > 0.1


def test_logits_may_be_large():
    near = torch.tensor([[1e4, 1e4 - 1, 1e4 - 3, -1e4, 0.0]])
    answers = top_k_answers(near, 2)
    assert topk_kd_loss(near, *answers) < 1e-7
    torch.testing.assert_close(topk_kd_loss(near.flip(1), *answers).isfinite(), torch.tensor(True))


@pytest.mark.parametrize("size", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_answers_may_be_stored_small(size):
    answers = top_k_answers(TEACHER, 3)
    small = TopK(answers.indices.to(size), answers.log_probabilities.half())
    found = value_and_gradient(topk_kd_loss, STUDENT, *small)
    expected = value_and_gradient(topk_kd_loss, STUDENT, *answers)
    p = answers.log_probabilities.exp()
    most = (
        2**-11 * 2 * (p * -answers.log_probabilities).sum(1).mean()
    )  # of the entropy, and for the rest
    assert (found[1] - expected[1]).abs().sum() <= most
    torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("indices", "log_probabilities", "message"),
    [
        ((7, 3), torch.zeros(7, 2), "log_probabilities and indices must have the same shape"),
        ((6, 2), torch.zeros(6, 2), r"indices must have the shape \(7, k\)"),
        ((7, 0), torch.zeros(7, 0), r"indices must have the shape \(7, k\)"),
        (torch.zeros(7, 1), torch.zeros(7, 1), "indices must be integers"),
        (torch.full((7, 1), K), torch.zeros(7, 1), r"indices must lie in \[0, 5\)"),
        ((7, 2), torch.zeros(7, 2), "at most one"),
    ],
)
def test_answers_that_do_not_fit_are_refused(indices, log_probabilities, message):
    if isinstance(indices, tuple):
        indices = torch.zeros(indices, dtype=torch.int64)
    with pytest.raises(ArgumentError, match=message):
        topk_kd_loss(STUDENT, indices, log_probabilities)


def test_a_token_told_twice_is_refused_where_it_counts():
    """Its gradient would be that of two tokens."""
    indices, log_probabilities = (one.clone() for one in top_k_answers(TEACHER, 3)[:2])
    indices[2, 1] = indices[2, 0]
    with pytest.raises(ArgumentError, match="indices must all be different"):
        topk_kd_loss(STUDENT, indices, log_probabilities)
    counts = torch.arange(len(STUDENT)) != 2
    assert topk_kd_loss(STUDENT, indices, log_probabilities, mask=counts).isfinite()


def test_what_else_is_refused():
    for bad in ({"temperature": 0.0}, {"rest": True}):
        with pytest.raises(ArgumentError, match=f"^{next(iter(bad))}"):
            topk_kd_loss(STUDENT, *top_k_answers(TEACHER, 2)[:2], **bad)
    with pytest.raises(ArgumentError, match="numbers"):
        sampled_answers(TEACHER * math.nan)
    lesson = Lesson(Outputs(logits=STUDENT), torch.zeros(7), Outputs())
    with pytest.raises(ArgumentError, match="needs a teacher's predictions"):
        TopKKD().loss(lesson)
    lesson.teacher = Outputs(top_k=top_k_answers(TEACHER, 2, temperature=2.0))
    with pytest.raises(ArgumentError, match="temperature must be that of the teacher's answers, 2"):
        TopKKD().loss(lesson)
    lesson.teacher = Outputs(probabilities=TEACHER.softmax(1))
    torch.testing.assert_close(TopKKD(2).loss(lesson), LOSSES["two of them"](STUDENT, TEACHER))
