"""Part 5b: peers, moving averages, and what a net has to teach once it is compressed."""

from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from kdcourse.course.schematics.pen import ALONE, QUIET, STUDENT, TEACHER, Box, Page, Tone
from kdcourse.course.schematics.scenes import dim, gradient, photograph, relay, spoil

UNITS = 3, 4, 3  # of the small nets whose weights are drawn


def mutual() -> Figure:
    """Two students learn at the same time from the same images, and each teaches the other.

    The loss of each is the cross-entropy with the label and the divergence from what the other
    says. Its gradient flows back to this student only.
    """
    page = Page(318)
    image = photograph(page, 48, 159)
    label = page.box(672, 159, 70, 32, "label $y$")
    losses: list[Box] = []
    said: list[Box] = []
    for own, other, y, side, size, answer in (
        (1, 2, 84, -1, 84, (0.5, 0.3, 0.2)),
        (2, 1, 234, 1, 66, (0.35, 0.15, 0.5)),
    ):
        net = relay(page, 172, y, f"$f_{own}$", width=1.45 * size, height=size)
        bars = page.bars(306, y, answer, STUDENT, top=0.6)
        page.text(306, y + side * 40, f"$p_{own}$", STUDENT)
        words = rf"$CE(y, p_{own}) + KL(p_{other}\,\|\,p_{own})$"
        loss = page.loss(550, y, words, width=200, height=36)
        page.arrow(image.at(0, side), (image.x, y), net.left)
        page.arrow(net.right, bars.left)
        page.arrow(bars.right, loss.left)
        page.arrow(label.at(0, side), (label.x, y), loss.right)
        edge, back = y + side * 58, net.at(0, side)
        way = loss.at(0, side), (loss.x, edge), (net.x, edge), back
        page.arrow(*way, tone=STUDENT, gradient=True)
        losses, said = [*losses, loss], [*said, bars]
    page.arrow(said[0].at(1, 0.6), losses[1].at(-0.75, -1), tone=TEACHER)
    page.arrow(said[1].at(1, -0.6), losses[0].at(-0.75, 1), tone=TEACHER)
    page.text(452, 159, "each teaches the other", TEACHER, size=12, align="left")
    return page.figure


def momentum() -> Figure:
    """The teacher is the moving average of the student.

    Teacher and student see the same image under different noise, and the student has to say what
    the teacher says. The gradient flows back to the student only; after every step the teacher's
    weights move a little way towards the student's.
    """
    page = Page(316)
    image = photograph(page, 52, 150)
    loss = page.loss(630, 150, r"$KL(p_T\,\|\,p_S)$", width=130, height=36)
    nets: list[Box] = []
    for name, tone, y, side, crop, noise, answer in (
        ("teacher", TEACHER, 78, -1, (0.25, 0.2, 1, 0.95), r"$\eta'$", (0.65, 0.2, 0.15)),
        ("student", STUDENT, 222, 1, (0, 0.2, 0.8, 1), r"$\eta$", (0.45, 0.2, 0.35)),
    ):
        seen = photograph(page, 160, y, crop=crop)
        spoil(page, seen, seed=y)
        page.text(160, y + side * 40, f"noise {noise}", size=12)
        net = page.net(296, y, name, tone, height=80)
        bars = page.bars(440, y, answer, tone, top=0.7)
        page.text(440, y + 44, f"$p_{name[0].upper()}$", tone)
        page.arrow(image.at(0, side), (image.x, y), seen.left)
        page.arrow(seen.right, net.left)
        page.arrow(net.right, bars.left)
        page.arrow(bars.right, (loss.x, y), loss.at(0, side))
        nets.append(net)
    teacher, student = nets
    page.text(486, 62, "no gradient", TEACHER, size=12, align="left")
    gradient(page, loss, student, right=726, below=290)
    page.arrow(student.top, teacher.bottom, width=3, tone=TEACHER)
    formula = r"$\theta_T \leftarrow m\,\theta_T + (1-m)\,\theta_S$"
    page.text(314, 150, formula, align="left", size=14)
    return page.figure


def compressed() -> Figure:
    """First a copy of a dense net is compressed: its weights are pruned or rounded.

    Then the compressed copy is the student: it is retrained to say what its dense self, which
    stays frozen, says of the same images.
    """
    page = Page(330)
    page.line([(366, 24), (366, 306)], QUIET)
    page.text(24, 30, "1  Compress a copy", align="left", bold=True)
    page.text(390, 30, "2  Retrain it, taught by its dense self", align="left", bold=True)
    weights = np.random.default_rng(3).normal(size=24)
    pruned = np.where(abs(weights) > np.quantile(abs(weights), 0.7), weights, 0)
    rounded = np.where(abs(weights) > 0.9, 1.6, 0.5)
    dense = _graph(page, 92, 170, weights, "dense", TEACHER)
    for side, kept, words in (
        (-1, pruned, "prune"),
        (1, rounded, "round"),
    ):
        small = _graph(page, 288, 170 + 68 * side, kept, "compressed", STUDENT)
        page.arrow(dense.at(1, 0.5 * side), small.left)
        page.text(180, 170 + 70 * side, words, size=12)
    image = photograph(page, 424, 170)
    loss = page.loss(694, 170, r"$\ell_{KD}$", width=76)
    for side, kept, name, tone, answer in (
        (-1, weights, "dense", TEACHER, (0.6, 0.25, 0.15)),
        (1, pruned, "compressed", STUDENT, (0.4, 0.25, 0.35)),
    ):
        net = _graph(page, 530, 170 + 68 * side, kept, name, tone)
        bars = page.bars(636, net.y, answer, tone, width=44, height=36, top=0.7)
        page.arrow(image.at(0, side), (image.x, net.y), net.left)
        page.arrow(net.right, bars.left)
        page.arrow(bars.right, (loss.x, net.y), loss.at(0, side))
        if side < 0:
            page.lock(*net.at(1, -1), tone)
        else:
            gradient(page, loss, net, right=742, below=312)
    return page.figure


def _graph(page: Page, x: float, y: float, weights: np.ndarray, name: str, tone: Tone) -> Box:
    """Draw a net with all its units and weights, each as thick as it is large."""
    net = page.box(x, y, 112, 104, tone=tone, corner=0 if tone is TEACHER else 16)
    places = [
        [(x + 38 * (layer - 1), y - 12 + 18 * (unit - (units - 1) / 2)) for unit in range(units)]
        for layer, units in enumerate(UNITS)
    ]
    pairs = [(a, b) for one, two in pairwise(places) for a in one for b in two]
    for (start, end), weight in zip(pairs, weights, strict=True):
        if weight:
            page.line([start, end], tone, width=float(np.clip(1.6 * abs(weight), 0.35, 2.6)))
    for unit in (unit for layer in places for unit in layer):
        page.dot(*unit, tone, radius=3.5)
    page.text(x, y + 41, name, tone, size=12)
    return net


def correction() -> Figure:
    """The data on which the teacher was trained are gone, and the data at hand look different.

    So the teacher is first trained a little further on the data at hand, with their labels. Then
    it is frozen and teaches the compressed student on the same data.
    """
    page = Page(292)
    for x in (222, 462):
        page.line([(x, 24), (x, 268)], QUIET)
    for x, words in ((24, "Before"), (244, "1  Correct the teacher"), (484, "2  Distil")):
        page.text(x, 30, words, align="left", bold=True)
    gone = photograph(page, 56, 110)
    dim(page, gone)
    page.line([gone.at(-1, -1), gone.at(1, 1)], ALONE)
    page.line([gone.at(-1, 1), gone.at(1, -1)], ALONE)
    page.text(56, 164, "pretraining\ndata: gone", QUIET, size=12)
    first = page.net(160, 110, "teacher", TEACHER, width=86, height=70)
    page.arrow(gone.right, first.left, tone=ALONE)

    image = _from_elsewhere(page, 276, 110)
    page.text(276, 164, "data\nat hand", size=12)
    teacher = page.net(384, 110, "teacher", TEACHER, width=86, height=70)
    label = page.box(276, 230, 56, 32, "label")
    loss = page.loss(384, 230, r"$\ell_{CE}$", width=76)
    page.arrow(image.right, teacher.left)
    page.arrow(teacher.bottom, loss.top)
    page.arrow(label.right, loss.left)
    page.arrow(loss.right, (446, 230), (446, 110), teacher.right, tone=TEACHER, gradient=True)

    image = _from_elsewhere(page, 510, 156)
    page.text(510, 210, "data\nat hand", size=12)
    teacher = page.net(618, 96, "corrected", TEACHER, width=92, height=70, frozen=True)
    student = page.net(618, 216, "compressed", STUDENT, width=92, height=58, layers=3)
    loss = page.loss(700, 156, r"$\ell_{KD}$", width=60)
    for net, side in ((teacher, -1), (student, 1)):
        page.arrow(image.right, (555, image.y), (555, net.y), net.left)
        page.arrow(net.right, (loss.x, net.y), loss.at(0, side))
    gradient(page, loss, student, right=742, below=266)
    return page.figure


def _from_elsewhere(page: Page, x: float, y: float) -> Box:
    """Show a photograph of low contrast and with noise."""
    image = photograph(page, x, y)
    dim(page, image)
    spoil(page, image)
    return image
