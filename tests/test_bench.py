import json
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from kdcourse import linear_kd, many_classes, models
from kdcourse.__main__ import main
from kdcourse.course import plots
from kdcourse.course.bench import (
    chunks,
    compare,
    doctor,
    gradients,
    kernels,
    losses,
    methods,
    overhead,
    sampling,
    scaling,
    startup,
    training,
)
from kdcourse.data import fashion_mnist
from kdcourse.teachers import pretrained
from kdcourse.training.device import one_thread


def test_compare_takes_the_median_of_ratios(monkeypatch):
    seconds = iter([1.0, 2.0, 3.0, 2.0, 1.0, 4.0])
    monkeypatch.setattr(compare, "_seconds", lambda function, timer: next(seconds))
    calls = []
    result = compare.compare("toy", lambda: calls.append("a"), lambda: calls.append("b"), 3)
    assert (result.ours, result.other, result.ratio, result.rounds) == (1.0, 2.0, 0.5, 3)
    assert calls == ["a", "b"]  # the warm-up; the rest was timed by the fake clock


def test_peak_memory_is_that_of_tensors_that_live_together():
    def one_after_the_other():
        for _ in range(5):
            torch.zeros(1000)

    def together():
        kept = [torch.zeros(1000) for _ in range(5)]
        kept[0].view(10, 100).add_(1)

    given = torch.zeros(1000)

    def views():
        given.view(10, 100).split(2)[1].add_(1)

    assert compare.peak_memory(one_after_the_other) in (4000, 8000)
    assert compare.peak_memory(together) == 20000
    assert compare.peak_memory(views) == 0


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def rectangular(table, rows):
    lines = table.split("\n")
    assert len(lines) == 2 + rows
    assert len({line.count("|") for line in lines}) == 1


def test_overhead_is_stored_as_it_is_printed(tmp_path):
    store = replace(overhead.STORE, path=tmp_path / "bench.json")
    comparisons = overhead.measure(images=256, points=3, rounds=1, store=store)
    assert store.load() == comparisons
    assert "torch" in json.loads(store.path.read_text())["versions"]
    rectangular(overhead.table(comparisons), 4)


def test_what_was_not_measured_says_how_to(tmp_path):
    for bench in (
        chunks,
        doctor,
        gradients,
        kernels,
        losses,
        methods,
        overhead,
        sampling,
        scaling,
        startup,
        training,
    ):
        store = replace(bench.STORE, path=tmp_path / "none.json")
        with pytest.raises(FileNotFoundError, match=f"measure: {store.command}"):
            store.load()


def test_a_doctors_cost_is_stored_as_it_is_printed(tmp_path):
    store = replace(doctor.STORE, path=tmp_path / "doctor.json")
    comparisons = doctor.measure(images=256, epochs=1, rounds=1, store=store)
    assert store.load() == comparisons
    rectangular(doctor.table(comparisons), 1)


def test_a_doctor_costs_less_than_a_fiftieth():
    assert all(each.ratio < 1.02 for each in doctor.load())


def test_sampling_is_stored_as_it_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "MODELS", {"a model": (8, 1)})
    store = replace(sampling.STORE, path=tmp_path / "sampling.json")
    comparisons = sampling.measure(rounds=1, store=store)
    assert store.load() == comparisons
    assert len(comparisons) == len(sampling.TEXTS)
    rectangular(sampling.table(comparisons), 2)


def test_a_cache_saves_most_of_the_time():
    ratios = {each.name: each.ratio for each in sampling.load()}
    assert max(ratios.values()) < 1
    assert all(ratio < 1 / 5 for name, ratio in ratios.items() if "64 texts" in name)


def test_startup_is_stored_as_it_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "PROGRAMS", {"import kdcourse": "pass", "import re": "pass"})
    store = replace(startup.STORE, path=tmp_path / "startup.json")
    comparisons = startup.measure(rounds=1, store=store)
    assert store.load() == comparisons
    assert all(c.other > 0 for c in comparisons)
    rectangular(startup.table(comparisons), 2)


def test_kernels_are_stored_as_they_are_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "SERVER", "")
    store = replace(kernels.STORE, path=tmp_path / "kernels.json")
    notebook = tmp_path / "1_short.ipynb"
    cells = [new_code_cell("memory = b'1' * 200_000_000"), new_code_cell("del memory")]
    notebook.write_text(nbformat.writes(new_notebook(cells=cells)))
    server, kernel = costs = kernels.measure([notebook], store=store)
    assert store.load() == costs
    assert 200_000_000 < kernel.memory < 600_000_000  # what was freed again counts, torch does not
    assert server.seconds > 0
    rectangular(kernels.table(costs), 2)


def test_the_package_is_imported_in_no_time():
    """The stored measurement holds what is asked of it."""
    bare, losses_beside_torch = startup.load()
    assert bare.ours - bare.other < 0.1
    assert losses_beside_torch.ratio < 1.2


def test_both_sides_train_the_same_student():
    train = fashion_mnist().train[:256]
    ours, by_hand = models.plain(8, seed=0), overhead._epoch_by_hand(train)
    overhead.by_fit(train, pretrained("res16"), ours)()
    for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
        assert a.detach().numpy() == pytest.approx(b.detach().numpy(), abs=1e-6)


def test_costs_of_losses_are_stored_as_they_are_printed(tmp_path):
    store = replace(losses.STORE, path=tmp_path / "losses.json")
    costs = losses.measure(
        rounds=1, embeddings=[(8, 16)], features=[(4, 3, 5, 5)], store=store, progress=False
    )
    assert {c.loss for c in costs} == {"distance", "angle", "similarity", "attention"}
    loaded = store.load()
    assert [(c.loss, list(c.shape)) for c in costs] == [(c.loss, list(c.shape)) for c in loaded]
    assert all(c.ours > 0 and c.other > 0 and c.our_memory > 0 for c in loaded)
    assert "torchdistill" in json.loads(store.path.read_text())["versions"]
    rectangular(losses.table(loaded), 4)


@pytest.mark.parametrize("name", ["distance", "angle", "attention"])
def test_both_sides_compute_the_same_loss(name):
    ours, other = losses._losses()[name]
    shape = (9, 3, 4, 4) if name == "attention" else (9, 6)
    s, t = (torch.rand(shape, dtype=torch.float64) for _ in range(2))
    factor = {"distance": 8 / 9, "angle": 8 * 7 / 81, "attention": 1}[name]  # see the docstrings
    assert other(s, t).item() == pytest.approx(factor * ours(s, t).item(), rel=1e-6)


@pytest.mark.parametrize("name", methods.METHODS)
def test_ours_and_the_authors_form_have_the_same_value_and_gradient(name):
    """Up to the factor that the docstring tells, so that like is compared with like."""
    method, found = methods.METHODS[name], []
    shape = methods.SIZES[method.sizes][0]
    for loss in (method.ours, method.other):
        student, *rest = method.inputs(shape, torch.float64)  # anew: a memory changes
        value = loss(student.requires_grad_(), *rest)
        found.append((value, *torch.autograd.grad(value, student)))
    (ours, slope), other = found
    factor = method.factor(shape)
    torch.testing.assert_close((factor * ours, factor * slope), other, rtol=1e-10, atol=1e-14)


def test_every_method_is_compared_with_its_authors_form():
    files = Path(methods.matched_features_loss.__code__.co_filename).parent.glob("[a-z]*.py")
    modules = {f"kdcourse.methods.{file.stem}" for file in files}
    assert modules == {
        one.__module__
        for one in vars(methods).values()
        if getattr(one, "__module__", "").startswith("kdcourse.methods.")
    }


def test_costs_of_methods_are_stored_as_they_are_printed(tmp_path, monkeypatch):
    few = {name: methods.METHODS[name] for name in ("TTM", "SimKD", "CRD")}
    monkeypatch.setattr(methods, "METHODS", few)
    monkeypatch.setitem(methods.SIZES, "remembered", ((2, 3), (3, 3)))
    monkeypatch.setitem(methods.SIZES, "logits", ((2, 3), (3, 3)))
    monkeypatch.setitem(methods.SIZES, "features", ((2, 3, 2, 2), (3, 3, 2, 2)))
    store = replace(methods.STORE, path=tmp_path / "methods.json")
    costs = methods.measure(rounds=1, store=store, progress=False)
    loaded = store.load()
    assert [(c.loss, c.shape, c.ratio) for c in costs] == [
        (c.loss, tuple(c.shape), c.ratio) for c in loaded
    ]
    assert "torchdistill" in json.loads(store.path.read_text())["versions"]
    rectangular(methods.table(loaded), 6)
    assert "At tiny sizes it is" in methods.about(loaded)


def test_methods_cost_no_more_than_their_authors_form():
    """The stored measurement holds what the docs say of it, and there is one of all."""
    costs = {(one.loss, tuple(one.shape)): one for one in methods.load()}
    for name, method in methods.METHODS.items():
        tiny, *real = (costs.pop((name, shape)) for shape in methods.SIZES[method.sizes])
        assert max(one.ratio for one in real) <= 1.05, name
        assert tiny.ours - tiny.other <= 300e-6, name
        if name in ("NST, polynomial", "FSP, pair by pair", "CRD", "PKT"):
            largest = real[-1]
            assert largest.ratio < 1 / 3 or largest.our_memory < largest.other_memory / 3, name
    assert not costs


def test_without_torchdistill_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchdistill.losses", None)
    assert main(["bench"]) == 1
    assert "pip install 'kdcourse[test]'" in capsys.readouterr().err


def test_angles_cost_less_than_all_differences():
    """The stored measurement holds what the docs say of it."""
    costs = {(c.loss, tuple(c.shape)): c for c in losses.load()}
    for shape, faster in {(64, 512): 12, (128, 512): 12, (32, 25088): 60, (256, 512): 5}.items():
        assert 1 / costs["angle", shape].ratio >= faster
    large = costs["angle", (256, 512)]
    assert large.our_memory <= large.other_memory / 10


def test_cached_answers_cost_hardly_more_than_labels():
    """The stored measurement holds what is asked of it."""
    (cached,) = [c for c in overhead.load() if c.name == overhead.CACHED]
    assert cached.ratio <= 1.15


def test_both_sides_draw_the_same_landscape():
    train = fashion_mnist().train[:200]
    ours, other = overhead._our_landscape(train, 3), overhead._loader_landscape(train, 3)
    torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


def test_a_landscape_takes_less_than_a_minute():
    """The stored measurement holds what is asked of it."""
    (drawn,) = [c for c in overhead.load() if c.name.startswith("a landscape of 31 × 31 points")]
    assert drawn.ours < 60


def test_throughput_is_stored_as_it_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: model)  # takes a minute, and is torch's
    store = replace(training.STORE, path=tmp_path / "training.json")
    sizes = {"batch_sizes": (32,), "widths": (4,), "samples": (64, 128)}
    results = training.measure(images=128, rounds=1, store=store, progress=False, **sizes)
    assert store.load() == results
    assert json.loads(store.path.read_text())["processor"]
    assert all(row.images_per_second > 0 for row in results)
    assert [r.setting for r in results if r.panel == "samples"] == [64] * 3 + [128] * 3
    rectangular(training.table(results), 6 + 7)
    figure = plots.throughput(results)
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "images per second",
        "batch size",
        "width of the teacher",
        "samples",
    ]
    assert len(figure.axes[0].patches) == 6


def test_two_processes_are_stored_beside_one(tmp_path, monkeypatch):
    seconds = dict(zip(scaling.ARMS, ([2.0], [1.0], [1.0]), strict=True))
    monkeypatch.setattr(scaling, "_under_torchrun", lambda *_: seconds)
    store = replace(scaling.STORE, path=tmp_path / "scaling.json")
    results = scaling.measure(images=128, rounds=1, store=store, progress=False)
    assert store.load() == results
    expected = [(64, 1), (128, 2), (128, 2), (16, 1), (32, 2), (32, 2)]
    assert [(row.images_per_second, row.ratio) for row in results] == expected
    rectangular(scaling.table(results), 6)


def test_two_processes_bring_what_is_asked_of_them():
    """The stored measurement: of large nets, at least 1.75 of one process's throughput."""
    (both,) = [row for row in scaling.load() if row.way == "res16 from res48, 2 processes"]
    assert both.ratio >= 1.75


def test_an_epoch_in_two_processes_is_timed():
    taken = scaling._under_torchrun("plain4", "plain8", 256, 2)
    assert list(taken) == list(scaling.ARMS)
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in taken.values())


def test_tutorial_and_fit_learn_alike():
    train = fashion_mnist().train[:1000]
    torch.manual_seed(0)  # the tutorial draws its order and augmentations from the global generator
    losses = {name: [way() for _ in range(3)] for name, way in training.usual(train).items()}
    first = losses[training.TUTORIAL]
    assert first[-1] < 0.8 * first[0]
    for other in losses.values():  # in another order, with other augmentations
        assert other == pytest.approx(first, rel=0.1)


def test_an_epoch_is_as_fast_as_the_docs_say():
    """The stored measurement holds what is asked of it."""
    ways = {row.way: row for row in training.load() if row.panel == "ways"}
    assert ways[f"{training.LIVE}, tuned"].ratio >= 2.5
    assert ways[f"{training.CACHED}, tuned"].ratio >= 4


def test_both_forms_of_a_gradient_agree_and_are_stored(tmp_path, monkeypatch):
    loss, function, _ = gradients.LOSSES["attention"]
    slopes = []

    def noting(student, teacher):
        student.register_hook(slopes.append)
        return loss(student, teacher)

    monkeypatch.setitem(gradients.LOSSES, "attention", (noting, function, [(8, 16, 4, 4)]))
    monkeypatch.setattr(torch, "compile", lambda form: form)  # that is slow
    store = replace(gradients.STORE, path=tmp_path / "gradients.json")
    savings = gradients.measure(rounds=1, losses=["attention"], store=store)
    assert store.load() == savings
    assert savings[0].our_memory < savings[0].plain_memory
    for slope in slopes[1:]:
        torch.testing.assert_close(slope, slopes[0])
    rectangular(gradients.table(savings), 1)


def test_chunks_are_stored_as_they_are_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda form: form)  # that is slow
    monkeypatch.setitem(many_classes.CHUNK, "cpu", 1000)
    monkeypatch.setitem(linear_kd.CHUNK, "cpu", 1000)
    store = replace(chunks.STORE, path=tmp_path / "chunks.json")
    costs = chunks.measure(samples=256, classes=2000, width=8, rounds=1, store=store)
    assert store.load() == costs
    memory = {cost.form: cost.memory for cost in costs}
    assert max(cost.difference for cost in costs) < 1e-6
    assert 0 < memory["in chunks"] < memory["at once"] / 4
    assert 0 < memory["from hidden states in chunks"] < memory["from hidden states at once"] / 8
    rectangular(chunks.table(costs), 8)


def test_very_many_classes_take_a_quarter_of_the_memory_and_the_time_of_the_compiled_form():
    """The stored measurement holds what is asked of it."""
    costs = {cost.form: cost for cost in chunks.load()}
    plain, compiled, chunked = (
        costs[form] for form in (chunks.AT_ONCE, chunks.COMPILED, "in chunks")
    )
    assert plain.classes == chunked.classes == 128_000
    assert chunked.memory <= plain.memory / 4
    assert chunked.seconds <= 1.5 * compiled.seconds
    assert max(cost.difference for cost in costs.values()) <= 1e-6
