"""Figures of samples, single ones and whole sets: what models predict, look at, and find near.

Images are ``(N, C, H, W)``, uint8; ``classes`` are the names of the K classes, ``target`` the true
ones, ``(N,)``; what belongs to several models comes by their names.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from kdcourse import logit
from kdcourse.course.plots.style import DISTILLED, INK, MAP, TEACHER, panel, panels

if TYPE_CHECKING:
    from kdcourse.data import Images


PROBABILITY: dict[str, Any] = {"xlim": (0, 1), "xticks": (0, 0.5, 1), "xlabel": "probability"}


def softened(
    pixels: Tensor,
    logits: Tensor,
    classes: Sequence[str],
    temperatures: Sequence[float] = (1, 2, 4, 20),
) -> Figure:
    """Draw one image ``(C, H, W)`` and its softened probabilities, a panel for each temperature.

    They are softened from the logits ``(K,)``.
    """
    figure, axes = panels(1, 1 + len(temperatures), width=1.9, height=2.8)
    picture(axes[0, 0], pixels)
    for axis, temperature in zip(axes[0, 1:], temperatures, strict=True):
        p = logit.softmax(logits[None], temperature)[0]
        axis.barh(range(len(classes)), p.tolist(), color=TEACHER)
        axis.set(title=f"τ = {temperature:g}", **PROBABILITY)
        axis.set_yticks(range(len(classes)), classes)
        axis.tick_params(labelleft=axis is axes[0, 1])
        axis.invert_yaxis()
    return figure


def predictions(
    pixels: Tensor,
    probabilities: Mapping[str, Tensor],
    target: Tensor,
    classes: Sequence[str],
    titles: Sequence[str] | None = None,
) -> Figure:
    """Draw images above the probabilities ``(N, K)`` that one or two models give them.

    The teacher comes first; a star marks the true class, whose name is the default title.
    """
    samples = len(pixels)
    width = 2.3 if samples > 1 else 4.0
    figure, axes = panels(2, samples, width=width, height=2.2, sharey="row", height_ratios=(1, 1.5))
    styles: list[dict[str, Any]] = [{"color": TEACHER}, {"color": DISTILLED, "hatch": "//"}]
    thick = 0.8 / len(probabilities)
    middle = thick * (len(probabilities) - 1) / 2
    places = np.arange(len(classes))
    for n, (image, bars) in enumerate(axes.T):
        picture(image, pixels[n], titles[n] if titles else classes[int(target[n])], 10)
        for m, (name, p) in enumerate(probabilities.items()):
            style = {"label": name, "edgecolor": "white", **styles[m]}
            bars.barh(places + m * thick, p[n].tolist(), thick, **style)
        bars.set(**PROBABILITY)
        bars.plot(1.04, int(target[n]) + middle, "k*", clip_on=False)
    axes[1, 0].set_yticks(places + middle, classes)
    axes[1, 0].invert_yaxis()
    handles, names = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def seen(pixels: Tensor, designs: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Draw what student and teacher see of images: a row for an image, two columns for a design.

    What the student sees comes first in ``designs``.
    """
    ratios = [1.0, *(0.3, 1.0, 1.0) * len(designs)]  # a gap before every pair
    figure, axes = panels(len(pixels), len(ratios), width=0.8, height=1.05, width_ratios=ratios)
    columns: list[tuple[str, Tensor | None]] = [("image", pixels)]
    for name, (student, teacher) in designs.items():
        columns += [("", None), (f"{name}:\nteacher", teacher), ("\nstudent", student)]
    for column, (title, shown) in zip(axes.T, columns, strict=True):
        for n, axis in enumerate(column):
            axis.set_axis_off()
            if shown is not None:
                picture(axis, shown[n], "" if n else title)
    return figure


def gallery(rows: Mapping[str, Tensor], titles: Sequence[str]) -> Figure:
    """Draw rows of N images, by the rows' names, below the columns' titles."""
    figure, axes = panels(len(rows), len(titles), width=0.95, height=1.1)
    for number, (row, (name, pixels)) in enumerate(zip(axes, rows.items(), strict=True)):
        for axis, image, title in zip(row, pixels, titles, strict=True):
            picture(axis, image, "" if number else title)
        row[0].text(-0.15, 0.5, name, transform=row[0].transAxes, ha="right", va="center", size=8)
    return figure


def picture(axis: Axes, pixels: Tensor, title: str = "", size: float = 8) -> None:
    """Draw one image ``(C, H, W)``, uint8, without axes; the title is of this size in points."""
    shown = pixels.movedim(0, -1).cpu().numpy()
    axis.imshow(shown, cmap="gray_r", vmin=0, vmax=255)  # grey: a pale image stays pale
    axis.set_title(title, fontsize=size)
    axis.set_axis_off()


def maps(
    pixels: Tensor,
    shown: Mapping[str, Tensor],
    *,
    titles: Sequence[str] | None = None,
    value_label: str = "attention, share of the largest",
) -> Figure:
    """Draw images, a row each, beside the maps ``(N, H', W')`` ≥ 0 of several models.

    Every map is drawn as a share of its largest value, below the outline of what the image shows.
    """
    figure, axes = panels(len(pixels), 1 + len(shown), width=1.7, height=1.75)
    style: dict[str, Any] = {"cmap": MAP, "vmin": 0, "vmax": 1, "interpolation": "none"}
    for n, (image, *others) in enumerate(axes):
        picture(image, pixels[n], titles[n] if titles else "", 10)
        extent = image.images[0].get_extent()
        for axis, (name, values) in zip(others, shown.items(), strict=True):
            largest = float(values[n].max()) or 1.0
            share = (values[n] / largest).cpu().numpy()
            drawn = axis.imshow(share, extent=extent, **style)
            outline(axis, pixels[n])
            axis.set_title("" if n else name, fontsize=10)
            axis.set_axis_off()
    figure.colorbar(drawn, ax=axes, label=value_label, shrink=min(1.0, 2 / len(pixels)))
    return figure


def outline(axis: Axes, pixels: Tensor) -> None:
    """Draw the outline of what a grey image ``(1, H, W)`` shows, readable on dark and on light.

    In a coloured image, nothing says where the background ends: none is drawn.
    """
    if len(pixels) == 1 and pixels.min() < INK < pixels.max():
        grey = pixels[0].cpu().numpy()
        drawn = axis.contour(grey, levels=[INK], colors="white", linewidths=0.8)
        drawn.set(path_effects=[withStroke(linewidth=1.8, foreground="black")])


def neighbours(images: "Images", queries: Sequence[int], found: Mapping[str, Tensor]) -> Figure:
    """Draw queries with their nearest neighbours in the embeddings of several models, a row each.

    ``queries`` are N indices of images, and ``found`` are those of their k neighbours, ``(N, k)``,
    by the model's name.
    """
    count = next(iter(found.values())).shape[1]
    figure, axes = panels(len(queries) * len(found), 1 + count, width=1.05, height=1.15)
    labels = [images.classes[k] for k in images.target.tolist()]
    rows = iter(axes)
    for q, query in enumerate(queries):
        for name, indices in found.items():
            first, *others = next(rows)
            picture(first, images.pixels[query], f"{name}: {labels[query]}", 7)
            for axis, index in zip(others, indices[q].tolist(), strict=True):
                mark = "✓" if labels[index] == labels[query] else "✗"
                picture(axis, images.pixels[index], f"{mark} {labels[index]}", 7)
    return figure


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
    framed: Sequence[tuple[Any, Any]] = (),
) -> Figure:
    """Draw a matrix ``(R, C)`` as a heat map with its numbers written in.

    The labels say what rows, columns and numbers are, with their unit; ``size`` is the width of the
    figure in inches; ``framed`` are a row and a column each.
    """
    figure, axis = panel(size, size * 0.72)
    shown = axis.imshow(values, cmap="cividis", aspect="auto")
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(range(len(columns)), columns, **(slanted if len(columns) > 6 else {}))
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel=column_label, ylabel=row_label)
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (r, c), value in np.ndenumerate(values):
        colour = "black" if value > middle else "white"
        axis.text(c, r, f"{value:.{decimals}f}", ha="center", va="center", color=colour, size=8)
    for row, column in framed:
        corner = columns.index(column) - 0.5, rows.index(row) - 0.5
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=3))
    figure.colorbar(shown, label=value_label)
    return figure


def distance_matrices(
    distances: Mapping[str, Tensor], target: Tensor, classes: Sequence[str]
) -> Figure:
    """Draw distances ``(N, N)`` between samples, sorted by class, in units of their own mean."""
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
    places: Mapping[str, Tensor],
    target: Tensor | Mapping[str, Tensor],
    classes: Sequence[str],
    size: float = 3.2,
    *,
    same_axes: bool = False,
) -> Figure:
    """Draw embeddings in the plane, ``(N, 2)``, in panels of this size in inches.

    Colour and marker tell the class, whose name stands at its centre; each embedding may have
    samples of its own, with their classes by its name. With ``same_axes``, one place is one place
    in all panels.
    """
    targets = target if isinstance(target, Mapping) else dict.fromkeys(places, target)
    figure, axes = panels(1, len(places), width=size, height=size)
    colours = matplotlib.color_sequences["tab10"]
    for axis, (name, points) in zip(axes[0], places.items(), strict=True):
        for k, label in enumerate(classes):
            x, y = points[targets[name] == k].T.cpu().numpy()
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
    if same_axes:
        every = np.concatenate([points.cpu().numpy() for points in places.values()])
        low, high = every.min(axis=0), every.max(axis=0)
        (x, y), reach = (low + high) / 2, 0.53 * (high - low).max()
        for axis in axes[0]:
            axis.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach))
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
