"""A term that sees one of several views of every image."""

import copy
from dataclasses import replace

import pytest
import torch
from every_term import SAMPLES, Shown
from torch import nn
from toys import CLASSES, images, net, same, train, weights

from kdcourse import tips
from kdcourse.augmentation import Flip, Noise
from kdcourse.errors import ArgumentError
from kdcourse.methods.multi_level import MultiLevelKD
from kdcourse.training import CrossEntropy, FeatureHint, LogitKD, WarmUp
from kdcourse.view_term import OneView

VIEWS = tips.WeakAndStrong(Flip(), Noise(0.2))


@pytest.mark.parametrize("view", [0, 1])
def test_it_is_the_term_on_every_second_sample(view):
    shown, term = Shown(), CrossEntropy() + MultiLevelKD() + FeatureHint("stage1")
    term.prepare(shown.lesson())
    weighted = replace(shown.lesson(), weight=torch.arange(1.0, SAMPLES + 1))
    for lesson in (shown.lesson(), weighted):
        few = replace(
            lesson,
            student=lesson.student.map(lambda one: every_second(one, view)),
            teacher=lesson.teacher.map(lambda one: every_second(one, view)),
            target=lesson.target[view::2],
            weight=None if lesson.weight is None else lesson.weight[view::2],
        )
        for _, one in term.parts():
            assert OneView(one, view).loss(lesson) == one.loss(few)
            assert OneView(one, view).count(lesson) == one.count(few)


def every_second(shown, view):
    if isinstance(shown, dict):
        return {name: every_second(one, view) for name, one in shown.items()}
    return None if shown is None else shown[view::2]


def test_both_views_are_the_whole():
    lesson = Shown().lesson()
    halves = [OneView(LogitKD(2), view).loss(lesson) for view in (0, 1)]
    assert sum(halves).item() / 2 == pytest.approx(LogitKD(2).loss(lesson).item())


def test_samples_that_are_not_pairs_are_refused():
    lesson = Shown().lesson()
    assert OneView(LogitKD(), 0).least == 2
    with pytest.raises(ArgumentError, match=f"{SAMPLES} samples cannot be 3 views") as told:
        OneView(LogitKD(), 2, views=3).loss(lesson)
    assert told.value.argument == "views"
    for view, views, name in ((2, 2, "view"), (-1, 2, "view"), (0, 1, "views")):
        with pytest.raises(ArgumentError, match=f"{name} must be"):
            OneView(LogitKD(), view, views)


def linear():
    """A net without batch norm, for which parts of a batch are not the whole."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(images(1).inputs().numel(), CLASSES))


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_parts_teaches_the_same(accumulate):
    """The parts hold whole pairs, as the views of an image stand side by side."""
    learned = []
    for parts in (1, accumulate):
        student = linear()
        objective = OneView(LogitKD(2), 0) + 2 * OneView(LogitKD(4), 1) + CrossEntropy()
        knobs = {"teacher": net(4, seed=2), "views": VIEWS, "epochs": 1, "batch_size": 16}
        train(student, objective, train=images(32), accumulate=parts, **knobs)
        learned.append(student)
    torch.testing.assert_close(*(copy.deepcopy(one.state_dict()) for one in learned))
    assert not same(weights(learned[0]), weights(linear()))


def test_parts_without_whole_pairs_are_refused():
    knobs = {"teacher": net(4, seed=2), "views": VIEWS, "epochs": 1, "batch_size": 6}
    with pytest.raises(ArgumentError, match="samples cannot be 2 views"):
        train(net(), OneView(LogitKD(), 0), train=images(12), accumulate=4, **knobs)


def test_it_goes_with_a_warm_up_and_says_what_it_is():
    term = OneView(WarmUp(LogitKD(), 3), 1)
    assert repr(term) == f"OneView({WarmUp(LogitKD(), 3)!r}, 1, views=2)"
    lesson = Shown().lesson()
    first, second = (term.train().loss(lesson).item() for _ in range(2))
    assert second == pytest.approx(2 * first)
    assert WarmUp(OneView(CrossEntropy(), 0), 3).mean_over == "labels"
