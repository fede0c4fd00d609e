"""Feature distillation: what layers show is pooled, or projected, before it is compared."""

from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from kdcourse.course.schematics.images import boot
from kdcourse.course.schematics.pen import (
    OTHER,
    QUIET,
    STUDENT,
    TEACHER,
    Box,
    Page,
    Tone,
)

# The attention of stage 2 on the first test image, a boot, in ninths of its maximum: of the shipped
# teacher, and of a res8 that was trained alone for ten epochs.
TAUGHT = ("4333436", "2243827", "2236676", "4349775", "5352147", "4223748", "3433655")
LEARNED = ("2122226", "1111238", "1016664", "1469351", "3345113", "1310333", "1011122")


def attention_maps() -> Figure:
    """A layer of the teacher and one of the student show features of equal height and width.

    The teacher's has more channels. The mean of the squares over the channels turns either into one
    H × W map of where the layer is active; divided by their norms, the two maps are compared, and
    their distance is the loss.
    """
    page = Page(274)
    image = page.image(46, 132, boot(), size=56)
    norms = r"$\Vert\, Z_T / \Vert Z_T \Vert - Z_S / \Vert Z_S \Vert \,\Vert$"
    loss = page.loss(640, 132, norms, width=188, height=38)
    for y, tone, channels, name, digits in (
        (68, TEACHER, 8, "T", TAUGHT),
        (196, STUDENT, 4, "S", LEARNED),
    ):
        above = y < image.y
        wide, high, words = (98, 64, "teacher") if above else (84, 56, "student")
        net = page.net(
            144, y, words, tone, width=wide, height=high, frozen=above, layers=5 if above else 3
        )
        sheets = _sheets(page, 282, y, channels, tone)
        heat = page.image(484, y, _map(digits), size=70)
        page.box(*heat, tone=tone._replace(fill="none"), corner=0)
        page.arrow(image.top if above else image.bottom, (image.x, y), net.left)
        page.arrow(net.right, sheets.left)
        page.arrow(sheets.right, heat.left, gap=6)
        page.arrow(heat.right, (loss.x, y), loss.top if above else loss.bottom)
        page.text(383, y - 24, r"$\frac{1}{C}\,\sum_c |A_c|^2$", size=14)
        page.text(sheets.x, y + 54, rf"$A_{name}$:  $C_{name} \times H \times W$", tone)
        page.text(heat.x, y + 54, rf"$Z_{name}$:  $H \times W$", tone)
    return page.figure


def fitnets_stages() -> Figure:
    """Two stages of training with a hint.

    First a projection r maps the features of the student's middle layer to the shape of the
    teacher's, and their distance trains r and the lower half of the student alone. Then r is
    thrown away, and the labels, perhaps with KD, train the whole student.
    """
    page = Page(296)
    page.text(190, 26, "stage 1: the hint", bold=True)
    page.text(566, 26, "stage 2: the task", bold=True)
    page.line([(368, 20), (368, 276)], QUIET, width=1)

    taught, learned = _layers(page, 126, 84, TEACHER), _layers(page, 126, 240, STUDENT, trained=2)
    page.text(80, 84, "teacher", TEACHER, align="right")
    page.text(80, 240, "student", STUDENT, align="right")
    loss = page.loss(taught[1].x, 148, r"$\Vert A_T - r(A_S) \Vert^2$", width=124)
    projection = page.box(learned[1].x, 194, 34, 24, "$r$", OTHER)
    page.arrow(taught[1].bottom, loss.top)
    page.arrow(learned[1].top, projection.bottom)
    page.arrow(projection.top, loss.bottom)
    beside = (92, loss.y), (92, 240)
    page.arrow(loss.left, *beside, learned[0].left, gradient=True, tone=STUDENT)

    taught, learned = _layers(page, 418, 84, TEACHER), _layers(page, 418, 240, STUDENT)
    page.box(learned[1].x, 194, 34, 24, "$r$", QUIET, dashed=True)
    page.line([(learned[1].x - 22, 208), (learned[1].x + 22, 180)], QUIET)
    loss = page.loss(660, 148, r"$\ell_{CE}\ (+\,\lambda\,\ell_{KD})$", width=124)
    page.arrow(page.box(536, 148, 60, 28, "labels").right, loss.left)
    below = (738, loss.y), (738, 278), (learned[0].x, 278)
    page.arrow(loss.right, *below, learned[0].bottom, gradient=True, tone=STUDENT)
    for layers, end in ((taught, loss.top), (learned, loss.bottom)):
        page.arrow(layers[-1].right, (loss.x, layers[-1].y), end)
    return page.figure


def _sheets(page: Page, x: float, y: float, channels: int, tone: Tone) -> Box:
    """Draw the channels of a layer, one behind the other."""
    side, step = 52, 7
    for channel in range(channels):
        shift = step * (channel - (channels - 1) / 2)
        page.box(x + shift, y - shift * 0.4, side, side, tone=tone, corner=0, line=1.2)
    return Box(x, y, side + step * (channels - 1), side)


def _map(digits: tuple[str, ...]) -> np.ndarray:
    return np.array([[int(digit) / 9 for digit in row] for row in digits])


def _layers(page: Page, x: float, y: float, tone: Tone, trained: int = 4) -> list[Box]:
    """Draw the four layers of a net, one after the other; dashed are those not trained yet."""
    high, corner = (60, 0) if tone is TEACHER else (38, 8)
    layers = []
    for number in range(4):
        idle = number >= trained
        colours = tone._replace(line=QUIET.line, fill=QUIET.fill) if idle else tone
        layers.append(
            page.box(x + 54 * number, y, 34, high, tone=colours, corner=corner, dashed=idle)
        )
    for layer, following in pairwise(layers):
        page.arrow(layer.right, following.left, width=1.2)
    if tone is TEACHER:
        page.lock(*layers[-1].at(1, -1), tone)
    return layers
