"""Things to be seen in more than one schematic: photographs, relays, ways back of gradients."""

from collections.abc import Sequence

import numpy as np
from matplotlib.path import Path
from matplotlib.transforms import Bbox

from kdcourse.course.schematics.lines import Point
from kdcourse.course.schematics.paper import PALETTE
from kdcourse.course.schematics.pen import (
    DATA,
    INK,
    STUDENT,
    TEACHER,
    Box,
    Page,
    Tone,
)

HALF = (0, -1), (1, -1), (1, 1), (0, 1)  # of a box
# Left, top, right and bottom, as shares of an image; mirrored if left is more than right.
Crop = tuple[float, float, float, float]
WHOLE: Crop = (0, 0, 1, 1)
Scene = Sequence[tuple[str, Sequence[Point]]]  # the colour of each thing and its outline


def ellipse(
    x: float, y: float, across: float, down: float | None = None, *, corners: int = 10
) -> list[Point]:
    """Return the outline of an ellipse, or of a circle, around a point."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    down = across if down is None else down
    return [(float(x + across * np.cos(a)), float(y + down * np.sin(a))) for a in angles]


def rectangle(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """Return the outline of a rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


LANDSCAPE = [("soft", rectangle(0, 0, 1, 1)), ("faint", rectangle(0, 0.74, 1, 1))]
BODY = [(0.05, 0.56), (0.2, 0.52), (0.31, 0.33), (0.6, 0.33), (0.73, 0.52), (0.9, 0.56)]
BODY += [(0.95, 0.63), (0.95, 0.75), (0.05, 0.75)]
WINDOW = [(0.35, 0.38), (0.58, 0.38), (0.67, 0.52), (0.27, 0.52)]
HEADLIGHT = ellipse(0.89, 0.62, 0.04, 0.045, corners=14)
WHEELS = [
    (colour, ellipse(x, 0.76, radius, corners=corners))
    for x in (0.25, 0.75)
    for colour, radius, corners in (("ink", 0.095, 18), ("faint", 0.04, 10))
]
CAR = [*LANDSCAPE, ("faint", ellipse(0.15, 0.17, 0.085, corners=12)), ("alone", BODY)]
CAR += [("paper", WINDOW), *WHEELS, ("paper", HEADLIGHT)]
HOUSE = [*LANDSCAPE, ("quiet", rectangle(0.24, 0.42, 0.76, 0.82))]
HOUSE += [("ink", [(0.14, 0.45), (0.5, 0.13), (0.86, 0.45)])]
HOUSE += [("faint", rectangle(0.56, 0.56, 0.68, 0.82))]
HOUSE += [("paper", rectangle(0.32, 0.54, 0.46, 0.68))]


def photograph(
    page: Page,
    x: float,
    y: float,
    scene: Scene = CAR,
    *,
    size: float = 56,
    crop: Crop = WHOLE,
    tone: Tone = DATA,
    over: Scene = (),
    over_crop: Crop = WHOLE,
) -> Box:
    """Show a crop of a scene around a point, and half of another one over it, as mixup does."""
    box = Box(x, y, size, size)
    for things, part, half in ((scene, crop, ""), (over, over_crop, "80")):
        for colour, outline in things:
            fill = PALETTE[colour][0] + half
            if len(shown := _cropped(outline, part, box)):
                page.shape(shown, Tone(INK.line, fill, INK.words), width=0)
    page.shape([box.at(*at) for at in rectangle(-1, -1, 1, 1)], tone, fill=False, width=2)
    return box


def part_of(box: Box, crop: Crop) -> Box:
    """Return where a crop lies on the image that was drawn in a box."""
    left, top, right, bottom = crop
    x, y = box.at(left + right - 1, top + bottom - 1)
    return Box(x, y, (right - left) * box.width, (bottom - top) * box.height)


def dim(page: Page, box: Box) -> None:
    """Let an image fade."""
    page.box(*box, tone=Tone("", PALETTE["paper"][0] + "B0", ""), corner=0, line=0)


def spoil(page: Page, box: Box, *, seed: int = 0, grains: int = 40) -> None:
    """Scatter noise over an image."""
    generator = np.random.default_rng(seed)
    for place, (across, down) in enumerate(generator.uniform(-0.94, 0.94, (grains, 2))):
        grain = PALETTE[("ink", "paper")[place % 2]][0]
        page.box(*box.at(across, down), 3, 3, tone=Tone("", grain, ""), corner=0, line=0)


def relay(
    page: Page, x: float, y: float, name: str, *, width: float, height: float, layers: int = 4
) -> Box:
    """Draw a net that learns from one net, round on the left, and teaches another, square."""
    net = page.box(x, y, width, height, tone=STUDENT, corner=16, line=0)
    left, right = ([net.at(side * c, d) for c, d in HALF] for side in (-1, 1))
    page.shape(right, TEACHER, width=0)
    page.shape(left, STUDENT, closed=False, corner=16)
    page.line(right, TEACHER)
    step = min(15, (width - 24) / layers)
    tones = [STUDENT if layer < layers / 2 else TEACHER for layer in range(layers)]
    page.layers(x, y, tones, height=height, step=step)
    page.text(x, y + height * 0.31, name)
    return net


def gradient(page: Page, loss: Box, student: Box, *, right: float, below: float) -> None:
    """Draw the gradient's way from a loss, round the right and below, back to the student."""
    way = loss.right, (right, loss.y), (right, below), (student.x, below), student.bottom
    page.arrow(*way, tone=STUDENT, gradient=True)


def _cropped(outline: Sequence[Point], crop: Crop, box: Box) -> list[Point]:
    """Return the part of an outline that a crop shows, in the place of the box."""
    left, top, right, bottom = crop
    shown = Bbox([[min(left, right), top], [max(left, right), bottom]])
    places = np.asarray(Path([*outline, outline[0]]).clip_to_bbox(shown).vertices)
    shares = [((x - left) / (right - left), (y - top) / (bottom - top)) for x, y in places]
    points = [box.at(2 * across - 1, 2 * down - 1) for across, down in shares]
    return [(round(x, 1), round(y, 1)) for x, y in points]
