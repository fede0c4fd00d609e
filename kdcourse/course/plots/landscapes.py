"""Figures of loss landscapes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kdcourse.course.plots.style import ALONE, DISTILLED, MARKERS, OTHER, TEACHER, panels

if TYPE_CHECKING:
    from kdcourse.motivation import Landscape


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
        x, y = np.meshgrid(found.x.numpy(), found.y.numpy(), indexing="ij")
        height = found.loss.clamp(max=most).numpy()
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
) -> Figure:
    """Draw all that a student with one weight can be as a curve, and losses along it.

    Args:
        weights: The weights, ``(P,)``.
        functions: Values at two inputs for each weight, ``(P, 2)``: a point is a function.
        losses: Two losses, ``(P,)`` each, by their names.
        teacher: The teacher's values at the two inputs.
        ends: The weight at which minimising each loss ended, by the same names.
    """
    figure, axes = panels(1, 2, width=4.2, height=3.2)
    plane, along = axes[0]
    plane.plot(*functions.T, color=OTHER, label="all students (F_small)")
    plane.plot(*teacher, "s", color=TEACHER, markersize=9, label="f_large")
    for (name, values), colour in zip(losses.items(), (ALONE, DISTILLED), strict=True):
        nearest = np.abs(weights - ends[name]).argmin()
        style = {"marker": MARKERS[colour], "color": colour, "markersize": 9, "linestyle": ""}
        plane.plot(*functions[nearest], label=f"end of min {name}", **style)
        along.plot(weights, values, color=colour, label=name)
        along.plot(weights[nearest], values[nearest], **style)
    plane.set(xlabel="f(x₁)", ylabel="f(x₂)")
    along.set(xlabel="the student's weight", ylabel="loss, nats")
    plane.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    along.legend(fontsize=8)
    return figure
