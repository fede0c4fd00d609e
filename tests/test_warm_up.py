"""A term whose weight rises at the beginning of training."""

import pytest
import torch
from every_term import Shown
from toys import net, same, train, weights

from kdcourse.training import (
    AttentionTransfer,
    CrossEntropy,
    DecoupledKD,
    FeatureHint,
    Lesson,
    Outputs,
    Saliency,
    WarmUp,
)


def test_the_weight_rises_to_one_and_in_training_only():
    lesson = Lesson(Outputs(logits=torch.tensor([[1.0, 2.0]])), torch.tensor([0]))
    whole = CrossEntropy().loss(lesson).item()
    term = WarmUp(CrossEntropy(), steps=4)
    assert term.eval().loss(lesson).item() == 0
    shares = [term.train().loss(lesson).item() / whole for _ in range(6)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert term.eval().loss(lesson).item() == pytest.approx(whole)
    assert term.taken == 6


def test_it_prepares_its_term_and_counts_the_steps_of_its_epochs():
    lesson, warm = Shown().lesson(), WarmUp(FeatureHint("stage1"), epochs=3)
    assert not warm.prepared
    warm.prepare(lesson, seed=4)
    assert not warm.prepared  # nobody has said how long an epoch is
    warm.prepare(lesson, steps_an_epoch=5)
    assert warm.prepared
    assert warm.steps == 15
    alone = FeatureHint("stage1")
    alone.prepare(lesson, seed=4)
    assert same(weights(warm.term), weights(alone))
    assert WarmUp(CrossEntropy(), 3).prepared
    assert not WarmUp(FeatureHint("stage1"), 3).prepared


@pytest.mark.parametrize("term", [CrossEntropy(), AttentionTransfer(["stage1"]), Saliency()])
def test_it_asks_for_what_the_term_asks_for(term):
    warm = WarmUp(term, steps=3)
    for name in ("needs_teacher", "needs_input_gradient", "mean_over"):
        assert getattr(warm, name) == getattr(term, name)
    assert warm.student_layers == term.student_layers
    assert warm.teacher_layers == term.teacher_layers
    assert repr(warm) == f"WarmUp({term!r}, steps=3)"


def test_one_step_of_warming_up_changes_nothing_and_more_do():
    learned = []
    for term in (DecoupledKD(), WarmUp(DecoupledKD(), 1), WarmUp(DecoupledKD(), 5)):
        student = net()
        train(student, CrossEntropy() + term, teacher=net(4, seed=2))
        learned.append(weights(student))
    assert same(learned[0], learned[1])
    assert not same(learned[0], learned[2])


def test_it_is_resumed(tmp_path):
    def run(folder, log=None):
        student = net()
        aim = CrossEntropy() + WarmUp(DecoupledKD(), 8)
        path = tmp_path / folder
        train(student, aim, teacher=net(4, seed=2), epochs=4, checkpoint=path, log=log)
        return weights(student)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted after 1 of 4"):
        run("stopped", log=stop)
    assert same(run("stopped"), run("whole"))


@pytest.mark.parametrize("steps", [0, -1, float("nan")])
def test_steps_that_cannot_be(steps):
    with pytest.raises(ValueError, match=r"^steps must"):
        WarmUp(CrossEntropy(), steps)
    with pytest.raises(ValueError, match=r"^epochs must"):
        WarmUp(CrossEntropy(), epochs=steps)
