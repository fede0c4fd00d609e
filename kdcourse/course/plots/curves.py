"""Curves: values against a setting, an epoch or the number of samples."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

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
    from kdcourse.training import History


def gradient_norms(
    temperatures: Sequence[float], scaled: Sequence[float], plain: Sequence[float]
) -> Figure:
    """Draw the norm of the KD gradient against τ, with the factor τ² and without it."""
    figure, axis = panel(5.5, 3.4)
    axis.loglog(temperatures, scaled, "o-", color=DISTILLED, label="with τ²")
    axis.loglog(temperatures, plain, "^--", color=ALONE, label="without (the slide)")
    axis.set(xlabel="temperature τ", ylabel="norm of the gradient (per sample)")
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
    """Draw lines, by their names, over a common axis, whose scale is ``"linear"`` or ``"log"``."""
    figure, axis = panel(5.5, 3.4)
    for (name, y), colour in zip(lines.items(), (TEACHER, DISTILLED, ALONE, OTHER), strict=False):
        every = max(1, len(x) // 8)
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
    every = dict.fromkeys(r.panel for r in results)
    grown = [panel for panel in every if panel not in ("ways", "knobs", "processes")]
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
