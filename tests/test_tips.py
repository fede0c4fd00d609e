"""What student and teacher see of an image."""

import pytest
import torch
from torch.utils.data import DataLoader
from toys import images, net, train

from kdcourse import tips
from kdcourse.augmentation import Noise
from kdcourse.batch import SeparateViews
from kdcourse.data import replay
from kdcourse.training import LogitKD


class Seen(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.inputs = net(), []

    def forward(self, inputs):
        self.inputs.append(inputs.detach().clone())
        return self.net(inputs)


@pytest.mark.parametrize(
    ("views", "equal", "original"),
    [
        (tips.Consistent(Noise(0.2)), True, (False, False)),
        (tips.Independent(Noise(0.2)), False, (False, False)),
        (tips.FixedTeacher(Noise(0.2)), False, (False, True)),
        (tips.FunctionMatching(Noise(0.2)), True, (False, False)),
    ],
    ids=["consistent", "independent", "fixed", "matching"],
)
def test_what_each_side_sees(views, equal, original):
    data, student, teacher = images(32), Seen(), Seen()
    train(student, LogitKD(4), teacher=teacher, train=data, views=views, epochs=1)
    (own,), (theirs,) = student.inputs, teacher.inputs
    assert torch.equal(own, theirs) == equal
    clean = {tuple(row.tolist()) for row in data.inputs().flatten(1)}
    for seen, is_original in zip((own, theirs), original, strict=True):
        assert ({tuple(row.tolist()) for row in seen.flatten(1)} == clean) == is_original


def test_a_loader_may_yield_separate_views():
    data, student, teacher = images(32), Seen(), Seen()
    pairs = zip(data.inputs(), data.target, strict=True)
    samples = [(SeparateViews(one, -one), label) for one, label in pairs]
    train(student, LogitKD(4), teacher=teacher, train=DataLoader(samples, 32), epochs=1)
    assert torch.equal(student.inputs[0], data.inputs())
    assert torch.equal(teacher.inputs[0], -data.inputs())


def test_views_and_augment_exclude_each_other():
    with pytest.raises(ValueError, match="views"):
        train(net(), views=tips.Consistent(Noise()), augment=Noise())


def same_pixels(pixels, generator):
    return pixels


def test_a_mixture_lies_between_two_images_of_the_batch():
    dark, bright = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 200)
    pixels = torch.cat([dark, bright] * 200).byte()
    target = torch.arange(400) % 2
    own, theirs, labels = tips.FunctionMatching(same_pixels)(pixels, target, replay(0))
    assert own.dtype == torch.uint8
    assert torch.equal(own, theirs)
    assert (own == own[:, :, :1, :1]).all()  # one share for a whole image
    shares = own[:, 0, 0, 0].float() / 200
    mixed = shares[(shares > 0) & (shares < 1)]  # half of the images met one of their own kind
    assert 150 < len(mixed) < 250
    assert 0.45 < float(mixed.mean()) < 0.55
    assert float(mixed.std()) == pytest.approx(1 / 12**0.5, abs=0.03)  # uniform on [0, 1]
    assert (labels == -1).all()


def test_both_images_of_a_mixture_are_augmented():
    black = torch.zeros(50, 1, 4, 4, dtype=torch.uint8)
    views = tips.FunctionMatching(lambda pixels, generator: pixels + 100)
    own, theirs, _ = views(black, torch.zeros(50).long(), replay(0))
    assert own.unique().tolist() == theirs.unique().tolist() == [100]


@pytest.mark.parametrize(
    "kind",
    [
        tips.FixedTeacher,
        tips.Independent,
        tips.Consistent,
        tips.FunctionMatching,
        tips.CrossedViews,
        lambda augment: tips.WeakAndStrong(augment, augment),
    ],
)
def test_a_view_says_whether_its_samples_still_have_labels(kind):
    data, views = images(16), kind(Noise(0.2))
    own, theirs, target = views(data.pixels, data.target, replay(0))
    assert len(own) == len(theirs) == len(target)
    assert views.labelled == bool((target >= 0).all())


def test_a_mixture_is_replayed_from_its_seed():
    views = tips.FunctionMatching(Noise(0.2))
    data = images(16)
    first, again, other = (views(data.pixels, data.target, replay(s))[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_weak_and_a_strong_view_stand_side_by_side():
    data = images(16)
    views = tips.WeakAndStrong(same_pixels, lambda pixels, generator: 255 - pixels)
    own, theirs, target = views(data.pixels, data.target, replay(0))
    assert torch.equal(own, theirs)
    assert torch.equal(own[::2], data.pixels)
    assert torch.equal(own[1::2], 255 - data.pixels)
    assert torch.equal(target, data.target.repeat_interleave(2))
