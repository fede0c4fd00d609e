"""Part 8: whose texts a student learns from, where its own lead it, and what vocabularies share."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from matplotlib.figure import Figure

from kdcourse.course.schematics.pen import (
    ALONE,
    DATA,
    HERE,
    INK,
    QUIET,
    STUDENT,
    TEACHER,
    Box,
    Page,
    Tone,
)
from kdcourse.course.schematics.scenes import ellipse

# Made up: what a teacher and a student say at four places of a text.
TAUGHT = (0.7, 0.2, 0.1), (0.1, 0.6, 0.3), (0.05, 0.8, 0.15), (0.5, 0.1, 0.4)
LEARNED = (0.4, 0.35, 0.25), (0.3, 0.3, 0.4), (0.2, 0.6, 0.2), (0.4, 0.25, 0.35)
# And of many tokens, the teacher's likeliest ones first, which are to be kept.
SURE = 0.36, 0.22, 0.12, 0.07, 0.05, 0.04, 0.03, 0.03, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01
UNSURE = 0.24, 0.26, 0.08, 0.12, 0.02, 0.06, 0.03, 0.05, 0.01, 0.04, 0.03, 0.02, 0.02, 0.02
KEPT = "a", "t", "m", "w"
PEOPLE = ("gait:", 84), ("a", 188), ("manner", 300), ("of", 416), ("walking", 532), ("⏎", 648)
ASTRAY = ("in", 416, 168), ("which", 510, 210), ("in", 602, 252), ("which", 690, 294)
PIECES = "a", "␣manner", "␣of", "␣walk", "ing", "⏎"


def whose_texts() -> Figure:
    """Three ways to distil a language model, which differ in who writes the text.

    Word-level: people have written it, and at every place the student's prediction of the next
    token is compared with the teacher's. Sequence-level: the teacher has written it, and its
    tokens are the labels. On-policy: the student writes it, and the teacher says at every place
    what it would have expected there.
    """
    page = Page(396)
    for y in (134, 262):
        page.line([(20, y), (740, y)], QUIET)
    _person(page, 72, 80)
    page.net(72, 214, "teacher", TEACHER, width=92, height=60, layers=3, frozen=True)
    page.net(72, 340, "student", STUDENT, width=92, height=60, layers=3)
    _way(page, 70, "word-level", DATA, "a manner of walking", r"$KL(p_T \| p_S)$")
    _way(page, 198, "sequence-level", TEACHER, "a way of walking", r"$CE(y, p_S)$")
    _way(page, 326, "on-policy", STUDENT, "a kind of walk", r"$KL(p_T \| p_S)$")
    return page.figure


def _way(page: Page, y: float, name: str, writer: Tone, text: str, loss: str) -> None:
    """Draw a text, in the tone of who writes it, and what is compared at each of its places."""
    page.text(72, y - 50, name, bold=True)
    middles = [282 + 88 * place for place in range(4)]
    words = [
        page.box(x, y, 78, 26, word, writer, corner=0 if writer is TEACHER else 8)
        for x, word in zip(middles, text.split(), strict=True)
    ]
    page.arrow((124, y), words[0].left, tone=INK)
    page.text(180, y - 12, "writes", QUIET, size=12)
    pill = page.loss(674, y, loss, width=104)
    compared = [(STUDENT, LEARNED, "student", 1)]
    if writer is not TEACHER:
        compared.append((TEACHER, TAUGHT, "teacher", -1))
    for tone, answers, who, side in compared:
        row = y + 38 * side
        page.text(236, row, f"{who} predicts", tone, size=12, align="right")
        for x, answer in zip(middles, answers, strict=True):
            page.bars(x, row, answer, tone, width=52, height=28, top=0.8)
        page.arrow((middles[-1] + 34, row), (pill.x, row), pill.at(0, side), tone=tone)
    if writer is TEACHER:
        page.arrow(words[-1].right, pill.left, tone=TEACHER)
        page.text(662, y - 28, "its words are labels", TEACHER, size=12)


def _person(page: Page, x: float, y: float) -> None:
    """Draw somebody who writes."""
    page.shape(ellipse(x, y - 20, 9, corners=18), ALONE.solid, width=0)
    body = [(x - 19, y + 16), (x - 19, y - 6), (x + 19, y - 6), (x + 19, y + 16)]
    page.shape(body, ALONE.solid, corner=12, width=0)
    page.text(x, y + 32, "people", INK)


def exposure_bias() -> Figure:
    """In training, a student is led along the texts of people, whatever it would have said itself.

    In use it goes on from its own words. One slip, and it is at a place where no text of people
    has ever led it: it has not learned what to say there, and every further word leads it farther
    away.
    """
    page = Page(328)
    page.box(374, 80, 700, 116, tone=Tone("", DATA.fill, ""), corner=16, line=0)
    page.text(40, 40, "in training: led along what people have written", INK, align="left")
    page.text(708, 40, "× its own words, put aside", STUDENT, align="right")
    slip = PEOPLE[2][1]
    seen = [_word(page, word, x, 84) for word, x in PEOPLE]
    for one, other in pairwise(seen):
        page.arrow(one.right, other.left, tone=ALONE)
    for word in seen[1:-1]:
        if word.x != slip:
            end = word.x + 24, 122.0
            page.arrow((word.x, 98), end, tone=STUDENT, gap=1, bend=0.25, heads=0)
            page.text(*end, "×", STUDENT)
    lost = [_word(page, word, x, y, unseen=True) for word, x, y in ASTRAY]
    page.arrow((slip, 98), (slip, lost[0].y), lost[0].left, tone=STUDENT, width=2.5)
    for one, other in pairwise(lost):
        page.arrow(one.right, (other.x, one.y), other.top, tone=STUDENT, width=2.5)
    page.text(slip - 12, 160, "in use: one slip …", STUDENT, align="right")
    page.text(470, 252, "… and it is where it has never been", STUDENT, align="right")
    return page.figure


def _word(page: Page, word: str, x: float, y: float, *, unseen: bool = False) -> Box:
    """Draw a place of a text, dashed where training has never led."""
    tone = STUDENT if unseen else ALONE._replace(fill=INK.fill, words=INK.words)
    return page.box(x, y, max(30, 22 + 8 * len(word)), 28, word, tone, corner=14, dashed=unseen)


def two_vocabularies() -> Figure:
    """One text in the tokens of two nets: a student's characters, and a teacher's pieces of words.

    The places at which both have read the same text are highlighted. What each says there can be
    compared, and so can the probabilities that both give to the chunk between two such places,
    however many tokens it has.
    """
    page = Page(250)
    step, left, rows = 29.0, 138.0, (88.0, 170.0)
    ends = [*accumulate((len(piece) for piece in PIECES), initial=0)]
    page.text(left - 14, rows[0], "student reads", STUDENT, size=12, align="right")
    page.text(left - 14, rows[1], "teacher reads", TEACHER, size=12, align="right")
    for place, character in enumerate("".join(PIECES)):
        x = left + step * (place + 0.5)
        page.box(x, rows[0], step - 7, 28, character, STUDENT, corner=8)
    for piece, (start, end) in zip(PIECES, pairwise(ends), strict=True):
        x, width = left + step * (start + end) / 2, step * (end - start)
        page.box(x, rows[1], width - 7, 28, piece, TEACHER, corner=0)
        page.text(x, sum(rows) / 2, f"{end - start}:1", QUIET, size=11)
    for end in ends:
        page.box(left + step * end, sum(rows) / 2, 4, 126, tone=HERE.solid, corner=2, line=0)
    page.text(left, 38, "where both have read the same: what do they say comes next?", align="left")
    between = "between: how probable is the chunk, in so many tokens of each?"
    page.text(left, 220, between, align="left")
    return page.figure


def top_k() -> Figure:
    """Of a teacher's prediction of the next token, the four likeliest are kept.

    All others become a single one, the rest, with their mass together. What the student says is
    told in the same way, and the two predictions of five numbers are compared.
    """
    page = Page(300)
    pill = page.loss(680, 156, r"$KL(\bar p_T \| \bar p_S)$", width=112, height=34)
    page.text(227, 30, "all tokens of a vocabulary", bold=True)
    page.text(509, 30, "the k likeliest, and the rest", bold=True)
    k = len(KEPT)
    for who, tone, y, said, side in (
        ("teacher", TEACHER, 90, SURE, -1),
        ("student", STUDENT, 222, UNSURE, 1),
    ):
        page.text(92, y, f"{who}\npredicts", tone, size=12, align="right")
        _bars(page, 108, y, said, tone, 17)
        page.arrow((358, y), (436, y), tone=tone)
        short = _bars(page, 448, y, (*said[:k], sum(said[k:])), tone, 24)
        page.arrow(short.right, (pill.x, y), pill.at(0, side), tone=tone)
        for place, token in enumerate((*KEPT, "rest")):
            page.text(460 + 24 * place + 4 * (place == k), y + 48, token, QUIET, size=12)
            if place < k:
                page.text(116.5 + 17 * place, y + 48, token, QUIET, size=12)
    return page.figure


def _bars(page: Page, left: float, y: float, said: Sequence[float], tone: Tone, step: float) -> Box:
    """Draw a prediction whose first bars are those of the tokens that are kept."""
    k = len(KEPT)
    for values, start, colour in ((said[:k], 0, tone), (said[k:], k, QUIET)):
        wide = step * len(values)
        page.bars(left + step * start + wide / 2, y, values, colour, width=wide, height=72, top=0.4)
    return Box(left + step * len(said) / 2, y, step * len(said), 72)
