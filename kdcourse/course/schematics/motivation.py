"""Motivation: a good small net exists, and a teacher shows the way to it."""

import numpy as np
from matplotlib.figure import Figure

from kdcourse.course.schematics.lines import Point
from kdcourse.course.schematics.pen import ALONE, INK, QUIET, STUDENT, TEACHER, Page

START, BAD, GOOD = (
    0.08,
    0.33,
    0.78,
)  # where training starts and may end, along the functions of the small net


def small_and_large() -> Figure:
    """The functions of small nets lie within those of large nets; the teacher lies outside them.

    From the same start, training alone ends in a near, bad minimum of the loss L. With the distance
    from the large net added, that minimum is gone: the small net arrives at the good optimum, the
    function of its set that is closest to the large net's.
    """
    page = Page(290)
    _sets(page)
    _curves(page)
    return page.figure


def _sets(page: Page) -> None:
    """Draw the sets of functions, and two ways through the smaller one."""
    start, alone, good, large = (106, 188), (122, 136), (250, 152), (306, 96)
    page.shape(_ellipse(196, 150, 176, 122), TEACHER)
    page.shape(_ellipse(160, 166, 112, 76), STUDENT)
    page.text(196, 48, r"$\mathcal{F}_{\mathrm{large}}$", TEACHER, size=17)
    page.text(184, 112, r"$\mathcal{F}_{\mathrm{small}}$", STUDENT, size=17)
    page.arrow(start, alone, tone=ALONE, bend=0.14, gap=8, width=2)
    page.arrow(start, good, tone=STUDENT, bend=-0.2, gap=8, width=2)
    page.arrow(good, large, tone=INK, heads=2, gap=9, width=1.2)
    page.text(288, 132, "dist", align="left")
    page.dot(*start, INK)
    page.dot(*alone, ALONE)
    page.dot(*good, STUDENT)
    page.dot(*large, TEACHER)
    page.text(start[0], start[1] + 17, "start", size=12)
    page.text(alone[0], alone[1] - 16, "alone", ALONE, size=12)
    page.text(good[0] - 8, good[1] - 17, "$g$", STUDENT, size=15)
    page.text(large[0] + 4, large[1] - 20, r"$\hat f_{\mathrm{large}}$", TEACHER, size=15)


def _curves(page: Page) -> None:
    """Draw the loss along the functions of the small net, alone and with the distance added."""
    left, right, low, high = 424, 736, 248, 24
    places = np.linspace(0, 1, 121)
    top = _with_teacher(0)

    def at(place: float, loss: float) -> Point:
        return left + 14 + place * (right - left - 28), low - 10 - loss / top * (low - high - 24)

    page.arrow((left, low), (right, low), gap=0)
    page.arrow((left, low), (left, high - 8), gap=0)
    page.text((left + right) / 2, 268, r"functions $f$ in $\mathcal{F}_{\mathrm{small}}$", QUIET)
    for loss, tone in ((_loss, ALONE), (_with_teacher, STUDENT)):
        page.line([at(x, loss(x)) for x in places], tone, width=2.5)
    for place, loss, tone in (
        (START, _loss, INK),
        (START, _with_teacher, INK),
        (BAD, _loss, ALONE),
        (GOOD, _with_teacher, STUDENT),
    ):
        x, y = at(place, loss(place))
        page.dot(x, y - 6, tone)
    page.text(*at(START + 0.05, 1.06), "start", align="left", size=12)
    page.text(*at(0.05, 0.65), "$L(f)$", ALONE, align="left")
    page.text(*at(BAD, 0.5), "alone", ALONE, size=12)
    page.text(*at(GOOD, 0.42), "$g$", STUDENT, size=15)
    sum_ = r"$L(f) + \lambda\,\mathrm{dist}(f, \hat f_{\mathrm{large}})$"
    page.text(*at(0.3, 1.42), sum_, STUDENT, align="left")


def _loss(place: float) -> float:
    wells = ((0.16, BAD, 0.1), (0.68, GOOD, 0.14))
    return 0.82 - sum(deep * np.exp(-(((place - x) / wide) ** 2)) for deep, x, wide in wells)


def _with_teacher(place: float) -> float:
    return _loss(place) + 1.7 * (place - GOOD) ** 2


def _ellipse(x: float, y: float, across: float, down: float) -> list[Point]:
    turns = np.linspace(0, 2 * np.pi, 73)[:-1]
    return [(x + across * np.cos(turn), y + down * np.sin(turn)) for turn in turns]
