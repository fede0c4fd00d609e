import itertools
import math
import statistics
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchmetrics.functional.retrieval import retrieval_hit_rate
from toys import images, net

from kdcourse import metrics, models
from kdcourse.data import Images
from kdcourse.models import capture
from kdcourse.modes import evaluation_mode

IMAGES = Images(
    torch.randint(
        256, (23, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ),
    torch.arange(23) % 4,
    tuple("abcd"),
    (0.5,),
    (0.25,),
)


@pytest.fixture
def model():
    model = models.plain(2, classes=4, seed=0)
    model(IMAGES.inputs())  # so that batch norm has seen something
    return model


@pytest.mark.parametrize("batch_size", [1, 10, 23, 100])
def test_predict_is_the_forward_pass_in_eval_mode(model, batch_size):
    with torch.no_grad():
        expected = model.eval()(IMAGES.inputs())
    model.train()
    for shown in (IMAGES, IMAGES.inputs()):
        predicted = metrics.predict(model, shown, batch_size)
        assert torch.allclose(predicted, expected, atol=1e-6)
        assert not predicted.requires_grad


def test_every_modules_mode_is_restored(model):
    model.train()
    model.stage2.eval()
    modes = [module.training for module in model.modules()]
    metrics.accuracy(model, IMAGES)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(RuntimeError), evaluation_mode(model):
        model(torch.zeros(1, 9, 9, 9))  # wrong channels
    assert [module.training for module in model.modules()] == modes


def test_a_model_without_parameters_can_predict():
    assert metrics.predict(nn.Flatten(), IMAGES).shape == (23, 144)


def test_accuracy_agreement_and_recall_equal_a_loop():
    p, q = (torch.randn(23, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    named, others, target = p.argmax(1).tolist(), q.argmax(1).tolist(), IMAGES.target.tolist()
    right = [a == b for a, b in zip(named, target, strict=True)]
    assert metrics.share_correct(p, IMAGES.target) == pytest.approx(sum(right) / 23)
    same = [a == b for a, b in zip(named, others, strict=True)]
    assert metrics.agreement(p, q) == pytest.approx(sum(same) / 23)
    of_two = [a == 2 for a, b in zip(named, target, strict=True) if b == 2]
    assert metrics.recall(p, IMAGES.target, 2) == pytest.approx(sum(of_two) / len(of_two))


def test_recall_without_samples_is_an_error():
    with pytest.raises(ValueError, match="label must be that of some sample, got 9"):
        metrics.recall(torch.zeros(23, 10), IMAGES.target, 9)


def test_on_every_device_there_is(model, device):
    assert metrics.predict(model.to(device), IMAGES).device.type == device.type
    assert 0 <= metrics.accuracy(model, IMAGES) <= 1


# What is measured of an embedding.


def clusters(size=60, width=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    target = torch.arange(size) % 3
    return 4 * torch.eye(width)[target] + torch.randn(size, width, generator=draw), target


def test_embed_shows_a_layer_of_any_model():
    data, model = images(), net()
    shown = metrics.embed(model, data)
    with capture(model.eval(), ["embedding"]) as layers:
        model(data.inputs())
    assert torch.allclose(shown, layers["embedding"], atol=1e-6)
    assert metrics.embed(model, data, "stage2").shape == (96, 4 * 3 * 3)


def test_recall_at_k_by_hand():
    embeddings = torch.tensor([[0.0], [1.0], [3.0], [7.0], [7.5]])
    target = torch.tensor([0, 1, 0, 1, 1])
    # nearest other sample: 0 → 1, 1 → 0, 2 → 1, 3 → 4, 4 → 3
    assert metrics.recall_at(1, embeddings, target) == pytest.approx(2 / 5)
    # two nearest: 0 → 1, 2; 1 → 0, 2; 2 → 1, 0; 3 → 4, 2; 4 → 3, 2
    assert metrics.recall_at(2, embeddings, target) == pytest.approx(4 / 5)


def test_recall_agrees_with_torchmetrics():
    embeddings, target = clusters()
    distance = torch.cdist(embeddings, embeddings)
    for k in (1, 3):
        hits = []
        for n in range(len(target)):
            others = torch.arange(len(target)) != n
            same_class = target[others] == target[n]
            hits.append(retrieval_hit_rate(-distance[n][others], same_class, top_k=k))
        assert metrics.recall_at(k, embeddings, target) == pytest.approx(float(sum(hits)) / 60)


def test_knn_accuracy_by_hand():
    train_set, target = torch.tensor([[0.0], [1.0], [1.2], [5.0]]), torch.tensor([0, 1, 1, 0])
    test, expected = torch.tensor([[0.1], [4.0]]), torch.tensor([0, 1])
    assert metrics.knn_accuracy(train_set, target, test, expected) == 0.5
    assert metrics.knn_accuracy(train_set, target, test, expected, k=3) == 0.5
    assert metrics.knn_accuracy(train_set, target, test[1:], expected[1:], k=3) == 1


def test_as_many_neighbours_vote_as_were_asked_for():
    """Grey images, whose brightness is their embedding."""
    model = nn.Sequential(OrderedDict(embedding=nn.Flatten()))

    def grey(brightness, labels):
        pixels = torch.tensor(brightness, dtype=torch.uint8).view(-1, 1, 1, 1)
        return Images(pixels, torch.tensor(labels), ("a", "b"), (0.0,), (1 / 255,))

    known = grey([0, 10, 20, 100, 110, 120], [0, 1, 1, 0, 0, 1])
    asked = grey([1, 101, 121], [0, 0, 0])
    # nearest: 0, 0, 1; the three nearest: {0, 1, 1}, {0, 0, 1}, {1, 0, 0}
    for k, right in ((1, [1, 1, 0]), (3, [0, 1, 1])):
        found = [metrics.neighbour_accuracy(model, known, asked[n : n + 1], k) for n in range(3)]
        assert found == right


def test_distance_correlation_is_pearsons_of_the_distances():
    one, other = clusters(9)[0], clusters(9, 3, seed=1)[0]
    pairs = list(itertools.combinations(range(9), 2))
    rows = [[math.dist(z[i].tolist(), z[j].tolist()) for i, j in pairs] for z in (one, other)]
    assert metrics.distance_correlation(one, other) == pytest.approx(statistics.correlation(*rows))


def test_distance_correlation_and_cka_are_one_for_the_same_structure():
    embeddings, _ = clusters()
    turned = 3 * embeddings @ torch.linalg.qr(torch.randn(5, 5))[0] + 2
    for measure in (metrics.distance_correlation, metrics.linear_cka):
        assert measure(embeddings, turned) == pytest.approx(1, abs=1e-5)
        noise = torch.randn(60, 7, generator=torch.Generator().manual_seed(1))
        assert measure(embeddings, noise) < 0.4
        assert measure(embeddings, noise) == pytest.approx(measure(noise, embeddings))


def test_cka_equals_its_definition_by_gram_matrices():
    x, y = clusters()[0].double(), clusters(width=4, seed=1)[0].double()
    centre = torch.eye(60).double() - 1 / 60
    k, l_ = (centre @ (z @ z.T) @ centre for z in (x, y))
    expected = (k * l_).sum() / (k.norm() * l_.norm())
    assert metrics.linear_cka(x, y) == pytest.approx(float(expected), rel=1e-9)


def test_models_embedding_is_what_the_classifier_sees():
    model = models.residual(4, seed=0).eval()
    data = images()
    embedded = metrics.embed(model, data)
    assert torch.allclose(model.classifier(embedded), model(data.inputs()), atol=1e-5)
