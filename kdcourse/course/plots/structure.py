"""Figures of whole sets: how samples and classes lie to each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kdcourse.course.plots.style import panel, panels


def heat(
    values: np.ndarray,
    rows: Sequence[Any],
    columns: Sequence[Any],
    *,
    row_label: str,
    column_label: str,
    value_label: str,
    decimals: int = 1,
    size: float = 5.5,
) -> Figure:
    """Draw a matrix ``(R, C)`` as a heat map with its numbers written in.

    The labels say what rows, columns and numbers are, with their unit; ``size`` is the width of the
    figure in inches.
    """
    figure, axis = panel(size, size * 0.72)
    shown = axis.imshow(values, cmap="cividis", aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=45 if len(columns) > 6 else 0)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel=column_label, ylabel=row_label)
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (r, c), value in np.ndenumerate(values):
        colour = "black" if value > middle else "white"
        axis.text(c, r, f"{value:.{decimals}f}", ha="center", va="center", color=colour, size=8)
    figure.colorbar(shown, label=value_label)
    return figure


def distance_matrices(
    distances: Mapping[str, Tensor], target: Tensor, classes: Sequence[str]
) -> Figure:
    """Draw distances ``(N, N)`` between samples, a panel for each model, by its name.

    They are sorted by class, ``(N,)``, and in units of their own mean.
    """
    order = target.argsort(stable=True)
    counts = target.bincount(minlength=len(classes))
    middles = (counts.cumsum(0) - counts / 2).tolist()
    figure, axes = panels(1, len(distances), width=3.4, height=3.2)
    for axis, (name, matrix) in zip(axes[0], distances.items(), strict=True):
        relative = (matrix / matrix.mean())[order][:, order].cpu().numpy()
        drawn = axis.imshow(relative, cmap="cividis", vmin=0, vmax=2)
        axis.set_title(name, fontsize=10)
        axis.set_xticks(middles, classes, rotation=90, fontsize=7)
        axis.set_yticks(middles, classes if axis is axes[0, 0] else [], fontsize=7)
    figure.colorbar(drawn, ax=axes, label="distance ÷ mean distance", shrink=0.8)
    return figure


def embeddings(
    places: Mapping[str, Tensor], target: Tensor, classes: Sequence[str], size: float = 3.2
) -> Figure:
    """Draw embeddings in the plane, ``(N, 2)``, a panel for each model, by its name.

    Colour and marker tell the class, ``(N,)``, whose name stands at its centre. ``size`` is the
    width of a panel in inches.
    """
    figure, axes = panels(1, len(places), width=size, height=size)
    colours = matplotlib.color_sequences["tab10"]
    for axis, (name, points) in zip(axes[0], places.items(), strict=True):
        for k, label in enumerate(classes):
            x, y = points[target == k].T.cpu().numpy()
            axis.scatter(x, y, s=8, color=colours[k % 10], marker="osD^vP*X<>"[k % 10], alpha=0.6)
            axis.annotate(
                label,
                (np.median(x), np.median(y)),
                fontsize=7,
                ha="center",
                bbox={"facecolor": "white", "alpha": 0.7, "pad": 0.5, "linewidth": 0},
            )
        axis.set(title=name, xlabel="first coordinate", box_aspect=1)
        axis.set_aspect("equal", adjustable="datalim")
    axes[0, 0].set_ylabel("second coordinate")
    return figure


def learned_views(learned: Mapping[str, Tensor]) -> Figure:
    """Draw which views nets know: a row for a class, a column for a view, a panel for each net.

    They are given as :func:`kdcourse.teachers.learned_views` finds them, ``(K, 2)``, by the net's
    name.
    """
    figure, axes = panels(1, len(learned), width=1.5, height=3.2, sharey=True)
    for axis, (name, shares) in zip(axes[0], learned.items(), strict=True):
        drawn = axis.imshow(shares.cpu().numpy(), cmap="cividis", vmin=0, vmax=1, aspect="auto")
        axis.set_title(f"{name}\n{100 * float(shares.mean()):.0f} %", fontsize=10)
        axis.set_xticks((0, 1), ("headlight", "window"), fontsize=8)
        axis.set_yticks(range(len(shares)))
    axes[0, 0].set_ylabel("class")
    figure.colorbar(drawn, ax=axes, label="accuracy on this view alone", shrink=0.9)
    return figure
