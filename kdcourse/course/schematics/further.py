"""Part 7: distilling self-supervised models, and distilling without data."""

from matplotlib.figure import Figure

from kdcourse.course.schematics.pen import OTHER, QUIET, STUDENT, TEACHER, Page
from kdcourse.course.schematics.scenes import LANDSCAPE, gradient, photograph, spoil

ALIKE = (0.05, 0.42, 0.08, 0.03, 0.3, 0.12), (0.16, 0.3, 0.12, 0.1, 0.2, 0.12)  # to anchors
TROUSERS = [(0.3, 0.1), (0.7, 0.1), (0.78, 0.9), (0.58, 0.9), (0.5, 0.4), (0.42, 0.9), (0.22, 0.9)]
BOOT = [(0.35, 0.1), (0.62, 0.1), (0.62, 0.52), (0.9, 0.66), (0.9, 0.84), (0.3, 0.84)]


def seed() -> Figure:
    """A frozen self-supervised teacher and a student embed the same image.

    Either embedding is compared with a queue of anchors, the teacher's embeddings of earlier
    images, and the student's distribution of similarities is to match the teacher's. The
    teacher's newest embedding enters the queue, and the oldest leaves it.
    """
    page = Page(352)
    image = photograph(page, 48, 170)
    teacher = page.net(160, 80, "teacher", TEACHER, width=116, height=80, frozen=True)
    page.text(160, 135, "self-supervised", TEACHER, size=12)
    student = page.net(160, 260, "student", STUDENT, width=92, height=68, layers=3)
    queue = [page.box(330 + 26 * place, 170, 20, 30, "", TEACHER, corner=2) for place in range(6)]
    page.text(410, 203, "queue of anchors $d_j$", TEACHER, size=12, align="left")
    loss = page.loss(674, 170, "$CE(p_T, p_S)$", width=108, height=36)
    for net, tone, letter, alike, side in (
        (teacher, TEACHER, "T", ALIKE[0], -1),
        (student, STUDENT, "S", ALIKE[1], 1),
    ):
        y = net.y
        z = page.box(258, y, 32, 32, f"$z_{letter}$", tone, corner=0 if side < 0 else 8)
        words = rf"softmax$(\langle z_{letter}, d_j\rangle/\tau_{letter})$"
        softmax = page.box(395, y, 176, 34, words, QUIET)
        bars = page.bars(568, y, alike, tone, width=100, height=54, top=0.45)
        page.text(568, y + 44 * side, f"$p_{letter}$", tone)
        page.arrow(image.at(0, side), (48, y), net.left)
        page.arrow(net.right, z.left)
        page.arrow(z.right, softmax.left)
        page.arrow((395, 170 + 17 * side), softmax.at(0, -side), tone=TEACHER)
        page.arrow(softmax.right, bars.left)
        page.arrow(bars.right, (674, y), loss.at(0, side))
    page.arrow((258, 98), (258, 170), queue[0].left, tone=TEACHER)
    page.text(268, 188, "newest enters", TEACHER, size=12)
    page.arrow(queue[-1].right, (508, 170), tone=TEACHER)
    page.text(514, 170, "oldest\nleaves", TEACHER, size=12, align="left")
    gradient(page, loss, student, right=740, below=328)
    return page.figure


def data_free() -> Figure:
    """Without any data, a generator makes images from noise, and a frozen teacher judges them.

    The generator learns to please the teacher: each image should clearly be of one class,
    all classes should come equally often, and the teacher's features should respond. The student
    learns to say of these images what the teacher says.
    """
    page = Page(350)
    noise = page.box(52, 176, 56, 56, "", corner=0)
    spoil(page, noise, grains=90)
    page.text(52, 220, "noise", size=12)
    generator = page.net(152, 176, "generator", OTHER, width=96, height=76)
    made = [
        photograph(page, 262, y, [LANDSCAPE[0], ("alone", thing)])
        for y, thing in ((144, TROUSERS), (208, BOOT))
    ]
    for number, image in enumerate(made):
        spoil(page, image, seed=number, grains=24)
    teacher = page.net(390, 92, "teacher", TEACHER, height=84, frozen=True)
    student = page.net(390, 260, "student", STUDENT, width=92, height=68, layers=3)
    page.arrow(noise.right, generator.left)
    page.arrow(generator.right, (234, 176), gap=2)
    loss = page.loss(510, 176, r"$\ell_{KD}$", width=76)
    for net, tone, answer, side in (
        (teacher, TEACHER, (0.8, 0.12, 0.08), -1),
        (student, STUDENT, (0.55, 0.2, 0.25), 1),
    ):
        bars = page.bars(510, net.y, answer, tone, top=0.8)
        page.arrow((290, 176), (312, 176), (312, net.y), net.left)
        page.arrow(net.right, bars.left)
        page.arrow(bars.at(0, -side), loss.at(0, side))
    judged = page.loss(656, 92, r"$\ell_G$", width=76)
    page.arrow((543, 92), judged.left)
    for line, words in enumerate(
        ("sure of every image", "all classes equally often", "features active")
    ):
        page.text(656, 128 + 21 * line, words, OTHER, size=12)
    page.arrow(judged.top, (656, 28), (152, 28), generator.top, tone=OTHER, gradient=True)
    page.text(166, 44, "through the teacher", OTHER, size=12, align="left")
    gradient(page, loss, student, right=576, below=326)
    return page.figure
