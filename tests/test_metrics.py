import pytest
import torch
from torch import nn

from kdcourse import metrics, models
from kdcourse.data import Images

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
    for images in (IMAGES, IMAGES.inputs()):
        predicted = metrics.predict(model, images, batch_size)
        assert torch.allclose(predicted, expected, atol=1e-6)
        assert not predicted.requires_grad


def test_every_modules_mode_is_restored(model):
    model.train()
    model.stage2.eval()
    modes = [module.training for module in model.modules()]
    metrics.accuracy(model, IMAGES)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(RuntimeError), metrics.evaluation_mode(model):
        model(torch.zeros(1, 9, 9, 9))  # wrong channels
    assert [module.training for module in model.modules()] == modes


def test_a_model_without_parameters_can_predict():
    assert metrics.predict(nn.Flatten(), IMAGES).shape == (23, 144)


def test_accuracy_agreement_and_recall_equal_a_loop():
    p, q = (torch.randn(23, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    named, others, target = p.argmax(1).tolist(), q.argmax(1).tolist(), IMAGES.target.tolist()
    right = [a == b for a, b in zip(named, target, strict=True)]
    assert metrics.correct(p, IMAGES.target) == pytest.approx(sum(right) / 23)
    same = [a == b for a, b in zip(named, others, strict=True)]
    assert metrics.agreement(p, q) == pytest.approx(sum(same) / 23)
    of_two = [a == 2 for a, b in zip(named, target, strict=True) if b == 2]
    assert metrics.recall(p, IMAGES.target, 2) == pytest.approx(sum(of_two) / len(of_two))


def test_recall_without_samples_is_an_error():
    with pytest.raises(ValueError, match="no sample of class 9"):
        metrics.recall(torch.zeros(23, 10), IMAGES.target, 9)


def test_on_every_device_there_is(model, device):
    assert metrics.predict(model.to(device), IMAGES).device.type == device.type
    assert 0 <= metrics.accuracy(model, IMAGES) <= 1
