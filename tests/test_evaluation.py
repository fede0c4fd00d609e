"""What a report is made of, measure by measure, against what their definitions say."""

import colorsys
import io
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error
from toys import CLASSES, images, net

from kdcourse import evaluation, metrics, models
from kdcourse.data import Images, replay
from kdcourse.evaluation import export, robustness
from kdcourse.evaluation.accuracy import accuracy_of
from kdcourse.evaluation.calibration import calibration_of, reliability_of
from kdcourse.evaluation.classes import class_changes
from kdcourse.evaluation.cost import WARM_UP, costs_of
from kdcourse.evaluation.fidelity import fidelity_of
from kdcourse.evaluation.robustness import CORRUPTIONS, SEVERITIES, robustness_of
from kdcourse.teachers import quantize


def drawn(*shape, seed=0, scale=2.0):
    return scale * torch.randn(shape, generator=replay(seed))


def labelled(samples=200, classes=5, seed=0):
    """Logits, and labels drawn from their probabilities."""
    logits = drawn(samples, classes, seed=seed)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=replay(seed + 1))[:, 0]


# --- the bootstrap


def test_means_in_every_draw_equal_a_loop():
    values, resamples = drawn(7, 2), evaluation.Resamples(7, 5, seed=3)
    assert resamples.times.shape == (5, 7)
    assert resamples.times.sum(dim=1).tolist() == [7] * 5
    for draw, found in zip(resamples.times.tolist(), resamples.means(values), strict=True):
        rows = [values[i].double() for i, times in enumerate(draw) for _ in range(times)]
        torch.testing.assert_close(found, sum(rows) / 7)


def test_an_interval_is_the_middle_of_the_draws():
    values, resamples = drawn(50)[:, None].squeeze(1), evaluation.Resamples(50, 400)
    found = resamples.interval(values)
    ends = np.quantile(resamples.means(values).numpy(), [0.025, 0.975])
    assert found.value == pytest.approx(float(values.mean()))
    assert [found.low, found.high] == pytest.approx(ends)


def test_draws_follow_from_the_seed():
    one, again, other = (evaluation.Resamples(30, 250, seed=seed).times for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Of 400 sets of 80 images, drawn from one whose accuracy is 0.7, about 95 %."""
    resamples, generator = evaluation.Resamples(80, 600), replay(5)
    right = (torch.rand(400, 80, generator=generator) < 0.7).double()
    found = [resamples.interval(one) for one in right]
    covered = statistics.mean(one.low <= 0.7 <= one.high for one in found)
    assert 0.91 <= covered <= 0.98


def test_a_difference_on_the_same_images_is_surer_than_of_different_ones():
    resamples = evaluation.Resamples(300, 500)
    right = (torch.rand(300, generator=replay(0)) < 0.8).double()
    other = right.clone()
    other[:6] = 1 - other[:6]
    paired = resamples.interval(right - other)
    alone = resamples.interval(right)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


@pytest.mark.parametrize("values", [torch.ones(4), torch.ones(5, 1, 1)])
def test_values_must_be_those_of_the_images(values):
    with pytest.raises(ValueError, match="values must be those of 5 images"):
        evaluation.Resamples(5, 10).means(values)


# --- accuracy


def test_the_likeliest_classes_equal_a_loop():
    logits, target = labelled(40)
    logits[:5] = 1.0  # all alike: the first classes are named
    for k in (1, 2, 5):
        expected = []
        for row, label in zip(logits.tolist(), target.tolist(), strict=True):
            order = sorted(range(5), key=lambda c, row=row: (-row[c], c))
            expected.append(label in order[:k])
        assert evaluation.in_top(logits, target, k).tolist() == expected
    share = evaluation.in_top(logits, target).double().mean()
    assert float(share) == pytest.approx(metrics.share_correct(logits, target))


def test_differences_of_accuracy_are_paired():
    (logits, target), other = labelled(), drawn(200, 5, seed=9)
    resamples = evaluation.Resamples(200, 300)
    found = accuracy_of(logits, target, resamples, teacher=other)
    right, others = (one.argmax(1) == target for one in (logits, other))
    assert found.minus_teacher == resamples.interval(right.double() - others.double())
    assert (found.minus_baseline, found.k) == (None, 4)
    assert found.top_k.value >= found.top_1.value


# --- fidelity


def test_kl_equals_a_loop():
    student, teacher = drawn(6, 4, seed=1), drawn(6, 4, seed=2)
    expected = []
    for s, t in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        p_s, p_t = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (s, t))
        expected.append(sum(p * math.log(p / q) for p, q in zip(p_t, p_s, strict=True)))
    assert evaluation.kl_by_sample(student, teacher).tolist() == pytest.approx(expected)


def alike(samples=120):
    x = drawn(samples, 6, seed=1)
    return x, x @ drawn(6, 4, seed=2) + drawn(samples, 4, seed=3)


def weighted_cka(x, y, weights):
    x, y = (one - weights @ one for one in (x.double(), y.double()))

    def common(one, other):
        return ((weights[:, None] * one).T @ other).square().sum()

    return common(x, y) / (common(x, x) * common(y, y)).sqrt()


def test_what_a_sample_adds_to_cka_is_its_derivative():
    x, y = alike()
    influence, equal = evaluation.cka_influence(x, y), torch.full((120,), 1 / 120).double()
    assert float(influence.mean()) == pytest.approx(0, abs=1e-12)
    assert float(weighted_cka(x, y, equal)) == pytest.approx(metrics.linear_cka(x, y))
    for i in range(0, 120, 10):
        more = (1 - 1e-6) * equal + 1e-6 * F.one_hot(torch.tensor(i), 120)
        rise = (weighted_cka(x, y, more) - weighted_cka(x, y, equal)) / 1e-6
        assert float(influence[i]) == pytest.approx(float(rise), abs=1e-4)


def test_the_interval_of_cka_is_that_of_a_whole_bootstrap():
    x, y = alike(400)
    resamples = evaluation.Resamples(400, 300)
    whole = [
        metrics.linear_cka(*(one.repeat_interleave(times, dim=0) for one in (x, y)))
        for times in resamples.times.long()
    ]
    logits = drawn(400, 4), drawn(400, 4, seed=1)
    found = fidelity_of(*logits, resamples, (x, y))
    expected = np.quantile(whole, 0.975) - np.quantile(whole, 0.025)
    assert found.cka.high - found.cka.low == pytest.approx(expected, rel=0.1)
    assert found.cka.value == pytest.approx(metrics.linear_cka(x, y))
    assert found.agreement.value == pytest.approx(metrics.agreement(*logits))


# --- calibration


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_torchmetrics(bins):
    logits, target = labelled(500)
    expected = multiclass_calibration_error(logits.softmax(1), target, 5, n_bins=bins)
    found = evaluation.expected_calibration_error(logits, target, bins)
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_bins_equal_a_loop():
    logits, target = labelled(100)
    confidence = logits.double().softmax(1).amax(1).tolist()
    right = (logits.argmax(1) == target).tolist()
    found = evaluation.reliability_bins(logits, target, 10)
    error = 0.0
    for n, one in enumerate(found):
        own = [i for i, c in enumerate(confidence) if n / 10 < c <= (n + 1) / 10]
        assert one.samples == len(own)
        if own:
            assert one.confidence == pytest.approx(statistics.mean(confidence[i] for i in own))
            assert one.accuracy == pytest.approx(statistics.mean(right[i] for i in own))
            error += len(own) / 100 * abs(one.accuracy - one.confidence)
    assert evaluation.expected_calibration_error(logits, target, 10) == pytest.approx(error)


def test_the_temperature_is_the_best_of_a_grid():
    logits, target = labelled(400)
    found = evaluation.fit_temperature(3 * logits, target)
    grid = torch.linspace(0.5, 8, 3001).tolist()
    losses = [float(F.cross_entropy(3 * logits.double() / t, target)) for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], abs=0.003)
    assert found == pytest.approx(3, rel=0.25)  # the labels were drawn at a third of the logits


def test_scaling_repairs_what_only_a_temperature_broke():
    logits, target = labelled(3000)
    resamples = evaluation.Resamples(3000, 200)
    found = calibration_of(3 * logits, target, resamples, 3.0)
    expected = reliability_of(logits, target, resamples)
    assert found.scaled.error.value == pytest.approx(expected.error.value, abs=1e-6)
    assert found.plain.error.low > found.scaled.error.high
    assert found.scaled.loss.value < found.plain.loss.value
    assert calibration_of(logits, target, resamples, None).scaled is None


def test_the_interval_of_the_calibration_error_takes_its_bias_off():
    """Of nets that are calibrated, whose errors are noise, most intervals reach almost to zero."""
    resamples, found = evaluation.Resamples(300, 200), []
    for seed in range(20):
        found.append(reliability_of(*labelled(300, seed=10 * seed), resamples).error)
    assert statistics.mean(one.value for one in found) > 0.04
    assert statistics.mean(one.low for one in found) < 0.02


# --- robustness

COLOURS = Images(  # smooth, so that what moves farther differs more
    F.interpolate(
        256 * torch.rand(6, 3, 6, 8, generator=replay(1)), (32, 40), mode="bilinear"
    ).byte(),
    torch.arange(6) % 4,
    tuple("abcd"),
    (0.5,) * 3,
    (0.25,) * 3,
)
GREY = replace(images(6), pixels=images(6).pixels.repeat_interleave(3, 2).repeat_interleave(3, 3))


def changed(made, clean):
    return float((made.pixels.float() - clean.pixels.float()).abs().mean())


@pytest.mark.parametrize("clean", [COLOURS, GREY], ids=["colours", "grey"])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity(corruption, clean):
    assert evaluation.corrupt(clean, corruption, 0) is clean
    made = [evaluation.corrupt(clean, corruption, severity) for severity in SEVERITIES]
    for one in made:
        assert one.pixels.shape == clean.pixels.shape
        assert one.pixels.dtype == torch.uint8
        assert torch.equal(one.target, clean.target)
    again = evaluation.corrupt(clean, corruption, 5)
    assert torch.equal(made[-1].pixels, again.pixels)
    effects = [changed(one, clean) for one in made]
    assert effects[0] > 0
    assert effects[-1] > effects[0]
    if corruption not in ("pixelation", "translation", "occlusion"):  # which go by whole pixels
        assert effects == sorted(effects)


@pytest.mark.parametrize("corruption", ["Gaussian noise", "translation", "occlusion"])
def test_what_is_drawn_follows_from_the_seed(corruption):
    one, other = (evaluation.corrupt(COLOURS, corruption, 5, seed=seed).pixels for seed in (0, 1))
    assert not torch.equal(one, other)


def pixels_of(corruption, severity):
    return evaluation.corrupt(COLOURS, corruption, severity).pixels.double() / 255


CLEAN = COLOURS.pixels.double() / 255


def test_noise_has_its_deviation():
    flat = Images(
        torch.full((4, 1, 64, 64), 128).byte(), torch.zeros(4).long(), ("a",), (0.5,), (1,)
    )
    for severity, deviation in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1):
        made = evaluation.corrupt(flat, "Gaussian noise", severity)
        assert float(made.pixels.double().std()) / 255 == pytest.approx(deviation, rel=0.03)


def test_blur_is_scipys():
    expected = gaussian_filter(CLEAN.numpy(), (0, 0, 1, 1), mode="nearest", truncate=4)
    assert np.abs(pixels_of("Gaussian blur", 5).numpy() - expected).max() < 1 / 255


def test_contrast_is_around_the_mean():
    mean = CLEAN.mean(dim=(2, 3), keepdim=True)
    expected = ((CLEAN - mean) * 0.4 + mean).clamp(0, 1)
    torch.testing.assert_close(pixels_of("contrast", 3), expected, atol=0.6 / 255, rtol=0)


def test_brightness_raises_the_value_of_a_colour():
    made = pixels_of("brightness", 4)
    for row, column in ((0, 0), (3, 7), (31, 39)):
        hue, saturation, value = colorsys.rgb_to_hsv(*CLEAN[0, :, row, column].tolist())
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        assert made[0, :, row, column].tolist() == pytest.approx(expected, abs=0.6 / 255)


def test_pixelation_averages_blocks():
    """Of 0.65 · 32 = 20 rows and 26 columns each, which cover the image."""
    made = evaluation.corrupt(COLOURS, "pixelation", 5).pixels[0, 0]
    for row in range(32):
        block = row * 20 // 32
        top, bottom = block * 32 // 20, -(-(block + 1) * 32 // 20)
        for column in range(40):
            across = column * 26 // 40
            left, right = across * 40 // 26, -(-(across + 1) * 40 // 26)
            mean = COLOURS.pixels[0, 0, top:bottom, left:right].double().mean()
            assert abs(float(made[row, column]) - float(mean)) <= 0.51


def test_a_translated_image_goes_on_at_its_edge():
    made = evaluation.corrupt(COLOURS, "translation", 5)
    by, seen = round(0.15 * 32), set()
    for before, after in zip(COLOURS.pixels.numpy(), made.pixels.numpy(), strict=True):
        padded = np.pad(before, ((0, 0), (by, by), (by, by)), mode="edge")
        for down, right in ((by, 0), (-by, 0), (0, by), (0, -by)):
            rows, columns = by - down, by - right
            if np.array_equal(after, padded[:, rows : rows + 32, columns : columns + 40]):
                seen.add((down, right))
                break
        else:
            pytest.fail("moved in no direction")
    assert len(seen) > 1


def test_an_occlusion_is_one_grey_rectangle_inside():
    made = evaluation.corrupt(COLOURS, "occlusion", 5)
    differs = (made.pixels != COLOURS.pixels).any(dim=1)
    for one, pixels in zip(differs, made.pixels, strict=True):
        rows, columns = one.any(dim=1).nonzero(), one.any(dim=0).nonzero()
        top, bottom = int(rows.min()), int(rows.max()) + 1
        left, right = int(columns.min()), int(columns.max()) + 1
        assert (bottom - top, right - left) == (round(0.55 * 32), round(0.55 * 40))
        assert (pixels[:, top:bottom, left:right] == 128).all()


def test_accuracy_on_corrupted_images_is_that_of_metrics():
    nets, data = {"student": net(seed=1), "teacher": net(4, seed=2)}, images(24)
    order = data.subset(24, seed=3)  # in which they are drawn
    how = {"resamples": 50, "seed": 3, "progress": False}
    found = robustness_of(nets, data, "teacher", **how)
    every = []
    for corruption in CORRUPTIONS:
        expected = [
            metrics.accuracy(nets["student"], evaluation.corrupt(order, corruption, s, seed=3))
            for s in SEVERITIES
        ]
        every += expected
        assert found["student"].by_corruption[corruption] == pytest.approx(expected)
    assert found["student"].corrupted.value == pytest.approx(statistics.mean(every))
    difference = found["student"].corrupted.value - found["teacher"].corrupted.value
    assert found["student"].minus_teacher.value == pytest.approx(difference)
    assert found["teacher"].minus_teacher is None


def test_only_some_images_are_corrupted(monkeypatch):
    monkeypatch.setattr(robustness, "IMAGES", 8)
    how = {"resamples": 10, "seed": 0, "progress": False}
    found = robustness_of({"student": net()}, images(40), **how)
    assert (8 * found["student"].clean.value) % 1 == 0


# --- class by class


@pytest.mark.parametrize(("samples", "direction"), [(1, 0), (9, 0), (10, -1)])
def test_a_few_images_of_a_class_tell_no_loss_from_chance(samples, direction):
    target = torch.zeros(samples, dtype=torch.int64)
    wrong, right = torch.tensor([[0.0, 1.0]] * samples), torch.tensor([[1.0, 0.0]] * samples)
    (lost,) = class_changes(wrong, right, target, "ab", 100, 0)
    (gained,) = class_changes(right, wrong, target, "ab", 100, 0)
    assert (lost.direction, gained.direction) == (direction, -direction)


def test_changes_by_class_equal_a_loop():
    (logits, target), other = labelled(90, 4), drawn(90, 4, seed=5)
    target[target == 3] = 0  # a class without images
    found = class_changes(logits, other, target, "abcd", 100, 0)
    assert [one.name for one in found] == ["a", "b", "c"]
    for label, one in enumerate(found):
        own = [i for i in range(90) if target[i] == label]
        rights = [[int(t[i].argmax()) == label for i in own] for t in (logits, other)]
        assert one.samples == len(own)
        assert [one.accuracy, one.other] == pytest.approx([statistics.mean(r) for r in rights])
        assert one.difference.value == pytest.approx(one.accuracy - one.other)
        assert one.accuracy == pytest.approx(metrics.recall(logits, target, label))


# --- cost


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8))
def test_the_pareto_front_is_what_no_other_net_dominates(points):
    costs, qualities = [p[0] for p in points], [p[1] for p in points]
    expected = []
    for i, (cost, quality) in enumerate(points):
        dominated = False
        for c, q in points:
            dominated |= (c < cost and q >= quality) or (c <= cost and q > quality)
        if not dominated:
            expected.append(i)
    assert evaluation.pareto_front(costs, qualities) == expected


def test_a_front_needs_a_quality_for_each_cost():
    with pytest.raises(ValueError, match="costs must be as many as qualities, got 1 and 0"):
        evaluation.pareto_front([1.0], [])


class Noting(nn.Module):
    def __init__(self, name, calls):
        super().__init__()
        self.inner, self.name, self.calls = net(), name, calls

    def forward(self, inputs):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls.append((self.name, len(inputs)))
        return self.inner(inputs)


def test_nets_take_turns_when_they_are_timed():
    calls = []
    nets = {name: Noting(name, calls).train() for name in "ab"}
    found = evaluation.latencies(nets, images(3).inputs(), rounds=4)
    assert calls == [("a", 3), ("b", 3)] * (WARM_UP + 4)
    assert all(one.training for one in nets.values())
    for one in found.values():
        assert 0 < one.lower <= one.median <= one.upper


def test_sizes_are_those_of_the_net():
    model, inputs = net(), images(1).inputs()
    model.requires_grad_(False)
    found = costs_of({"net": model}, inputs)["net"]
    assert found.parameters == sum(p.numel() for p in model.parameters()) > 0
    assert found.bytes == sum(t.nbytes for t in model.state_dict().values())
    assert found.multiply_adds == models.multiply_adds(model, inputs)
    assert set(found.latency) == {1, 128}


# --- exported


def trained_a_little():
    model = net()
    model(images().inputs())  # batch norm has seen something
    return model.eval()


def test_an_exported_net_takes_batches_of_any_size_and_says_the_same():
    model, inputs = trained_a_little(), images(9).inputs()
    program = torch.export.load(io.BytesIO(evaluation.to_torch_export(model.train(), inputs)))
    assert model.training
    for size in (1, 5, 9):
        torch.testing.assert_close(program.module()(inputs[:size]), model.eval()(inputs[:size]))


def test_exports_are_compared_and_what_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    model, inputs = trained_a_little(), images(20).inputs()
    found = export.exports_of(model, inputs)
    assert found["torch.export"].deviation == pytest.approx(0, abs=1e-5)
    assert found["torch.export"].agreement == 1
    rounded, own = (metrics.predict(one, inputs) for one in (quantize(model), model))
    assert found["int8"].deviation == pytest.approx(float((rounded - own).abs().max()))
    assert found["int8"].agreement == pytest.approx(metrics.agreement(rounded, own))
    onnx = found["ONNX"]
    assert (onnx.bytes, onnx.deviation, onnx.agreement) == (None, None, None)
    assert "pip install 'kdcourse[export]'" in onnx.note
    with pytest.raises(ImportError, match=r"onnxruntime missing: pip install 'kdcourse\[export\]'"):
        evaluation.to_onnx(model, inputs)


class Undecided(nn.Module):
    """Cannot be traced: what it does depends on a value."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(144, CLASSES)

    def forward(self, inputs):
        return self.classifier(inputs.flatten(1)) * (1 if float(inputs.sum()) > 0 else -1)


def test_a_net_that_cannot_be_exported_is_reported_not_raised(monkeypatch, capfd):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    found = export.exports_of(Undecided(), images(4).inputs())
    assert found["torch.export"].bytes is None
    assert found["torch.export"].note.startswith("not exported: ")
    assert found["int8"].bytes
    assert capfd.readouterr() == ("", "")  # no graph of a hundred lines


class Returning(nn.Module):
    """A net that returns its logits in something."""

    def __init__(self, packed):
        super().__init__()
        self.net, self.packed = trained_a_little(), packed

    def forward(self, inputs):
        return self.packed(self.net(inputs))


@pytest.mark.parametrize(
    "packed",
    [lambda z: {"loss": z.sum(), "logits": z}, lambda z: (z, z.sum())],
    ids=["dict", "tuple"],
)
def test_of_a_net_that_returns_more_the_logits_are_exported(packed):
    model, inputs = Returning(packed), images(9).inputs()
    found = export.exports_of(model, inputs)
    assert found["torch.export"].deviation == pytest.approx(0, abs=1e-5)
    assert found["torch.export"].agreement == 1
    assert found["int8"].bytes
    if found["ONNX"].bytes is None:
        assert "kdcourse[export]" in found["ONNX"].note  # a bare machine lacks it
    else:
        assert found["ONNX"].agreement == 1


def test_onnx_says_the_same():
    pytest.importorskip("onnxruntime")  # which a bare machine lacks

    model, inputs = trained_a_little(), images(9).inputs()
    found = export.exports_of(model, inputs)["ONNX"]
    assert found.deviation == pytest.approx(0, abs=1e-4)
    assert found.agreement == 1
