import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex, to_rgb

from kdcourse.course import schematics
from kdcourse.course.schematics.paper import PALETTE, digest

EVERY = schematics.every()
SCHEMES = list(zip(*PALETTE.values(), strict=True))  # light, dark
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"


@pytest.fixture(scope="module")
def drawn():
    return {name: draw() for name, draw in EVERY.items()}


def in_every_scheme(colour):
    place = [light.lower() for light in SCHEMES[0]].index(colour)
    return [scheme[place] for scheme in SCHEMES]


def contrast(*colours):
    def luminance(colour):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted(map(luminance, colours))
    return (lighter + 0.05) / (darker + 0.05)


def fill_behind(axis, box):
    middle = box.x0 + box.width / 2, box.y0 + box.height / 2
    fills = [
        patch
        for patch in axis.patches
        if patch.get_facecolor()[3]
        and patch.get_transform().transform_path(patch.get_path()).contains_point(middle)
    ]
    return to_hex(sorted(fills, key=lambda patch: patch.get_zorder())[-1].get_facecolor())


def overlap(one, other):
    return (
        min(one.x1, other.x1) - max(one.x0, other.x0) > 1
        and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    )


def test_the_folder_holds_every_schematic_and_nothing_else():
    assert {path.name for path in schematics.FOLDER.iterdir()} == {f"{name}.svg" for name in EVERY}


def test_light_colours_tell_names_apart():
    assert len({light.lower() for light in SCHEMES[0]}) == len(PALETTE)


@pytest.mark.parametrize("name", EVERY)
def test_files_show_what_the_code_draws(drawn, name):
    svg = (schematics.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    stored = next(ElementTree.fromstring(svg).iter(DESCRIPTION)).text
    assert stored == digest(drawn[name]), f"{name} is not what the code draws: make docs"
    assert len(svg) < 62_000


@pytest.mark.parametrize("name", EVERY)
def test_every_colour_follows_the_scheme(name):
    svg = (schematics.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    drawing = svg[svg.index("</style>") :]
    used = re.findall(r"(?:fill|stroke): (var\(--([\w-]+), #\w+\)|[^;\"]+)", drawing)
    assert {name or colour for colour, name in used} <= {*PALETTE, "none"}
    assert all(f"--{name}:{dark};" in svg for name, (_, dark) in PALETTE.items())


@pytest.mark.parametrize("name", EVERY)
def test_words_can_be_read(drawn, name):
    figure = drawn[name]
    axis, page = figure.axes[0], figure.bbox
    boxes = [text.get_window_extent() for text in axis.texts]
    for text, box in zip(axis.texts, boxes, strict=True):
        words = text.get_text()
        assert text.get_size() >= 11, words
        assert page.x0 < box.x0 < box.x1 < page.x1, words
        assert page.y0 < box.y0 < box.y1 < page.y1, words
        ink, paper = (
            in_every_scheme(text.get_color().lower()),
            in_every_scheme(fill_behind(axis, box)),
        )
        for pair in zip(ink, paper, strict=True):
            assert contrast(*pair) >= 4.5, (words, pair)
    for (one, here), (other, there) in combinations(zip(axis.texts, boxes, strict=True), 2):
        assert not overlap(here, there), (one.get_text(), other.get_text())


@pytest.mark.parametrize("name", EVERY)
def test_alternative_texts_are_sentences(name):
    words = schematics.about(EVERY[name])
    assert words[0].isupper()
    assert words[-1] in ".?"
    assert 40 < len(words) < 600
    assert not set(words) & set('*`"_$<>')
