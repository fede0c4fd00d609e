"""Points, and lines through them: with round corners, bent, or cut short."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.path import Path

Point = tuple[float, float]
QUARTER = 0.4477  # of the way from a corner: where the handles of a quarter of a circle lie


def point(place: np.ndarray) -> Point:
    """Return two computed coordinates as a point."""
    return float(place[0]), float(place[1])


def rounded(points: Sequence[Point], corner: float, closed: bool) -> Path:
    """Return the path through points, its corners rounded by this radius."""
    places = np.asarray(points, float)
    count = len(places)
    vertices, codes = [], []
    for number, here in enumerate(places):
        ends = places[number - 1], places[(number + 1) % count]
        inner = closed or 0 < number < count - 1
        reach = min(corner, *(math.dist(here, end) / 2 for end in ends))
        if inner and reach:
            start, stop = (here + (end - here) * reach / math.dist(here, end) for end in ends)
            turns = [here + (end - here) * QUARTER for end in (start, stop)]
            vertices += [start, *turns, stop]
            codes += [Path.LINETO, *[Path.CURVE4] * 3]
        else:
            vertices.append(here)
            codes.append(Path.LINETO)
    codes[0] = Path.MOVETO
    if closed:
        vertices.append(vertices[0])
        codes.append(Path.CLOSEPOLY)
    return Path(vertices, codes)


def bent(start: Point, end: Point, by: float) -> list[Point]:
    """Return points of a curve from one point to another, to its left by a share of its length."""
    (x, y), (u, v) = start, end
    over = (x + u) / 2 + 2 * by * (v - y), (y + v) / 2 - 2 * by * (u - x)
    times = np.linspace(0, 1, 24)
    parts = (1 - times) ** 2, 2 * times * (1 - times), times**2
    curve = sum(np.outer(part, at) for part, at in zip(parts, (start, over, end), strict=True))
    return [(float(a), float(b)) for a, b in np.asarray(curve)]


def shorter(points: list[Point], by: float) -> list[Point]:
    """Return a line without its last pixels."""
    *rest, last = points
    length = math.dist(rest[-1], last)
    if length <= by and len(rest) > 1:
        return shorter(rest, by - length)
    share = 1 - min(by / length, 1)
    (x, y), (u, v) = rest[-1], last
    return [*rest, (x + (u - x) * share, y + (v - y) * share)]
