"""Teachers of teachers: assistants and born-again nets."""

import pytest
from toys import images, net, same, train, weights

from kdcourse import teachers
from kdcourse.teachers import born_again, distill_through
from kdcourse.training import CrossEntropy, LogitKD

KD = CrossEntropy() + 3.0 * LogitKD(4)
OPTIONS = {"batch_size": 32, "device": "cpu", "progress": False, "epochs": 2}


@pytest.fixture
def teacher():
    return net(4, seed=9)


def test_a_chain_of_length_zero_is_plain_distillation(teacher):
    through, plain = net(), net()
    (history,) = distill_through(teacher, [], through, images(), KD, **OPTIONS)
    expected = train(plain, KD, teacher=teacher)
    assert same(weights(through), weights(plain))
    assert history["loss"] == expected["loss"]


def test_every_link_learns_from_the_one_before(teacher):
    large, small, student = net(3, seed=1), net(2, seed=2), net(2, seed=3)
    by_hand = net(3, seed=1), net(2, seed=2), net(2, seed=3)
    assert len(distill_through(teacher, [large, small], student, images(), KD, **OPTIONS)) == 3
    for own, before in zip(by_hand, (teacher, *by_hand[:2]), strict=True):
        train(own, KD, teacher=before)
    for link, expected in zip((large, small, student), by_hand, strict=True):
        assert same(weights(link), weights(expected))


def test_a_chain_leaves_the_teacher_as_it_was(teacher):
    before = weights(teacher)
    distill_through(teacher, [net(3)], net(), images(), **OPTIONS)
    assert same(weights(teacher), before)


def test_every_link_has_a_checkpoint_of_its_own(teacher, tmp_path):
    path = str(tmp_path / "run.pt")
    first = net()
    distill_through(teacher, [net(3, seed=1)], first, images(), checkpoint=path, **OPTIONS)
    assert {file.name for file in tmp_path.iterdir()} == {"run.pt", "run.pt.1"}
    again, assistant = net(), net(3, seed=1)
    distill_through(teacher, [assistant], again, images(), checkpoint=path, **OPTIONS)
    assert same(weights(again), weights(first))


@pytest.mark.parametrize("link", ["teacher", "student"])
def test_nobody_is_twice_in_a_chain(teacher, link):
    student = net()
    twice = {"teacher": teacher, "student": student}[link]
    with pytest.raises(ValueError, match="of its own"):
        distill_through(teacher, [twice], student, images(), **OPTIONS)


# --- born again


def make(seed):
    return net(2, seed=seed)


def test_generations_are_models_of_their_own_from_seeds_of_their_own():
    family = born_again(make, images(), generations=3, seed=5, **OPTIONS)
    assert len(family) == 3
    for one in range(3):
        for other in range(one):
            mine = {id(parameter) for parameter in family[one].parameters()}
            assert not mine & {id(parameter) for parameter in family[other].parameters()}
            assert not same(weights(family[one]), weights(family[other]))


def test_each_generation_is_taught_by_the_one_before_without_labels():
    family = born_again(make, images(), generations=3, seed=5, **OPTIONS)
    first, second, third = make(5), make(6), make(7)
    train(first, seed=5)
    train(second, LogitKD(1), teacher=first, seed=6)
    train(third, LogitKD(1), teacher=second, seed=7)
    for own, expected in zip(family, (first, second, third), strict=True):
        assert same(weights(own), weights(expected))


def test_a_teacher_is_not_changed_by_its_child():
    first = make(1)
    before = weights(first)
    family = born_again(make, images(), generations=2, first=first, **OPTIONS)
    assert family[0] is first
    assert same(weights(first), before)


def test_labels_may_be_added():
    with_labels = born_again(make, images(), KD, generations=2, **OPTIONS)
    without = born_again(make, images(), generations=2, **OPTIONS)
    assert same(weights(with_labels[0]), weights(without[0]))
    assert not same(weights(with_labels[1]), weights(without[1]))


def test_a_family_is_an_ensemble():
    family = born_again(make, images(), generations=2, **OPTIONS)
    assert teachers.Ensemble(family)(images(8).inputs()).shape == (8, 4)


def test_generations_must_be_at_least_one():
    with pytest.raises(ValueError, match="generations"):
        born_again(make, images(), generations=0)


def test_a_factory_that_returns_the_same_net_is_found_out():
    one = net()
    with pytest.raises(ValueError, match="of its own"):
        born_again(lambda seed: one, images(), generations=2, **OPTIONS)
