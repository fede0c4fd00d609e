"""The map of the lecture: property × teacher × tips, hung from the formula of distillation.

The notebooks show it with their own place lit, the index with the numbers of the notebooks.
"""

from typing import NamedTuple

from matplotlib.figure import Figure

from kdcourse.course.schematics.lines import Point
from kdcourse.course.schematics.pen import HERE, INK, PILL, QUIET, STUDENT, TEACHER, Page

TOP, DEEP, GAP = 94, 116, 5  # where the places of a column start, their height together, the gap


class Column(NamedTuple):
    """Places of the lecture, one above the other: the notebook of each, and its words."""

    left: float
    width: float
    heading: str
    heading_at: float
    places: tuple[tuple[str, str], ...]
    thread: tuple[Point, ...] = ()  # from a part of the formula to the heading


COLUMNS = (
    Column(
        14,
        112,
        "Why?",
        70,
        (("1", "a good optimum\nexists, but is\nhard to find"),),
        ((70, 46), (70, 62)),
    ),
    Column(
        140,
        168,
        "Which property?",
        224,
        (
            ("2", "logits"),
            ("3", "features: attention,\nhints, saliency"),
            ("4", "relations:\ndistances, angles"),
        ),
        ((224, 46), (224, 62)),
    ),
    Column(
        322,
        104,
        "Which teacher?",
        428,
        (
            ("5a", "a large one"),
            ("5a", "an assistant"),
            ("5a", "an ensemble"),
            ("5a", "an earlier self"),
        ),
        ((304, 46), (304, 54), (428, 54), (428, 62)),
    ),
    Column(
        431,
        104,
        "",
        0,
        (("5b", "peers"), ("5b", "momentum"), ("5b", "uncompressed"), ("5b", "corrected")),
    ),
    Column(549, 92, "Tips", 595, (("6", "same views"), ("6", "patience"))),
    Column(
        655,
        91,
        "Further",
        700,
        (("7", "self-\nsupervised"), ("7", "data-free"), ("8", "language\nmodels")),
    ),
)


def map_index() -> Figure:
    """The formula of distillation, minimise L(f) plus λ times dist(f, f large), as a map.

    From the minimum of L hangs the question why (notebook 1); from dist, which property is
    distilled: logits (2), features (3) or relations (4); from f large, which teacher: a large one,
    an assistant, an ensemble or an earlier self (5a), peers, a momentum teacher or an
    uncompressed, perhaps corrected one (5b). Tips (6), further readings (7) and language models (8)
    follow.
    """
    return _map("")


def map_1() -> Figure:
    """Map of the lecture, its beginning highlighted: why distil, when a good small net exists?"""
    return _map("1")


def map_2() -> Figure:
    """Map of the lecture; among the properties to distil, the logits are highlighted."""
    return _map("2")


def map_3() -> Figure:
    """Map of the lecture; among the properties to distil, the features are highlighted."""
    return _map("3")


def map_4() -> Figure:
    """Map of the lecture; among the properties to distil, the relations are highlighted."""
    return _map("4")


def map_5a() -> Figure:
    """Map of the lecture; highlighted teachers: large, assistant, ensemble, earlier self."""
    return _map("5a")


def map_5b() -> Figure:
    """Map of the lecture; highlighted teachers: peers, momentum, uncompressed, corrected."""
    return _map("5b")


def map_6() -> Figure:
    """Map of the lecture, the tips highlighted: the same views for both nets, and patience."""
    return _map("6")


def map_7() -> Figure:
    """Map of the lecture, the further readings highlighted: self-supervised and data-free."""
    return _map("7")


def map_8() -> Figure:
    """Map of the lecture, its end highlighted: the distillation of language models."""
    return _map("8")


def _map(lit: str) -> Figure:
    """Draw the map with the places of one notebook lit, or with the numbers of all."""
    page = Page(224)
    for x, words, tone in (
        (70, r"$\min_f\ \hat L(f)$", INK),
        (159, r"$+\ \lambda\,\cdot$", INK),
        (224, "dist", INK),
        (249, "$($", INK),
        (260, "$f$", STUDENT),
        (270, "$,$", INK),
        (304, r"$\hat f_{\mathrm{large}}$", TEACHER),
        (332, "$)$", INK),
    ):
        page.text(x, 30, words, tone, size=19)
    for column in COLUMNS:
        here = lit[:1] in {notebook[0] for notebook, _ in column.places}  # 5b is reached as 5a is
        if column.thread:
            page.arrow(*column.thread, tone=INK if here else QUIET, heads=0, gap=0)
        if column.heading:
            page.text(column.heading_at, 72, column.heading, INK, bold=True)
        _places(page, column, lit)
    return page.figure


def _places(page: Page, column: Column, lit: str) -> None:
    """Draw the places of a column."""
    count, told = len(column.places), set()
    height = (DEEP - GAP * (count - 1)) / count
    for place, (notebook, words) in enumerate(column.places):
        here = notebook == lit
        middle = column.left + column.width / 2, TOP + (place + 0.5) * height + place * GAP
        tone = HERE if here else INK._replace(line=QUIET.line)
        box = page.box(*middle, column.width, height, words, tone, size=12, line=2.2 if here else 1)
        if not lit and notebook not in told:
            told.add(notebook)
            page.box(
                *box.at(-1, -1), 18 + 6 * (len(notebook) - 1), 18, notebook, PILL, size=11, corner=9
            )
