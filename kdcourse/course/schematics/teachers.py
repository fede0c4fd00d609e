"""Part 5a: large teachers and assistants, ensembles, and self-distillation."""

from itertools import groupby, pairwise

from matplotlib.figure import Figure

from kdcourse.course.schematics.pen import (
    ALONE,
    DATA,
    INK,
    QUIET,
    STUDENT,
    TEACHER,
    Box,
    Page,
    Tone,
)
from kdcourse.course.schematics.scenes import WHOLE, dim, ellipse, part_of, photograph, relay

# Shares of the questions, and which of three voters are right on them.
BALLOTS: dict[str, list[tuple[float, str]]] = {
    "all err at once": [(0.7, "123"), (0.3, "")],
    "err independently": [
        *((0.343, "123"), (0.147, "23"), (0.147, "13"), (0.147, "12")),
        *((0.063, "1"), (0.063, "2"), (0.063, "3"), (0.027, "")),
    ],
    "never two at once": [(0.1, "123"), (0.3, "23"), (0.3, "13"), (0.3, "12")],
    "always two at once": [(0.55, "123"), (0.15, "1"), (0.15, "2"), (0.15, "3")],
}
HEADLIGHT, WINDOW = (0.71, 0.44, 1.0, 0.73), (0.24, 0.2, 0.7, 0.66)  # crops of a car


def assistant() -> Figure:
    """Directly, a large teacher teaches a tiny student.

    Among all functions the teacher's lies far outside the small set that the student can
    represent, and the pull is too strong to follow. Through a teacher assistant of medium size,
    which is a student of the one and the teacher of the other, the long step becomes two short
    ones.
    """
    page = Page(366)
    page.line([(380, 24), (380, 342)], QUIET)
    for left, title in ((0, "Directly"), (380, "Through a teacher assistant")):
        page.text(left + 190, 28, title, bold=True)
        name = r"$f_\mathrm{large}$"
        large = page.net(left + 78, 100, name, TEACHER, height=92, layers=6)
        name = r"$f_\mathrm{small}$"
        small = page.net(left + 331, 100, name, STUDENT, width=58, height=52, layers=2)
        page.shape(ellipse(left + 190, 258, 168, 84, corners=40), TEACHER, corner=40, width=1)
        page.text(left + 190, 196, r"$\mathcal{F}_\mathrm{large}$", TEACHER)
        if left:
            middle = relay(page, left + 219, 100, r"$f_\mathrm{TA}$", width=78, height=70)
            page.arrow(large.right, middle.left, tone=TEACHER)
            page.arrow(middle.right, small.left, tone=TEACHER)
            page.shape(ellipse(left + 224, 266, 124, 60, corners=40), DATA, corner=40, width=1)
            page.text(left + 224, 223, r"$\mathcal{F}_\mathrm{TA}$")
        else:
            page.arrow(large.right, small.left, tone=TEACHER)
        page.shape(ellipse(left + 264, 276, 74, 36, corners=40), STUDENT, corner=40, width=1)
        page.text(left + 284, 276, r"$\mathcal{F}_\mathrm{small}$", STUDENT)
    far, stuck = page.dot(62, 240, TEACHER), page.dot(230, 276, STUDENT)
    page.arrow(stuck.left, far.right, tone=STUDENT, gradient=True)
    page.text(110, 284, "a pull too strong\nto follow", size=12)
    steps = [page.dot(442, 240, TEACHER), page.dot(510, 256, INK), page.dot(584, 272, STUDENT)]
    for end, start in pairwise(steps):
        page.arrow(start.left, end.right, tone=STUDENT, gradient=True)
    return page.figure


def ensemble() -> Figure:
    """Three weak models answer, and the average or the vote of their answers teaches one student.

    Below, three voters are each right on 70 percent of the questions. Their majority is right on
    70 percent if they all err at once, on 78.4 percent if they err independently, on 100 percent
    if no two ever err at once, and on 55 percent if they only err in pairs.
    """
    page = Page(388)
    page.box(228, 106, 412, 176, tone=Tone(TEACHER.line, INK.fill, ""), corner=10, dashed=True)
    page.text(422, 34, "one teacher", TEACHER, align="right")
    answers = (0.5, 0.3, 0.2), (0.3, 0.6, 0.1), (0.6, 0.1, 0.3)
    both = page.box(292, 106, 80, 48, "average\nor vote", TEACHER, size=12)
    for number, answer in enumerate(answers):
        name, y = f"$f_{number + 1}$", 50 + 56 * number
        member = page.net(78, y, name, TEACHER, width=78, height=48, layers=3)
        said = page.bars(180, y, answer, TEACHER, width=52, height=34, top=0.7)
        page.arrow(member.right, said.left)
        page.arrow(said.right, both.at(-1, (number - 1) * 0.5))
    mean = [sum(parts) / 3 for parts in zip(*answers, strict=True)]
    teaches = page.bars(390, 106, mean, TEACHER, width=52, height=34, top=0.7)
    loss = page.loss(498, 106, r"$\ell_{KD}$", width=72)
    says = page.bars(586, 106, (0.4, 0.25, 0.35), STUDENT, width=52, height=34, top=0.7)
    student = page.net(684, 106, "student", STUDENT, width=96)
    page.arrow(both.right, teaches.left)
    page.arrow(teaches.right, loss.left)
    page.arrow(student.left, says.right)
    page.arrow(says.left, loss.right)
    page.arrow(loss.bottom, (498, 172), (684, 172), student.bottom, tone=STUDENT, gradient=True)
    _ballots(page)
    return page.figure


def _ballots(page: Page) -> None:
    """Draw on which questions three voters and their majority are right, in four cases."""
    page.line([(22, 216), (738, 216)], QUIET)
    page.text(24, 240, "Three voters, each right (filled) on 70 % of the questions", align="left")
    for case, (name, parts) in enumerate(BALLOTS.items()):
        left = 24 + 182.5 * case
        page.text(left, 271, name, align="left", size=12)
        for row, voter in enumerate("123"):
            _answers(page, left, 292 + 15 * row, [(s, voter in who) for s, who in parts], TEACHER)
        majority = [(share, len(who) > 1) for share, who in parts]
        _answers(page, left, 344, majority, INK, height=15)
        right = sum(share for share, won in majority if won)
        page.text(left, 369, f"majority {100 * right:.3g} %", align="left", bold=True)


def _answers(
    page: Page,
    left: float,
    y: float,
    parts: list[tuple[float, bool]],
    tone: Tone,
    height: float = 10,
) -> None:
    """Draw the questions as a strip, filled where the answer is right."""
    filled, x, width = Tone(tone.line, tone.line, ""), left, 164
    for right, run in groupby(parts, key=lambda part: part[1]):
        end = x + width * sum(share for share, _ in run)
        if right:
            page.box((x + end) / 2, y, end - x, height, tone=filled, corner=0, line=0)
        x = end
    outline = [(left, y - height / 2), (left + width, y - height / 2)]
    outline += [(x, 2 * y - down) for x, down in outline[::-1]]
    page.shape(outline, tone, fill=False, width=1)


def multi_view() -> Figure:
    """Most training images of a car show its headlight and its window, and a few only one of them.

    A net with seed 1 learns the headlight and fails where only a window can be seen; a net with
    seed 42 learns the window and fails on headlights. A student with seed 1 that is taught by the
    second net learns both views.
    """
    page = Page(394)
    page.text(94, 28, "Training images", bold=True)
    for place, crop in enumerate((WHOLE, (1, 0.08, 0.04, 1), (1, 0, 0, 1), (0, 0.1, 0.96, 1))):
        photograph(page, 62 + 68 * (place % 2), 84 + 68 * (place // 2), crop=crop)
    page.text(96, 204, "most: both views", size=12)
    page.text(96, 316, "some: one view", size=12)
    for column, view in enumerate((HEADLIGHT, WINDOW)):
        photograph(page, 62 + 68 * column, 264, crop=view)
        photograph(page, 585 + 110 * column, 74, crop=view)
    page.line([(168, 56), (176, 56), (176, 336), (168, 336)], QUIET)
    page.text(424, 28, "What it looks at", bold=True)
    page.text(640, 28, "Is one view enough?", bold=True)
    known = {"seed 1": (True, False), "seed 42": (False, True), "seed 1, taught": (True, True)}
    rows = zip((152, 244, 336), (ALONE, TEACHER, STUDENT), known.items(), strict=True)
    nets = [_learned(page, y, tone, name, views) for y, tone, (name, views) in rows]
    page.arrow(nets[1].bottom, nets[2].top, tone=TEACHER, width=2)
    return page.figure


def _learned(page: Page, y: float, tone: Tone, name: str, views: tuple[bool, bool]) -> Box:
    """Draw a net, the views that it looks at, and whether it is right on either of them alone."""
    net = page.net(282, y, name, tone, width=122, height=66)
    page.arrow((176, y), net.left)
    car = photograph(page, 424, y, size=80)
    page.arrow(net.right, car.left)
    dim(page, car)
    for knows, view in zip(views, (HEADLIGHT, WINDOW), strict=True):
        if knows:
            part = part_of(car, view)
            photograph(page, part.x, part.y, crop=view, size=part.width, tone=tone)
    for column, knows in enumerate(views):
        sign, said = ("✓", tone) if knows else ("✗", QUIET)
        page.text(585 + 110 * column, y, sign, said, size=26, bold=knows)
    return net


def born_again() -> Figure:
    """A chain of nets of the same size, each of which starts from fresh weights.

    The first learns from labels; each later one is taught by the one before it and then teaches
    the next. At the end the answers of all of them are averaged.
    """
    page = Page(268)
    labels = page.box(58, 96, 68, 32, "labels")
    nets = [
        page.net(172, 96, "$f_1$", TEACHER, width=96, height=74),
        relay(page, 306, 96, "$f_2$", width=96, height=74),
        relay(page, 440, 96, "$f_3$", width=96, height=74),
        page.net(682, 96, "$f_k$", STUDENT, width=96, height=74),
    ]
    page.arrow(labels.right, nets[0].left)
    for start, end in pairwise(nets[:3]):
        page.arrow(start.right, end.left, tone=TEACHER)
    page.text(561, 96, "…", size=20)
    page.arrow(nets[2].right, (545, 96), tone=TEACHER)
    page.arrow((577, 96), nets[3].left, tone=TEACHER)
    page.text(494, 36, "each learns only from what the one before it says", size=12)
    mean = page.box(427, 226, 190, 34, "average of all: ensemble", TEACHER)
    for net in nets:
        page.line([net.at(0, 1.1), (net.x, 178)])
    page.line([(nets[0].x, 178), (nets[3].x, 178)])
    page.arrow((427, 178), mean.top, gap=0)
    return page.figure
