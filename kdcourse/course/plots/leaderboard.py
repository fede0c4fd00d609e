"""Figures of the leaderboard: what methods gain over KD, and what that costs."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from kdcourse.course.plots.style import ALONE, DISTILLED, TEACHER, panel, panels

if TYPE_CHECKING:
    from kdcourse.course.leaderboard import Standing

SAYS: dict[str, dict[str, Any]] = {  # how a method is drawn, by what its comparison with KD says
    "better than KD": {"marker": "o", "color": DISTILLED},
    "no difference from KD seen": {"marker": "D", "color": ALONE, "markerfacecolor": "white"},
    "worse than KD": {"marker": "X", "color": "#000000"},
}
ROW = 0.24  # inches
# Where a name may stand beside its point, in pixels to the right and up: the nearest first.
SIDES = sorted(
    (
        (side * right, up)
        for side in (1, -1)
        for right in (11, 40, 80)
        for up in range(-120, 121, 5)
    ),
    key=lambda at: (at[0] / 2) ** 2 + at[1] ** 2,
)


def gains(boards: Mapping[str, Sequence["Standing"]]) -> Figure:
    """Draw the gain of every method over KD with its 95 % interval, a panel for each board.

    A method that is far worse than the others is an arrow at the edge, with its mean beside it.
    """
    rows, columns = max(map(len, boards.values())), min(len(boards), 2)
    high = ROW * (rows + 2)
    figure, axes = panels(math.ceil(len(boards) / columns), columns, width=4.2, height=high)
    for axis in axes.flat[len(boards) :]:
        axis.remove()
    for axis, (about, standings) in zip(axes.flat, boards.items(), strict=False):
        shown = [row for row in standings if not row.is_kd]
        least = _least([row.over_kd.mean for row in shown])
        edge = min(row.over_kd.low for row in shown if row.over_kd.mean >= least)
        for place, row in enumerate(shown):
            style, found = SAYS[row.says], row.over_kd
            if found.mean < least:
                axis.plot(edge, place, marker="<", color=style["color"])
                beside = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
                axis.annotate(f"{found.mean:.1f}", (edge, place), **beside, size=8)
                continue
            axis.plot([found.low, found.high], [place, place], color=style["color"], linewidth=1.5)
            axis.plot(found.mean, place, linestyle="", **style)
        axis.axvline(0, color=TEACHER, linewidth=1)
        axis.set_yticks(range(len(shown)), [row.name for row in shown], size=8)
        axis.set(title=about, ylim=(len(shown) - 0.5, -0.5))
        axis.set_xlabel("test accuracy − that of KD, percentage points", size=9)
        axis.grid(axis="x", linewidth=0.3)
    _legend(figure)
    return figure


def gain_against_cost(about: str, standings: Sequence["Standing"]) -> Figure:
    """Draw the gain over labels alone against the time of a step as a ratio to KD's.

    A method that is far worse than the others is an arrow at the edge, with its gain beside it.
    """
    figure, axis = panel(7, 6)
    timed = [(row, row.time) for row in standings if row.time is not None]
    all_gains = [row.over_labels.mean for row, _ in timed]
    least = _least(all_gains)
    near = [gain for gain in all_gains if gain >= least]
    edge = min(0.0, *near) - 0.1 * (max(near) - min(near))
    places: dict[str, tuple[float, float]] = {}
    for row, time in sorted(timed, key=lambda one: not one[0].is_kd):  # its name lies nearest
        style = {"marker": "s", "color": TEACHER} if row.is_kd else SAYS[row.says]
        gain, name = row.over_labels.mean, row.name
        if gain < least:
            style, gain, name = {**style, "marker": "v"}, edge, f"{name}: {gain:.1f}"
        axis.plot(time, gain, linestyle="", **style)
        places[name] = time, gain
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xscale("log")
    times = np.array([time for _, time in timed] or [1.0])
    axis.set_xlim(times.min() / 1.3, times.max() * 1.3)
    ticks = [
        t
        for t in (0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 3, 5, 10)
        if times.min() <= t <= 1.2 * times.max()
    ]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axis.minorticks_off()
    axis.set_xlabel("time of a step ÷ that of KD")
    axis.set_ylabel("test accuracy − labels alone, percentage points")
    axis.set_title(about)
    _legend(figure)
    _write_names(axis, places)
    return figure


def _least(found: Sequence[float]) -> float:
    """Return the least number that is shown in its place: others would squeeze the rest together.

    That is the first which is further above the one before it than below the largest of all.
    """
    values = sorted(found)
    half = itertools.pairwise(values[: len(values) // 2 + 1])
    far = [high for low, high in half if high - low > values[-1] - high]
    return far[-1] if far else values[0]


def _write_names(axis: Axes, places: Mapping[str, tuple[float, float]]) -> None:
    """Write names beside points, each as near as it can be without touching another or a point."""
    axis.figure.draw_without_rendering()  # type: ignore[union-attr]  # lays out what is there
    dots = {name: axis.transData.transform(at) for name, at in places.items()}
    taken = [Bbox([dot - 6, dot + 6]) for dot in dots.values()]
    back, lines = axis.transData.inverted(), []
    for name, dot in dots.items():
        text = axis.text(*places[name], name, ha="center", va="center", size=8)
        text.set_in_layout(False)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0})
        half = np.array(text.get_window_extent().size) / 2
        for right, up in SIDES:
            centre = dot + np.array([right + np.sign(right) * half[0], up])
            box = Bbox([centre - half, centre + half])
            inside = all(axis.bbox.contains(*corner) for corner in (box.min, box.max))
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box.padded(3))
        text.set_position(tuple(back.transform(centre)))
        if (abs(right), up) != SIDES[0]:
            ends = np.array([dot, [centre[0] - np.sign(right) * half[0], centre[1]]])
            lines.append(back.transform(ends))
    axis.add_collection(LineCollection(lines, colors="grey", linewidths=0.5, zorder=0))


def _legend(figure: Figure) -> None:
    handles = [Line2D([], [], ls="", label=says, **style) for says, style in SAYS.items()]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False
    )
