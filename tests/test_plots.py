import itertools

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from kdcourse import logit
from kdcourse.course import plots
from kdcourse.course.bench.losses import Cost
from kdcourse.course.claims import Claim, Effect, Result, load
from kdcourse.course.claims.claim import CLAIMS, shown_in
from kdcourse.data import Images
from kdcourse.errors import ArgumentError
from kdcourse.language import Characters, Vocabulary
from kdcourse.models import language_model
from kdcourse.motivation import Landscape
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


def test_softened_draws_the_image_and_the_probabilities_of_every_temperature():
    figure = plots.softened(PIXELS[0], LOGITS[0], CLASSES, temperatures=(1, 4))
    image, *others = figure.axes
    assert np.array_equal(image.images[0].get_array(), PIXELS[0, 0].numpy())
    for axis, temperature in zip(others, (1, 4), strict=True):
        drawn = [bar.get_width() for bar in axis.patches]
        assert drawn == pytest.approx(logit.softmax(LOGITS[:1], temperature)[0].tolist())
        assert f"{temperature}" in axis.get_title()
    assert set(CLASSES) <= set(labels(others[0]))
    assert not set(CLASSES) & set(labels(others[1]))


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
    words = {"row_label": "row", "column_label": "column", "value_label": "value, %"}
    figure = plots.heat(values, "ab", "xy", **words, framed=["bx"])
    axis, bar = figure.axes
    assert [frame.get_xy() for frame in axis.patches] == [(-0.5, 0.5)]
    assert [text.get_text() for text in axis.texts] == ["1.0", "2.0", "3.0", "4.5"]
    assert (axis.get_xlabel(), axis.get_ylabel(), bar.get_ylabel()) == ("column", "row", "value, %")


def test_the_map_shows_gains_over_labels_alone():
    claim = Claim("map", "", 2, lambda seed: {})
    runs = {
        seed: {"alone": 80.0, "tau=1 lambda=1": 81.0, "tau=4 lambda=1": 83.0 + seed}
        for seed in (0, 1)
    }
    figure = plots.temperature_weight_map(Result(claim, runs), (1, 4), (1,), chosen=(4, 1))
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "3.50"]
    (frame,) = figure.axes[0].patches
    assert frame.get_xy() == (-0.5, 0.5)  # around the second row of the only column


def words(figure):
    return [[text.get_text() for text in axis.texts] for axis in figure.axes]


def test_effects_show_mean_interval_and_every_seed(result):
    figure = plots.effects(result)
    (estimate,) = result.estimates
    seeds, interval, mean, zero = figure.axes[0].lines
    assert sorted(seeds.get_xdata()) == [2.0, 3.0, 4.0, 5.0]
    assert list(interval.get_xdata()) == [estimate.low, estimate.high]
    assert list(mean.get_xdata()) == [estimate.mean]
    assert list(zero.get_xdata()) == [0, 0]
    assert words(figure) == [["toy", "holds", "gain"]]


@pytest.fixture
def measured():
    effects = (
        Effect("more points", "a"),
        Effect("no points", "b"),
        Effect("fewer points", "c"),
        Effect("a loss", "a", unit="nats"),
        Effect("a cosine", "a", unit=""),
    )
    runs = {
        seed: {"a": 2.0 + 0.1 * seed, "b": seed - 1.5, "c": -2.0 - 0.1 * seed} for seed in range(4)
    }
    return Result(Claim("toy", "A toy.", 1, lambda lab: (), effects), runs)


def test_a_forest_draws_every_effect_once_in_the_panel_of_its_unit(measured):
    figure = plots.forest(measured, Result(Claim("none", "None.", 1, lambda lab: ()), {}))
    assert words(figure) == [
        ["toy", "reversed", "more points", "no points", "fewer points"],
        ["toy", "reversed", "a loss"],
        ["toy", "reversed", "a cosine"],
    ]
    points, nats, cosine = figure.axes
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "difference, percentage points",
        "difference, nats",
        "difference",
    ]
    heights = [text.get_position()[1] for text in points.texts[2:]]
    for place, (e, marker) in enumerate(zip(measured.estimates[:3], "oDX", strict=True)):
        interval, mean = points.lines[2 * place : 2 * place + 2]
        assert list(interval.get_xdata()) == [e.low, e.high]
        assert (list(mean.get_xdata()), mean.get_marker()) == ([e.mean], marker)
        above = mean.get_ydata()[0] - heights[place]
        assert 0 < above < 0.5  # of the row: the label is this interval's
    for axis, e in zip((nats, cosine), measured.estimates[3:], strict=True):
        assert list(axis.lines[0].get_xdata()) == [e.low, e.high]
        assert axis.get_xscale() == "linear"
    (legend,) = figure.legends
    assert [text.get_text().split(":")[1] for text in legend.get_texts()] == [
        *(" holds", " not seen", " reversed")
    ]
    assert len({handle.get_marker() for handle in legend.legend_handles}) == 3


def test_in_a_forest_small_and_large_effects_can_both_be_read(measured):
    effects = (Effect("small", "b"), Effect("large", "large"))
    runs = {seed: {**run, "large": 50.0 + seed} for seed, run in measured.runs.items()}
    (axis,) = plots.forest(Result(Claim("toy", "", 1, lambda lab: (), effects), runs)).axes
    assert axis.get_xscale() == "symlog"
    assert axis.get_xlabel().endswith("; logarithmic beyond ±1")
    low, high = axis.get_xlim()
    drawn = [x for line in axis.lines for x in line.get_xdata()]
    assert low < min(drawn) < max(drawn) < high
    assert {"-1", "0", "+1", "+10", "+30"} <= set(labels(axis))


@pytest.mark.parametrize("notebook", sorted({claim.notebook for claim in CLAIMS.values()}))
def test_no_text_of_a_forest_overlaps_another_or_is_cut(notebook):
    figure = plots.forest(*map(load, shown_in(notebook)))
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts]
        assert not [a for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
        whole = axis.get_tightbbox()
        assert whole.x0 >= 0
        assert whole.x1 <= figure.bbox.width


def test_arms_show_means(result):
    axis = plots.arms(result, ["alone", "taught"]).axes[0]
    centres = [line.get_ydata()[0] for line in axis.lines if line.get_marker() in "o^"]
    assert centres == pytest.approx([81.5, 85.0])
    assert axis.get_ylabel() == "test accuracy, %"


def test_baselines_are_grey_whatever_they_are_called(result):
    axis = plots.arms(result, {"alone": "labels", "taught": "KD"}, baselines=["taught"]).axes[0]
    colours = [line.get_color() for line in axis.lines if line.get_marker() in "o^"]
    assert colours == [plots.DISTILLED, plots.ALONE]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["labels", "KD"]


POWERS = [2**n for n in range(8)]


def test_histories_and_curves_label_their_lines():
    rows = [{"epoch": 1, "train_accuracy": 0.5}, {"epoch": 2, "train_accuracy": 0.75}]
    axis = plots.histories({"alone": History(rows)}, "train_accuracy").axes[0]
    assert list(axis.lines[0].get_ydata()) == [50, 75]
    assert axis.get_ylabel() == "train accuracy, %"
    axis = plots.curves([0, 1], {"a": [1, 2], "b": [2, 3]}, x_label="x", y_label="y").axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]


@pytest.mark.parametrize(
    ("points", "scale", "marked"),
    [(10, "linear", [*range(1, 11)]), (71, "linear", [*range(1, 72, 10)]), (128, "log", POWERS)],
)
def test_markers_stand_apart_on_any_axis(points, scale, marked):
    x, noisy = np.arange(1, points + 1), np.tile([0, 9], points)[:points]
    figure = plots.curves(x, {"a": noisy}, x_label="x", y_label="y", x_scale=scale)
    (line,) = figure.axes[0].lines
    assert list(x[line.get_markevery()]) == marked


def test_a_pale_image_is_drawn_pale():
    (axis,) = plots.gallery({"pale": PIXELS[:1] // 2}, ["ant"]).axes
    assert axis.images[0].get_clim() == (0, 255)


def test_gradient_norms_are_on_log_axes():
    axis = plots.gradient_norms([1, 2], [1.0, 1.0], [1.0, 0.25]).axes[0]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert list(axis.lines[1].get_ydata()) == [1.0, 0.25]
    assert {"1", "2"} <= set(labels(axis))


def test_no_figure_stays_open(result):
    import matplotlib.pyplot as plt

    assert isinstance(plots.effects(result), Figure)
    assert plt.get_fignums() == []


def test_maps_draw_every_models_map_against_its_own_largest():
    shown = {"teacher": torch.rand(2, 4, 4), "student": torch.zeros(2, 4, 4)}
    figure = plots.maps(PIXELS, shown, titles=["an ant", "a bee"])
    rows = np.array(figure.axes[:6]).reshape(2, 3)
    assert [axis.get_title() for axis in rows[0]] == ["an ant", "teacher", "student"]
    for n, row in enumerate(rows):
        for axis, values in zip(row[1:], shown.values(), strict=True):
            drawn = axis.images[-1].get_array()
            expected = values[n] / (values[n].max() or 1)
            assert drawn.data == pytest.approx(expected.numpy())
    assert "attention" in figure.axes[-1].get_ylabel()


@pytest.mark.parametrize(("channels", "lines"), [(1, 1), (3, 0)])
def test_maps_lie_below_the_outline_of_what_a_grey_image_shows(channels, lines):
    pixels = torch.zeros(1, channels, 8, 8, dtype=torch.uint8)
    pixels[..., 2:6, 3:5] = 255
    _, axis, _ = plots.maps(pixels, {"teacher": torch.rand(1, 4, 4)}).axes
    outlines = [drawn for drawn in axis.collections if len(drawn.get_paths()[0])]
    assert len(outlines) == lines
    for drawn in outlines:
        x, y = drawn.get_paths()[0].vertices.T
        assert [x.min(), x.max(), y.min(), y.max()] == pytest.approx([2.5, 4.5, 1.5, 5.5], abs=0.5)


def test_an_empty_image_has_no_outline():
    axis = plots.maps(torch.zeros_like(PIXELS), {"teacher": torch.rand(2, 4, 4)}).axes[1]
    assert not axis.collections


@pytest.fixture
def searched():
    claim = Claim("toy-search", "A toy.", 2, lambda seed: {})
    runs = {
        seed: {"alone": 80.0, "logit 0.1": 81.0 + seed, "logit 10": 84.0, "hint 0.1": 80.0}
        | {"hint 10": 79.0}
        for seed in range(3)
    }
    return Result(claim, runs, {seed: 1.0 for seed in runs})


def test_sweep_draws_means_and_deviations_by_weight(searched):
    axis = plots.sweep(searched, ["logit", "hint"], [0.1, 10]).axes[0]
    logits, hints = axis.containers
    assert logits[0].get_ydata().tolist() == [82, 84]
    assert hints[0].get_ydata().tolist() == [80, 79]
    assert logits.get_label() == "logit"
    (bars,) = logits[2]
    assert bars.get_segments()[0][:, 1].tolist() == pytest.approx([81, 83])
    assert axis.get_xscale() == "log"
    assert "validation accuracy" in axis.get_ylabel()


def test_distance_matrices_are_sorted_by_class_in_units_of_their_mean():
    z = torch.tensor([[0.0], [10.0], [1.0], [12.0]])
    target = torch.tensor([0, 1, 0, 1])
    matrix = (z - z.T).abs()
    figure = plots.distance_matrices({"teacher": matrix, "twice": 2 * matrix}, target, "ab")
    order = [0, 2, 1, 3]
    for axis in figure.axes[:2]:
        drawn = axis.images[0].get_array().data
        expected = (matrix / matrix.mean())[order][:, order].numpy()
        assert drawn == pytest.approx(expected)
        assert [t.get_text() for t in axis.get_xticklabels()] == ["a", "b"]
        assert axis.get_xticks().tolist() == [1, 3]


def test_neighbours_are_marked_by_class():
    images = Images(PIXELS.repeat(2, 1, 1, 1), torch.tensor([0, 1, 0, 2]), CLASSES, (0.5,), (0.5,))
    figure = plots.neighbours(images, [0], {"teacher": torch.tensor([[2, 1]])})
    assert [axis.get_title() for axis in figure.axes] == ["teacher: ant", "✓ ant", "✗ bee"]
    assert np.array_equal(figure.axes[1].images[0].get_array(), PIXELS[0, 0].numpy())


def test_embeddings_draw_every_class_where_it_lies():
    places, target = torch.randn(9, 2), torch.arange(9) % 3
    figure = plots.embeddings({"as it is": places, "moved": places + 5}, target, CLASSES)
    for axis, shift in zip(figure.axes, (0, 5), strict=True):
        for k, drawn in enumerate(axis.collections):
            assert drawn.get_offsets().data == pytest.approx((places[target == k] + shift).numpy())
        assert {text.get_text() for text in axis.texts} == set(CLASSES)


def test_embeddings_of_other_samples_are_drawn_on_the_same_axes():
    places = {"real": torch.randn(20, 2), "generated": 9 * torch.rand(30, 2)}
    named = {"real": torch.arange(20) % 2, "generated": torch.arange(30) % 2}
    figure = plots.embeddings(places, named, ["bag", "boot"], same_axes=True)
    figure.draw_without_rendering()
    one, other = figure.axes
    assert one.get_xlim() == other.get_xlim()
    assert one.get_ylim() == other.get_ylim()
    drawn = torch.from_numpy(np.concatenate([c.get_offsets() for c in other.collections]))
    assert torch.equal(drawn.float(), torch.cat([places["generated"][k::2] for k in (0, 1)]))


def test_cost_by_samples_draws_both_sides():
    costs = [
        Cost(name, (n, 512), n / 1e4, n**2 / 1e4, 1 / n, 1, 1)
        for name in ("angle", "distance")
        for n in (32, 16)
    ] + [Cost("angle", (32, 9), 1.0, 1.0, 1.0, 1, 1)]
    figure = plots.cost_by_samples(costs, 512)
    assert [axis.get_title() for axis in figure.axes] == ["angle", "distance"]
    for axis in figure.axes:
        other, ours = axis.lines
        assert ours.get_xdata().tolist() == [16, 32]
        assert ours.get_ydata().tolist() == pytest.approx([1.6, 3.2])
        assert other.get_ydata().tolist() == pytest.approx([25.6, 102.4])
        assert axis.get_xscale() == axis.get_yscale() == "log"


@pytest.fixture
def sizes():
    claim = Claim("sizes", "A toy.", 5, lambda seed: {})
    runs = {
        seed: {"alone": 70.0 + seed}
        | {name: 74.0 + seed for name in ("small", "large", "early")}
        | {f"{name} teacher": 80.0 + seed for name in ("small", "large", "early")}
        | {f"{name} distance": 0.1 * (seed + 1) for name in ("small", "large", "early")}
        for seed in range(3)
    }
    return Result(claim, runs, {seed: 1.0 for seed in runs})


def test_teacher_sizes_draw_teacher_student_and_distance(sizes):
    figure = plots.teacher_sizes(sizes, ["small", "large"], early="early")
    for axis, mean in zip(figure.axes, (81.0, 75.0, 0.2), strict=True):
        data = [y for line in axis.get_lines() for y in np.atleast_1d(line.get_ydata())]
        assert sum(y == pytest.approx(mean) for y in data) == 3  # two sizes, and the early one
        assert {"small", "large", "early"} <= set(labels(axis))
    assert 71.0 in [line.get_ydata()[0] for line in figure.axes[1].get_lines()]
    assert "%" in figure.axes[0].get_ylabel()
    assert "nats" in figure.axes[2].get_ylabel()


def test_learned_views_draw_every_net():
    learned = {"one": torch.rand(4, 2), "two": torch.rand(4, 2)}
    figure = plots.learned_views(learned)
    for axis, (name, shares) in zip(figure.axes[:2], learned.items(), strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), shares.numpy())
        assert axis.images[0].get_clim() == (0, 1)
        assert name in axis.get_title()
        assert f"{100 * float(shares.mean()):.0f} %" in axis.get_title()
    assert {"headlight", "window"} <= set(labels(figure.axes[0]))


@pytest.fixture
def bowl(device):
    x = torch.linspace(-1, 1, 5, device=device)
    return Landscape(x, x, x[:, None].square() + 4 * x.square() + 0.1)


def test_contours_draw_the_loss_and_the_way(bowl):
    way = torch.tensor([[0.5, 0.25], [0.0, 0.0]]).to(bowl.x.device)
    figure = plots.contours({"one": bowl, "two": bowl}, ways={"two": way}, most=4.0)
    one, two = figure.axes[:2]
    assert [axis.get_title() for axis in (one, two)] == ["one", "two"]
    drawn = next(c for c in one.collections if hasattr(c, "levels"))
    assert drawn.levels[0] == pytest.approx(0.1)
    assert drawn.levels[-1] == pytest.approx(4.0)
    lines = np.concatenate([p.vertices for p in drawn.get_paths() if len(p.vertices)])
    assert abs(lines[:, 0]).max() > abs(lines[:, 1]).max()  # the first direction is the flat one
    assert len(one.get_lines()) == 1
    np.testing.assert_allclose(two.get_lines()[1].get_xydata(), way.cpu().numpy())
    assert "nats" in figure.axes[2].get_ylabel()


def test_surfaces_cut_off_what_is_high(bowl):
    figure = plots.surfaces({"one": bowl, "two": bowl}, most=2.0)
    assert [axis.get_title() for axis in figure.axes] == ["one", "two"]
    assert figure.axes[0].get_zlim() == (0, 2)
    assert len(figure.axes[0].collections) == 1


def test_function_space_marks_where_each_loss_ends():
    weights = np.linspace(0, 1, 11)
    functions = np.stack([weights, weights**2], axis=1)
    losses = {"L": weights, "L + dist": 1 - weights}
    ends = {"L": 0.0, "L + dist": 0.98}
    figure = plots.function_space(weights, functions, losses, (1.0, 2.0), ends, start=0.3)
    plane, *along = figure.axes
    marks = [line.get_xydata().tolist() for line in plane.get_lines()]
    expected = [[1.0, 2.0]], [[0.3, 0.3**2]], [[0.0, 0.0]], [[1.0, 1.0]]
    for mark, place in zip(marks[1:], expected, strict=True):
        np.testing.assert_allclose(mark, place)
    for axis, (name, values) in zip(along, losses.items(), strict=True):
        whole, way, begin, end = axis.get_lines()
        assert axis.get_title() == name
        np.testing.assert_allclose(whole.get_ydata(), values)
        passed = weights[:4] if name == "L" else weights[3:]
        np.testing.assert_allclose(way.get_xdata(), passed)
        assert begin.get_xdata()[0] == pytest.approx(0.3)
        assert end.get_xdata()[0] == pytest.approx({"L": 0, "L + dist": 1}[name])


def test_what_each_side_sees_is_drawn_in_pairs():
    views = {"fixed": (PIXELS, 255 - PIXELS), "matching": (PIXELS // 2, PIXELS // 2)}
    figure = plots.seen(PIXELS, views)
    axes = np.array(figure.axes).reshape(2, 7)
    rows, gaps = axes[:, [0, 2, 3, 5, 6]], axes[:, [1, 4]]
    assert not any(axis.images for axis in gaps.flat)
    expected = [PIXELS, 255 - PIXELS, PIXELS, PIXELS // 2, PIXELS // 2]
    for n, row in enumerate(rows):
        for axis, pixels in zip(row, expected, strict=True):
            assert np.array_equal(axis.images[0].get_array(), pixels[n, 0].numpy())
    titles = [axis.get_title() for axis in rows[0]]
    assert titles == ["image", "fixed:\nteacher", "\nstudent", "matching:\nteacher", "\nstudent"]


def test_accuracy_by_epochs_has_a_log_axis_and_a_line_a_design():
    claim = Claim("toy", "A toy.", 6, lambda seed: {})
    runs = {
        seed: {f"{name} {n}": n + seed + shift for n in (10, 40) for name, shift in ARMS.items()}
        for seed in (0, 2)
    }
    figure = plots.by_epochs(Result(claim, runs), list(ARMS), (10, 40))
    axis = figure.axes[0]
    assert axis.get_xscale() == "log"
    lines = {c.get_label(): c.lines[0].get_ydata().tolist() for c in axis.containers}
    assert lines == {"labels": [11, 41], "taught": [14, 44]}
    assert {"10", "40"} <= set(labels(axis))


ARMS = {"labels": 0, "taught": 3}


def test_a_gallery_names_rows_and_columns():
    figure = plots.gallery({"real": PIXELS, "made": 255 - PIXELS}, ["ant", "bee"])
    rows = np.array(figure.axes).reshape(2, 2)
    for row, pixels in zip(rows, (PIXELS, 255 - PIXELS), strict=True):
        for axis, image in zip(row, pixels, strict=True):
            assert np.array_equal(axis.images[0].get_array(), image[0].numpy())
    assert [axis.get_title() for axis in rows[0]] == ["ant", "bee"]
    assert [row[0].texts[0].get_text() for row in rows] == ["real", "made"]


LETTERS = Characters("\n :abc")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ab:c a\n", "c a\n"),  # behind the colon
        ("abc", "bc"),  # without one, all that is predicted
        (":" + 40 * "ab", 15 * "ab"),
    ],
)
def test_next_tokens_show_what_was_expected_at_each_place(text, shown):
    model = language_model(8, 1, 2, len(LETTERS), length=99, seed=0)
    figure = plots.next_tokens(model, LETTERS, text, likeliest=3)
    bars, table, _ = figure.axes
    first = text.index(shown)
    tokens = LETTERS.encode([text])
    p = model(tokens[:, :-1])[0].softmax(dim=1).detach()[first - 1 :][: len(shown)]
    came = tokens[0, first : first + len(shown)]
    heights = [bar.get_height() for bar in bars.patches]
    assert heights == pytest.approx(p[range(len(shown)), came].tolist())
    assert [t.get_text() for t in bars.get_xticklabels()] == [*shown.translate({10: "⏎", 32: "␣"})]
    best = p.sort(dim=1, descending=True)
    assert np.asarray(table.images[0].get_array()) == pytest.approx(best.values[:, :3].T.numpy())
    names = [LETTERS.characters[n] for n in best.indices[:, :3].T.flatten()]
    names = ["".join(names).translate({10: "⏎", 32: "␣"})]
    assert ["".join(text.get_text() for text in table.texts)] == names
    framed = [text.get_position() for text in table.texts if text.get_bbox_patch()]
    wanted = (came == best.indices[:, :3].T).nonzero().flip(1).tolist()
    assert sorted(framed) == sorted(map(tuple, wanted))


class Words(Vocabulary):
    """A token for each of some words, which stand alone, and for every letter."""

    def split(self, texts):
        return [
            [self.pieces.index(piece) for piece in text.replace(":", " : ").split()]
            for text in texts
        ]


def test_long_tokens_are_fewer_and_none_overlaps_another():
    words = Words(["extraordinary", "characters", ":", *"abcdehinorstxy", " "])
    model = language_model(8, 1, 2, len(words), seed=0)
    figure = plots.next_tokens(model, words, "a:" + " ".join(20 * ["extraordinary"]))
    bars, table, _ = figure.axes
    figure.draw_without_rendering()
    assert 3 < len(bars.patches) < 20
    assert figure.get_figwidth() < 10
    for texts in (bars.get_xticklabels(), table.texts):
        boxes = [text.get_window_extent() for text in texts]
        assert not [a for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]


def test_next_tokens_of_a_text_that_is_only_begun():
    with pytest.raises(ArgumentError, match="text must go on"):
        plots.next_tokens(language_model(8, 1, 2, len(LETTERS), seed=0), LETTERS, "ab:")


@pytest.mark.parametrize("names", [["forward", "reverse"], {"forward": "KL", "reverse": "other"}])
def test_two_axes_draw_both_means_with_their_intervals(names):
    runs = {
        seed: {
            f"{name}, {of}": place + seed * (1 + place)
            for place, name in enumerate(names)
            for of in ("written", "variety")
        }
        for seed in range(3)
    }
    result = Result(Claim("toy", "A toy.", 8, lambda seed: {}), runs)
    words = {"x_label": "different words, %", "y_label": "nats"}
    (axis,) = plots.two_axes(result, names, x="variety", y="written", **words).axes
    for name, drawn in zip(names, axis.containers, strict=True):
        point, _, (across, up) = drawn
        e = result.estimate(f"{name}, variety")
        assert point.get_xydata().tolist() == [[e.mean, e.mean]]
        assert across.get_segments()[0].tolist() == [[e.low, e.mean], [e.high, e.mean]]
        assert up.get_segments()[0].tolist() == [[e.mean, e.low], [e.mean, e.high]]
    said = [text.get_text() for text in axis.get_legend().texts]
    assert said == (list(names.values()) if isinstance(names, dict) else names)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("different words, %", "nats")
    assert len({point.get_marker() for point, _, _ in axis.containers}) == 2
