"""Figures of single images: what models predict for them, look at, and find near them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kdcourse import logit
from kdcourse.course.plots.style import DISTILLED, TEACHER, panels

if TYPE_CHECKING:
    from kdcourse.data import Images


def softened(
    logits: Tensor, classes: Sequence[str], temperatures: Sequence[float] = (1, 2, 4, 20)
) -> Figure:
    """Draw one sample's softened probabilities as bars, a panel for each temperature.

    Args:
        logits: Logits of the sample, ``(K,)``.
        classes: Names of the K classes.
        temperatures: The temperatures.
    """
    figure, axes = panels(1, len(temperatures), width=2.3, height=2.8, sharey=True)
    for axis, temperature in zip(axes[0], temperatures, strict=True):
        p = logit.softmax(logits[None], temperature)[0]
        axis.barh(range(len(classes)), p.tolist(), color=TEACHER)
        axis.set(title=f"τ = {temperature:g}", xlim=(0, 1), xlabel="probability")
    axes[0, 0].set_yticks(range(len(classes)), classes)
    axes[0, 0].invert_yaxis()
    return figure


def predictions(
    pixels: Tensor,
    probabilities: Mapping[str, Tensor],
    target: Tensor,
    classes: Sequence[str],
    titles: Sequence[str] | None = None,
) -> Figure:
    """Draw images above the probabilities that one or two models give them.

    Args:
        pixels: Images ``(N, C, H, W)``, uint8.
        probabilities: Predictions ``(N, K)`` by the model's name; the teacher comes first.
        target: The true classes ``(N,)``, which a star marks.
        classes: Names of the K classes.
        titles: N titles; by default, the names of the true classes.
    """
    samples = len(pixels)
    figure, axes = panels(
        2,
        samples,
        width=2.3 if samples > 1 else 4.0,
        height=2.2,
        sharey="row",
        height_ratios=(1, 1.5),
    )
    colours = (TEACHER, DISTILLED)
    thick = 0.8 / len(probabilities)
    middle = thick * (len(probabilities) - 1) / 2
    places = np.arange(len(classes))
    for n in range(samples):
        picture(axes[0, n], pixels[n])
        label = classes[int(target[n])]
        axes[0, n].set_title(titles[n] if titles else label, fontsize=10)
        for m, (name, p) in enumerate(probabilities.items()):
            axes[1, n].barh(
                places + m * thick,
                p[n].tolist(),
                thick,
                label=name,
                color=colours[m],
                hatch="//" if m else None,
                edgecolor="white",
            )
        axes[1, n].set(xlim=(0, 1), xlabel="probability")
        axes[1, n].plot(1.04, int(target[n]) + middle, "k*", clip_on=False)
    axes[1, 0].set_yticks(places + middle, classes)
    axes[1, 0].invert_yaxis()
    handles, names = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def seen(pixels: Tensor, designs: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Draw what student and teacher see of images: a row for an image, two columns for a design.

    Args:
        pixels: The original images ``(N, C, H, W)``, uint8.
        designs: What the student and what the teacher sees, ``(N, C, H, W)`` each, by the design's
            name.
    """
    ratios = [1.0, *(0.3, 1.0, 1.0) * len(designs)]  # a gap before every pair
    figure, axes = panels(len(pixels), len(ratios), width=0.8, height=1.05, width_ratios=ratios)
    titles = ["image"]
    columns: list[Tensor | None] = [pixels]
    for name, (student, teacher) in designs.items():
        titles += ["", f"{name}:\nteacher", "\nstudent"]
        columns += [None, teacher, student]
    for column, (title, shown) in enumerate(zip(titles, columns, strict=True)):
        axes[0, column].set_title(title, fontsize=8)
        for n, axis in enumerate(axes[:, column]):
            axis.set_axis_off()
            if shown is not None:
                picture(axis, shown[n])
    return figure


def gallery(rows: Mapping[str, Tensor], titles: Sequence[str]) -> Figure:
    """Draw images in rows of one kind each, with a title above every column.

    Args:
        rows: Images ``(N, C, H, W)``, uint8, by the row's name.
        titles: Titles of the N columns.
    """
    figure, axes = panels(len(rows), len(titles), width=0.95, height=1.1)
    for row, (name, pixels) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row, pixels, strict=True):
            picture(axis, image)
        row[0].text(-0.15, 0.5, name, transform=row[0].transAxes, ha="right", va="center", size=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def picture(axis: Axes, pixels: Tensor) -> None:
    """Draw one image ``(C, H, W)``, uint8, without axes."""
    image = pixels.permute(1, 2, 0).cpu().numpy()
    axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray_r")
    axis.set_axis_off()


def maps(
    pixels: Tensor,
    shown: Mapping[str, Tensor],
    *,
    titles: Sequence[str] | None = None,
    value_label: str = "attention, share of the largest",
) -> Figure:
    """Draw images, a row each, beside the maps of several models.

    Args:
        pixels: Images ``(N, C, H, W)``, uint8.
        shown: Maps ``(N, H', W')`` ≥ 0 by the model's name, each drawn as a share of its largest
            value.
        titles: Titles of the N rows.
        value_label: What the maps show.
    """
    samples = len(pixels)
    figure, axes = panels(samples, 1 + len(shown), width=1.5, height=1.35)
    height, width = pixels.shape[-2:]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    for n in range(samples):
        picture(axes[n, 0], pixels[n])
        if titles:
            axes[n, 0].set_title(titles[n], fontsize=9)
        for axis, values in zip(axes[n, 1:], shown.values(), strict=True):
            picture(axis, pixels[n])
            largest = float(values[n].max()) or 1.0
            share = (values[n] / largest).cpu().numpy()
            drawn = axis.imshow(share, cmap="cividis", alpha=0.85, vmin=0, vmax=1, extent=extent)
    for axis, name in zip(axes[0, 1:], shown, strict=True):
        axis.set_title(name, fontsize=9)
    figure.colorbar(drawn, ax=axes[:, -1], label=value_label, fraction=0.06 * samples)
    return figure


def neighbours(images: "Images", queries: Sequence[int], found: Mapping[str, Tensor]) -> Figure:
    """Draw queries with their nearest neighbours in the embeddings of several models, a row each.

    Args:
        images: The set that is searched.
        queries: Indices of the queries.
        found: Indices of the neighbours, ``(len(queries), k)``, by the model's name.
    """
    count = next(iter(found.values())).shape[1]
    figure, axes = panels(len(queries) * len(found), 1 + count, width=1.05, height=1.15)
    for q, query in enumerate(queries):
        for m, (name, indices) in enumerate(found.items()):
            row = axes[q * len(found) + m]
            picture(row[0], images.pixels[query])
            label = images.classes[int(images.target[query])]
            row[0].set_title(f"{name}: {label}", fontsize=7)
            for axis, index in zip(row[1:], indices[q].tolist(), strict=True):
                picture(axis, images.pixels[index])
                same = images.target[index] == images.target[query]
                name_of = images.classes[int(images.target[index])]
                axis.set_title(f"{'✓' if same else '✗'} {name_of}", fontsize=7)
    return figure
