"""The figures of a report: inline SVG, in colours of the page, which follow a light or dark scheme.

A net has one colour and one marker everywhere, so that colour-blind eyes, and everybody in grey,
can tell nets apart. Every figure has a text that says what it shows.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

from kdcourse.evaluation.calibration import Bin
from kdcourse.evaluation.classes import ClassChange
from kdcourse.evaluation.cost import Latency
from kdcourse.evaluation.resampling import FEW, Interval

MARKERS = (  # by the number of a net: the teacher's, a student's, the baseline's, and others
    "M-5,-5H5V5H-5Z",
    "M-5.5,0A5.5,5.5 0 1 0 5.5,0A5.5,5.5 0 1 0 -5.5,0Z",
    "M0,-6L6,5H-6Z",
    "M0,-7L7,0L0,7L-7,0Z",
    "M0,6L6,-5H-6Z",
    "M-6,-2.5H6V2.5H-6Z",
)
LEFT, BOTTOM, TOP = 58, 44, 14  # margins


class Chart:
    """Two axes, and what is drawn between them, in the units of the data.

    Args:
        width, height: Of the whole, in pixels.
        x, y: Lowest and highest value of each axis.
        log: Whether the horizontal axis is logarithmic.
    """

    def __init__(
        self,
        width: float,
        height: float,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        log: bool = False,
        left: float = LEFT,
        right: float = 14,
    ):
        self.width, self.height, self.log = width, height, log
        self.inner = left, width - right, height - BOTTOM, TOP
        self.x, self.y = x, y
        self.parts: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point in pixels."""
        left, right, bottom, top = self.inner
        (x0, x1), (y0, y1) = self.x, self.y
        if self.log:
            x, x0, x1 = math.log(x), math.log(x0), math.log(x1)
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return left + across * (right - left), bottom - up * (bottom - top)

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        """Write words at a place in pixels."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Draw a line through points of the data."""
        places = " ".join("{:.1f},{:.1f}".format(*self.at(*point)) for point in points)
        self.parts.append(f'<polyline points="{places}" class="{kind}"/>')

    def bar(self, left: float, right: float, low: float, high: float, kind: str) -> None:
        """Draw a rectangle between values of the data."""
        (x0, y1), (x1, y0) = self.at(left, low), self.at(right, high)
        self.parts.append(
            f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" '
            f'class="{kind}"/>'
        )

    def marker(self, x: float, y: float, number: int) -> None:
        """Draw the marker of a net at a point of the data."""
        place = "{:.1f},{:.1f}".format(*self.at(x, y))
        shape = MARKERS[number]
        self.parts.append(
            f'<path d="{shape}" transform="translate({place})" class="net f{number}"/>'
        )

    def axes(
        self,
        x: Sequence[float],
        y: Sequence[float],
        x_label: str,
        y_label: str,
        form: str = "{:g}",
    ) -> None:
        """Draw axes with ticks at these values, and their labels."""
        left, right, bottom, top = self.inner
        for value in y:
            place = self.at(self.x[0], value)[1]
            self.line([(self.x[0], value), (self.x[1], value)], "grid")
            self.text(left - 7, place + 4, form.format(value), "tick", "end")
        for value in x:
            self.text(self.at(value, self.y[0])[0], bottom + 17, f"{value:g}", "tick")
        self.line([(self.x[0], self.y[0]), (self.x[1], self.y[0])], "axis")
        self.text((left + right) / 2, self.height - 8, x_label, "label")
        middle = (bottom + top) / 2
        self.parts.append(
            f'<text transform="translate(14 {middle:.1f}) rotate(-90)" class="label" '
            f'text-anchor="middle">{escape(y_label)}</text>'
        )

    def svg(self, described: str) -> str:
        """Return the figure, with the text that says what it shows."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" role="img" '
            f'aria-label="{escape(described)}">{"".join(self.parts)}</svg>'
        )


def accuracy_against_latency(
    points: Mapping[str, tuple[Latency, Interval]],
    front: Sequence[str],
    numbers: Mapping[str, int],
    described: str,
) -> str:
    """Draw the accuracy of nets against their milliseconds, and the Pareto front as a line.

    Args:
        points: Latency, and accuracy in percent, by net.
        front: Nets on the Pareto front.
        numbers: The number of each net, for its colour and marker.
        described: What the figure shows.
    """
    times = [end for time, _ in points.values() for end in (time.lower, time.upper)]
    ends = [end for _, one in points.values() for end in (one.low, one.high)]
    margin = max(0.12 * (max(ends) - min(ends)), 0.5)
    y = ticks(min(ends) - margin, max(ends) + margin)
    x = log_ticks(min(times) / 1.2, max(times) * 1.2)
    chart = Chart(640, 340, (x[0], x[-1]), (y[0], y[-1]), log=True)
    chart.axes(x, y, "milliseconds of a forward pass (logarithmic)", "test accuracy, %")
    steps: list[tuple[float, float]] = []
    for time, value in sorted((points[name][0].median, points[name][1].value) for name in front):
        steps += [(time, before) for _, before in steps[-1:]] + [(time, value)]
    chart.line(steps, "front")
    sides = {n: 1 if one[0].median < math.sqrt(x[0] * x[-1]) else -1 for n, one in points.items()}
    heights: dict[str, float] = {}
    for side in (1, -1):
        places = {n: chart.at(x[0], points[n][1].value)[1] - 8 for n in points if sides[n] == side}
        heights |= _apart(places, 15)
    for name, (latency, one) in points.items():
        time, colour, side = latency.median, f"interval s{numbers[name]}", sides[name]
        chart.line([(time, one.low), (time, one.high)], colour)
        chart.line([(latency.lower, one.value), (latency.upper, one.value)], colour)
        chart.marker(time, one.value, numbers[name])
        across, anchor = chart.at(time, one.value)[0], "start" if side == 1 else "end"
        chart.text(across + 11 * side, heights[name], name, "name", anchor)
    return chart.svg(described)


def reliability_diagram(bins: Sequence[Bin], number: int, described: str) -> str:
    """Draw the accuracy of each bin, as a bar, and how far its confidence is from it.

    Args:
        bins: The bins; empty ones are left out.
        number: The net's number, for its colour.
        described: What the figure shows.
    """
    chart = Chart(260, 250, (0, 1), (0, 1), right=16)
    quarters = (0, 0.25, 0.5, 0.75, 1)
    chart.axes(quarters, quarters, "confidence", "accuracy")
    for one in filter(lambda one: one.samples, bins):
        few = " few" * (one.samples < FEW)
        chart.bar(one.low, one.high, 0, one.accuracy, f"bar f{number}{few}")
        gap = [(one.confidence, one.accuracy), (one.confidence, one.confidence)]
        chart.line(gap, "interval ink")
    chart.line([(0, 0), (1, 1)], "diagonal")
    return chart.svg(described)


def accuracy_by_severity(
    curves: Mapping[str, Sequence[float]], numbers: Mapping[str, int], described: str
) -> str:
    """Draw the accuracy of nets, in percent, at severities 0 (clean) to 5.

    Args:
        curves: Six accuracies by net.
        numbers: The number of each net, for its colour and marker.
        described: What the figure shows.
    """
    values = [value for curve in curves.values() for value in curve]
    y = ticks(min(values) - 1, max(values) + 1)
    chart = Chart(640, 300, (-0.1, 5.9), (y[0], y[-1]))
    chart.axes(range(6), y, "severity (0: clean)", "accuracy, %")
    heights = _apart({name: chart.at(5, curve[-1])[1] for name, curve in curves.items()}, 15)
    for name, curve in curves.items():
        chart.line(list(enumerate(curve)), f"curve s{numbers[name]}")
        for severity, value in enumerate(curve):
            chart.marker(severity, value, numbers[name])
        chart.text(chart.at(5, 0)[0] + 12, heights[name] + 4, name, "name", "start")
    return chart.svg(described)


def changes_by_class(changes: Sequence[ClassChange], described: str) -> str:
    """Draw the change of each class, in percentage points, with its interval."""
    ends = [100 * end for c in changes for end in (c.difference.low, c.difference.high, 0.0)]
    x = ticks(min(-1.0, *ends), max(1.0, *ends))
    wide = 12 + 7.2 * max(len(one.name) for one in changes)
    left = min(max(wide, LEFT), 190)
    height = 22 * len(changes) + BOTTOM + TOP
    chart = Chart(640, height, (x[0], x[-1]), (0, len(changes)), left=left)
    for value in x:
        chart.line([(value, 0), (value, len(changes))], "axis" if value == 0 else "grid")
        chart.text(
            chart.at(value, 0)[0], height - BOTTOM + 17, f"{value:+g}" if value else "0", "tick"
        )
    chart.text((left + 626) / 2, height - 8, "change, in percentage points", "label")
    for row, one in enumerate(changes):
        up, value = len(changes) - row - 0.5, 100 * one.difference.value
        kind = ("unsure", "gain", "loss")[one.direction]
        chart.bar(min(value, 0), max(value, 0), up - 0.3, up + 0.3, kind)
        low, high = 100 * one.difference.low, 100 * one.difference.high
        chart.line([(low, up), (high, up)], "interval ink")
        chart.text(left - 7, chart.at(0, up)[1] + 4, _short(one.name), "tick", "end")
    return chart.svg(described)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about so many round numbers, evenly spaced, that enclose a range."""
    rough = max(high - low, 1e-9) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return numbers of the form 1, 2 or 5 times a power of ten that enclose a range."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    numbers = [float(f"{nice}e{power}") for power in powers for nice in (1, 2, 5)]
    first = max(n for n, number in enumerate(numbers) if number <= low)
    last = min(n for n, number in enumerate(numbers) if number >= high)
    return numbers[first : last + 1]


def _apart(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Move labels down until they do not overlap."""
    moved: dict[str, float] = {}
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        moved[name] = max(height, max(moved.values(), default=-gap) + gap)
    return moved


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
