import ast
import dataclasses
import importlib
import inspect
import json
import math
import os
import re
import shutil
import sys
import textwrap
import types

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

import kdcourse.course.claims as lecture
from kdcourse import feature, further, logit, modes, predictions, relational, teachers, tips
from kdcourse.__main__ import main
from kdcourse.course.claims import (
    CLAIMS,
    Bound,
    Claim,
    Effect,
    Lab,
    check,
    compressed,
    experiment,
    motivation,
    reproduce,
    results,
    table,
)
from kdcourse.course.claims.claim import claims_of
from kdcourse.course.claims.fingerprint import FLIP, NOISE, TOLERANCE, Fingerprint
from kdcourse.course.claims.results import RESULTS, Result, load, save
from kdcourse.course.notebooks import course_notebooks, number
from kdcourse.errors import ArgumentError, NotFiniteError
from kdcourse.estimate import estimate
from kdcourse.files import FileError
from kdcourse.teachers import compressed as compression
from kdcourse.teachers import mutual, vote
from kdcourse.teachers.shipped import card
from kdcourse.training import FrozenTeacher, epochs, judged, run

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
    return Claim("invented", "It is so.", 1, dict, effects, bounds, **options)


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
    assert claimed.notebook in {number(path) for path in course_notebooks()}
    assert claimed.toy.keys() <= claimed.settings.keys()
    labels = [part.label for part in (*claimed.effects, *claimed.bounds)]
    assert len(set(labels)) == len(labels)
    assert {effect.unit for effect in claimed.effects} <= {"percentage points", "nats", ""}


def test_ids_are_unique(registry):
    def a(lab):
        """It is so."""

    claims_of(notebook="1")()(a)
    with pytest.raises(ValueError, match="'a'"):
        claims_of(notebook="1")()(a)


def test_the_experiment_names_the_claim_and_its_docstring_is_the_statement(registry):
    parts = Effect("one", "a"), Bound("zero", "off", 0.0), Effect("two", "b")

    @claims_of(notebook="3")(*parts, reason="Why not?")
    def so_it_is(lab):
        """It is so,
        and so it stays.
        """

    said = "It is so, and so it stays.", "3", so_it_is, parts[::2], parts[1:2], "Why not?"
    assert registry == {"so-it-is": Claim("so-it-is", *said)}


# The fast ones, with every kind of randomness: data, order, initial weights, scrambled teachers.
@pytest.mark.parametrize("id", ["temperature", "same-gradient", "dark-knowledge", "existence"])
def test_same_seed_same_measurements(id):
    once, again = (Lab(CLAIMS[id], 3, toy=True) for _ in range(2))
    assert once.measure() == again.measure()
    assert once.trace == again.trace


# --- storing


def result(runs=None):
    runs = runs or {2: {"a": 1.5}, 0: {"a": -0.25}}
    fingerprint = Fingerprint({"a": 1.0}, [[0.5, -0.25]])
    seconds = dict.fromkeys(runs, 0.1)
    return Result(CLAIMS["a"], runs, seconds, {"python": "3"}, {"images": 4}, "0123", fingerprint)


@pytest.fixture
def a(registry):
    """A registry with one claim, ``a``."""
    registry["a"] = Claim("a", "", 1, dict, effects=(Effect("", "a"),))


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


@pytest.mark.usefixtures("a")
def test_measurements_that_are_missing_are_named(tmp_path):
    save(result(), tmp_path)
    stored = load("a", tmp_path)
    stored.claim = invented(effects=(Effect("better", "new"),))
    told = r"'new' was not measured.*python -m kdcourse reproduce a"
    with pytest.raises(RuntimeError, match=told):
        print(stored.verdict)


# --- the fingerprint that binds results to what the code does


WRITTEN = "sequence-level-kd", "on-policy", "reverse-kl"  # where models write what is learned


@EVERY_CLAIM
def test_stored_result_matches_the_code(id):
    stored, claimed = json.loads((RESULTS / f"{id}.json").read_text()), CLAIMS[id]
    if id in WRITTEN and stored["versions"]["torch"] != torch.__version__.partition("+")[0]:
        pytest.skip("multinomial draws otherwise in another version of torch")
    result, now = load(id), Result.of_now(claimed, Fingerprint.of(claimed))
    assert result.deviation(now) <= TOLERANCE, "the code does something else: measure it again"
    assert stored["claim"] == id
    assert stored["verdict"] == result.verdict
    assert stored["command"] == f"python -m kdcourse reproduce {id} --seeds {len(result.runs)}"
    measured = now.fingerprint.measured
    assert all(math.isfinite(value) for value in measured.values())
    needed = {bound.deviation for bound in claimed.bounds}
    needed |= {name for effect in claimed.effects for name in (effect.more, effect.less) if name}
    assert needed <= measured.keys()
    assert all(measured.keys() <= run.keys() for run in result.runs.values())
    assert claimed.verdict({0: measured, 1: measured})


@pytest.fixture
def fresh_teachers():
    """Teachers as they ship, also for the tests to come."""
    yield
    experiment.teacher.cache_clear()


def code_of(source, name):
    """Compile a function's source, as one of a class; return its code, or None."""
    indented = "class _:\n" + textwrap.indent(textwrap.dedent(source), "    ")
    waiting = [compile(indented, "<changed>", "exec")]
    while waiting:
        code = waiting.pop()
        if code.co_name == name:
            return code
        waiting += [const for const in code.co_consts if inspect.iscode(const)]


def change(monkeypatch, function, old, new):
    """Let a function of the library run with one change in its source, wherever it is called."""
    function = inspect.unwrap(function)
    source = inspect.getsource(function)
    assert source.count(old) == 1, f"{old!r} is not once in {function.__qualname__}"
    code = code_of(source.replace(old, new), function.__name__)
    monkeypatch.setattr(function, "__code__", code)


def deviation(id):
    return load(id).deviation(Result.of_now(CLAIMS[id], Fingerprint.of(CLAIMS[id])))


FAULTS = {
    "KL has the wrong sign": (
        "same-gradient",
        logit.kd_loss,
        "loss = kl_of_rows(log_p_teacher, log_p_student)",
        "loss = -kl_of_rows(log_p_teacher, log_p_student)",
    ),
    "τ² is missing": ("same-gradient", logit._scaled, "temperature**2", "1"),
    "KD sends no gradient to the student": (
        "existence",
        logit.kd_loss,
        "_both_log_softmax(student,",
        "_both_log_softmax(student.detach(),",
    ),
    "α and β of decoupled KD are swapped": (
        "newer-logit",
        logit.decoupled_kd_loss,
        "loss = alpha * binary + beta * rest",
        "loss = beta * binary + alpha * rest",
    ),
    "logits are not centred": (
        "newer-logit",
        logit.standardize,
        "centred = logits - logits.mean(dim=1, keepdim=True)",
        "centred = logits",
    ),
    "attention maps are not normalised": (
        "attention",
        feature._attention,
        "return mean / norm",
        "return mean",
    ),
    "a hint sends no gradient": (
        "hint",
        feature.Hint.aligned,
        "self.project(student, teacher.shape[2:])",
        "self.project(student, teacher.shape[2:]).detach()",
    ),
    "saliency sends no gradient": (
        "saliency",
        judged.Judged.differentiate_inputs,
        "create_graph=True)",
        "create_graph=True).detach()",
    ),
    "saliency of another class": (
        "saliency",
        feature.prediction_gradient,
        "gather(1, target[:, None])",
        "gather(1, 9 - target[:, None])",
    ),
    "distances are not in units of their mean": (
        "invariance",
        relational._distance_loss,
        "_in_units_of_mean(distances(student))",
        "distances(student)",
    ),
    "angles have the wrong sign": (
        "invariance",
        relational._angle_loss,
        "return with_gradient",
        "return -with_gradient",
    ),
    "similarities of the wrong net": (
        "invariance",
        relational.similarity_preserving_loss,
        "_similarities(teacher)",
        "_similarities(student)",
    ),
    "the teacher is in train mode": (
        "existence",
        FrozenTeacher.show,
        "self._stay_in_eval_mode()",
        "self.model.train()",
    ),
    "one step less": (
        "existence",
        run.Run._optimize,
        "self.scaler.step(self.optimizer)",
        "self.taken and self.scaler.step(self.optimizer)",
    ),
    "gradients are not forgotten": (
        "momentum",
        run.Run._differentiate,
        "self.optimizer.zero_grad(set_to_none=True)",
        "pass",
    ),
    "the schedule stands still": ("existence", run.Run.advance, "self.scheduler.step()", "pass"),
    "a batch is learned in eval mode": (
        "existence",
        modes.training_mode,
        "model.train()",
        "model.eval()",
    ),
    "the order of images is the same in every epoch": (
        "patience",
        epochs.Epochs._pass,
        "replay_seed(self.knobs.seed, epoch)",
        "replay_seed(self.knobs.seed, 0)",
    ),
    "momentum is inverted": (
        "momentum",
        teachers.MomentumTeacher.share,
        "return 1 - momentum",
        "return momentum",
    ),
    "peers are not asked anew": (
        "mutual",
        mutual.Peers.learn,
        'self.updates == "simultaneous"',
        "True",
    ),
    "peers listen in eval mode": (
        "mutual",
        mutual.Peer._stay_in_eval_mode,
        "pass",
        "self.model.eval()",
    ),
    "an ensemble averages what is no probability": (
        "ensemble",
        teachers.Ensemble.show,
        "log_p = logits.log_softmax(dim=self._dim(logits))",
        "log_p = logits",
    ),
    "every generation has the first as its teacher": (
        "born-again",
        teachers.born_again,
        "family[-1]",
        "family[0]",
    ),
    "pruned weights come back": (
        "pruned",
        compression.Mask.forward,
        "weight * self.mask",
        "weight",
    ),
    "a level of the weights is missing": (
        "quantized",
        compression._rounded,
        "-most, most",
        "-most, most - 1",
    ),
    "teacher and student see other views": (
        "views",
        tips.Consistent.see,
        "return seen, seen, target",
        "return seen, self.augment(pixels, generator), target",
    ),
    "the queue stands still": (
        "seed",
        further.SEED.loss,
        "self.queue.copy_(torch.cat([seen, self.queue])[: len(self.queue)])",
        "pass",
    ),
    "the generator avoids variety": (
        "data-free",
        further.generator_loss,
        "- balance * entropy",
        "+ balance * entropy",
    ),
    "a tie is always won": (
        "vote",
        vote.majority_vote_accuracy,
        "right[2 * count == voters].sum() / 2",
        "right[2 * count == voters].sum()",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")  # before the first step of the optimiser
@pytest.mark.usefixtures("fresh_teachers")
def test_a_fault_in_the_core_changes_the_fingerprint(monkeypatch, fault):
    id, function, old, new = FAULTS[fault]
    change(monkeypatch, function, old, new)
    try:
        found = deviation(id)
    except ArgumentError as refused:  # a term without a gradient is told at once
        found = math.inf if "no weight that can be trained" in str(refused) else 0.0
    assert found > 10 * NOISE


def as_if_written(monkeypatch, edit, *functions):
    """Let functions run from another text of their source."""
    for function in functions:
        plain = inspect.unwrap(function)
        code = code_of(edit(textwrap.dedent(inspect.getsource(plain))), plain.__name__)
        assert code.co_code != plain.__code__.co_code or code.co_names == plain.__code__.co_names
        monkeypatch.setattr(plain, "__code__", code)


def renamed(source):
    """Rename every local variable but the arguments."""
    tree = ast.parse(source)
    stored = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    arguments = {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    names = {node.id for node in stored} - arguments
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            node.id = f"another_{node.id}"
    return ast.unparse(tree)


def reformatted(source):
    """Write the source anew, without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@pytest.mark.parametrize("edit", [renamed, reformatted])
def test_other_words_leave_the_fingerprint_as_it_is(monkeypatch, edit):
    written = (
        motivation.existence,
        Lab.predict,
        Lab.fit,
        logit.kd_loss,
        predictions.kl_of_rows,
        run.Run.advance,
    )
    before = Fingerprint.of(CLAIMS["existence"])
    as_if_written(monkeypatch, edit, *written)
    assert Fingerprint.of(CLAIMS["existence"]) == before


def test_a_function_may_move_to_another_module(monkeypatch):
    before = Fingerprint.of(CLAIMS["existence"])
    there = types.ModuleType("kdcourse.elsewhere")
    vars(there).update(vars(logit))
    there.__name__ = "kdcourse.elsewhere"
    monkeypatch.setitem(sys.modules, there.__name__, there)
    exec(inspect.getsource(logit.kd_loss), vars(there))
    assert there.kd_loss.__module__ == "kdcourse.elsewhere"
    monkeypatch.setattr(logit, "kd_loss", there.kd_loss)
    monkeypatch.setattr(motivation.existence, "__module__", "kdcourse.elsewhere")
    assert Fingerprint.of(CLAIMS["existence"]) == before


def test_other_settings_are_noticed(monkeypatch):
    claimed = CLAIMS["temperature"]
    same, other = (dict(claimed.settings, samples=n) for n in (64, 65))
    for settings, expected in ((same, 0.0), (other, math.inf)):
        monkeypatch.setitem(CLAIMS, "temperature", dataclasses.replace(claimed, settings=settings))
        now = Result.of_now(CLAIMS["temperature"], load("temperature").fingerprint)
        assert load("temperature").deviation(now) == expected


def test_other_weights_of_the_teacher_are_noticed(monkeypatch):
    stored = load("kd-gain")
    assert stored.deviation(Result.of_now(stored.claim, stored.fingerprint)) == 0
    monkeypatch.setattr(results, "card", lambda name: card(name) | {"sha256": "other"})
    assert stored.deviation(Result.of_now(stored.claim, stored.fingerprint)) == math.inf


def test_numbers_deviate_relative_to_their_size():
    old = Fingerprint({"a": 50.0}, [[2.0, 0.0]])
    assert old.deviation(old) == 0
    assert old.deviation(Fingerprint({"a": 50.0}, [[2.0, 0.001]])) == 0.0005
    assert old.deviation(Fingerprint({"b": 50.0}, [[2.0, 0.0]])) == math.inf
    assert old.deviation(Fingerprint({"a": 50.0}, [[2.0, 0.0]] * 2)) == math.inf
    assert old.deviation(Fingerprint({"a": 50.0}, [[2.0, math.nan]])) == math.inf
    assert old.deviation(Fingerprint({"a": math.nan}, [[2.0, 0.0]])) == math.inf
    tiny = Fingerprint({"a": 1e-16}, [])
    assert tiny.deviation(Fingerprint({"a": 3e-16}, [])) <= NOISE


def test_an_image_on_the_edge_may_fall_to_the_other_side():
    names = [f"arm {n}" for n in range(11)]

    def shares(flipped=0, by=FLIP, trace=((1.0, 1.0),)):
        return Fingerprint({n: 50.0 + by * (i < flipped) for i, n in enumerate(names)}, trace)

    assert shares().deviation(shares(2)) == 0
    assert shares().deviation(shares(3)) > TOLERANCE
    assert shares().deviation(shares(1, by=FLIP + 0.5)) > TOLERANCE
    assert shares(trace=()).deviation(shares(1, trace=())) > TOLERANCE


@pytest.mark.parametrize(("off", "status", "said"), [(2e-6, 0, "matches"), (0.2, 1, "DIFFERS")])
def test_check_tells_which_claims_differ_from_the_code(monkeypatch, capsys, off, status, said):
    asked = {"gap": 0.0, "hint": off}
    monkeypatch.setattr(lecture, "check", lambda ids, jobs, device: {id: asked[id] for id in ids})
    assert main(["reproduce", "--check", "gap", "hint"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["gap", "matches"], ["hint", said]]
    assert lines[1].endswith(f"off by {off:.1e}")
    assert lines[2].startswith(f"{status} of 2 differ")


# --- what is stored


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
    toy = Claim("toy", "A toy.", 5, dict)
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


@pytest.mark.parametrize("family", lecture.relational.FAMILIES)
def test_every_family_has_the_weight_that_was_best_on_validation_data(family):
    search = load("pros-cons-search")
    means = {weight: search.mean(f"{family} {weight}") for weight in lecture.relational.GRID}
    assert means[lecture.feature.WEIGHTS[family]] == max(means.values())


@pytest.mark.parametrize("method", lecture.further.METHODS)
def test_every_newer_method_has_the_weight_that_was_best_on_validation_data(method):
    search = load("newer-logit-search")
    means = {weight: search.mean(f"{method} {weight}") for weight in lecture.further.GRID}
    assert means[lecture.further.WEIGHTS[method]] == max(means.values())


def test_attention_has_the_layers_and_the_weight_that_were_best_on_validation_data():
    search = load("attention-search")
    names = [name for name in search.runs[0] if name != "alone"]
    weight = CLAIMS["attention"].settings["weight"]
    assert max(names, key=search.mean) == f"all stages {weight}"


def test_structure_has_the_weight_with_the_best_neighbours_on_validation_data():
    search = load("pros-cons-search")
    means = {weight: search.mean(f"relational {weight} 1-NN") for weight in lecture.relational.GRID}
    assert means[CLAIMS["structure"].settings["weight"]] == max(means.values())


# --- measuring


class Broken(Exception):
    pass


@pytest.fixture
def calls(registry):
    """Two cheap claims, and the list of what was measured of them."""
    calls = []

    claim = claims_of(notebook="1")

    @claim(Effect("value", "value"))
    def up(lab):
        """Up."""
        noted(calls, lab)
        yield "value", lab.seed + 0.25

    @claim(Bound("zero", "off", 0.0))
    def flat(lab):
        """Flat."""
        noted(calls, lab)
        yield "off", 0.0
        yield "threads", float(torch.get_num_threads())

    return calls


def noted(calls, lab):
    """Note what is measured, and not what is run to see whether the code is the same."""
    if not lab.toy:
        calls.append((lab.claim.id, lab.seed))


def replace_measure(id, measure):
    CLAIMS[id] = dataclasses.replace(CLAIMS[id], measure=measure)


def test_only_what_is_missing_is_measured(calls, tmp_path):
    up, flat = reproduce(seeds=2, folder=tmp_path, progress=False)
    assert sorted(calls) == [("flat", 0), ("flat", 1), ("up", 0), ("up", 1)]
    assert up.runs == {0: {"value": 0.25}, 1: {"value": 1.25}}
    assert (up.verdict, flat.verdict) == ("not seen at this scale", "holds")
    assert up.versions["torch"]
    assert load("up", tmp_path).fingerprint == Fingerprint({"value": 0.25}, [])
    calls.clear()
    (up,) = reproduce(["up", "up"], seeds=4, folder=tmp_path, progress=False)
    assert calls == [("up", 2), ("up", 3)]
    assert up.values("value") == [0.25, 1.25, 2.25, 3.25]
    calls.clear()
    reproduce(["up"], seeds=3, folder=tmp_path, progress=False)
    assert calls == []
    assert len(load("up", tmp_path).runs) == 4  # what is stored beyond is kept


def test_a_folder_that_cannot_be_written_is_told_before_a_seed_is_measured(calls, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file/here cannot be written"):
        reproduce(["up"], seeds=1, folder=tmp_path / "file" / "here", progress=False)
    assert calls == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_cannot_be_measured_is_named(calls, tmp_path, jobs):
    replace_measure("up", diverging)
    with pytest.raises(RuntimeError, match="up, seed 0: the loss became inf"):
        reproduce(["up"], seeds=1, jobs=jobs, folder=tmp_path, progress=False)


def diverging(lab):
    if not lab.toy:
        raise NotFiniteError("loss", "the loss became inf")
    yield "value", 0.0


def test_a_folder_that_is_removed_meanwhile_is_made_again_with_all_that_was_measured(
    calls, tmp_path
):
    def removing(lab):
        if lab.seed == 1 and not lab.toy:
            shutil.rmtree(tmp_path / "results")
        return [("off", 0.0)]

    replace_measure("flat", removing)
    reproduce(seeds=2, folder=tmp_path / "results", progress=False)
    for id in ("up", "flat"):
        assert list(load(id, tmp_path / "results").runs) == [0, 1]


@pytest.mark.parametrize("stop", [Broken, KeyboardInterrupt])
def test_measuring_goes_on_where_it_was_stopped(calls, tmp_path, stop):
    measure = CLAIMS["up"].measure

    def stopped(lab):
        if lab.seed == 2 and not resumed:
            raise stop
        return measure(lab)

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
    assert check(folder=tmp_path, progress=False) == {"up": 0.0, "flat": math.inf}  # not stored
    replace_measure("up", lambda lab: [("value", 7.0)])
    assert check(["up"], folder=tmp_path, progress=False)["up"] > 0.9
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


# --- measuring on a GPU


@pytest.fixture
def gpu(monkeypatch):
    """Nothing is computed there, but a GPU seems to be here."""
    measuring = importlib.import_module("kdcourse.course.claims.reproduce")
    monkeypatch.setattr(measuring, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "GPU of a test")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2**30, 2**40))  # room for one


@pytest.mark.usefixtures("gpu", "registry")
def test_results_of_a_gpu_are_kept_apart_and_say_so(tmp_path, capsys):
    measured = []

    @claims_of(notebook="1")(Effect("value", "value"))
    def up(lab):
        """Up."""
        measured.append((lab.toy, lab.seed, lab.options["device"]))
        yield "value", lab.seed + 0.25 + (lab.device != "cpu")

    known = {"ids": ["up"], "folder": tmp_path, "progress": False}
    reproduce(seeds=2, **known)
    stored = (tmp_path / "up.json").read_bytes()
    measured.clear()
    (result,) = reproduce(seeds=2, device="cuda", **known)
    assert measured == [(True, 0, "cpu"), (False, 0, "cuda"), (False, 1, "cuda")]
    assert result.values("value") == [1.25, 2.25]
    assert (tmp_path / "up.json").read_bytes() == stored
    again = load("up", tmp_path, "cuda")
    assert (again.runs, again.device) == (result.runs, "cuda")
    assert again.versions["gpu"] == "GPU of a test"
    content = json.loads((tmp_path / "up.cuda.json").read_text())
    assert content["device"] == "cuda"
    assert content["command"] == "python -m kdcourse reproduce up --device cuda --seeds 2"
    measured.clear()
    reproduce(seeds=2, device="cuda", **known)  # which is stored, and of this code
    assert check(device="cuda", **known) == check(**known) == {"up": 0.0}
    assert {toy for toy, *_ in measured} == {True}
    assert {device for *_, device in measured} == {"cpu"}
    assert "changed" not in capsys.readouterr().out
    assert "+1.75" in table(["up"], tmp_path, "cuda")
    assert "+0.75" in table(["up"], tmp_path)


@pytest.mark.parametrize("id", ["multi-view", "hint-stages", "mutual"])
def test_every_training_of_an_experiment_is_on_the_device_of_the_lab(id, monkeypatch):
    asked = []
    fitting = importlib.import_module("kdcourse.training.fit")
    choose = lambda device: asked.append(device) or torch.device("cpu")  # noqa: E731
    monkeypatch.setattr(fitting, "choose_device", choose)
    Lab(CLAIMS[id], seed=0, toy=True, device="elsewhere").measure()
    assert set(asked) == {"elsewhere"}


# --- the table


def cells(line):
    """Split a row of a Markdown table, in which ``|`` inside text is escaped."""
    parts = re.split(r"(?<!\\)\|", line)
    assert (parts[0], parts[-1]) == ("", "")
    return [part.strip() for part in parts[1:-1]]


def test_table_has_a_row_an_effect(registry, tmp_path):
    both = (Effect("first", "a"), Effect("|second|", "b"))
    exact = (Bound("equal", "zero", 0.0), Bound("nearly", "tiny", 1e-9))
    registry["both"] = Claim("both", "p(a|b)", 1, dict, both, exact)
    registry["plain"] = Claim("plain", "Reported.", 1, dict)
    registry["new"] = Claim("new", "Not | yet.", 1, dict)
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
