"""Logit distillation: the path of one image to the two losses, and what they pull towards."""

import gzip

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from kdcourse.course.schematics.pen import DATA, QUIET, STUDENT, TEACHER, Page
from kdcourse.places import image_folder

# The shipped teacher's logits of the first test image, a boot, and a student's, made up.
TAUGHT = np.array([-2.5, -4.2, -1.7, -2.0, -2.4, 1.2, -2.8, 3.7, 0.2, 10.0])
LEARNED = np.array([-0.6, -1.9, -1.5, 0.2, -1.2, 1.9, -0.4, 2.6, 1.0, 4.4])
BOOT = 9


def logit_pipeline() -> Figure:
    """One image goes through a frozen teacher and through the student.

    The outputs of both are softened by a temperature τ and compared by the KD loss, which counts
    λ τ² times; the student's prediction without a temperature is compared with the label by the
    cross-entropy. The gradient of the sum flows back to the student only.
    """
    page = Page(356)
    rows = 58, 136, 214, 292
    image = page.image(50, 116, _boot(), size=64)
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


def _boot() -> np.ndarray:
    """Return the first test image of Fashion-MNIST."""
    with gzip.open(image_folder() / "FashionMNIST/raw/t10k-images-idx3-ubyte.gz") as file:
        pixels = file.read(16 + 28 * 28)[16:]
    return np.frombuffer(pixels, np.uint8).reshape(28, 28) / 255
