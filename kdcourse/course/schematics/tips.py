"""Part 6: what teacher and student look at, and for how long."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import expit

from kdcourse.course.schematics.lines import Point
from kdcourse.course.schematics.pen import (
    ALONE,
    INK,
    QUIET,
    STUDENT,
    TEACHER,
    Box,
    Page,
    Tone,
)
from kdcourse.course.schematics.scenes import (
    CAR,
    HOUSE,
    WHOLE,
    Crop,
    Scene,
    part_of,
    photograph,
)

FRONT, BACK = (0.4, 0.27, 0.97, 0.84), (0.03, 0.27, 0.6, 0.84)  # crops of a car
GABLE = (0.08, 0.1, 0.65, 0.67)  # of a house


def views() -> Figure:
    """Four designs of what teacher and student see of an image.

    With a fixed teacher, which sees the whole image, and with independent noise, where each sees
    another crop, the teacher answers about something that the student does not see. With
    consistent views both see the same crop, and with function matching both see the same mixture
    of a crop of one image and a crop of another.
    """
    page = Page(346)
    for x in (196, 380, 564):
        page.line([(x, 24), (x, 322)], QUIET)
    _design(page, 104, "fixed teacher", WHOLE, FRONT, ("$x$", "$a(x)$"))
    _design(page, 288, "independent noise", BACK, FRONT, ("$a'(x)$", "$a(x)$"))
    _design(page, 472, "consistent", FRONT, FRONT, ("$a(x)$", "$a(x)$"))
    _matching(page, 656)
    return page.figure


def _design(
    page: Page, x: float, name: str, teacher: Crop, student: Crop, formulas: tuple[str, str]
) -> None:
    """Draw an image with the crops that teacher and student get, and what they see."""
    page.text(x, 30, name, bold=True)
    _framed(page, x, CAR, teacher, student, size=104)
    for seen, tone, formula in zip(
        _seen(page, x, teacher, student), (TEACHER, STUDENT), formulas, strict=True
    ):
        page.arrow((seen.x, 168), seen.top, tone=tone)
        page.text(seen.x, 318, formula, tone)


def _matching(page: Page, x: float) -> None:
    """Draw two images and a crop of each, and the mixture that teacher and student see."""
    page.text(x, 30, "function matching", bold=True)
    mix = page.box(x, 162, 22, 22, "+", corner=11, size=16)
    images = _framed(page, x - 42, CAR, FRONT, FRONT), _framed(page, x + 42, HOUSE, GABLE, GABLE)
    for image in images:
        page.arrow(image.bottom, mix.at(0.5 * (image.x - x) / 42, -0.6))
    for seen, tone in zip(
        _seen(page, x, FRONT, FRONT, over=HOUSE, over_crop=GABLE), (TEACHER, STUDENT), strict=True
    ):
        page.arrow(mix.at(0.5 * (seen.x - x) / 45, 0.6), seen.top, tone=tone)
    page.text(x, 318, r"$\lambda\,a(x_i) + (1-\lambda)\,a(x_j)$")


def _framed(
    page: Page, x: float, scene: Scene, teacher: Crop, student: Crop, *, size: float = 74
) -> Box:
    """Show an image and mark on it which crops of it teacher and student get."""
    image = photograph(page, x, 58 + size / 2, scene, size=size)
    apart = 1.5 if teacher == student else 0
    for crop, tone, out in ((teacher, TEACHER, apart), (student, STUDENT, -apart)):
        across, down, width, height = part_of(image, crop)
        frame = Tone(tone.line, "none", tone.words)
        page.box(across, down, width + 2 * out, height + 2 * out, "", frame, corner=0, line=2.5)
    return image


def _seen(page: Page, x: float, teacher: Crop, student: Crop, **mixed: Any) -> list[Box]:
    """Draw what teacher and student see, and whether it is the same."""
    page.text(x, 242, "=" if teacher == student else "≠", size=20, bold=True)
    boxes = []
    for side, tone, crop, name in (
        (-1, TEACHER, teacher, "teacher"),
        (1, STUDENT, student, "student"),
    ):
        boxes.append(photograph(page, x + 45 * side, 242, size=64, crop=crop, tone=tone, **mixed))
        page.text(x + 45 * side, 292, name, tone, size=12)
    return boxes


def patience() -> Figure:
    """A sketch of accuracy against the length of training, without numbers.

    After a short training the student that learns from labels alone is ahead, but it soon stops
    improving; the distilled student goes on for a long time, towards its frozen teacher. Every
    epoch shows another crop of an image: the label says the same of each, the teacher does not.
    """
    page = Page(336)
    left, right, low, high = 56.0, 452.0, 268.0, 40.0
    page.arrow((left, low), (left, high - 14), gap=0)
    page.arrow((left, low), (right + 14, low), gap=0)
    page.text((left + right) / 2, 306, "epochs (log scale)", size=12)
    page.text(32, (low + high) / 2, "accuracy", size=12, turned=90)
    page.text(left + 12, 52, "teacher, frozen", TEACHER, size=12, align="left")
    for t, words in ((0.24, "short"), (0.95, "long")):
        x = left + t * (right - left)
        page.line([(x, low), (x, 68)], QUIET)
        page.text(x, low + 16, words, size=12)
    page.line([(left, 68), (right, 68)], TEACHER)
    for curve, tone in ((_rising(0.60, 0.17, 14), ALONE), (_rising(0.86, 0.42, 7.5), STUDENT)):
        page.line(curve, tone, width=2.5)
        for place in (24, 95):
            page.dot(*curve[place], tone)
    page.text(422, 150, "on labels alone", ALONE, size=12, align="right")
    page.text(422, 106, "distilled", STUDENT, size=12, align="right")
    _lessons(page)
    return page.figure


def _rising(end: float, middle: float, speed: float) -> list[Point]:
    """Return a curve that rises from chance to its end, on the axes of the picture."""
    times = np.linspace(0, 1, 101)
    heights = end * expit((times - middle) * speed)
    heights = (heights - heights[0]) * 228
    return [(float(x), float(y)) for x, y in zip(56 + 396 * times, 268 - heights, strict=True)]


def _lessons(page: Page) -> None:
    """Draw three epochs: another crop each time, the same label, another answer."""
    page.line([(484, 24), (484, 312)], QUIET)
    page.text(616, 32, "Every epoch another crop", bold=True)
    for x, words, tone in (
        (536, "crop", INK),
        (612, "label", ALONE),
        (692, "teacher says", TEACHER),
    ):
        page.text(x, 62, words, tone, size=12)
    crops = FRONT, BACK, (0.2, 0.15, 0.8, 0.75)
    answers = (0.75, 0.15, 0.1), (0.45, 0.2, 0.35), (0.6, 0.35, 0.05)
    for row, (crop, answer) in enumerate(zip(crops, answers, strict=True)):
        y = 110 + 78 * row
        photograph(page, 536, y, crop=crop)
        page.text(612, y, "car", ALONE)
        page.bars(692, y, answer, TEACHER, height=40, top=0.8)
