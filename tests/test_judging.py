"""How language models and what they write are judged, against definitions in plain Python."""

import pytest
import torch

from kdcourse.language import distinct, nats_by_place, nats_per_token
from kdcourse.models import language_model

V, T = 5, 7


@pytest.fixture
def model():
    return language_model(8, 1, 2, V, length=T, seed=3).double()


@pytest.fixture
def lessons():
    inputs, target = torch.randint(V, (2, 9, T), generator=torch.Generator().manual_seed(0))
    target[:, 0] = -1  # a prompt
    target[0, 3:] = target[1, 1] = target[2] = -1  # an end, a gap, nothing at all
    return inputs, target


def naive(model, lessons):
    """Return, for each text, the nats of its first, second … counted token."""
    found = []
    for inputs, target in zip(*lessons, strict=True):
        log_p = model(inputs[None])[0].log_softmax(dim=1)
        found.append([-log_p[t, y].item() for t, y in enumerate(target.tolist()) if y >= 0])
    return found


def test_nats_are_the_mean_over_tokens_that_count(model, lessons):
    every = [nats for text in naive(model, lessons) for nats in text]
    assert nats_per_token(model, lessons) == pytest.approx(sum(every) / len(every), rel=1e-12)


def test_nats_by_place_are_means_over_the_texts_that_reach_it(model, lessons):
    texts = naive(model, lessons)
    reach = [[text[n] for text in texts if len(text) > n] for n in range(T - 1)]
    expected = torch.tensor([sum(each) / len(each) for each in reach])
    torch.testing.assert_close(nats_by_place(model, lessons), expected, rtol=1e-6, atol=0.0)


def test_batches_do_not_matter(model, lessons):
    batches = [tuple(part[rows] for part in lessons) for rows in (slice(4), slice(4, 9))]
    whole = nats_by_place(model, lessons)
    torch.testing.assert_close(nats_by_place(model, batches), whole, rtol=1e-6, atol=0.0)
    assert nats_per_token(model, batches) == pytest.approx(nats_per_token(model, lessons))


@pytest.mark.parametrize("judge", [nats_per_token, nats_by_place])
def test_texts_without_a_target_are_refused(judge, model, lessons):
    inputs, target = lessons
    with pytest.raises(ValueError, match="target must have a token somewhere"):
        judge(model, (inputs, target.fill_(-1)))
    with pytest.raises(ValueError, match="samples must have targets"):
        judge(model, inputs)


@pytest.mark.parametrize(
    ("texts", "n", "share"),
    [
        (["a b a b"], 1, 2 / 4),
        (["a b a b"], 2, 2 / 3),  # ab, ba, ab
        (["a b", "a b"], 2, 1 / 2),
        (["a b", "b a"], 2, 1.0),  # no pair across two texts
        (["to walk", "to run", ""], 1, 3 / 4),
    ],
)
def test_distinct_counts_each_word_once(texts, n, share):
    assert distinct(texts, n) == pytest.approx(share)


def test_nothing_to_count_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 word\(s\) in a row"):
        distinct(["alone"], 2)
