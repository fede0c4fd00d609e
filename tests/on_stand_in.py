"""What is run on the stand-in for a GPU only, by ``test_stand_in.py``."""

import pytest
import torch
from stand_in_device import NAME, PLACE, WAITS
from stand_in_graph import Recorded
from test_house import called, every_procedure
from torch.nn import functional as F
from toys import images, net, same, train, weights

from kdcourse import augmentation, tips
from kdcourse.course.bench.gpu import steps
from kdcourse.course.bench.gpu.by_hand import ByHand
from kdcourse.rand_augment import RandAugment
from kdcourse.training import CrossEntropy, LogitKD

KD = CrossEntropy() + 4.0 * LogitKD()
AUGMENTED = {"objective": KD, "augment": augmentation.pad_crop_flip()}
OPTIONS = {
    "augmented": AUGMENTED,
    "consistent": {"objective": KD, "views": tips.Consistent(augmentation.crop_flip())},
    "mixed": {"objective": LogitKD(), "views": tips.FunctionMatching(augmentation.crop_flip())},
    "strong": {"objective": KD, "augment": RandAugment()},
}


def test_it_refuses_what_a_gpu_refuses():
    here, there = torch.ones(3), torch.ones(3, device=PLACE)
    for mixed in (lambda: here + there, lambda: F.mse_loss(there, here), lambda: there.add_(here)):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device=PLACE, generator=torch.Generator())
    with pytest.raises(TypeError, match="NumPy"):
        there.numpy()


def test_it_allows_what_a_gpu_allows():
    there = torch.arange(3.0, device=PLACE, requires_grad=True)
    value = (2 * there + torch.tensor(1.0))[torch.tensor([0, 2])].sum()
    value.backward()
    assert value.device.type == there.grad.device.type == NAME
    assert there.grad.tolist() == [2, 0, 2]
    there.detach().copy_(torch.ones(3))
    assert there.cpu().sum() == 3


def test_it_notes_where_the_host_waits():
    there = torch.ones(3, device=PLACE)
    before = len(WAITS)
    assert there.sum() + 1 + there[0] is not None
    assert len(WAITS) == before
    for wait in (
        there.cpu,
        there[0].item,
        lambda: bool(there[0]),
        lambda: there.copy_(torch.ones(3)),
    ):
        wait()
        before += 1
        assert len(WAITS) == before


@pytest.mark.parametrize("options", OPTIONS.values(), ids=[*OPTIONS])
def test_a_training_there_is_the_same_bit_by_bit(options):
    here, there = net(), net()
    train(here, teacher=net(4), **options)
    train(there, teacher=net(4), device=PLACE, **options)
    assert {p.device.type for p in there.parameters()} == {"cpu"}  # it has come home
    assert same(weights(here), weights(there))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=[*OPTIONS])
def test_captured_steps_there_are_as_plain_ones(options, replaying):
    results = []
    for wanted in (True, False):
        student = net().double()
        knobs = {"device": replaying.device, "capture": wanted, "epochs": 3}
        train(student, teacher=net(4).double(), **knobs, **options)
        results.append(weights(student))
    assert replaying.graphs == 1
    for name, value in results[0].items():
        assert torch.allclose(value.double(), results[1][name].double(), rtol=1e-6), name


@every_procedure
def test_every_procedure_learns_there_as_here(procedure):
    assert repr(called(procedure, device=PLACE)) == repr(called(procedure))


def test_a_step_by_hand_never_waits():
    task = steps.Task("plain8", "res16", 8, str(PLACE), steps=2)
    hand = ByHand(*task.nets(), task.images().to(PLACE), 8)
    hand.step()  # the first sends what normalises the images
    before = len(WAITS)
    hand.step()
    assert WAITS[before:] == []


def test_a_captured_step_does_little_more_than_one_by_hand(replaying):
    task = steps.Task("plain8", "res16", 8, str(PLACE), steps=6, epochs=1)
    hand = ByHand(*task.nets(), task.images().to(PLACE), 8)
    for _ in range(2):  # the first makes what stays
        hand.step()
    Recorded(hand.step)
    by_hand = replaying.operations
    steps.by_fit(task, task.images(), capture=True)
    # It measures what went in and out, and its SGD is made of eight operations.
    assert by_hand < replaying.operations < by_hand + 50


def test_the_number_of_steps_does_not_change_how_often_the_host_waits():
    counts = []
    for size in (96, 192):
        before = len(WAITS)
        train(net(), teacher=net(4), train=images(size), device=PLACE, **AUGMENTED)
        counts.append(len(WAITS) - before)
    assert counts[0] == counts[1]
