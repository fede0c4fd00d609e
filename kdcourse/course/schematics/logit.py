"""Logit distillation: the path of one image to the two losses, and what they pull towards."""

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from kdcourse.course.schematics.images import boot
from kdcourse.course.schematics.lines import point
from kdcourse.course.schematics.pen import DATA, INK, QUIET, STUDENT, TEACHER, Page

# The shipped teacher's logits of the first test image, a boot, and a student's, made up.
TAUGHT = np.array([-2.5, -4.2, -1.7, -2.0, -2.4, 1.2, -2.8, 3.7, 0.2, 10.0])
LEARNED = np.array([-0.6, -1.9, -1.5, 0.2, -1.2, 1.9, -0.4, 2.6, 1.0, 4.4])
BOOT = 9
# The shipped teacher's logits of boot, sneaker and shirt, of test image 181: a boot.
DOUBTED = np.array([8.1, 3.8, -3.9])


def logit_pipeline() -> Figure:
    """One image goes through a frozen teacher and through the student.

    The outputs of both are softened by a temperature τ and compared by the KD loss, weighted by
    λ τ²; the student's prediction without a temperature is compared with the label by the
    cross-entropy. The gradient of the sum flows back to the student only.
    """
    page = Page(356)
    rows = 58, 136, 214, 292
    image = page.image(50, 116, boot(), size=64)
    teacher = page.net(172, rows[0], "teacher", TEACHER, width=120, height=84, frozen=True)
    student = page.net(172, 175, "student", STUDENT, width=92, height=68, layers=3)
    page.arrow(image.top, (50, rows[0]), teacher.left)
    page.arrow(image.bottom, (50, 175), student.left)

    outputs = (softmax(TAUGHT / 4), softmax(LEARNED / 4), softmax(LEARNED), np.eye(10)[BOOT])
    steps = (r"softmax$(z_T/\tau)$", r"softmax$(z_S/\tau)$", "softmax$(z_S)$", "ankle boot")
    names = "$p_T$", r"$p_S^{\,(\tau)}$", "$p_S$", "label"
    tones = TEACHER, STUDENT, STUDENT, DATA
    starts = teacher.right, student.right, student.right, None
    seen = []
    for y, output, step, name, tone, start in zip(
        rows, outputs, steps, names, tones, starts, strict=True
    ):
        box = page.box(330, y, 116, 32, step, QUIET)
        bars = page.bars(458, y, output, tone, width=88, height=46)
        page.text(*bars.at(-0.55, -0.5), name, tone)
        if start:
            page.arrow(start, (250, start[1]), (250, y), box.left)
        page.arrow(box.right, bars.left, gap=5)
        seen.append(bars)
    total = page.loss(664, 175, r"$\ell_{CE} + \lambda\,\tau^2\,\ell_{KD}$", width=132, height=36)
    for pair, name in ((seen[:2], r"$\ell_{KD}$"), (seen[2:], r"$\ell_{CE}$")):
        middle = (pair[0].y + pair[1].y) / 2
        loss = page.loss(588, middle, name)
        for bars in pair:
            end = loss.top if bars.y < middle else loss.bottom
            page.arrow(bars.right, (loss.x, bars.y), end)
        page.arrow(loss.right, (total.x, middle), total.top if middle < total.y else total.bottom)
    way_back = (744, total.y), (744, 330), (student.x, 330)
    page.arrow(total.right, *way_back, student.bottom, gradient=True, tone=STUDENT)
    page.text(250, 340, "gradient, to the student only", QUIET, size=12)
    return page.figure


def simplex() -> Figure:
    """A triangle of all predictions for three classes: sneaker, shirt and ankle boot.

    The label of a boot is a corner, and the cross-entropy pulls the student's prediction there.
    The teacher's softened prediction lies inside, near the edge from boot to sneaker, and the KD
    loss pulls there. As the temperature grows from 1 to infinity, it moves from next to the corner
    into the middle.
    """
    page = Page(294)
    corners = np.array([(466, 246), (56, 246), (240, 38)])
    page.shape([point(corner) for corner in corners], INK, fill=False)
    path = [point(softmax(DOUBTED * share) @ corners) for share in np.linspace(1, 0, 61)]
    page.line(path, TEACHER, width=2.5)

    learned, label = (298.0, 124.0), point(corners[0])
    taught, middle = path[45], path[-1]  # at temperatures of 4 and of infinity
    for pull in (label, taught):
        page.arrow(learned, pull, gradient=True, tone=STUDENT, gap=11)
    for x, y, words, tone in (
        (512, 246, "ankle boot", INK),
        (56, 268, "sneaker", INK),
        (240, 22, "shirt", INK),
        (278, 124, "$p_S$", STUDENT),
        (384, 204, "CE", STUDENT),
        (316, 188, "KD", STUDENT),
        (taught[0], 268, r"$\tau = 4$", TEACHER),
        (label[0], 268, r"$\tau = 1$", TEACHER),
        (middle[0] - 34, middle[1], r"$\tau \to \infty$", TEACHER),
    ):
        page.text(x, y, words, tone)
    for place, tone in ((learned, STUDENT), (taught, TEACHER), (middle, TEACHER), (label, INK)):
        page.dot(*place, tone, radius=6)
    _predictions(page)
    return page.figure


def _predictions(page: Page) -> None:
    """Draw three points of the triangle as predictions."""
    for y, prediction, tone, words in (
        (56, np.eye(3)[0], DATA, "label"),
        (138, softmax(DOUBTED / 4), TEACHER, r"$p_T$ at $\tau = 4$"),
        (220, softmax(DOUBTED * 0), TEACHER, r"$p_T$ at $\tau \to \infty$"),
    ):
        bars = page.bars(660, y, prediction, tone, width=150, height=56)
        page.text(*bars.at(0.3, -0.6), words, tone)
    for x, words in ((610, "boot"), (660, "sneaker"), (710, "shirt")):
        page.text(x, 262, words, QUIET, size=11)
