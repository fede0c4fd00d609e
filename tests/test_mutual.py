import copy

import pytest
import torch
from torch import nn
from toys import CLASSES, images, net, same, train, weights

from kdcourse import logit, metrics
from kdcourse.batch import SeparateViews
from kdcourse.teachers import correct, correct_online, mutual_learning
from kdcourse.teachers.mutual import Peers
from kdcourse.training import CrossEntropy, LogitKD, Run, constant

BOTH = pytest.mark.parametrize("updates", ["alternating", "simultaneous"])


def learn(students, objective=None, **options):
    defaults = {"train": images(), "epochs": 2, "batch_size": 32, "device": "cpu"}
    options = {**defaults, "progress": False, **options}
    return mutual_learning(students, options.pop("train"), objective, **options)


def by_hand(students, inputs, theirs, target, updates):
    """One step of K students, by plain SGD; what peers say is of ``theirs``. Return the losses."""
    losses = {}
    heard = [s.train()(theirs).detach() for s in students]
    for k, student in enumerate(students):
        peers = [s for s in students if s is not student]
        if updates == "alternating":
            voices = [peer.train()(theirs).detach() for peer in peers]
        else:
            voices = [heard[other] for other in range(len(students)) if other != k]
        logits = student.train()(inputs)
        labels = nn.functional.cross_entropy(logits, target)
        taught = sum(logit.kd_loss(logits, voice, 1.0) for voice in voices) / len(voices)
        loss = labels + taught
        values = {"loss": loss, "cross_entropy": labels, "logit_kd": taught}
        values["train_accuracy"] = (logits.argmax(dim=1) == target).float().mean()
        losses |= {f"{k} {name}": value.detach() for name, value in values.items()}
        gradients = torch.autograd.grad(loss, list(student.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(student.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    return losses


@BOTH
@pytest.mark.parametrize(("count", "views"), [(2, False), (3, False), (2, True)])
def test_a_step_is_the_one_of_the_paper(updates, count, views):
    students = [net(2 + k, seed=k) for k in range(count)]
    twins = [net(2 + k, seed=k) for k in range(count)]
    inputs, target = next(images().batches(32))
    theirs = inputs.flip(-1) if views else inputs
    objective = CrossEntropy() + LogitKD(1.0)
    runs = [
        Run(s, objective, steps=1, optimizer=lambda p: torch.optim.SGD(p, 0.1), scheduler=constant)
        for s in students
    ]
    for student in students:
        student.train()
    values = Peers(runs, updates).step(SeparateViews(inputs, theirs) if views else inputs, target)
    torch.testing.assert_close(values, by_hand(twins, inputs, theirs, target, updates))
    for student, twin in zip(students, twins, strict=True):
        for own, expected in zip(student.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(own, expected)


def test_every_student_has_its_rate_and_the_other_options(monkeypatch):
    """One step by SGD with Nesterov momentum 0.9, which is 1.9 times the gradient at first."""
    students, rates, compiled = [flat(seed=1), flat(seed=2)], [0.1, 0.02], []
    twins, data = copy.deepcopy(students), images(32)
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    histories = learn(
        students,
        CrossEntropy(),
        train=data,
        epochs=1,
        learning_rate=rates,
        weight_decay=0.3,
        scheduler=constant,
        compile=True,
    )
    for student, twin, rate, history in zip(students, twins, rates, histories, strict=True):
        nn.functional.cross_entropy(twin(data.inputs()), data.target).backward()
        for moved, old in zip(student.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(moved, old - rate * 1.9 * (old.grad + 0.3 * old))
        assert history["learning_rate"] == [rate]
    assert compiled == students


def flat(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES))


def test_all_are_asked_and_learn_in_mixed_precision():
    students, kinds = [net(seed=1), net(seed=2)], []
    for student in students:
        student.classifier.register_forward_hook(lambda *given: kinds.append(given[-1].dtype))
    learn(students, epochs=1, batch_size=96, autocast=True)
    assert kinds == [torch.bfloat16] * 4  # each is asked once and learns once


def test_the_history_of_a_student_is_its_own():
    """A rate of zero leaves the second what it was, and no better than chance."""
    students, data = [net(4, seed=1), flat(seed=2)], images(40, seed=1)
    first, second = learn(
        students, learning_rate=[0.1, 0.0], epochs=8, validation=data, scheduler=constant
    )
    assert first["validation_accuracy"][-1] == metrics.accuracy(students[0], data) == 1
    assert second["validation_accuracy"] == [metrics.accuracy(flat(seed=2), data)] * 8
    with torch.no_grad():
        own = nn.functional.cross_entropy(flat(seed=2)(images().inputs()), images().target)
    assert second["cross_entropy"] == pytest.approx([float(own)] * 8)


@BOTH
def test_peers_are_left_in_train_mode_while_learning_and_restored_after(updates):
    students = [net(seed=1).eval(), net(seed=2).train()]
    learn(students, updates=updates)
    assert [s.training for s in students] == [False, True]


def test_a_peer_is_not_changed_by_being_listened_to():
    first, second = net(seed=1), net(seed=2)
    learn([first, second], [CrossEntropy(), LogitKD(1.0)])
    alone = net(seed=1)
    train(alone)
    assert same(weights(first), weights(alone))


@BOTH
def test_a_peer_is_heard_with_the_statistics_of_the_batch(updates):
    first, second = net(seed=1), net(seed=2)
    spoilt = copy.deepcopy(first)
    for module in spoilt.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1e6)
    other = copy.deepcopy(second)
    learn([first, second], updates=updates, epochs=1)
    learn([spoilt, other], updates=updates, epochs=1)
    assert same(dict(second.named_parameters()), dict(other.named_parameters()))


def test_each_has_a_history_of_its_own():
    histories = learn([net(seed=1), net(3, seed=2)], validation=images(20, seed=1))
    assert len(histories) == 2
    for history in histories:
        assert len(history) == 2
        assert list(history.last) == [
            "epoch",
            "loss",
            "cross_entropy",
            "logit_kd",
            "train_accuracy",
            "learning_rate",
            "validation_accuracy",
            "seconds",
        ]


def test_a_run_is_taken_up_again(tmp_path):
    class Broken(Exception):
        pass

    def breaking(left):
        def augment(pixels, generator):
            nonlocal left
            left -= 1
            if left < 0:
                raise Broken
            return pixels

        return augment

    class Augment:
        def __init__(self, left):
            self.inner = breaking(left)

        def __call__(self, pixels, generator):
            return self.inner(pixels, generator)

        def __repr__(self):
            return "Augment"

    path = tmp_path / "run.pt"
    with pytest.raises(Broken):
        learn([net(seed=1), net(seed=2)], augment=Augment(4), checkpoint=path)
    other = {"updates": "simultaneous", "augment": Augment(99)}
    with pytest.raises(ValueError, match="another run: its updates is 'alternating'"):
        learn([net(seed=1), net(seed=2)], checkpoint=path, **other)
    resumed, whole = [net(seed=1), net(seed=2)], [net(seed=1), net(seed=2)]
    learn(resumed, augment=Augment(99), checkpoint=path)
    learn(whole, augment=Augment(99))
    for one, other in zip(resumed, whole, strict=True):
        assert same(weights(one), weights(other))


@pytest.mark.parametrize("count", [0, 1])
def test_one_student_has_no_peer(count):
    with pytest.raises(ValueError, match="at least two"):
        learn([net()] * count)


def test_bad_input_is_named():
    student = net()
    with pytest.raises(ValueError, match="twice"):
        learn([student, student])
    with pytest.raises(ValueError, match="updates"):
        learn([net(), net()], updates="never")
    with pytest.raises(ValueError, match="objective"):
        learn([net(), net()], [CrossEntropy()])
    with pytest.raises(ValueError, match="learning_rate"):
        learn([net(), net()], learning_rate=[0.1])


# --- teacher correction


def test_correction_trains_a_copy():
    teacher = net(4, seed=3).eval()
    before = weights(teacher)
    corrected = correct(teacher, images(), epochs=1, batch_size=32, device="cpu", progress=False)
    assert same(weights(teacher), before)
    assert not same(weights(corrected), before)
    assert not corrected.training


def test_online_correction_is_correction_while_a_student_listens():
    teacher, student = net(4, seed=3), net(seed=1)
    before = weights(teacher)
    options = {"batch_size": 32, "device": "cpu", "progress": False, "epochs": 2}
    learning, (own, taught) = correct_online(teacher, student, images(), **options)
    alone = correct(teacher, images(), **options)
    assert same(weights(teacher), before)
    assert same(weights(learning), weights(alone))
    assert "cross_entropy" in own.last
    assert "logit_kd" in taught.last
    assert not same(weights(student), weights(net(seed=1)))
