"""Curves and surfaces: values against a setting, an epoch, a weight, or two directions."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kdcourse.course.plots.style import (
    ALONE,
    DISTILLED,
    MARKERS,
    OTHER,
    TEACHER,
    only_ticks,
    panel,
    panels,
)

if TYPE_CHECKING:
    from kdcourse.course.bench.losses import Cost
    from kdcourse.course.bench.training import Throughput
    from kdcourse.motivation import Landscape
    from kdcourse.training import History


def gradient_norms(
    temperatures: Sequence[float], scaled: Sequence[float], plain: Sequence[float]
) -> Figure:
    """Draw the norm of the KD gradient against τ, with the factor τ² and without it."""
    figure, axis = panel(5.5, 3.4)
    axis.loglog(temperatures, scaled, "o-", color=DISTILLED, label="with τ²")
    axis.loglog(temperatures, plain, "^--", color=ALONE, label="without (the slide)")
    only_ticks(axis, temperatures)
    axis.set(xlabel="temperature τ", ylabel="norm of the gradient, per image")
    axis.legend()
    return figure


def curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    y_label: str,
    x_scale: str = "linear",
) -> Figure:
    """Draw lines, by name, over a common axis, linear or ``"log"``; the labels carry the units."""
    figure, axis = panel(5.5, 3.4)
    spread = np.geomspace if x_scale == "log" else np.linspace
    places = spread(x[0], x[-1], 8) if len(x) > 20 else x
    nearest = np.abs(np.subtract.outer(places, x)).argmin(axis=1)
    every = sorted({*nearest.tolist()})  # a marker at every point, or at eight
    for (name, y), colour in zip(lines.items(), (TEACHER, DISTILLED, ALONE, OTHER), strict=False):
        axis.plot(x, y, color=colour, marker=MARKERS[colour], markevery=every, label=name)
    axis.set(xlabel=x_label, ylabel=y_label, xscale=x_scale)
    axis.legend()
    return figure


def histories(runs: Mapping[str, "History"], column: str = "validation_accuracy") -> Figure:
    """Draw one column of several histories against the epoch; accuracies are in percent."""
    scale = 100 if column.endswith("accuracy") else 1
    figure, axis = panel(5.5, 3.4)
    colours = (ALONE, DISTILLED, TEACHER, OTHER)
    for (name, history), colour in zip(runs.items(), colours, strict=False):
        y = [scale * value for value in history[column]]
        axis.plot(history["epoch"], y, color=colour, marker=MARKERS[colour], label=name)
    label = column.replace("_", " ") + (", %" if scale == 100 else "")
    axis.set(xlabel="epoch", ylabel=label)
    axis.legend()
    return figure


def cost_by_samples(costs: Sequence["Cost"], width: int) -> Figure:
    """Draw what losses cost against the number of samples, ours and torchdistill's, on log axes.

    Drawn are embeddings of one width D.
    """
    names = [n for n in dict.fromkeys(c.loss for c in costs) if n != "attention"]
    figure, axes = panels(1, len(names), width=2.9, height=2.8, sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        drawn = [c for c in costs if c.loss == name and c.shape[1] == width]
        drawn.sort(key=lambda c: c.shape[0])
        samples = [c.shape[0] for c in drawn]
        ours, other = [1e3 * c.ours for c in drawn], [1e3 * c.other for c in drawn]
        axis.loglog(samples, other, "^--", color=ALONE, label="torchdistill")
        axis.loglog(samples, ours, "o-", color=DISTILLED, label="kdcourse")
        only_ticks(axis, samples)
        axis.set(title=name, xlabel="samples N")
    axes[0, 0].set_ylabel("forward + backward, ms")
    axes[0, 0].legend(fontsize=8)
    return figure


def throughput(results: Sequence["Throughput"]) -> Figure:
    """Draw the images per second of a distillation epoch: every way, and what they depend on."""
    listed = ("ways", "knobs")  # in a table, as they have no axis
    grown = list(dict.fromkeys(r.panel for r in results if r.panel not in listed))
    ratios = [1.6, *(1 for _ in grown)]
    figure, axes = panels(1, len(ratios), width=2.7, height=2.9, width_ratios=ratios)
    ways = [r for r in results if r.panel == "ways"]
    usual = dict.fromkeys(r.way for r in results if r.panel in grown)  # tutorial, live, cached
    colours = dict(zip(usual, (ALONE, DISTILLED, TEACHER), strict=True))
    axis, *others = axes[0]
    bars = axis.barh(
        [textwrap.fill(r.way, 22) for r in ways],
        [r.images_per_second for r in ways],
        color=[next((c for w, c in colours.items() if r.way.startswith(w)), ALONE) for r in ways],
    )
    axis.bar_label(bars, [f"{r.ratio:.1f}×" for r in ways], padding=2, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.tick_params(axis="y", labelsize=8)
    axis.set(xlabel="images per second")
    for axis, cause in zip(others, grown, strict=True):
        for way, colour in colours.items():
            drawn = [r for r in results if (r.panel, r.way) == (cause, way)]
            places = [r.setting for r in drawn]
            speeds = [r.images_per_second for r in drawn]
            axis.loglog(places, speeds, color=colour, marker=MARKERS[colour], label=way)
        only_ticks(axis, places)
        axis.set(xlabel=cause)
        axis.sharey(others[0])
    ticks = [500, 1000, 2000, 5000, 10000, 20000]
    others[0].set_yticks(ticks, [str(tick) for tick in ticks])
    others[0].set_ylabel("images per second")
    figure.legend(*others[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def contours(
    slices: Mapping[str, "Landscape"],
    *,
    ways: Mapping[str, Tensor] | None = None,
    most: float = 5.0,
    size: float = 2.8,
) -> Figure:
    """Draw loss landscapes as contour lines with common levels, a panel for each net.

    Args:
        slices: Landscapes by the net's name.
        ways: Coordinates ``(T, 2)`` of a training that ended in the middle, by the net's name.
        most: Highest level, in nats; what is higher is left blank.
        size: Width of a panel in inches.
    """
    ways = ways or {}
    lowest = max(1e-3, min(float(s.loss.min()) for s in slices.values()))
    levels = np.geomspace(lowest, most, 16)
    figure, axes = panels(1, len(slices), width=size, height=size, sharey=True)
    for axis, (name, found) in zip(axes[0], slices.items(), strict=True):
        # loss[i, j] belongs to x[i], y[j]; contour wants rows of y
        x, y, height = (values.cpu().numpy() for values in (found.x, found.y, found.loss))
        drawn = axis.contour(x, y, height.T, levels=levels, cmap="cividis")
        axis.plot(0, 0, "*", color=DISTILLED, markersize=10)
        if name in ways:
            way = ways[name].cpu().numpy()
            axis.plot(way[:, 0], way[:, 1], ".-", color=DISTILLED, linewidth=1)
        axis.set(title=name, xlabel="first direction", aspect="equal")
        axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axes[0, 0].set_ylabel("second direction")
    bar = figure.colorbar(drawn, ax=axes, label="training loss, nats", shrink=0.9)
    shown = levels[::5].tolist()
    bar.set_ticks(shown, labels=[f"{level:.2g}" for level in shown])
    return figure


def surfaces(slices: Mapping[str, "Landscape"], *, most: float = 5.0) -> Figure:
    """Draw loss landscapes as surfaces, cut off at the height ``most``, a panel for each net."""
    figure, axes = panels(1, len(slices), width=2.8, height=2.8, subplot_kw={"projection": "3d"})
    for axis, (name, found) in zip(axes[0], slices.items(), strict=True):
        x, y = np.meshgrid(found.x.cpu().numpy(), found.y.cpu().numpy(), indexing="ij")
        height = found.loss.clamp(max=most).cpu().numpy()
        axis.plot_surface(x, y, height, cmap="cividis", rstride=1, cstride=1, vmin=0, vmax=most)
        axis.set(zlim=(0, most), xticks=[], yticks=[], title=name)
    figure.supxlabel(f"height: training loss in nats, cut off at {most:g}", fontsize=9)
    return figure


def function_space(
    weights: np.ndarray,
    functions: np.ndarray,
    losses: Mapping[str, np.ndarray],
    teacher: Sequence[float],
    ends: Mapping[str, float],
    *,
    start: float,
) -> Figure:
    """Draw all that a student with one weight can be as a curve, and descents of losses along it.

    Each loss has a panel and a scale of its own, so that a shallow minimum of one does not vanish
    beside the height of the other.

    Args:
        weights: The weights, ``(P,)``.
        functions: Values at two inputs for each weight, ``(P, 2)``: a point is a function.
        losses: Two losses, ``(P,)`` each, by their names.
        teacher: The teacher's values at the two inputs.
        ends: The weight at which minimising each loss ended, by the same names.
        start: The weight at which minimising began.
    """
    figure, axes = panels(1, 3, width=3.1, height=3.4)
    plane, *along = axes[0]
    begin = {"marker": "o", "color": "black", "markerfacecolor": "white", "linestyle": ""}
    first = np.abs(weights - start).argmin()
    plane.plot(*functions.T, color=OTHER, label="all students")
    plane.plot(*teacher, "s", color=TEACHER, markersize=9, label="teacher")
    plane.plot(*functions[first], **begin, label="start")
    for axis, (name, values), colour in zip(along, losses.items(), (ALONE, DISTILLED), strict=True):
        last = np.abs(weights - ends[name]).argmin()
        way = slice(min(first, last), max(first, last) + 1)
        end = {"marker": MARKERS[colour], "color": colour, "markersize": 9, "linestyle": ""}
        plane.plot(*functions[last], **end, label=f"end, by {name}")
        axis.plot(weights, values, color=colour, linewidth=1)
        axis.plot(weights[way], values[way], color=colour, linewidth=3.5, alpha=0.4)
        axis.plot(weights[first], values[first], **begin)
        axis.plot(weights[last], values[last], **end)
        axis.set(title=name, xlabel="the student's weight w", ylabel="loss, nats")
    plane.set(xlabel="f(x₁)", ylabel="f(x₂)")
    figure.legend(*plane.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure
