"""A restless path, and the moving averages that follow it."""

import math
from collections.abc import Mapping, Sequence

import ipywidgets

from kdcourse.course import plots
from kdcourse.course.widgets.screen import Point, drawing, html_widget, polyline


def averages(
    path: Sequence[float], followed: Mapping[float, Sequence[float]], optimum: float = 0.0
) -> ipywidgets.VBox:
    """Change the momentum m, and see how steadily, and how late, the average follows a student.

    Args:
        path: The student's weight after every step.
        followed: The average after every step, by its momentum in (0, 1).
        optimum: Where the weight should be.
    """
    late = 3 * len(path) // 4

    def away(weights: Sequence[float]) -> float:
        return math.sqrt(sum((w - optimum) ** 2 for w in weights[late:]) / (len(path) - late))

    def render(momentum: float) -> str:
        half = math.log(0.5) / math.log(momentum)
        return average_drawn(path, followed[momentum], optimum) + (
            f"<p><b>m = {momentum:g}: what the average remembers counts half after {half:.0f} "
            f"{'step' if round(half) == 1 else 'steps'}</b><br>"
            "Distance from the optimum in the last quarter (root mean square): "
            f"student {away(path):.2f}, average {away(followed[momentum]):.2f}<br>"
            "Weight against steps; thin: the student, thick: its average, dashed: the optimum</p>"
        )

    return html_widget(
        render, momentum=ipywidgets.SelectionSlider(description="momentum", options=list(followed))
    )


def average_drawn(path: Sequence[float], average: Sequence[float], optimum: float) -> str:
    """Return a drawing in HTML of a path, of an average of it, and of the optimum."""
    width, height, left, bottom = 460, 220, 30, 24
    low, high = min(*path, optimum), max(*path, optimum)

    def places(values: Sequence[float]) -> list[Point]:
        across, up = (width - left - 8) / (len(path) - 1), (height - bottom - 8) / (high - low)
        return [(left + n * across, 8 + (high - v) * up) for n, v in enumerate(values)]

    level = places([optimum] * len(path))
    parts = [
        polyline([level[0], level[-1]], plots.ALONE, "the optimum", dash="5 4", thick=1),
        polyline(places(path), plots.DISTILLED, "the student", thick=1),
        polyline(places(average), plots.TEACHER, "its average", thick=3),
        f"<text x='{left - 6}' y='{level[0][1] + 4:.1f}' text-anchor='end'>{optimum:g}</text>",
    ]
    for step, (x, _), side in ((1, level[0], "start"), (len(path), level[-1], "end")):
        parts.append(f"<text x='{x:.1f}' y='{height - 8}' text-anchor='{side}'>{step}</text>")
    return drawing("".join(parts), "A student's weight and its moving average", width, height)
