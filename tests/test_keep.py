"""The best weights are kept, by validation."""

import pytest
from toys import Projected, images, net, noisy, same, train, weights

from kdcourse import teachers
from kdcourse.errors import ArgumentError
from kdcourse.teachers import MomentumTeacher
from kdcourse.training import CrossEntropy, FeatureHint, LogitKD, StopTraining, fit_in_stages
from kdcourse.training.rating import Rating

BEST = {"validation": images(24, seed=1), "keep": "best"}


@pytest.fixture
def rated(monkeypatch):
    """Say what is measured on the validation set, one accuracy after the other."""

    def rated(*accuracies):
        turns = iter(accuracies)
        monkeypatch.setattr(Rating, "of", lambda *_: {"validation_accuracy": next(turns)})

    return rated


def snapshots(*models):
    """Return a log that copies weights after every epoch, and the copies."""
    found = []
    return lambda row: found.append([weights(model) for model in models]), found


@pytest.mark.parametrize(
    ("accuracies", "best"), [((0.2, 0.6, 0.4), 2), ((0.5, 0.3, 0.5), 1), ((0.1, 0.2, 0.3), 3)]
)
def test_the_best_weights_come_back_and_ties_keep_the_earlier(rated, accuracies, best):
    rated(*accuracies)
    student, objective = noisy(), CrossEntropy() + Projected()
    log, found = snapshots(student, objective)
    history = train(student, objective, teacher=net(4), epochs=3, log=log, **BEST)
    assert same(weights(student), found[best - 1][0])
    assert same(weights(objective), found[best - 1][1])
    assert history.kept == history.rows[best - 1]


def test_the_last_weights_are_kept_otherwise(rated):
    rated(0.6, 0.4)
    student = net()
    log, found = snapshots(student)
    history = train(student, log=log, validation=BEST["validation"])
    assert same(weights(student), found[-1][0])
    assert history.kept == history.last


def test_a_teacher_that_follows_comes_back_too(rated):
    rated(0.6, 0.1, 0.4, 0.9)  # student, teacher, student, teacher
    student = net()
    teacher = MomentumTeacher(student, 0.9)
    log, found = snapshots(student, teacher)
    train(student, CrossEntropy() + LogitKD(), teacher=teacher, log=log, **BEST)
    assert same(weights(student), found[0][0])
    assert same(weights(teacher), found[0][1])


def test_every_peer_keeps_its_own_best(rated):
    rated(0.6, 0.1, 0.4, 0.2)
    students = [net(seed=1), net(seed=2)]
    log, found = snapshots(*students)
    options = {"epochs": 2, "batch_size": 32, "device": "cpu", "progress": False}
    histories = teachers.mutual_learning(students, images(), log=log, **options, **BEST)
    assert same(weights(students[0]), found[0][0])
    assert same(weights(students[1]), found[1][1])
    assert [history.kept["epoch"] for history in histories] == [1, 2]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, StopTraining])
def test_the_best_survives_a_checkpoint(rated, stop, tmp_path):
    def after_two(row):
        if row["epoch"] == 2:
            raise stop

    accuracies = (0.6, 0.3, 0.5, 0.4)
    options = {"epochs": 4, "checkpoint": tmp_path / "run.pt", **BEST}
    stopped, resumed, whole = noisy(), noisy(), noisy()
    rated(*accuracies)
    if stop is KeyboardInterrupt:
        with pytest.warns(UserWarning, match="interrupted after 2 of 4"):
            train(stopped, log=after_two, **options)
    else:
        assert train(stopped, log=after_two, **options).kept["epoch"] == 1
    rated(*accuracies[2:])
    history = train(resumed, **options)
    assert history.kept["epoch"] == 1
    assert same(weights(resumed), weights(stopped))  # both are those of the first epoch
    rated(*accuracies)
    train(whole, **{**options, "checkpoint": None})
    assert same(weights(resumed), weights(whole))
    again = noisy()
    train(again, **options)  # a finished run is not trained again
    assert same(weights(again), weights(whole))


def test_it_goes_on_from_the_last_weights_and_not_from_the_best(rated, tmp_path):
    options = {"epochs": 3, "checkpoint": tmp_path / "run.pt", **BEST}

    def stop(row):
        raise StopTraining

    rated(0.5, 0.5, 0.6)
    whole, resumed = net(), net()
    train(whole, **{**options, "checkpoint": None})
    rated(0.5, 0.5, 0.6)
    for _ in range(3):
        train(resumed, log=stop, **options)
    assert same(weights(resumed), weights(whole))


def test_what_is_kept_is_part_of_the_run(tmp_path):
    train(net(), validation=BEST["validation"], checkpoint=tmp_path / "run.pt")
    with pytest.raises(ArgumentError, match="its keep is 'last', here it is 'best'"):
        train(net(), checkpoint=tmp_path / "run.pt", **BEST)


class Highest:
    """The highest logit."""

    def reset(self):
        self.seen = []

    def update(self, predictions, target):
        self.seen.append(predictions.max())

    def compute(self):
        return max(self.seen)


def test_by_what_the_best_is_kept_is_part_of_the_run(tmp_path):
    options = {**BEST, "checkpoint": tmp_path / "run.pt"}
    train(net(), **options)
    with pytest.raises(ArgumentError, match="its best_by is 'validation_accuracy', here it is"):
        train(net(), metrics={"highest": Highest()}, **options)


def test_the_best_needs_a_validation():
    with pytest.raises(ArgumentError, match="keep='best' needs a validation set"):
        train(net(), keep="best")
    with pytest.raises(ArgumentError, match="keep must be one of 'last', 'best'"):
        train(net(), keep="first")


def test_of_two_stages_the_second_keeps_the_best(rated):
    rated(0.5, 0.4)
    options = {"epochs": 2, "batch_size": 32, "device": "cpu", "progress": False}
    hint = FeatureHint("stage2")
    first, second = fit_in_stages(
        net(), images(64), hint, teacher=net(4), hint_epochs=2, **options, **BEST
    )
    assert first.kept == first.last
    assert second.kept == second.rows[0]
