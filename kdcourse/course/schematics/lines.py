"""Points, and lines through them: with round corners, bent, or cut short."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.path import Path

Point = tuple[float, float]


def point(place: np.ndarray) -> Point:
    """Return two computed coordinates as a point."""
    return float(place[0]), float(place[1])


def rounded(points: Sequence[Point], corner: float, closed: bool) -> Path:
    """Return the path through points, its corners rounded by this radius."""
    places = np.asarray(points, float)
    count = len(places)
    vertices, codes = [], []
    for here in range(count):
        before, point, after = places[here - 1], places[here], places[(here + 1) % count]
        inner = closed or 0 < here < count - 1
        reach = min(corner, math.dist(before, point) / 2, math.dist(after, point) / 2)
        if inner and reach:
            entry = point + (before - point) * reach / math.dist(before, point)
            exit_ = point + (after - point) * reach / math.dist(after, point)
            kappa = 0.4477  # of the way back from the corner: a quarter of a circle
            turns = [point + (end - point) * kappa for end in (entry, exit_)]
            vertices += [entry, *turns, exit_]
            codes += [Path.LINETO, *[Path.CURVE4] * 3]
        else:
            vertices.append(point)
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
