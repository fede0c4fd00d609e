"""Figures of whole sets: how samples and classes lie to each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kdcourse.course.plots.style import panels


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
    """A matrix as a heat map with its numbers written in.

    Args:
        values: ``(R, C)``.
        rows: R labels.
        columns: C labels.
        row_label: what the rows are.
        column_label: what the columns are.
        value_label: what the numbers are, with their unit.
        decimals: decimals to print.
        size: width in inches.
    """
    figure, axes = panels(1, 1, width=size, height=size * 0.72)
    axis = axes[0, 0]
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
    """Distances between samples, sorted by class, one panel a model.

    Args:
        distances: ``(N, N)`` by the model's name, each drawn in units of its own mean.
        target: ``(N,)``.
        classes: K class names.
    """
    order = target.argsort(stable=True)
    counts = target.bincount(minlength=len(classes)).cumsum(0)
    middles = [
        (a + b) / 2 for a, b in zip([0, *counts.tolist()[:-1]], counts.tolist(), strict=True)
    ]
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
    """2-D embeddings, one panel a model; classes by colour and marker, named at their centres.

    Args:
        places: ``(N, 2)`` by the model's name.
        target: ``(N,)``.
        classes: K class names.
        size: width of a panel in inches.
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
        axis.set(title=name, aspect="equal", xlabel="first coordinate")
        axis.set_box_aspect(1)
        axis.set_aspect("equal", adjustable="datalim")
    axes[0, 0].set_ylabel("second coordinate")
    return figure


def learned_views(learned: Mapping[str, Tensor]) -> Figure:
    """Which views do nets know? A row a class, a column a view, one panel a net.

    Args:
        learned: accuracies on samples of one view, ``(K, 2)``, by the net's name
            (:func:`kdcourse.teachers.learned_views`).
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
