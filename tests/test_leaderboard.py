"""The leaderboard: all methods tuned alike, measured in pairs, corrected for their number."""

import dataclasses
import itertools
import math
import sys
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from scipy import stats
from toys import terms

from kdcourse.__main__ import main
from kdcourse.course import docs, leaderboard, plots
from kdcourse.course.claims import results
from kdcourse.course.claims.experiment import Lab
from kdcourse.course.claims.fingerprint import TOLERANCE, Fingerprint
from kdcourse.course.claims.results import Result
from kdcourse.course.leaderboard import BOARDS, KD, METHODS, beyond, board, cost, holm, standing
from kdcourse.estimate import estimate


def everywhere(*names):
    """Every method on some of the boards: those of one student differ by their images alone."""
    pairs = [(name, method) for name in names for method in BOARDS[name].methods]
    return pytest.mark.parametrize(("name", "method"), pairs, ids=map("-".join, pairs))


# --- trials


def test_trials_are_spread_over_both_settings():
    assert len(board.POINTS) == board.TRIALS
    for axis in zip(*board.POINTS, strict=True):
        assert {int(4 * u) for u in axis} == {0, 1, 2, 3}
    assert all(0 < u < 1 for point in board.POINTS for u in point)


def test_every_choice_of_a_method_is_tried():
    for method in METHODS.values():
        tried = {int(u * len(method.choices)) for _, u in board.POINTS}
        assert tried == set(range(len(method.choices)))


@everywhere("res8-500", "vit-500")
def test_a_trial_in_small_and_what_is_stored_of_it(name, method):
    """Its gradients are together as long as those of the labels."""
    claim = board.search(name, method)
    now = Fingerprint.of(claim)
    assert set(now.measured) == {"labels", "dist", "choice", "accuracy"}
    assert board.ratio_of(0) == pytest.approx(math.sqrt(math.prod(board.RATIOS)))
    assert now.measured["labels"] == pytest.approx(1 / (1 + board.ratio_of(0)))
    assert 0 < now.measured["dist"] < math.inf
    with suppress(FileNotFoundError):  # whatever is measured by now
        assert results.read(claim, board.FOLDER).deviation(Result.of_now(claim, now)) <= TOLERANCE


@pytest.mark.parametrize("method", [KD, "attention", "RKD"])
def test_weights_are_even_where_gradients_are_alike(method):
    """At the weight that is found, both gradients have one length, on average over batches."""
    lab = Lab(board.search("res8-500", method), seed=0, toy=True)
    setting = METHODS[method].choices[0]
    even = board.even_weight("res8-500", method, setting, lab)
    again = board.even_weight("res8-500", method, setting, lab)
    assert again == even
    dist = METHODS[method].dist(setting, BOARDS["res8-500"].words)
    twice = SimpleNamespace(dist=lambda *_: f"2 * {dist}", rebuild=None)
    old = METHODS[method]
    try:
        METHODS[method] = twice
        assert board.even_weight("res8-500", method, setting, lab) == pytest.approx(even / 2)
    finally:
        METHODS[method] = old


def test_the_best_trial_is_chosen_and_of_equals_the_first(tmp_path):
    claim = board.search("res8-500", KD)
    runs = {
        trial: {"labels": 0.5, "dist": float(trial), "choice": trial % 4, "accuracy": accuracy}
        for trial, accuracy in enumerate([70.0, 80.0, 80.0, 75.0])
    }
    results.save(Result(claim, runs, dict.fromkeys(runs, 1.0)), tmp_path)
    chosen = board.chosen("res8-500", KD, tmp_path)
    assert chosen == "0.5 * CrossEntropy() + 1 * LogitKD(temperature=2)"
    final = board.final("res8-500", KD, tmp_path)
    assert final.settings["loss"] == chosen
    assert not final.search
    assert board.search("res8-500", KD).search  # on the validation set


def test_a_training_that_diverges_is_judged_as_guessing():
    lab = Lab(board.search("res8-500", KD), seed=0, toy=True)
    lab.settings |= {"loss": "1e30 * CrossEntropy()", "epochs": 5}
    assert dict(board._student(KD, lab)) == {"accuracy": board.GUESSING}


def test_nothing_is_final_before_the_trials(tmp_path):
    with pytest.raises(FileNotFoundError, match="reproduce leaderboard"):
        board.final("res8-500", KD, tmp_path)


def test_every_term_that_distils_takes_part_or_is_known_not_to():
    """A new one is tuned and measured, too, or it is said here why not."""
    texts = " ".join(method.term for method in METHODS.values())
    left_out = {
        "AttentionRelation",  # of transformers' queries, keys and values
        "BinaryKD",  # of labels of which several may be right
        "RegressionKD",  # of numbers
        "MeanSquared",  # learns from targets
        "BinaryCrossEntropy",
        "CrossEntropy",
        "WarmUp",  # around another term
        "OneView",
        "TopKKD",  # of vocabularies too large for a teacher's whole predictions
        "Flow",  # needs as many channels as the teacher has
        "Saliency",  # twice the price; notebook 3 measures it
        "SEED",  # without labels; notebook 7 measures both
        "SelfDistillation",
        "UniversalLogitKD",  # of two vocabularies
        "ChunkLikelihood",
    }
    found = {kind.__name__ for kind in terms()}
    assert left_out < found
    assert {name for name in found - left_out if f"{name}(" not in texts} == set()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """One board with two methods, two trials and three seeds, all of them in small."""
    some = {name: METHODS[name] for name in (KD, "attention")}
    one = board.Board("in small", board.TOY | {"student": "res8"}, BOARDS["res8-500"].words)
    monkeypatch.setattr(board.Board, "methods", property(lambda _: some))
    reproduce = sys.modules[leaderboard.reproduce.__module__]  # a function has its name
    for module in (beyond, board, cost, docs, leaderboard, reproduce, standing):
        monkeypatch.setattr(module, "BOARDS", {"small": one})
    for module in (beyond, reproduce, standing):
        monkeypatch.setattr(module, "TRIALS", 2)
    monkeypatch.setattr(board, "SEEDS", 3)
    return tmp_path


def test_a_board_is_measured_and_what_is_stored_is_not_measured_again(small, monkeypatch, capsys):
    monkeypatch.setattr(Lab, "judged", property(lambda lab: lab.pool[:100]))
    run = dict(seeds=3, folder=small, progress=False)
    leaderboard.reproduce(**run)
    stored = {path.name: path.read_bytes() for path in small.iterdir()}
    named = {"labels-alone", "kd", "kd-search", "attention", "attention-search"}
    if beyond.is_at_the_edge("small", small):
        named.add("kd-beyond")
    assert set(stored) == {f"small-{name}.json" for name in named}
    leaderboard.reproduce(**run)
    assert {path.name: path.read_bytes() for path in small.iterdir()} == stored
    assert max(leaderboard.check(folder=small, progress=False).values()) <= TOLERANCE
    assert b'"command": "python -m kdcourse reproduce leaderboard' in stored["small-kd.json"]
    assert {row.time for row in leaderboard.standings("small", small)} == {None}  # not yet
    assert "× KD's" not in leaderboard.what_to_take("small", small)
    with pytest.raises(FileNotFoundError, match="too few seeds"):
        leaderboard.standings("small", small, seeds=4)
    cost.measure(1, small, progress=False)
    found = leaderboard.standings("small", small)
    assert {row.name for row in found} == {KD, "attention"}
    by_name = {row.name: row for row in found}
    assert (by_name[KD].time, by_name[KD].memory) == (1.0, 1.0)
    assert by_name["attention"].memory > 0
    assert 0 < leaderboard.hours("small", small) < 0.1
    shown = leaderboard.table("small", small)
    assert "labels alone" in shown
    assert "AttentionTransfer" in shown
    for name in ("standings", "table", "summary", "at_the_edge", "what_to_take", "hours"):
        of_small = partial(getattr(leaderboard, name), folder=small)
        monkeypatch.setattr(leaderboard, name, of_small)
    assert main(["reproduce", "leaderboard", "--stored", "--seeds", "3"]) == 0
    assert shown in capsys.readouterr().out
    page = docs.boards()
    assert shown in page
    assert "## in small" in page
    assert "no difference from KD seen" in page
    assert {"docs/leaderboard-gains.png", "docs/leaderboard-small.png"} < set(docs.figures())


def store(claim, values, folder, device="cpu"):
    runs = {seed: {"accuracy": accuracy} for seed, accuracy in values.items()}
    told = {"settings": dict(claim.settings), "device": device}
    results.save(Result(claim, runs, dict.fromkeys(runs, 1.0), **told), folder)


def store_trials(name, accuracies, folder, device="cpu"):
    runs = {
        trial: {"labels": 0.5, "dist": 1.0 + trial, "choice": 0, "accuracy": accuracy}
        for trial, accuracy in enumerate(accuracies)
    }
    claim = board.search("small", name)
    results.save(Result(claim, runs, dict.fromkeys(runs, 1.0), device=device), folder)


def test_students_are_paired_by_their_seeds_also_while_others_are_under_way(small):
    for name in (KD, "attention"):
        store_trials(name, [80.0, 70.0], small)
    base = {0: 70.0, 1: 71.0, 2: 75.0}
    store(board.final("small", board.ALONE, small), base, small)
    store(board.final("small", KD, small), {**base, 3: 50.0, 5: 60.0}, small)
    gained = {seed: accuracy + 1 + seed / 10 for seed, accuracy in base.items()}
    store(board.final("small", "attention", small), {**gained, 4: 90.0}, small)
    first, second = leaderboard.standings("small", small)
    assert (first.name, second.name) == ("attention", KD)
    assert first.over_kd.mean == pytest.approx(1.1)
    assert second.accuracy == pytest.approx(72.0)
    store(board.final("small", "attention", small), {1: 70.0, 2: 70.0, 3: 70.0}, small)
    with pytest.raises(FileNotFoundError, match="small-attention was measured with too few seeds"):
        leaderboard.standings("small", small)


def test_what_was_measured_on_a_gpu_is_of_its_own_trials(small):
    for name in (KD, "attention"):
        store_trials(name, [80.0, 70.0], small)
        store_trials(name, [70.0, 80.0], small, "cuda")
        for device, accuracy in (("cpu", 60.0), ("cuda", 70.0)):
            claim = board.final("small", name, small, device)
            store(claim, {0: accuracy, 1: accuracy + 1, 2: accuracy + 3}, small, device)
    for device in ("cpu", "cuda"):
        store(board.final("small", board.ALONE, small), {0: 50.0, 1: 51.0, 2: 53.0}, small, device)
    (here, _), (there, _) = (
        leaderboard.standings("small", small, device=device) for device in ("cpu", "cuda")
    )
    assert (here.accuracy, there.accuracy) == pytest.approx((60 + 4 / 3, 70 + 4 / 3))
    assert here.loss.startswith("0.5 * CrossEntropy() + 1 * ")
    assert there.loss.startswith("0.5 * CrossEntropy() + 2 * ")
    assert "71.33" in leaderboard.table("small", small, device="cuda")


def test_what_is_best_at_the_edge_is_said(small):
    assert board.ratio_of(0) > board.ratio_of(1)  # of two trials, each is at an edge
    for name, accuracies in ((KD, [80.0, 70.0]), ("attention", [70.0, 80.0])):
        store_trials(name, accuracies, small)
    told = leaderboard.at_the_edge("small", small)
    edges = "with the largest ratio, 3 (1): KD; with the smallest ratio, 0.95 (1): attention."
    assert told.endswith(f": {edges} KD is among them, so gains over it may be too large.")


def test_where_kd_is_best_at_the_edge_it_is_also_measured_beyond(small):
    store_trials(KD, [70.0, 80.0], small)
    assert not beyond.is_at_the_edge("small", small)
    for name, accuracies in ((KD, [80.0, 70.0]), ("attention", [80.0, 70.0])):
        store_trials(name, accuracies, small)
    assert beyond.is_at_the_edge("small", small)
    claim = beyond.beyond("small", small)
    assert claim.search  # on the validation set
    assert {
        name: claim.settings[name] for name in (beyond.TRIED, beyond.TRIPLED, beyond.UNLABELLED)
    } == {
        beyond.TRIED: "0.5 * CrossEntropy() + 1 * LogitKD(temperature=1)",
        beyond.TRIPLED: "0.25 * CrossEntropy() + 1.5 * LogitKD(temperature=1)",
        beyond.UNLABELLED: "0 * CrossEntropy() + 2 * LogitKD(temperature=1)",
    }
    measured = dict(Lab(claim, 0, toy=True).measure())
    assert set(measured) == {beyond.TRIED, beyond.TRIPLED, beyond.UNLABELLED}
    runs = {
        seed: {beyond.TRIED: 70.0, beyond.TRIPLED: 70.5, beyond.UNLABELLED: 69.0}
        for seed in range(3)
    }
    results.save(Result(claim, runs, dict.fromkeys(runs, 1.0)), small)
    told = leaderboard.at_the_edge("small", small)
    assert told.endswith(
        "so gains over it may be too large: on validation data, over 3 students, KD itself gains "
        "+0.500 [+0.500, +0.500] at three times that ratio and -1.00 [-1.00, -1.00] without labels."
    )


def test_a_method_without_labels_has_no_ratio(small, monkeypatch):
    monkeypatch.setattr(standing, "TRIALS", 3)
    unlabelled = {
        KD: METHODS[KD],
        "attention": dataclasses.replace(METHODS["attention"], labels=""),
    }
    monkeypatch.setattr(board.Board, "methods", property(lambda _: unlabelled))
    for name, accuracies in ((KD, [80.0, 70.0, 70.0]), ("attention", [70.0, 80.0, 70.0])):
        store_trials(name, accuracies, small)
    assert leaderboard.at_the_edge("small", small) == ""


def test_nothing_is_said_where_no_method_is_best_at_the_edge(small, monkeypatch):
    monkeypatch.setattr(standing, "TRIALS", 3)  # 3, 0.95 and 9.5
    for name in (KD, "attention"):
        store_trials(name, [80.0, 70.0, 70.0], small)
    assert leaderboard.at_the_edge("small", small) == ""


def test_the_text_says_what_is_tried_and_how_long_students_learn():
    text = " ".join((docs.COURSE / "docs" / "leaderboard.md").read_text().split())
    ratios = [board.ratio_of(trial) for trial in range(board.TRIALS)]
    assert f"labels', between {min(ratios):.1g} and {max(ratios):.2g};" in text
    assert f"**{board.TRIALS} trials**" in text
    for few in (board.FEW, board.MANY):
        assert f"{few['epochs']} epochs in batches of {few['batch_size']}" in text


def test_a_board_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no board 'nosuch'; there are res8-500"):
        leaderboard.reproduce(["nosuch"])


# --- standings


@pytest.mark.parametrize("seed", range(5))
def test_holm_by_its_definition(seed):
    draw = torch.Generator().manual_seed(seed)
    p = (torch.rand(7, generator=draw) ** 3).tolist()
    corrected = holm(p)
    for level in (0.01, 0.05, 0.2):  # step down while the next is below level / what is left
        order, rejected = sorted(range(len(p)), key=p.__getitem__), set()
        for rank, place in enumerate(order):
            if p[place] > level / (len(p) - rank):
                break
            rejected.add(place)
        assert {place for place, value in enumerate(corrected) if value <= level} == rejected


def test_holm_of_one_is_itself_and_of_none_is_none():
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def row(name, differences, p):
    gain = estimate(name, differences)
    return leaderboard.Standing(name, "loss", 80.0, gain, gain, p, 1.5, 1.2)


def test_what_is_said_of_a_method():
    assert row("a", [1.0, 1.1, 0.9], 0.01).says == "better than KD"
    assert row("a", [-1.0, -1.1, -0.9], 0.01).says == "worse than KD"
    assert row("a", [1.0, 1.1, 0.9], 0.06).says == "no difference from KD seen"
    assert row(KD, [0.0, 0.0, 0.0], 1.0).says == "no difference from KD seen"


def test_the_p_value_is_that_of_the_paired_test_and_costs_those_of_the_objective(monkeypatch):
    runs = {
        board.ALONE: [70.0, 71.0, 72.0],
        KD: [75.0, 77.0, 76.0],
        "hint": [74.0, 76.5, 75.8],
        "DIST": [79.0, 80.0, 79.5],
    }

    def found(*_):
        seeds = {name: {i: {"accuracy": v} for i, v in enumerate(runs[name])} for name in runs}
        return {name: Result(None, seeds[name], settings={"loss": name}) for name in runs}

    costs = {name: cost.Cost(name, name, 1.5, 1.0, 9) for name in runs}
    costs["hint"].loss = "of other trials"
    monkeypatch.setattr(standing, "results", found)
    monkeypatch.setattr(standing.cost, "load", lambda *_: costs)
    rows = leaderboard.standings("res8-500")
    assert [one.name for one in rows] == ["DIST", KD, "hint"]
    p = [stats.ttest_rel(runs[name], runs[KD]).pvalue for name in ("hint", "DIST")]
    by_name = {one.name: one.p for one in rows}
    assert [by_name["hint"], by_name["DIST"]] == pytest.approx(holm(p))
    assert rows[0].over_labels.mean == pytest.approx(8.5)
    assert [one.time for one in rows] == [1.5, 1.5, None]


def test_what_to_take_is_what_is_better_by_what_can_be_seen(monkeypatch):
    rows = [
        row("SimKD", [2.0, 2.1, 1.9], 0.01),
        row("hint", [1.0, 1.1, 0.9], 0.01),
        row("DIST", [1.0, 1.1, 0.9], 0.2),
        row("RKD", [-1.0, -1.1, -0.9], 0.01),
        row(KD, [0.0, 0.0, 0.0], 1.0),
    ]
    monkeypatch.setattr(standing, "standings", lambda *_: rows)
    _, _, predictions, features, relations = leaderboard.what_to_take("res8-500").splitlines()
    assert predictions == "- *predictions*: KD itself; no method was seen to be better than KD."
    assert features.startswith(
        "- *features*: SimKD +2.00 [+1.75, +2.25] (a step takes 1.50 × KD's)"
    )
    assert "; hint +1.00" in features
    assert relations.startswith("- *relations*: none; no method")


def test_what_boards_say_together():
    better, worse, same = ([g, g + 0.1, g - 0.1] for g in (2.0, -2.0, 0.0))
    here = [row("hint", better, 0.01), row("DIST", same, 1.0), row("SimKD", better, 0.01)]
    here += [row("CRD", worse, 0.01), row("CC", same, 1.0), row(KD, [0.0] * 3, 1.0)]
    there = [row("hint", better, 0.01), row("DIST", better, 0.01), row("CRD", same, 1.0)]
    there += [row("CC", same, 1.0), row(KD, [0.0] * 3, 1.0)]
    always, sometimes, never, worse = leaderboard.across({"a": here, "b": there}).splitlines()
    assert always.endswith(": hint (all), SimKD (1 of the 2)")
    assert sometimes == "- *better on some boards*: DIST (b)"
    assert never.endswith(": CC")
    assert worse.endswith(": CRD")


def test_a_larger_student_is_said_to_be_one(monkeypatch):
    lab = Lab(board.search("res8-500", "SimKD"), 0)
    own, usual = (
        sum(p.numel() for p in net.parameters())
        for net in (METHODS["SimKD"].rebuild(lab.net(), lab.teacher), lab.net())
    )
    size = cost.size_of_student("res8-500", "SimKD")
    assert size == own / usual > 1
    assert cost.size_of_student("res8-500", "hint") == 1
    rows = [dataclasses.replace(row("SimKD", [2.0, 2.1, 1.9], 0.01), size=size)]
    monkeypatch.setattr(standing, "standings", lambda *_: rows)
    told = leaderboard.what_to_take("res8-500")
    rows[:] = [row("SDD", [2.0, 2.1, 1.9], 0.01)]
    assert "needs the last maps of both nets)" in leaderboard.what_to_take("res8-500")
    assert f"(a step takes 1.50 × KD's; the student has {size:.2f} × the parameters)" in told


def test_costs_are_those_of_boards_that_were_tried(tmp_path):
    with pytest.raises(FileNotFoundError, match="reproduce leaderboard"):
        cost.measure(1, tmp_path, progress=False)


# --- figures


def test_figures_show_every_method_but_kd_itself():
    rows = [
        row("good", [1.0, 1.2, 1.1], 0.01),
        row(KD, [0.0, 0.0, 0.0], 1.0),
        row("bad", [-9.0, -9.2, -9.4], 0.01),
    ]
    axis = plots.gains({"here": rows}).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["good", "bad"]
    assert [text.get_text() for text in axis.texts] == ["-9.2"]  # beyond the edge
    axis = plots.gain_against_cost("here", rows).axes[0]
    named = {text.get_text() for text in axis.texts}
    assert named == {"good", KD, "bad: -9.2"}
    assert -1 < axis.get_ylim()[0] < 0


def test_a_method_is_drawn_in_its_place_unless_it_squeezes_the_rest():
    rows = [row(f"method {n}", [-n, -n, -n - 0.1], 0.5) for n in range(6)]
    usual = [*rows, row(KD, [0.0, 0.0, 0.0], 1.0), row("last", [-10.0, -10.0, -10.1], 0.01)]
    assert not plots.gains({"here": usual}).axes[0].texts
    far = [*usual, row("far", [-21.0, -21.0, -21.1], 0.01)]
    assert [text.get_text() for text in plots.gains({"here": far}).axes[0].texts] == ["-21.0"]


def test_names_beside_points_that_are_close_do_not_touch():
    rows = [row(f"method {n}", [n / 10, n / 10, n / 10 + 0.01], 0.5) for n in range(12)]
    figure = plots.gain_against_cost("here", [*rows, row(KD, [0.0, 0.0, 0.0], 1.0)])
    figure.draw_without_rendering()
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == 13
    assert not [a for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    assert all(axis.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))


# --- what is stored


@everywhere(*BOARDS)
def test_what_is_stored_matches_the_code(name, method):
    """Of whatever is measured by now."""
    with suppress(FileNotFoundError):
        claim = board.final(name, method)
        stored = results.read(claim, board.FOLDER)
        assert stored.deviation(Result.of_now(claim, Fingerprint.of(claim))) <= TOLERANCE


@pytest.mark.parametrize("name", BOARDS)
def test_kd_beyond_the_edge_was_measured_by_the_code_as_it_is(name):
    with suppress(FileNotFoundError):  # whatever is measured by now
        claim = beyond.beyond(name)
        stored = results.read(claim, board.FOLDER)
        assert stored.deviation(Result.of_now(claim, Fingerprint.of(claim))) <= TOLERANCE
