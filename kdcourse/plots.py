"""Figures of the course: data in, a matplotlib figure out.

Colours are told apart by colour-blind eyes (Okabe and Ito) and in grey; error bars are 95 %
intervals over seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kdcourse import logit
from kdcourse.claims.claim import estimate
from kdcourse.claims.results import Result
from kdcourse.training.history import History

TEACHER, DISTILLED, ALONE, OTHER = "#0072B2", "#D55E00", "#666666", "#009E73"
MARKERS = {TEACHER: "s", DISTILLED: "o", ALONE: "^", OTHER: "D"}


def softened(
    logits: Tensor, classes: Sequence[str], temperatures: Sequence[float] = (1, 2, 4, 20)
) -> Figure:
    """Bars of one sample's softened probabilities, one panel a temperature.

    Args:
        logits: ``(K,)``.
        classes: K class names.
        temperatures: one panel for each.
    """
    figure, axes = _panels(1, len(temperatures), width=2.3, height=2.8, sharey=True)
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
    """Images above the probabilities that one or two models give them.

    Args:
        pixels: ``(N, C, H, W)``, uint8.
        probabilities: ``(N, K)`` by the model's name; the first is drawn as the teacher's.
        target: ``(N,)``, the true classes, marked by a star.
        classes: K class names.
        titles: N titles; the true class by default.
    """
    samples = len(pixels)
    figure, axes = _panels(
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


def picture(axis: Axes, pixels: Tensor) -> None:
    """Draw one image ``(C, H, W)``, uint8, without axes."""
    image = pixels.permute(1, 2, 0).cpu().numpy()
    axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray_r")
    axis.set_axis_off()


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
    figure, axes = _panels(1, 1, width=size, height=size * 0.72)
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


def gradient_norms(
    temperatures: Sequence[float], scaled: Sequence[float], plain: Sequence[float]
) -> Figure:
    """Norm of the KD gradient against τ, with the factor τ² and without it, on log axes."""
    figure, axes = _panels(1, 1, width=5.5, height=3.4)
    axis = axes[0, 0]
    axis.loglog(temperatures, scaled, "o-", color=DISTILLED, label="with τ²")
    axis.loglog(temperatures, plain, "^--", color=ALONE, label="without (the slide)")
    axis.set(xlabel="temperature τ", ylabel="norm of the gradient (per sample)")
    axis.legend()
    return figure


def curves(
    x: Sequence[float], lines: Mapping[str, Sequence[float]], *, x_label: str, y_label: str
) -> Figure:
    """Lines over a common axis.

    Args:
        x: common positions.
        lines: values by name.
        x_label: what x is, with its unit.
        y_label: what the values are, with their unit.
    """
    figure, axes = _panels(1, 1, width=5.5, height=3.4)
    for (name, y), colour in zip(lines.items(), (TEACHER, DISTILLED, ALONE, OTHER), strict=False):
        every = max(1, len(x) // 8)
        axes[0, 0].plot(x, y, color=colour, marker=MARKERS[colour], markevery=every, label=name)
    axes[0, 0].set(xlabel=x_label, ylabel=y_label)
    axes[0, 0].legend()
    return figure


def histories(runs: Mapping[str, History], column: str = "validation_accuracy") -> Figure:
    """One column of several training histories against the epoch; accuracies in percent."""
    scale = 100 if column.endswith("accuracy") else 1
    figure, axes = _panels(1, 1, width=5.5, height=3.4)
    for (name, history), colour in zip(
        runs.items(), (ALONE, DISTILLED, TEACHER, OTHER), strict=False
    ):
        y = [scale * value for value in history[column]]
        axes[0, 0].plot(history["epoch"], y, color=colour, marker=MARKERS[colour], label=name)
    label = column.replace("_", " ") + (", %" if scale == 100 else "")
    axes[0, 0].set(xlabel="epoch", ylabel=label)
    axes[0, 0].legend()
    return figure


def effects(*results: Result) -> Figure:
    """Paired differences with their 95 % intervals over seeds, a row each; zero is no effect."""
    rows = [(e, r) for r in results for e in r.estimates]
    figure, axes = _panels(1, 1, width=7, height=0.9 + 0.36 * len(rows))
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
    figure, axes = _panels(1, 1, width=1.2 + 1.0 * len(names), height=3.4)
    axis = axes[0, 0]
    for place, name in enumerate(names):
        e = estimate(name, result.values(name))
        colour = ALONE if "alone" in name or "labels" in name else DISTILLED
        axis.plot([place] * e.seeds, result.values(name), ".", color=colour, alpha=0.4)
        axis.errorbar(
            place, e.mean, yerr=e.mean - e.low, fmt=MARKERS[colour], color=colour, capsize=5
        )
    axis.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
    axis.set(ylabel=value_label, xlim=(-0.6, len(names) - 0.4))
    return figure


def _panels(
    rows: int, columns: int, *, width: float, height: float, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Make a figure of so many panels, each so many inches large, that no backend holds open."""
    ratios = options.get("height_ratios", (1,) * rows)
    options["height_ratios"] = ratios
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns + 0.6, height * sum(ratios)),
        squeeze=False,
        layout="constrained",
        **options,
    )
    plt.close(figure)  # shown once, where a cell returns it, and not again by pyplot
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes
