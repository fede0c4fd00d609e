import pytest
import torch
from toys import images, net, train, weights

from kdcourse import logit, metrics
from kdcourse.feature import Hint
from kdcourse.teachers import ClosedTeacher, Ensemble
from kdcourse.training import DecoupledKD, FeatureHint, LogitKD

INPUTS = images(16).inputs()
MEMBERS = [net(2, seed=1).eval(), net(3, seed=2).eval(), net(2, seed=3).eval()]


def answers():
    with torch.no_grad():
        return torch.stack([member(INPUTS) for member in MEMBERS])


def test_mean_logits():
    assert torch.equal(Ensemble(MEMBERS, "logits")(INPUTS), answers().mean(dim=0))


def test_mean_probabilities():
    expected = answers().softmax(dim=2).mean(dim=0)
    ensemble = Ensemble(MEMBERS)
    torch.testing.assert_close(ensemble(INPUTS), expected)
    torch.testing.assert_close(ensemble.show(INPUTS).logits.softmax(dim=1), expected)


def test_vote_shares():
    named = answers().argmax(dim=2)  # (M, N)
    shares = Ensemble(MEMBERS, "vote")(INPUTS)
    for sample in range(len(INPUTS)):
        for k in range(4):
            expected = float((named[:, sample] == k).float().mean())
            assert float(shares[sample, k]) == pytest.approx(expected)


def test_a_tie_goes_to_the_class_that_comes_first():
    class Says(torch.nn.Module):
        def __init__(self, k):
            super().__init__()
            self.k = k

        def forward(self, inputs):
            return torch.eye(4)[self.k].expand(len(inputs), 4)

    shares = Ensemble([Says(3), Says(1), Says(2)], "vote")(INPUTS)
    assert (shares.argmax(dim=1) == 1).all()


@pytest.mark.parametrize("combine", ["logits", "probabilities", "vote"])
def test_an_ensemble_of_one_equals_its_member(combine):
    (member,) = MEMBERS[:1]
    shown = Ensemble([member], combine)(INPUTS)
    logits = member(INPUTS)
    expected = {
        "logits": logits,
        "probabilities": logits.softmax(dim=1),
        "vote": torch.eye(4)[logits.argmax(dim=1)],
    }[combine]
    torch.testing.assert_close(shown, expected)


@pytest.mark.parametrize("combine", ["logits", "probabilities", "vote"])
def test_whole_sets_are_answered_batch_by_batch(combine):
    ensemble = Ensemble(MEMBERS, combine)
    whole = metrics.predict(ensemble, images(50), batch_size=50)
    torch.testing.assert_close(metrics.predict(ensemble, images(50), batch_size=7), whole)


def test_no_gradient_and_no_train_mode_reaches_a_member():
    members = [net(2, seed=1), net(2, seed=2)]
    ensemble = Ensemble(members).train()
    before = [weights(member) for member in members]
    train(net(2, seed=5), LogitKD(4), teacher=ensemble, epochs=1)
    for member, old in zip(members, before, strict=True):
        assert not member.training
        assert all(torch.equal(value, old[name]) for name, value in member.state_dict().items())
        assert all(parameter.grad is None for parameter in member.parameters())


def test_a_vote_distils_as_its_shares():
    student, shares = net(2, seed=7), Ensemble(MEMBERS, "vote")(INPUTS)
    assert Ensemble(MEMBERS, "vote").show(INPUTS).logits is None
    loss = logit.kd_loss_from_probabilities(student(INPUTS), shares, 4.0)
    history = train(student, LogitKD(4), teacher=Ensemble(MEMBERS, "vote"), epochs=1)
    assert torch.isfinite(loss)
    assert history["logit_kd"][0] > 0


def test_closed_members_average_and_vote_but_show_no_logits():
    closed = [ClosedTeacher(member) for member in MEMBERS]
    expected = answers().softmax(dim=2).mean(dim=0)
    torch.testing.assert_close(Ensemble(closed)(INPUTS), expected)
    with pytest.raises(ValueError, match="probabilities only"):
        Ensemble(closed, "logits")(INPUTS)


def test_mean_probabilities_teach_terms_that_want_logits():
    assert train(net(), DecoupledKD(), teacher=Ensemble(MEMBERS), epochs=1)["loss"][0] > 0


def test_an_ensemble_shows_no_layers():
    hint = FeatureHint("stage1", Hint(2, 2))
    with pytest.raises(ValueError, match=r"ensemble.*stage1"):
        train(net(), hint, teacher=Ensemble(MEMBERS))


@pytest.mark.parametrize(
    ("members", "combine", "name"),
    [([], "vote", "members"), (MEMBERS, "median", "combine")],
)
def test_bad_input_is_named(members, combine, name):
    with pytest.raises(ValueError, match=name):
        Ensemble(members, combine)


def test_members_with_other_classes():
    from kdcourse import models

    with pytest.raises(ValueError, match="alike"):
        Ensemble([net(), models.plain(2, classes=5)])(INPUTS)
