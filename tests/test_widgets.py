import base64
import io
import re

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from kdcourse import logit
from kdcourse.course import plots, widgets
from kdcourse.course.claims import Claim, Result
from kdcourse.course.widgets.screen import outlined
from kdcourse.data import Images, replay
from kdcourse.language import Characters
from kdcourse.layers import LayerMap
from kdcourse.models import language_model
from kdcourse.motivation import Landscape
from kdcourse.teachers import majority_vote_accuracy

CLASSES = ("ant", "bee & wasp", "cat")
IMAGES = Images(
    torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8),
    torch.tensor([0, 1, 2, 0, 1]),
    CLASSES,
    (0.5,),
    (0.5,),
)
TEACHER = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0, 0], [0, 9, 0]])


def shown(screen):
    """The percentages in the table, class by class: teacher's, student's."""
    return [float(p) for p in re.findall(r"([\d.]+) %</td>", screen.value)]


def test_the_bars_follow_the_sliders():
    image, tau, screen = widgets.temperature(IMAGES, TEACHER, TEACHER / 2).children
    for number, temperature in [(0, 1.0), (0, 4.0), (2, 4.0), (2, 100.0)]:
        image.value, tau.value = number, temperature
        expected = torch.stack(
            [
                logit.softmax(TEACHER[number : number + 1], temperature)[0],
                logit.softmax(TEACHER[number : number + 1] / 2, temperature)[0],
            ]
        )
        assert shown(screen) == pytest.approx((100 * expected.T.flatten()).tolist(), abs=0.06)
        assert f"Image {number} (" in screen.value
        assert f"at temperature {temperature:.3g}" in screen.value


def test_bar_lengths_are_probabilities_and_the_true_class_is_starred():
    table = widgets.bars({"teacher": [0.5, 0.25, 0.25], "student": [0.0, 1.0, 0.0]}, CLASSES, 1)
    widths = [float(w) for w in re.findall(r"width: ([\d.]+)px; background", table)]
    assert widths == [90, 0, 45, 180, 45, 0]
    assert table.count("★") == 1
    assert "bee &amp; wasp ★" in table
    assert table.index("teacher") < table.index("student")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_is_the_image_with_a_description(channels):
    pixels = torch.randint(256, (channels, 6, 7), dtype=torch.uint8)
    found = re.search(r'base64,([^"]+)" alt="a &lt;b&gt;"', widgets.picture(pixels, "a <b>"))
    assert found
    expected = pixels.movedim(0, -1).numpy()
    expected = 255 - expected if channels == 1 else expected
    image = decoded(found[0])
    assert (image == np.broadcast_to(expected, image.shape)).all()


def decoded(image):
    data = re.search(r'base64,([^"]+)"', image)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_maps_follow_image_and_layer():
    layers = {
        name: {"teacher": torch.rand(5, size, size), "student": torch.zeros(5, size, size)}
        for name, size in (("stage1", 4), ("stage2", 2))
    }
    image, layer, screen = widgets.maps(IMAGES, layers).children
    assert "Image 0 (ant)" in screen.value
    image.value, layer.value = 1, "stage2"
    images = re.findall("<img[^>]+>", screen.value)
    assert [decoded(shown).shape[0] for shown in images] == [8, 2, 2]
    assert "Image 1 (bee &amp; wasp)" in images[0]
    assert "stage2, student" in images[2]
    brightest = decoded(images[1]).sum(axis=2).argmax()
    assert brightest == int(layers["stage2"]["teacher"][1].argmax())


def test_the_outline_surrounds_what_a_grey_image_shows():
    pixels = torch.zeros(1, 6, 7, dtype=torch.uint8)
    pixels[0, 2:4, 6] = 255
    over = outlined("<img>", pixels)
    assert over.count("<img>") == 1
    assert "viewBox='0 0 7 6'" in over
    edges = set(re.findall(r"M\d+ \d+[hv]1", over))
    assert edges == {"M6 2h1", "M6 4h1", "M6 2v1", "M7 2v1", "M6 3v1", "M7 3v1"}
    assert outlined("<img>", pixels.expand(3, 6, 7)) == "<img>"


def test_neighbours_follow_the_query():
    line = torch.tensor([[0.0], [1.0], [2.5], [4.5], [7.0]])
    query, screen = widgets.neighbours(IMAGES, {"teacher": line, "student": -line}, 2).children
    query.value = 3
    shown = re.findall(r'alt="([^"]+)"', screen.value)
    # classes are 0, 1, 2, 0, 1; nearest to sample 3: 2 (cat), then 4 (bee)
    assert shown == ["Query 3 (ant)", *(["✗ cat", "✗ bee &amp; wasp"] * 2)]
    query.value = 4
    assert "✓ bee &amp; wasp" not in screen.value  # sample 1 is far
    assert query.max == 4


def test_controls_are_labelled():
    *controls, _ = widgets.temperature(IMAGES, TEACHER, TEACHER).children
    assert [control.description for control in controls] == ["image", "temperature"]
    assert controls[0].max == len(IMAGES) - 1


def test_any_function_of_its_controls_becomes_a_widget():
    calls = []
    box = widgets.html_widget(
        lambda k: calls.append(k) or f"k is {k}", k=ipywidgets.IntSlider(value=3)
    )
    box.children[0].value = 7
    assert calls == [3, 7]
    assert box.children[1].value == "k is 7"


def test_the_vote_follows_its_sliders():
    voters, accuracy, correlation, screen = widgets.vote().children
    assert "0.784" in screen.value
    assert "0.550 to 1.000" in screen.value
    accuracy.value, correlation.value, voters.value = 0.6, 0.25, 7
    assert f"{majority_vote_accuracy(0.6, 7, 0.25):.3f}" in screen.value
    for value in (0.0, 1.0):
        accuracy.value = correlation.value = value
        assert f"{value:.3f}</b>" in screen.value


def test_the_vote_is_drawn_where_the_formula_is():
    drawing = widgets.vote_curves([1, 2, 3], {"a <b>": [0.0, 0.5, 1.0], "c": [0.5] * 3}, marked=2)
    lines = re.findall(r"points='([^']+)'", drawing)
    heights = [[float(point.split(",")[1]) for point in line.split()] for line in lines]
    bottom, middle, top = heights[0]
    assert bottom > middle > top
    assert middle == pytest.approx((bottom + top) / 2, abs=0.1)
    assert heights[1] == [middle] * 3
    assert f"cy='{middle:.1f}'" in drawing
    assert "a &lt;b&gt;" in drawing


def test_the_size_of_the_teacher_moves_the_bars():
    claim = Claim("sizes", "A toy.", 5, lambda seed: {})
    runs = {0: {"alone": 70.0}, 1: {"alone": 72.0}}
    for number, size in enumerate(("small", "large")):
        for seed, run in runs.items():
            run |= {size: 75.0 + number + seed, f"{size} teacher": 80.0 + number + seed}
            run[f"{size} distance"] = 0.1 + number
    slider, screen = widgets.teacher_size(Result(claim, runs), ["small", "large"]).children
    for size, expected in (("small", (80.5, 75.5, 71.0)), ("large", (81.5, 76.5, 71.0))):
        slider.value = size
        assert [float(p) for p in re.findall(r"([\d.]+) %", screen.value)] == list(expected)
    assert "1.100 nats" in screen.value


def drawn(svg):
    """The corners of every cell of a surface, and its colour."""
    found = re.findall(r"points='([^']+)' fill='(#......)'", svg)
    return [
        (np.array([[float(v) for v in point.split(",")] for point in points.split()]), colour)
        for points, colour in found
    ]


@pytest.fixture
def bowl():
    x = torch.linspace(-1, 1, 5)
    return Landscape(x, x, x[:, None].square() + x.square())


def test_a_surface_from_above_is_its_grid(bowl):
    cells = drawn(widgets.surface(bowl, turn=0, tilt=90, zoom=1, most=2.0))
    assert len(cells) == 16
    sizes = [np.ptp(corners, axis=0) for corners, _ in cells]
    np.testing.assert_allclose(sizes, np.full((16, 2), sizes[0][0]), atol=0.2)


def test_a_surface_from_the_side_shows_the_bowl(bowl):
    corners = np.concatenate([c for c, _ in drawn(widgets.surface(bowl, 0, 5, 1, 2.0))])
    rim = corners[corners[:, 0] == corners[:, 0].min()]
    middle = corners[np.isclose(corners[:, 0], np.median(corners[:, 0]))]
    assert rim[:, 1].mean() < middle[:, 1].mean()  # higher up on the screen


def test_zoom_shows_the_inner_part_and_heights_are_cut_off(bowl):
    assert len(drawn(widgets.surface(bowl, 0, 45, 2, 2.0))) == 4
    flat = drawn(widgets.surface(bowl, 0, 45, 1, 1e-9))
    assert len({colour for _, colour in flat[:4]}) == 1


def test_two_landscapes_turn_together(bowl):
    *controls, screen = widgets.landscapes({"k = 1": bowl, "k = 8": bowl}).children
    left, right, turn, tilt, zoom = controls
    assert (left.value, right.value) == ("k = 1", "k = 8")
    before = screen.value
    assert before.count("<svg") == 2
    for control, value in ((turn, 90), (tilt, 60), (zoom, 2.0), (left, "k = 8")):
        control.value = value
        assert screen.value != before
        before = screen.value


def test_views_show_what_each_side_sees():
    designs = {
        "mirrored": lambda pixels, target, draw: (pixels.flip(-1), pixels, target),
        "noisy": lambda pixels, target, draw: (
            torch.randint(256, pixels.shape, generator=draw, dtype=torch.uint8),
            255 - pixels,
            target,
        ),
    }
    image, design, draw, screen = widgets.views(IMAGES, designs).children
    image.value = 2

    def expected(*views):
        names = ("Image 2 (cat)", "what the teacher sees", "what the student sees")
        return [widgets.picture(pixels, name) for pixels, name in zip(views, names, strict=True)]

    def pictures():
        return re.findall(r"<img [^>]+>", screen.value)

    third = IMAGES.pixels[2]
    assert pictures() == expected(third, third, third.flip(-1))
    design.value, draw.value = "noisy", 7
    noise = torch.randint(256, (5, 1, 8, 8), generator=replay(7), dtype=torch.uint8)
    assert pictures() == expected(third, 255 - third, noise[2])


def test_patience_follows_the_epochs():
    claim = Claim("toy", "A toy.", 6, lambda seed: {})
    runs = {
        seed: {"labels 10": 50.0 + seed, "labels 40": 60.0, "taught 10": 45.0, "taught 40": 70.0}
        for seed in (0, 1)
    }
    slider, screen = widgets.patience(Result(claim, runs), ["labels", "taught"], [10, 40]).children
    for epochs, expected in ((10, (50.5, 45.0)), (40, (60.0, 70.0))):
        slider.value = epochs
        assert [float(p) for p in re.findall(r"([\d.]+) %</div>", screen.value)] == list(expected)
        lengths = [float(w) for w in re.findall(r"width: (\d+)px; background", screen.value)]
        assert lengths == [pytest.approx(8 * (p - 40), abs=0.5) for p in expected]
        assert f"after {epochs} epochs" in screen.value


def test_snapshots_follow_the_steps():
    taken = {1: IMAGES.pixels[:2], 50: IMAGES.pixels[3:]}
    captions = {1: ["ant 20 %", "cat 31 %"], 50: ["bee 99 %", "ant 98 %"]}
    slider, screen = widgets.snapshots(taken, captions).children
    for step in (50, 1):
        slider.value = step
        expected = [
            widgets.picture(pixels, f"{caption}, after {step} steps", 84)
            for pixels, caption in zip(taken[step], captions[step], strict=True)
        ]
        assert re.findall(r"<img [^>]+>", screen.value) == expected
        assert f"After {step} steps." in screen.value


def drawn_lines(svg):
    """The heights of the points of every line of a drawing, by its name."""
    found = re.findall(r"points='([^']+)'.*?<title>(.+?)</title>", svg)
    return {n: [float(p.split(",")[1]) for p in points.split()] for points, n in found}


def test_averages_follow_the_momentum():
    path = [4.0, 2.0, 0.0, -2.0, 2.0, 0.0, -1.0, 1.0]
    followed = {0.5: [4.0] * 6 + [3.0, 4.0], 0.9: [4.0] * 6 + [0.0, 0.0]}
    slider, screen = widgets.averages(path, followed).children
    assert slider.description == "momentum"
    for momentum, half, away in ((0.5, "1 step<", 3.54), (0.9, "7 steps<", 0.0)):
        slider.value = momentum
        assert f"m = {momentum:g}: " in screen.value
        assert f"counts half after {half}" in screen.value
        assert f"student 1.00, average {away:.2f}" in screen.value
        lines = drawn_lines(screen.value)
        top, middle = lines["the student"][0], lines["the optimum"][0]
        assert lines["the student"][2] == middle
        scale = (middle - top) / 4
        expected = [middle - scale * value for value in followed[momentum]]
        assert lines["its average"] == pytest.approx(expected, abs=0.2)


LETTERS = Characters("\n <:abcd")


class Parrot(torch.nn.Module):
    """A language model that has learned one text by heart, whatever it is given."""

    def __init__(self, text):
        super().__init__()
        self.tokens = LETTERS.encode([text])[0]

    def forward(self, tokens):
        comes = self.tokens[1 : tokens.shape[1] + 1]
        return 99.0 * torch.nn.functional.one_hot(comes, len(LETTERS))[None].float()


def cells(screen):
    return re.findall(r"<t[dh][^>]*>([^<]*)</t", screen.value)


def test_writers_define_the_word_that_is_chosen_or_written():
    models = {"a < b": Parrot("ab:a <cab\n"), "endless": Parrot("ab:" + 17 * "d")}
    word, other, _, _, screen = widgets.writers(models, LETTERS, ["ab", "ba"], length=20).children
    shown = ["a &lt; b", "a &lt;cab", "endless", f"{17 * 'd'} …"]
    assert cells(screen) == ["", "ab:", *shown]
    word.value = "ba"
    assert cells(screen) == ["", "ba:", *shown]
    other.value = " cd "
    assert cells(screen) == ["", "cd:", *shown]


def test_writers_draw_anew_and_are_the_same_again():
    models = {"one": language_model(8, 1, 2, len(LETTERS), seed=0)}
    *_, temperature, draw, screen = widgets.writers(models, LETTERS, ["ab"]).children
    torch.manual_seed(1)
    seen = {}
    for heat, number in ((1.0, 0), (1.0, 1), (2.0, 1), (1.0, 0), (2.0, 1)):
        temperature.value, draw.value = heat, number
        assert seen.setdefault((heat, number), screen.value) == screen.value
    assert len(set(seen.values())) == 3


def test_writers_say_what_they_cannot_read():
    *_, screen = controls = widgets.writers({"one": Parrot("ab:\n")}, LETTERS, ["ab"]).children
    other = controls[1]
    for word, said in (
        ("naïve", "These models have never seen “n”, “ï”, “v”, “e”: write another word."),
        (100 * "a", "The models read and write 80 tokens at most: write a shorter word."),
    ):
        other.value = word
        assert screen.value == f"<p>{said}</p>"
    other.value = ""
    assert cells(screen) == ["", "ab:", "one", ""]


def test_layers_are_framed_by_the_rule_and_the_number_of_pairs():
    likeness = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.2, 0.4]])
    shapes = [(4, 8, 8), (4, 4, 4), (4, 2, 2)]
    found = LayerMap(("a", "b<"), ("x", "y", "z"), likeness, (tuple(shapes[:2]), tuple(shapes)))
    rule, pairs, screen = widgets.layers(found).children
    assert pairs.value == 2
    assert "Proposed: a ← y, b&lt; ← z" in screen.value
    framed = re.findall(rf"border: 3px solid {plots.DISTILLED}.*?>([\d.]+)</td>", screen.value)
    assert framed == ["0.90", "0.40"]
    pairs.value, rule.value = 1, "stage"
    assert "Proposed: b&lt; ← z</p>" in screen.value
