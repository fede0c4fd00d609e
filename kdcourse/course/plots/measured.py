"""Figures of measured claims; error bars are 95 % intervals over seeds unless they say else."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kdcourse.course.claims.claim import POINTS, Estimate, estimate
from kdcourse.course.claims.results import Result
from kdcourse.course.plots.structure import heat
from kdcourse.course.plots.style import ALONE, DISTILLED, MARKERS, OTHER, STYLES, TEACHER, panels


def temperature_weight_map(
    result: Result, temperatures: Sequence[float], weights: Sequence[float]
) -> Figure:
    """Mean gain in validation accuracy over labels alone, by τ and λ, from stored runs."""
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
        value_label="gain in validation accuracy, % points",
        decimals=2,
    )


def effects(*results: Result) -> Figure:
    """Paired differences with their 95 % intervals over seeds, a row each; zero is no effect."""
    rows = [(e, r) for r in results for e in r.estimates]
    figure, axes = panels(1, 1, width=7, height=0.9 + 0.36 * len(rows))
    axis = axes[0, 0]
    for place, (e, result) in enumerate(rows):
        values = [
            effect.of(run)
            for effect in result.claim.effects
            if effect.label == e.label
            for run in result.runs.values()
        ]
        axis.plot(values, [place] * len(values), ".", color=ALONE, alpha=0.5)
        axis.errorbar(
            e.mean,
            place,
            xerr=[[e.mean - e.low], [e.high - e.mean]],
            fmt="o",
            color=DISTILLED,
            capsize=4,
        )
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [e.label for e, _ in rows])
    axis.set(
        xlabel=f"difference; grey: each of {rows[0][0].seeds} seeds", ylim=(-0.6, len(rows) - 0.4)
    )
    axis.invert_yaxis()
    return figure


def arms(result: Result, names: Sequence[str], *, value_label: str = "test accuracy, %") -> Figure:
    """Means of several arms of a claim with 95 % intervals over seeds, and every seed's value."""
    figure, axes = panels(1, 1, width=1.2 + 1.0 * len(names), height=3.4)
    axis = axes[0, 0]
    for place, name in enumerate(names):
        e = estimate(name, result.values(name))
        colour = ALONE if name.split()[0] in ("alone", "labels", "member") else DISTILLED
        axis.plot([place] * e.seeds, result.values(name), ".", color=colour, alpha=0.4)
        axis.errorbar(
            place, e.mean, yerr=e.mean - e.low, fmt=MARKERS[colour], color=colour, capsize=5
        )
    axis.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
    axis.set(ylabel=value_label, xlim=(-0.6, len(names) - 0.4))
    return figure


def sweep(result: Result, families: Sequence[str], weights: Sequence[float]) -> Figure:
    """Validation accuracy by family and weight, beside the student alone, with deviations."""
    figure, axes = panels(1, 1, width=6.5, height=3.6)
    axis = axes[0, 0]
    alone = result.mean("alone")
    axis.axhline(alone, color=ALONE, linestyle="--", linewidth=1)
    axis.annotate("alone", (1, alone), xycoords=("axes fraction", "data"), color=ALONE, fontsize=9)
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
    axis.set_xticks(weights, [f"{w:g}" for w in weights], minor=False)
    axis.legend(ncols=2, fontsize=9)
    return figure


def by_epochs(result: Result, designs: Sequence[str], epochs: Sequence[int]) -> Figure:
    """Test accuracy against the epochs of training on a log axis, a line a design.

    Args:
        result: with measurements ``design epochs``.
        designs: the first is training on labels.
        epochs: lengths of training.
    """
    figure, axes = panels(1, 1, width=6, height=3.8)
    axis = axes[0, 0]
    for place, (design, (colour, marker)) in enumerate(zip(designs, STYLES, strict=False)):
        drawn = [estimate(design, result.values(f"{design} {n}")) for n in epochs]
        axis.errorbar(
            np.array(epochs) * 1.03 ** (place - len(designs) / 2),
            [e.mean for e in drawn],
            yerr=[e.mean - e.low for e in drawn],
            color=colour,
            marker=marker,
            linestyle="--" if place == 0 else "-",
            capsize=3,
            label=design,
        )
    axis.set(xscale="log", xlabel="epochs", ylabel="test accuracy, %")
    axis.set_xticks(epochs, [str(n) for n in epochs], minor=False)
    axis.minorticks_off()
    axis.legend(fontsize=9)
    return figure


def teacher_sizes(
    result: Result, sizes: Sequence[str], early: str | None = None, alone: str = "alone"
) -> Figure:
    """Accuracy of teachers, accuracy of their students, and how far these are from their teachers.

    Args:
        result: with measurements ``size``, ``size teacher`` and ``size distance`` of every size.
        sizes: the teachers, from small to large.
        early: one that was stopped early, drawn apart.
        alone: the student without a teacher, a dashed line.
    """
    figure, axes = panels(1, 3, width=3.1, height=3.0)
    names = [*sizes, early] if early else list(sizes)
    for axis, suffix, title, unit, colour in (
        (axes[0, 0], " teacher", "teacher", "test accuracy, %", TEACHER),
        (axes[0, 1], "", "its student", "test accuracy, %", DISTILLED),
        (axes[0, 2], " distance", "student to teacher", "KL divergence, nats", OTHER),
    ):
        drawn = [estimate(name, result.values(f"{name}{suffix}")) for name in names]
        for first, group, line, face in (
            (0, drawn[: len(sizes)], "-", colour),
            (len(sizes), drawn[len(sizes) :], "", "white"),
        ):
            axis.errorbar(
                range(first, first + len(group)),
                [e.mean for e in group],
                yerr=[e.mean - e.low for e in group],
                marker=MARKERS[colour],
                linestyle=line,
                color=colour,
                markerfacecolor=face,
                capsize=4,
            )
        axis.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
        axis.tick_params(axis="x", labelsize=8)
        axis.set(title=title, ylabel=unit, xlabel="teacher")
    axes[0, 1].axhline(result.mean(alone), color=ALONE, linestyle="--", linewidth=1)
    axes[0, 1].annotate(
        alone, (1, result.mean(alone)), xycoords=("axes fraction", "data"), va="bottom", ha="right"
    )
    return figure


MEETS = {  # what an interval does with zero: marker, colour and face
    "above zero: holds": ("o", DISTILLED, DISTILLED),
    "holds zero: not seen at this scale": ("D", ALONE, "white"),
    "below zero: reversed": ("X", "#000000", "#000000"),
}


def forest(*results: Result) -> Figure:
    """Forest plot: every effect of several claims with its 95 % interval, a panel for each unit.

    Percentage points are drawn on an axis that is linear up to one point and logarithmic beyond, so
    that small and large effects can both be read.

    Args:
        results: What was measured of the claims; those without an effect are left out.
    """
    rows: dict[str, list[tuple[str, Estimate]]] = {}
    for result in results:
        for effect, found in zip(result.claim.effects, result.estimates, strict=True):
            rows.setdefault(effect.unit, []).append((result.claim.id, found))
    ratios = [len(drawn) + 1.2 for drawn in rows.values()]
    figure, axes = panels(len(rows), 1, width=6.4, height=0.38, height_ratios=ratios)
    for axis, (unit, drawn) in zip(axes[:, 0], rows.items(), strict=True):
        for place, (_, e) in enumerate(drawn):
            meets = list(MEETS)[0 if e.low > 0 else 2 if e.high < 0 else 1]
            marker, colour, face = MEETS[meets]
            axis.plot([e.low, e.high], [place, place], color=colour, linewidth=1.6)
            axis.plot(e.mean, place, marker, color=colour, markerfacecolor=face, label=meets)
        axis.axvline(0, color="black", linewidth=0.8)
        names = [textwrap.fill(f"{id}: {e.label}", 46) for id, e in drawn]
        axis.set_yticks(range(len(drawn)), names, fontsize=7.5)
        axis.set(ylim=(len(drawn) - 0.4, -0.6), xlabel=f"difference, {unit}".rstrip(", "))
        axis.grid(axis="x", linewidth=0.3)
        if unit == POINTS:
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlabel(f"difference, {unit}; logarithmic beyond ±1")
            low, high = (1.3 * end for end in axis.get_xlim())  # room for the outermost marker
            ticks = [t for t in (-10, -3, -1, 0, 1, 3, 10, 30, 100) if low <= t <= high]
            axis.set_xticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks], minor=False)
            axis.minorticks_off()
            axis.set_xlim(low, high)
    shown: dict[str, Any] = {}
    for axis in axes[:, 0]:
        handles, labels = axis.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    named = {label: shown[label] for label in MEETS if label in shown}
    figure.legend(list(named.values()), list(named), loc="outside upper center", fontsize=8)
    return figure
