import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from kdcourse import logit, plots
from kdcourse.claims import Claim, Effect, Result
from kdcourse.training import History

CLASSES = ("ant", "bee", "cat")
LOGITS = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 1.0]])
PIXELS = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)


@pytest.fixture
def result():
    claim = Claim("toy", "A toy.", 2, lambda seed: {}, (Effect("gain", "taught", "alone"),))
    runs = {seed: {"alone": 80.0 + seed, "taught": 82.0 + 2 * seed} for seed in range(4)}
    return Result(claim, runs, {seed: 1.0 for seed in runs})


def labels(axis):
    return [text.get_text() for text in (*axis.get_xticklabels(), *axis.get_yticklabels())]


def test_softened_draws_the_probabilities_of_every_temperature():
    figure = plots.softened(LOGITS[0], CLASSES, temperatures=(1, 4))
    for axis, temperature in zip(figure.axes, (1, 4), strict=True):
        drawn = [bar.get_width() for bar in axis.patches]
        assert drawn == pytest.approx(logit.softmax(LOGITS[:1], temperature)[0].tolist())
        assert f"{temperature}" in axis.get_title()
    assert set(CLASSES) <= set(labels(figure.axes[0]))


def test_predictions_draw_both_models_and_mark_the_true_class():
    p = {"teacher": LOGITS.softmax(1), "student": (LOGITS / 2).softmax(1)}
    figure = plots.predictions(PIXELS, p, torch.tensor([0, 2]), CLASSES)
    images, bars = figure.axes[:2], figure.axes[2:]
    assert [axis.get_title() for axis in images] == ["ant", "cat"]
    for n, axis in enumerate(bars):
        drawn = [bar.get_width() for bar in axis.patches]
        assert drawn == pytest.approx([*p["teacher"][n].tolist(), *p["student"][n].tolist()])
        assert axis.get_xlabel() == "probability"
    assert bars[1].lines[0].get_ydata()[0] == pytest.approx(2.2)
    shown = images[0].images[0].get_array()
    assert np.array_equal(shown, PIXELS[0, 0].numpy())


def test_heat_writes_every_number():
    values = np.array([[1.0, 2.0], [3.0, 4.5]])
    figure = plots.heat(
        values, "ab", "xy", row_label="row", column_label="column", value_label="value, %"
    )
    axis, bar = figure.axes
    assert [text.get_text() for text in axis.texts] == ["1.0", "2.0", "3.0", "4.5"]
    assert (axis.get_xlabel(), axis.get_ylabel(), bar.get_ylabel()) == ("column", "row", "value, %")


def test_the_map_shows_gains_over_labels_alone():
    claim = Claim("map", "", 2, lambda seed: {})
    runs = {
        seed: {"alone": 80.0, "tau=1 lambda=1": 81.0, "tau=4 lambda=1": 83.0 + seed}
        for seed in (0, 1)
    }
    figure = plots.temperature_weight_map(Result(claim, runs), (1, 4), (1,))
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "3.50"]


def test_effects_show_mean_interval_and_every_seed(result):
    axis = plots.effects(result).axes[0]
    (estimate,) = result.estimates
    assert sorted(axis.lines[0].get_xdata()) == [2.0, 3.0, 4.0, 5.0]
    (segment,) = axis.collections[0].get_segments()
    assert segment[:, 0] == pytest.approx([estimate.low, estimate.high])
    assert "gain" in labels(axis)
    assert "4 seeds" in axis.get_xlabel()


def test_arms_show_means(result):
    axis = plots.arms(result, ["alone", "taught"]).axes[0]
    centres = [line.get_ydata()[0] for line in axis.lines if line.get_marker() in "o^"]
    assert centres == pytest.approx([81.5, 85.0])
    assert axis.get_ylabel() == "test accuracy, %"


def test_histories_and_curves_label_their_lines():
    rows = [{"epoch": 1, "train_accuracy": 0.5}, {"epoch": 2, "train_accuracy": 0.75}]
    axis = plots.histories({"alone": History(rows)}, "train_accuracy").axes[0]
    assert list(axis.lines[0].get_ydata()) == [50, 75]
    assert axis.get_ylabel() == "train accuracy, %"
    axis = plots.curves([0, 1], {"a": [1, 2], "b": [2, 3]}, x_label="x", y_label="y").axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]


def test_gradient_norms_are_on_log_axes():
    axis = plots.gradient_norms([1, 2], [1.0, 1.0], [1.0, 0.25]).axes[0]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert list(axis.lines[1].get_ydata()) == [1.0, 0.25]


def test_no_figure_stays_open(result):
    import matplotlib.pyplot as plt

    assert isinstance(plots.effects(result), Figure)
    assert plt.get_fignums() == []
