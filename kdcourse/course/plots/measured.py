"""Figures of measured claims; error bars are 95 % intervals over seeds unless they say otherwise.

What is measured comes as :class:`kdcourse.course.claims.Result`; nothing of the claims is loaded.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdcourse.course.plots.samples import heat
from kdcourse.course.plots.style import (
    ALONE,
    DISTILLED,
    MARKERS,
    OTHER,
    STYLES,
    TEACHER,
    only_ticks,
    panel,
    panels,
)

if TYPE_CHECKING:
    from kdcourse.course.claims import Result
    from kdcourse.course.claims.claim import Effect
    from kdcourse.estimate import Estimate


def temperature_weight_map(
    result: "Result",
    temperatures: Sequence[float],
    weights: Sequence[float],
    chosen: tuple[float, float] | None = None,
) -> Figure:
    """Draw the mean gain in validation accuracy over labels alone, by τ and λ.

    A frame is drawn around the setting ``(τ, λ)`` that was chosen, if there is one.
    """
    alone = result.mean("alone")
    values = np.array(
        [[result.mean(f"tau={t} lambda={w}") - alone for w in weights] for t in temperatures]
    )
    return heat(
        values,
        temperatures,
        weights,
        row_label="temperature τ",
        column_label="weight λ",
        value_label="gain in validation accuracy, percentage points",
        decimals=2,
        framed=[] if chosen is None else [chosen],
    )


MARKS: dict[str, dict[str, Any]] = {  # how an interval is drawn, by what it says
    "above zero: holds": {"marker": "o", "color": DISTILLED},
    "across zero: not seen": {"marker": "D", "color": ALONE, "markerfacecolor": "white"},
    "below zero: reversed": {"marker": "X", "color": "#000000"},
}
ROW, HEAD, AXIS = 0.38, 1.1, 1.8  # height of a row in inches; of a claim's head and an axis in rows


def forest(*results: "Result", seeds: bool = False) -> Figure:
    """Draw a forest plot: every effect of claims with its interval, a panel for each unit.

    Labels stand above their intervals, so that the figure can be read on a phone. Where effects lie
    beyond ten, the axis is linear up to one and logarithmic from there, for the small ones' sake.
    With ``seeds``, the difference of every seed is drawn, too.
    """
    units = list(dict.fromkeys(e.unit for result in results for e in result.claim.effects))
    rows = {unit: [(r, of) for r in results if (of := _effects(r, unit))] for unit in units}
    heights = [sum(HEAD + len(of) for _, of in rows[unit]) for unit in units]
    height = ROW * (1 + AXIS * len(units) / sum(heights))
    figure, axes = panels(len(units), 1, width=3.8, height=height, height_ratios=heights)
    for axis, unit in zip(axes[:, 0], units, strict=True):
        place = 0.0
        for result, found in rows[unit]:
            _head(axis, place, result)
            place += HEAD
            for effect, estimate in found:
                if seeds:
                    values = [effect.of(run) for run in result.runs.values()]
                    axis.plot(values, [place] * len(values), ".", color=ALONE, alpha=0.5)
                _interval(axis, place, estimate)
                place += 1
        axis.set(ylim=(place - HEAD / 2, -HEAD / 2), yticks=[])
        axis.spines["left"].set_visible(False)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.grid(axis="x", linewidth=0.3)
        _scale(axis, unit)
    said = {_says(e) for unit in units for _, found in rows[unit] for _, e in found}
    handles = [Line2D([], [], ls="", label=says, **MARKS[says]) for says in MARKS if says in said]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        fontsize=7.5,
        handletextpad=0,
        columnspacing=1,
        frameon=False,
    )
    return figure


def effects(*results: "Result") -> Figure:
    """Draw a forest plot with the difference of every seed as a grey dot."""
    return forest(*results, seeds=True)


def _effects(result: "Result", unit: str) -> list[tuple["Effect", "Estimate"]]:
    """Return a claim's effects in one unit, each with its mean and interval."""
    both = zip(result.claim.effects, result.estimates, strict=True)
    return [(effect, estimate) for effect, estimate in both if effect.unit == unit]


def _says(estimate: "Estimate") -> str:
    above, across, below = MARKS
    return above if estimate.low > 0 else below if estimate.high < 0 else across


def _head(axis: Axes, place: float, result: "Result") -> None:
    """Write a claim's name and its verdict into a band."""
    axis.axhspan(place - 0.3, place + 0.3, color="#eeeeee", zorder=2.5)
    _write(axis, 0.01, place, result.claim.id, weight="bold", size=9, zorder=3)
    _write(axis, 0.99, place, result.verdict, ha="right", size=8, zorder=3)


def _interval(axis: Axes, place: float, estimate: "Estimate") -> None:
    """Draw an interval under its label, which interrupts the lines of the grid."""
    mark = MARKS[_says(estimate)]
    axis.plot([estimate.low, estimate.high], [place, place], color=mark["color"], linewidth=1.6)
    axis.plot(estimate.mean, place, linestyle="", **mark)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    _write(axis, 0.01, place - 0.43, estimate.label, size=8.5, bbox=box)


def _write(axis: Axes, share: float, place: float, text: str, **style: Any) -> None:
    """Write at a share of the axis's width, whatever the scale of the differences."""
    axis.text(share, place, text, va="center", transform=axis.get_yaxis_transform(), **style)


def _scale(axis: Axes, unit: str) -> None:
    """Scale and label the axis of the differences."""
    axis.set_xlabel(f"difference, {unit}".rstrip(", "), size=9)
    axis.tick_params(labelsize=8)
    if abs(axis.dataLim.intervalx).max() > 10:
        axis.set_xlabel(f"{axis.get_xlabel()}; logarithmic beyond ±1")
        axis.set_xscale("symlog", linthresh=1)
        axis.autoscale(axis="x")
        low, high = axis.get_xlim()
        ticks = [t for t in (-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100) if low <= t <= high]
        axis.set_xticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks], minor=False)
        axis.minorticks_off()


def arms(
    result: "Result",
    names: Sequence[str] | Mapping[str, str],
    *,
    baselines: Collection[str] = ("alone",),
    value_label: str = "test accuracy, %",
) -> Figure:
    """Draw the means of several arms of a claim with their intervals, and every seed's value.

    Args:
        result: Of the claim.
        names: The arms' measurements; as a mapping, with what to call them in the figure.
        baselines: Which of them are what the others are compared with; drawn in grey.
        value_label: What is measured, with its unit.
    """
    labels = names if isinstance(names, Mapping) else {n: n.replace(" ", "\n", 1) for n in names}
    figure, axis = panel(1.2 + 1.0 * len(labels), 3.4)
    for place, name in enumerate(labels):
        colour = ALONE if name in baselines else DISTILLED
        values = result.values(name)
        axis.plot([place] * len(values), values, ".", color=colour, alpha=0.4)
        _means(axis, [place], result, [name], color=colour, marker=MARKERS[colour], capsize=5)
    axis.set_xticks(range(len(labels)), list(labels.values()))
    axis.set(ylabel=value_label, xlim=(-0.6, len(labels) - 0.4))
    return figure


def sweep(result: "Result", families: Sequence[str], weights: Sequence[float]) -> Figure:
    """Draw validation accuracies with deviations by family and weight, beside the student alone."""
    figure, axis = panel(6.5, 3.6)
    _level(axis, result, "alone", va="center", ha="left")
    for place, (family, (colour, marker)) in enumerate(zip(families, STYLES[1:], strict=False)):
        values = np.array([result.values(f"{family} {w:g}") for w in weights])
        shift = 1.04 ** (place - len(families) / 2)  # side by side, so that no bar hides another
        axis.errorbar(
            np.array(weights) * shift,
            values.mean(axis=1),
            yerr=values.std(axis=1, ddof=1) if values.shape[1] > 1 else None,
            color=colour,
            marker=marker,
            capsize=3,
            linewidth=1.2,
            label=family,
        )
    axis.set(xscale="log", xlabel="weight λ (in units of each family)")
    axis.set_ylabel("validation accuracy, %")
    only_ticks(axis, weights)
    axis.legend(ncols=2, fontsize=9)
    return figure


def by_epochs(result: "Result", designs: Sequence[str], epochs: Sequence[int]) -> Figure:
    """Draw test accuracy against the epochs of training on a log axis, a line for each design.

    The result has measurements ``design epochs``; the first design is training on labels.
    """
    figure, axis = panel(6, 3.8)
    for place, (design, (colour, marker)) in enumerate(zip(designs, STYLES, strict=False)):
        places = np.array(epochs) * 1.03 ** (place - len(designs) / 2)
        style = {"color": colour, "marker": marker, "linestyle": "-" if place else "--"}
        names = [f"{design} {n}" for n in epochs]
        _means(axis, places, result, names, label=design, capsize=3, **style)
    axis.set(xscale="log", xlabel="epochs", ylabel="test accuracy, %")
    only_ticks(axis, epochs)
    axis.legend(fontsize=9)
    return figure


def teacher_sizes(result: "Result", sizes: Sequence[str], early: str) -> Figure:
    """Draw accuracies of teachers and of their students, and how far these are from each other.

    The result has the measurements ``size``, ``size teacher`` and ``size distance`` for every size,
    from small to large, and for a teacher that was stopped early, drawn apart. A dashed line is
    the student ``alone``.
    """
    figure, axes = panels(1, 3, width=3.1, height=3.0)
    names = [*sizes, early]
    places = range(len(names))
    for axis, suffix, title, unit, colour in (
        (axes[0, 0], " teacher", "teacher", "test accuracy, %", TEACHER),
        (axes[0, 1], "", "its student", "test accuracy, %", DISTILLED),
        (axes[0, 2], " distance", "student to teacher", "KL divergence, nats", OTHER),
    ):
        measured = [f"{name}{suffix}" for name in names]
        style = {"color": colour, "marker": MARKERS[colour], "capsize": 4}
        _means(axis, places[:-1], result, measured[:-1], **style)
        _means(axis, places[-1:], result, measured[-1:], **style, markerfacecolor="white")
        axis.set_xticks(places, [name.replace(" ", "\n") for name in names])
        axis.tick_params(axis="x", labelsize=8)
        axis.set(title=title, ylabel=unit, xlabel="teacher")
    _level(axes[0, 1], result, "alone", va="bottom", ha="right")
    return figure


def _means(
    axis: Axes, places: Sequence[float], result: "Result", names: Sequence[str], **style: Any
) -> None:
    """Draw the means of measurements with their 95 % intervals, from left to right."""
    found = [result.estimate(name) for name in names]
    axis.errorbar(places, [e.mean for e in found], yerr=[e.mean - e.low for e in found], **style)


def _level(axis: Axes, result: "Result", name: str, **aligned: Any) -> None:
    """Draw the mean of a measurement as a dashed line, with its name at the right end."""
    mean = result.mean(name)
    axis.axhline(mean, color=ALONE, linestyle="--", linewidth=1)
    place: dict[str, Any] = {"xy": (1, mean), "xycoords": ("axes fraction", "data"), **aligned}
    axis.annotate(name, **place, color=ALONE, fontsize=9)
