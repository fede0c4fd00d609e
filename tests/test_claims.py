import dataclasses
import importlib.util
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from kdcourse.course.claims import (
    CLAIMS,
    Bound,
    Claim,
    Effect,
    compressed,
    experiment,
    further,
    motivation,
    newer,
    properties,
    reproduce,
    table,
)
from kdcourse.course.claims import results as stored_results
from kdcourse.course.claims.claim import claim, estimate
from kdcourse.course.claims.results import RESULTS, Result, digest, load, save
from kdcourse.teachers.shipped import card

ROOT = Path(__file__).parents[1]
EVERY_CLAIM = pytest.mark.parametrize("id", list(CLAIMS))


@pytest.fixture
def registry():
    """The registry of claims, empty, and full again afterwards."""
    real = dict(CLAIMS)
    CLAIMS.clear()
    yield CLAIMS
    CLAIMS.clear()
    CLAIMS.update(real)


def invented(*, effects=(), bounds=(), **options):
    """A claim that nobody measures."""
    return Claim("invented", "It is so.", 1, lambda seed: {}, effects, bounds, **options)


# --- effect, interval, verdict


def test_effect_is_a_paired_difference():
    measured = {"more": 3.0, "less": 1.0}
    assert Effect("", "more", "less").of(measured) == 2.0
    assert Effect("", "more").of(measured) == 3.0


@given(st.lists(st.integers(-10_000, 10_000).map(lambda n: n / 100), min_size=2, max_size=20))
def test_interval_is_that_of_the_t_test(values):
    assume(len(set(values)) > 1)
    found = estimate("", values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    # Absolute, beside relative: the ends are differences of numbers of up to 1000.
    np.testing.assert_allclose((found.low, found.high), expected, rtol=1e-12, atol=1e-11)
    assert found.mean == np.mean(values)
    assert found.seeds == len(values)


def test_one_seed_shows_nothing():
    found = estimate("", [5.0])
    assert (found.mean, found.low, found.high) == (5.0, -math.inf, math.inf)
    assert invented(effects=(Effect("", "a"),)).verdict({0: {"a": 5.0}}) == "not seen at this scale"


@pytest.mark.parametrize("value", [-2.0, 0.0, 0.5])
def test_identical_values_have_an_interval_without_width(value):
    found = estimate("", [value] * 3)
    assert (found.mean, found.low, found.high) == (value, value, value)


UP, ACROSS, DOWN = [1.0, 1.1, 0.9], [1.0, -1.0, 0.1], [-1.0, -1.1, -0.9]


@pytest.mark.parametrize(
    ("effects", "deviations", "verdict"),
    [
        ([UP], [], "holds"),
        ([UP, UP], [0.0, 0.0, 1e-9], "holds"),
        ([ACROSS], [], "not seen at this scale"),
        ([UP, ACROSS], [], "not seen at this scale"),
        ([[0.0] * 3], [], "not seen at this scale"),
        ([[1.0, 1.0, math.nan]], [], "not seen at this scale"),
        ([DOWN], [], "reversed"),
        ([UP, ACROSS, DOWN], [], "reversed"),
        ([UP], [0.0, 0.0, 1e-5], "reversed"),
        ([], [0.0, 1e-9, 0.0], "holds"),
        ([], [0.0, 1e-5, 0.0], "reversed"),
        ([], [0.0, math.nan, 0.0], "reversed"),
        ([], [], "reported"),
    ],
)
def test_verdict(effects, deviations, verdict):
    names = [f"effect {number}" for number in range(len(effects))]
    runs = {
        seed: dict(zip(names, (values[seed] for values in effects), strict=True))
        | ({"off": deviations[seed]} if deviations else {})
        for seed in range(3)
    }
    bounds = (Bound("", "off", 1e-8),) if deviations else ()
    claimed = invented(effects=tuple(Effect(name, name) for name in names), bounds=bounds)
    assert claimed.verdict(runs) == verdict


# --- the registry


@EVERY_CLAIM
def test_claim_says_what_it_is(id):
    claimed = CLAIMS[id]
    assert claimed.id == id
    assert re.fullmatch("[a-z0-9-]+", id)  # a file name
    assert claimed.statement.endswith((".", ")"))
    assert claimed.reason.endswith(".")
    assert claimed.notebook in range(1, 8)
    assert claimed.toy.keys() <= claimed.settings.keys()
    labels = [part.label for part in (*claimed.effects, *claimed.bounds)]
    assert len(set(labels)) == len(labels)


def test_ids_are_unique(registry):
    def measure(seed):
        return {}

    claim("a", statement="", notebook=1)(measure)
    with pytest.raises(ValueError, match="'a'"):
        claim("a", statement="", notebook=1)(measure)


@pytest.fixture
def small(monkeypatch):
    """Experiments judge their students on few images, and generate few."""
    monkeypatch.setattr(further, "STEPS", 2)
    splits = experiment.splits()
    few = dataclasses.replace(splits, validation=splits.validation[:200], test=splits.test[:200])
    monkeypatch.setattr(experiment, "splits", lambda: few)


@EVERY_CLAIM
@pytest.mark.usefixtures("small")
def test_claim_runs_at_toy_size(id):
    claimed = CLAIMS[id]
    measured = claimed.measure(0, **claimed.toy)
    assert all(math.isfinite(value) for value in measured.values())
    needed = {bound.deviation for bound in claimed.bounds}
    needed |= {name for effect in claimed.effects for name in (effect.more, effect.less) if name}
    assert needed <= measured.keys()
    assert claimed.verdict({0: measured, 1: measured})


# The fast ones, with every kind of randomness: data, order, initial weights, scrambled teachers.
@pytest.mark.parametrize("id", ["temperature", "same-gradient", "dark-knowledge", "existence"])
def test_same_seed_same_measurements(id):
    claimed = CLAIMS[id]
    once, again = (claimed.measure(3, **claimed.toy) for _ in range(2))
    assert once == again


# --- storing


def result(runs=None):
    runs = runs or {2: {"a": 1.5}, 0: {"a": -0.25}}
    return Result(CLAIMS["a"], runs, dict.fromkeys(runs, 0.1), "0123", {"python": "3"})


@pytest.fixture
def a(registry):
    """A registry with one claim, ``a``."""
    claim("a", statement="", notebook=1, effects=(Effect("", "a"),))(lambda seed: {})


@pytest.mark.usefixtures("a")
def test_results_are_read_as_they_were_written(tmp_path):
    save(result(), tmp_path / "new")
    again = load("a", tmp_path / "new")
    assert again == result()
    assert (again.values("a"), again.mean("a")) == ([-0.25, 1.5], 0.625)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


@pytest.mark.usefixtures("a")
def test_results_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    save(result(), tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(result({0: {"a": 9.0}}), tmp_path)
    assert load("a", tmp_path) == result()


@pytest.mark.usefixtures("a")
def test_missing_results_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m kdcourse reproduce a"):
        load("a", tmp_path)
    with pytest.raises(KeyError, match="nosuch"):
        load("nosuch", tmp_path)


# --- the digest that binds results to code

TOY = '''
"""A claim."""

from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import claim

SCALE = 2.0
UNUSED = 1


class Doubler:
    """Doubles."""

    def double(self, value):
        return 2 * value


def helper(seed):
    """Help."""
    return SCALE * seed


@claim("toy", notebook=1, statement="It is so.", reason="Because.")
def toy(seed: int, *, images: int = 4) -> dict[str, float]:
    """Measure."""
    # a comment
    return {"a": helper(seed) + images, "b": Doubler().double(experiment.WEIGHT)}
'''


@pytest.fixture
def toy_digest(registry, tmp_path, monkeypatch):
    """Digest of the claim above, after an edit of its source."""
    number = itertools.count()

    def edited(old="", new=""):
        assert old in TOY
        name, path = "kdcourse.course.claims._toy", tmp_path / f"toy{next(number)}.py"
        path.write_text(TOY.replace(old, new) if old else TOY)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return digest(registry.pop("toy"))

    return edited


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("images: int = 4", "images: int = 5"),
        ("+ images", "- images"),
        ("SCALE * seed", "SCALE + seed"),
        ("SCALE = 2.0", "SCALE = 3.0"),
        ("2 * value", "value + value"),
        ("int = 4)", 'int = 4, teacher: str = "res16")'),
    ],
    ids=["setting", "body", "helper", "constant", "class", "new setting"],
)
def test_digest_changes_with_the_experiment(toy_digest, old, new):
    assert toy_digest(old, new) != toy_digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another"),
        ("Measure.", "Measure it."),
        ("Doubles.", "Makes it twice as much."),
        ('    """Help."""\n', ""),
        ("It is so.", "It may be so."),
        ("Because.", "Why not."),
        ("notebook=1", "notebook=2"),
        ("SCALE * seed", "(\n        SCALE * seed\n    )"),
        ("UNUSED = 1", "UNUSED = 2"),
        ("\nclass", "\n\n\n\nclass"),
    ],
    ids=[
        "comment",
        "docstring",
        "docstring of a class",
        "no docstring",
        "statement",
        "reason",
        "notebook",
        "format",
        "unused constant",
        "blank lines",
    ],
)
def test_digest_does_not_change_with_words(toy_digest, old, new):
    assert toy_digest(old, new) == toy_digest()


def test_digest_changes_with_what_another_module_holds(toy_digest, monkeypatch):
    before = toy_digest()
    monkeypatch.setattr(experiment, "WEIGHT", 7.0)
    assert toy_digest() != before


def test_digest_changes_with_the_weights_of_the_teacher(toy_digest, monkeypatch):
    taught = ("int = 4)", 'int = 4, teacher: str = "res16")')
    before, alone = toy_digest(*taught), toy_digest()
    monkeypatch.setattr(stored_results, "card", lambda name: card(name) | {"sha256": "other"})
    assert toy_digest(*taught) != before
    assert toy_digest() == alone


def test_digest_is_the_same_in_another_process():
    code = (
        "import json; from kdcourse.course.claims import CLAIMS; "
        "from kdcourse.course.claims.results import *; "
        "print(json.dumps({id: digest(claim) for id, claim in CLAIMS.items()}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    found = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert json.loads(found) == {id: digest(claimed) for id, claimed in CLAIMS.items()}


# --- what is stored is what the code makes

STORED = [
    path for path in sorted(RESULTS.glob("*.json")) if "claim" in json.loads(path.read_text())
]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_result_matches_the_code(path):
    stored, id = json.loads(path.read_text()), path.stem
    assert stored["claim"] == id
    result = load(id)
    assert stored["digest"] == digest(result.claim), "measure it again"
    assert stored["settings"] == json.loads(json.dumps(result.claim.settings))
    assert stored["verdict"] == result.verdict
    assert stored["command"] == f"python -m kdcourse reproduce {id} --seeds {len(result.runs)}"


@EVERY_CLAIM
def test_claim_is_measured_over_enough_seeds(id):
    result = load(id)
    seconds = np.mean(list(result.seconds.values()))
    enough = 3 if result.verdict == "reported" else 5 if seconds > 30 else 10
    assert len(result.runs) >= enough
    assert list(result.runs) == list(range(len(result.runs)))


@pytest.mark.parametrize("student", motivation.SEARCHED_ARMS)
def test_both_arms_use_the_best_settings_of_the_search(student):
    search = load("existence-search")
    losses = {
        (rate, weight): search.mean(f"{student} rate={rate} weight={weight}")
        for rate in motivation.SEARCHED_RATES
        for weight in motivation.SEARCHED_WEIGHTS
    }
    assert motivation.BEST[student] == min(losses, key=losses.get)


def is_among_the_best(search, chosen, names):
    """Whether a setting is within one standard error of the best of a search."""
    best = max(names, key=search.mean)
    return search.mean(chosen) >= search.mean(best) - stats.sem(search.values(best))


def test_temperature_and_weight_are_among_the_best_of_the_search():
    search = load("temperature-weight")
    names = [name for name in search.runs[0] if name.startswith("tau=")]
    chosen = f"tau={experiment.TEMPERATURE:g} lambda={experiment.WEIGHT:g}"
    assert is_among_the_best(search, chosen, names)


def test_the_table_of_compressed_models_has_means_by_model():
    toy = Claim("toy", "A toy.", 5, lambda seed: {})
    runs = {
        seed: {"dense": 85.0 + seed, "dense parameters": 12345, "dense kilobytes": 50.0}
        | {"90 % parameters": 1234, "90 % kilobytes": 9.6, "90 % untrained": 10.0}
        | {"90 % labels": 80.0 + seed, "90 % taught": 81.0 + seed}
        for seed in (0, 1)
    }
    rows = compressed(Result(toy, runs), Result(toy, runs)).split("\n")
    assert rows[2] == "| dense | 12,345 | 50 | 85.5 |  |  |"
    assert rows[3] == rows[4] == "| 90 % | 1,234 | 10 | 10.0 | 80.5 | 81.5 |"
    assert len({row.count("|") for row in rows}) == 1


def test_mean_teacher_has_a_weight_among_the_best_of_the_search():
    search = load("mean-teacher-search")
    names = [name for name in search.runs[0] if name.startswith("average")]
    chosen = f"average lambda={CLAIMS['mean-teacher'].settings['weight']}"
    assert is_among_the_best(search, chosen, names)


@pytest.mark.parametrize("family", properties.FAMILIES)
def test_every_family_has_the_weight_that_was_best_on_validation_data(family):
    search = load("pros-cons-search")
    means = {weight: search.mean(f"{family} {weight}") for weight in properties.GRID}
    assert means[properties.WEIGHTS[family]] == max(means.values())


@pytest.mark.parametrize("method", newer.METHODS)
def test_every_newer_method_has_the_weight_that_was_best_on_validation_data(method):
    search = load("newer-logit-search")
    means = {weight: search.mean(f"{method} {weight}") for weight in newer.GRID}
    assert means[newer.WEIGHTS[method]] == max(means.values())


def test_attention_has_the_layers_and_the_weight_that_were_best_on_validation_data():
    search = load("attention-search")
    names = [name for name in search.runs[0] if name != "alone"]
    weight = CLAIMS["attention"].settings["weight"]
    assert max(names, key=search.mean) == f"all stages {weight}"


def test_structure_has_the_weight_with_the_best_neighbours_on_validation_data():
    search = load("pros-cons-search")
    means = {weight: search.mean(f"relational {weight} 1-NN") for weight in properties.GRID}
    assert means[CLAIMS["structure"].settings["weight"]] == max(means.values())


def test_readme_shows_the_table():
    _, _, after = (ROOT / "README.md").read_text().partition("<!-- claims -->")
    shown, marker, _ = after.partition("<!-- /claims -->")
    assert marker, "no table between the markers"
    assert shown.strip() == table()


# --- measuring


class Broken(Exception):
    pass


@pytest.fixture
def calls(registry):
    """Two cheap claims, and the list of what was measured of them."""
    calls = []

    def measure(seed, *, offset=0.25):
        calls.append(("up", seed))
        return {"value": seed + offset}

    claim("up", statement="Up.", notebook=1, effects=(Effect("value", "value"),))(measure)

    def other(seed):
        calls.append(("flat", seed))
        return {"off": 0.0, "threads": float(torch.get_num_threads())}

    claim("flat", statement="Flat.", notebook=1, bounds=(Bound("zero", "off", 0.0),))(other)
    return calls


def replace_measure(id, measure):
    CLAIMS[id] = Claim(id, "Up.", 1, measure, CLAIMS[id].effects, CLAIMS[id].bounds)


def test_only_what_is_missing_is_measured(calls, tmp_path):
    up, flat = reproduce(seeds=2, folder=tmp_path, progress=False)
    assert sorted(calls) == [("flat", 0), ("flat", 1), ("up", 0), ("up", 1)]
    assert up.runs == {0: {"value": 0.25}, 1: {"value": 1.25}}
    assert (up.verdict, flat.verdict) == ("not seen at this scale", "holds")
    assert up.versions["torch"]
    assert load("up", tmp_path).digest == digest(CLAIMS["up"])
    calls.clear()
    (up,) = reproduce(["up", "up"], seeds=4, folder=tmp_path, progress=False)
    assert calls == [("up", 2), ("up", 3)]
    assert up.values("value") == [0.25, 1.25, 2.25, 3.25]
    calls.clear()
    reproduce(["up"], seeds=3, folder=tmp_path, progress=False)
    assert calls == []
    assert len(load("up", tmp_path).runs) == 4  # what is stored beyond is kept


@pytest.mark.parametrize("stop", [Broken, KeyboardInterrupt])
def test_measuring_goes_on_where_it_was_stopped(calls, tmp_path, stop):
    measure = CLAIMS["up"].measure

    def stopped(seed, *, offset=0.25):
        if seed == 2 and not resumed:
            raise stop
        return measure(seed, offset=offset)

    resumed = False
    replace_measure("up", stopped)
    threads = torch.get_num_threads()
    with pytest.raises(stop):
        reproduce(["up"], seeds=4, folder=tmp_path, progress=False)
    assert torch.get_num_threads() == threads
    assert list(load("up", tmp_path).runs) == [0, 1]
    resumed = True
    reproduce(["up"], seeds=4, folder=tmp_path, progress=False)
    assert calls == [("up", seed) for seed in range(4)]
    assert list(load("up", tmp_path).runs) == [0, 1, 2, 3]


def test_another_experiment_is_measured_anew(calls, tmp_path, capsys):
    reproduce(["up"], seeds=3, folder=tmp_path, progress=False)
    replace_measure("up", lambda seed: {"value": 7.0})
    reproduce(["up"], seeds=2, folder=tmp_path, progress=False)
    assert load("up", tmp_path).runs == {0: {"value": 7.0}, 1: {"value": 7.0}}
    assert "changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (["up", "nosuch"], {}, "nosuch"),
        (["up"], {"seeds": 0}, "seeds"),
        (["up"], {"jobs": 0}, "jobs"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_measured(
    calls, tmp_path, ids, options, message
):
    with pytest.raises(ValueError, match=message):
        reproduce(ids, folder=tmp_path, progress=False, **options)
    assert calls == []
    assert not any(tmp_path.iterdir())


def test_one_thread_while_measuring(calls, tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        (flat,) = reproduce(["flat"], seeds=1, folder=tmp_path, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert flat.values("threads") == [1.0]


def test_two_processes_measure_what_one_does(tmp_path):
    ids = ["temperature", "same-gradient"]
    runs = []
    for jobs in (1, 2):
        folder = tmp_path / str(jobs)
        reproduce(ids, seeds=2, jobs=jobs, folder=folder, progress=False)
        runs.append([load(id, folder).runs for id in ids])
    assert runs[0] == runs[1]


# --- the table


def cells(line):
    """Split a row of a Markdown table, in which ``|`` inside text is escaped."""
    parts = re.split(r"(?<!\\)\|", line)
    assert (parts[0], parts[-1]) == ("", "")
    return [part.strip() for part in parts[1:-1]]


def test_table_has_a_row_an_effect(registry, tmp_path):
    both = (Effect("first", "a"), Effect("|second|", "b"))
    exact = (Bound("equal", "zero", 0.0), Bound("nearly", "tiny", 1e-9))
    claim("both", statement="p(a|b)", notebook=1, effects=both, bounds=exact)(lambda seed: {})
    claim("plain", statement="Reported.", notebook=1)(lambda seed: {})
    claim("new", statement="Not | yet.", notebook=1)(lambda seed: {})
    runs = {
        seed: {"a": 1.0 + seed, "b": 1.0, "zero": 0.0, "tiny": 2e-12 * seed} for seed in range(2)
    }
    for id in ("both", "plain"):
        save(Result(CLAIMS[id], runs, {0: 1.0, 1: 2.0}), tmp_path)
    head, line, *rows = [cells(row) for row in table(folder=tmp_path).splitlines()]
    assert set(line) == {"---"}
    assert {len(row) for row in (line, *rows)} == {len(head)}
    margin = stats.t.ppf(0.975, 1) * 0.5
    first = f"+1.50 [{1.5 - margin:+.2f}, {1.5 + margin:+.2f}]"
    assert rows == [
        ["`both`", r"p(a\|b)", "first", first, "2", "2", "**not seen at this scale**"],
        ["", "", r"\|second\|", "+1.00 [+1.00, +1.00]", "", "", ""],
        ["", "", "equal", "equal", "", "", ""],
        ["", "", "nearly", "off by 2e-12", "", "", ""],
        ["`plain`", "Reported.", "", "", "2", "2", "**reported**"],
        ["`new`", r"Not \| yet.", "", "", "", "", "not measured yet"],
    ]
    assert table(["plain"], tmp_path).splitlines()[2:] == table(folder=tmp_path).splitlines()[6:7]


def test_table_of_an_unknown_claim():
    with pytest.raises(ValueError, match="nosuch"):
        table(["nosuch"])


def test_table_shows_every_claim():
    rows = [cells(row) for row in table().splitlines()]
    assert {len(row) for row in rows} == {7}
    assert [row[0].strip("`") for row in rows[2:] if row[0]] == sorted(
        CLAIMS, key=lambda id: CLAIMS[id].notebook
    )
