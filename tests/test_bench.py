import json

import pytest

from kdcourse import bench


def test_compare_takes_the_median_of_ratios(monkeypatch):
    seconds = iter([1.0, 2.0, 3.0, 2.0, 1.0, 4.0])
    monkeypatch.setattr(bench, "_seconds", lambda function: next(seconds))
    calls = []
    result = bench.compare("toy", lambda: calls.append("ours"), lambda: calls.append("other"), 3)
    assert (result.ours, result.other, result.ratio, result.rounds) == (1.0, 2.0, 0.5, 3)
    assert calls == ["ours", "other"]  # the warm-up; the rest was timed by the fake clock


def test_bench_stores_what_it_prints(tmp_path):
    path = tmp_path / "bench.json"
    comparisons = bench.bench(images=256, rounds=1, path=path)
    stored = json.loads(path.read_text())
    assert [c["name"] for c in stored["comparisons"]] == [c.name for c in comparisons]
    assert "torch" in stored["versions"]
    table = bench.table(comparisons).split("\n")
    assert len(table) == 2 + len(comparisons)
    assert len({row.count("|") for row in table}) == 1


def test_both_sides_train_the_same_student():
    from kdcourse.data import fashion_mnist

    train = fashion_mnist().train[:256]
    ours, by_hand = bench._epoch_of_fit(train), bench._epoch_by_hand(train)
    for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
        assert a.detach().numpy() == pytest.approx(b.detach().numpy(), abs=1e-6)
