"""The one style of all schematics: what a net, a box, a loss, an arrow and a word look like.

A schematic is drawn on a :class:`Page`, in pixels from its upper left corner. Nets are in the
colour and the shape of the figures' markers, square for the teacher and round for the student,
so that they can be told apart in grey. Solid arrows lead forward, dashed ones are gradients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

from kdcourse.course.schematics.lines import Point, bent, rounded, shorter
from kdcourse.course.schematics.paper import PALETTE

WIDTH = 760  # of every page, in pixels
SIZE = 13  # of words; none is smaller than 11


class Tone(NamedTuple):
    """The colours of one kind of thing: of its lines, its fill, and words about it."""

    line: str
    fill: str
    words: str

    @property
    def solid(self) -> "Tone":
        return self._replace(fill=self.line)


def _tone(line: str, fill: str, words: str) -> Tone:
    return Tone(*(PALETTE[name][0] for name in (line, fill, words)))


INK = _tone("ink", "paper", "ink")
QUIET = _tone("faint", "paper", "quiet")
DATA = _tone("quiet", "soft", "ink")
ALONE = _tone("alone", "soft", "quiet")
TEACHER = _tone("teacher", "teacher-soft", "teacher-words")
STUDENT = _tone("student", "student-soft", "student-words")
OTHER = _tone("other", "other-soft", "other-words")
HERE = _tone("here", "here-soft", "ink")  # what a map lights
PILL = _tone("ink", "ink", "paper")  # of losses


class Box(NamedTuple):
    """What was drawn: its middle and its size, for arrows to start and end at."""

    x: float
    y: float
    width: float
    height: float

    def at(self, across: float = 0, down: float = 0) -> Point:
        """Return a point of it: (0, 0) is the middle, (1, 1) the lower right corner."""
        return self.x + across * self.width / 2, self.y + down * self.height / 2

    @property
    def left(self) -> Point:
        return self.at(-1)

    @property
    def right(self) -> Point:
        return self.at(1)

    @property
    def top(self) -> Point:
        return self.at(0, -1)

    @property
    def bottom(self) -> Point:
        return self.at(0, 1)


class Page:
    """A page of a given height to draw on; ``page.figure`` is the result."""

    def __init__(self, height: float) -> None:
        self.figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        self.figure.patch.set_visible(False)
        self.axis = self.figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
        self.axis.axis("off")
        self.box(WIDTH / 2, height / 2, WIDTH - 1, height - 1, tone=QUIET, corner=10)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        tone: Tone = INK,
        *,
        size: float = SIZE,
        align: str = "center",
        bold: bool = False,
        turned: float = 0,
    ) -> None:
        """Write words (with formulas between dollars) around a point, or left or right of it."""
        several = "\n" in words  # lines; a single one stands on its baseline, formulas as well
        self.axis.text(
            x,
            y if several else y + 0.35 * size,
            words,
            color=tone.words,
            size=size,
            ha=align,
            va="center" if several else "baseline",
            weight="bold" if bold else "normal",
            rotation=turned,
            family="DejaVu Sans",
            math_fontfamily="dejavusans",
            linespacing=1.25,
            zorder=6,
        )

    def shape(
        self,
        points: Sequence[Point],
        tone: Tone = INK,
        *,
        fill: bool = True,
        closed: bool = True,
        corner: float = 0,
        width: float = 1.5,
        dashed: bool = False,
        above: float = 3,
    ) -> None:
        """Draw a polygon or a line, its corners rounded if wanted."""
        patch = PathPatch(
            rounded(points, corner, closed),
            facecolor=tone.fill if fill and closed else "none",
            edgecolor=tone.line if width else "none",
            linewidth=width,
            linestyle=(0, (3.5, 2.5)) if dashed else "-",
            capstyle="butt" if dashed else "round",
            joinstyle="round",
            zorder=above,
            clip_on=False,
        )
        self.axis.add_patch(patch)

    def line(
        self, points: Sequence[Point], tone: Tone = INK, *, width: float = 1.5, dashed: bool = False
    ) -> None:
        """Draw an open line through points."""
        self.shape(points, tone, closed=False, width=width, dashed=dashed)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        label: str = "",
        tone: Tone = DATA,
        *,
        corner: float = 4,
        size: float = SIZE,
        dashed: bool = False,
        line: float = 1.5,
    ) -> Box:
        """Draw a box around a point, with a label in its middle."""
        box = Box(x, y, width, height)
        corners = [box.at(*c) for c in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        self.shape(corners, tone, corner=corner, dashed=dashed, width=line)
        if label:
            self.text(x, y, label, tone, size=size)
        return box

    def dot(self, x: float, y: float, tone: Tone = INK, *, radius: float = 5) -> Box:
        """Draw a sample: a filled dot, square for the teacher's."""
        corner = 0 if tone is TEACHER else radius
        return self.box(x, y, 2 * radius, 2 * radius, tone=tone.solid, corner=corner, line=0)

    def net(
        self,
        x: float,
        y: float,
        name: str,
        tone: Tone,
        *,
        width: float = 110,
        height: float = 76,
        layers: int = 4,
        frozen: bool = False,
    ) -> Box:
        """Draw a net: its layers above its name; square corners for a teacher, a lock if frozen."""
        net = self.box(x, y, width, height, tone=tone, corner=0 if tone is TEACHER else 16)
        step = min(15, (width - 30) / max(layers, 1))
        self.layers(x, y, [tone] * layers, height=height, step=step)
        self.text(x, y + height * 0.31 if layers else y, name, tone)
        if frozen:
            self.lock(*net.at(1, -1), tone)
        return net

    def layers(
        self, x: float, y: float, tones: Sequence[Tone], *, height: float, step: float
    ) -> None:
        """Draw the layers of a net of this height around a point, one in each tone."""
        for layer, tone in enumerate(tones):
            place, tall = x + (layer - (len(tones) - 1) / 2) * step, height * 0.42 * 0.86**layer
            self.box(place, y - height * 0.15, 6, tall, tone=tone.solid, corner=2, line=0)

    def lock(self, x: float, y: float, tone: Tone = INK) -> None:
        """Draw a lock: what carries it is frozen."""
        paper = Tone(INK.fill, INK.fill, INK.fill)
        self.box(x, y - 1, 20, 22, tone=paper, corner=6, line=0)
        hoop = [(x - 3.8, y), (x - 3.8, y - 9), (x + 3.8, y - 9), (x + 3.8, y)]
        self.shape(hoop, tone, closed=False, corner=3.7, width=1.8, above=4)
        self.box(x, y + 3, 13, 10, tone=tone.solid, corner=1.5, line=0)

    def loss(self, x: float, y: float, label: str, *, width: float = 96, height: float = 30) -> Box:
        """Draw a loss: a pill in ink."""
        return self.box(x, y, width, height, label, PILL, corner=height / 2)

    def arrow(
        self,
        *points: Point,
        tone: Tone = INK,
        gradient: bool = False,
        bend: float = 0,
        gap: float = 3,
        width: float = 1.5,
        heads: int = 1,
    ) -> None:
        """Draw an arrow through points, its corners rounded; a gradient is dashed.

        ``bend`` curves an arrow between two points: to its left if it is positive, by this share
        of its length. ``gap`` pixels stay free at both ends. With two ``heads`` it points both
        ways, with none it is a line.
        """
        places = bent(points[0], points[-1], bend) if bend else list(points)
        places = shorter(shorter(places, gap)[::-1], gap)[::-1]
        head = 4 + 2.6 * width
        ends = [places, places[::-1]][:heads]
        heads_at = [(end[-1], shorter(end, head)[-1]) for end in ends]
        shaft = shorter(places, head - 1) if heads else places
        shaft = shorter(shaft[::-1], head - 1)[::-1] if heads == 2 else shaft
        corner = 0 if bend else 8
        self.shape(shaft, tone, closed=False, corner=corner, width=width, dashed=gradient)
        for (x, y), (back_x, back_y) in heads_at:
            across, down = 0.42 * (y - back_y), 0.42 * (back_x - x)
            wings = [(back_x + across, back_y + down), (back_x - across, back_y - down)]
            self.shape([(x, y), *wings], tone.solid, width=0, above=4)

    def bars(
        self,
        x: float,
        y: float,
        values: Sequence[float],
        tone: Tone,
        *,
        width: float = 66,
        height: float = 44,
        top: float = 1,
    ) -> Box:
        """Draw a prediction around a point: a bar a class, as tall as the box at ``top``."""
        box = Box(x, y, width, height)
        step = width / len(values)
        for place, value in enumerate(values):
            tall = max(height * value / top, 1)
            middle = x - width / 2 + (place + 0.5) * step
            self.box(
                middle,
                y + height / 2 - tall / 2,
                step * 0.7,
                tall,
                tone=tone.solid,
                corner=0,
                line=0,
            )
        self.line([box.at(-1, 1), box.at(1, 1)], tone, width=1)
        return box

    def image(self, x: float, y: float, pixels: np.ndarray, *, size: float = 56) -> Box:
        """Show a square image, grey (H × W) in 0…1 or coloured (H × W × 3), around a point."""
        box = Box(x, y, size, size)
        (left, top), (right, bottom) = box.at(-1, -1), box.at(1, 1)
        self.axis.imshow(
            pixels,
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=(left, right, bottom, top),
            interpolation="none",
            aspect="auto",
            zorder=3,
            clip_on=False,
        )
        self.axis.set(xlim=(0, WIDTH), ylim=(self.figure.get_figheight() * 72, 0))
        return box
